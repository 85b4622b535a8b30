"""Both n-gram constructions against the kernel, everywhere, and each stage in its place."""

import itertools

import pytest
import torch
from random_models import special

import mtd_lens
from mtd_lens.architectures.writing import MARGIN, leak_bound
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.families.ngram.constructions import FORMS
from mtd_lens.families.ngram.plan import Plan, n_parameters
from mtd_lens.hooked import probabilities

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
PARENTS = [(1,), (2,), (1, 2), (1, 3), (2, 4), (1, 2, 3), (1, 2, 4)]


def check(q, parents, length, sharpness, n_sequences):
    """The largest error of predicted probabilities over all queries, in both forms and dtypes."""
    task = mtd_lens.NGramTask(q, parents, max(parents), length, 0.3)
    tokens = task.sample(n_sequences, seed=q).tokens
    expected = mtd_lens.ngram_kernel(task, tokens, sharpness)
    for form, (dtype, tolerance) in itertools.product(FORMS, TOLERANCE.items()):
        model = mtd_lens.construct_ngram(task, sharpness, form, dtype=dtype)
        with torch.no_grad():
            output = torch.cat([model(part) for part in tokens.split(16)])[:, task.window :]
        error = float((probabilities(model, output) - expected).abs().max())
        assert error <= tolerance, (form, dtype, error)


@pytest.mark.parametrize("parents", PARENTS, ids=str)
@pytest.mark.parametrize("q", [2, 3, 5])
def test_equal_to_the_kernel_at_every_query(q, parents):
    check(q, parents, 20, 4.0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("parents", PARENTS, ids=str)
@pytest.mark.parametrize("q", [2, 3, 5])
def test_the_whole_grid(q, parents):
    """Every query of the short contexts is one of the long ones, so these are met at one end."""
    for length, sharpness, n_sequences in [
        (5, 0.0, 8),
        (5, 20.0, 8),
        (200, 0.0, 1),
        (200, 20.0, 2),
    ]:
        check(q, parents, length, sharpness, n_sequences)


@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_a_construction_is_known_before_it_is_built(task, form):
    model = mtd_lens.construct_ngram(task, 5.0, form)
    assert n_parameters(Plan(task, 5.0), form) == sum(p.numel() for p in model.parameters())
    wide = mtd_lens.NGramTask(2, range(1, 13), 12, 40)
    with pytest.raises(ArgumentError, match=rf"the {form} construction .* would have \d{{10}} "):
        mtd_lens.construct_ngram(wide, 5.0, form)
    with pytest.raises(ArgumentError, match=r"at most 134217728\. Use a task with fewer tokens"):
        mtd_lens.construct_ngram(mtd_lens.NGramTask(2, (1,), 1, 10**6), form="absolute")


@pytest.fixture(scope="module")
def task():
    return mtd_lens.NGramTask(3, (1, 3), 4, 18, 0.3, "small")


@pytest.fixture(scope="module")
def tokens(task):
    return task.sample(8, seed=1).tokens


@pytest.fixture(scope="module", params=FORMS)
def model(request, task):
    return mtd_lens.construct_ngram(task, 5.0, request.param, dtype=torch.float64)


def test_shorter_inputs(task, tokens, model):
    whole = probabilities(model, model(tokens))
    for length in range(1, tokens.shape[1]):
        short = probabilities(model, model(tokens[:, :length]))
        assert (short - whole[:, :length]).abs().max() < 1e-12
    assert whole.isfinite().all()


def test_every_stage_stands_where_the_algorithm_puts_it(task, tokens, model):
    values = mtd_lens.NGramCausalModel(task, 5.0).run(tokens)
    _, cache = model.run_with_cache(tokens)
    q, window, n_rows = task.n_tokens, task.window, task.n_rows
    start = model.cfg.d_model - q - 2 * n_rows - window * q
    copies = cache["blocks.0.hook_attn_out"][:, window:]
    written = copies[..., start : start + window * q]
    assert (written - values["copied_parents"]).abs().max() < 1e-12
    assert (copies.abs().sum(-1) - written.abs().sum(-1)).abs().max() < 1e-12
    features = cache["blocks.0.hook_mlp_out"][:, window:]
    written = features[..., start + window * q : -q]
    assert (written - values["selected_feature"]).abs().max() < 1e-12
    assert (features.abs().sum(-1) - written.abs().sum(-1)).abs().max() < 1e-12
    pattern = cache["blocks.1.attn.hook_pattern"][:, 0, window:, window:]
    assert (pattern - values["match_weights"]).abs().max() < 1e-12
    for lag in range(1, window + 1):
        copied = cache["blocks.0.attn.hook_pattern"][:, lag - 1]
        assert (copied.diagonal(-lag, 1, 2)[:, window - lag :] - 1).abs().max() < 1e-12
    assert cache["blocks.1.hook_mlp_out"].abs().max() == 0


def test_what_leaks_out_of_a_band_is_within_the_bound(task, tokens, model):
    _, cache = model.run_with_cache(tokens)
    window, length = task.window, task.seq_len
    preamble = cache["blocks.1.attn.hook_pattern"][:, 0, window:, :window].sum(-1)
    assert preamble.max() <= leak_bound(length)
    for lag in range(1, window + 1):
        pattern = cache["blocks.0.attn.hook_pattern"][:, lag - 1].clone()
        pattern.diagonal(-lag, 1, 2).zero_()
        assert pattern[:, window:].sum(-1).max() <= leak_bound(length)


def test_gaps_leave_the_margin_and_the_bound_is_sharp(task):
    plan = Plan(task, sharpness=7.0)
    assert plan.copy_gap >= MARGIN
    assert plan.match_gap - plan.sharpness >= MARGIN
    scores = torch.zeros(200, dtype=torch.float64)
    scores[1:] = -MARGIN
    assert scores.softmax(0)[1:].sum() <= leak_bound(200)
    scores[1:] += 1
    assert scores.softmax(0)[1:].sum() > leak_bound(200)


@pytest.mark.parametrize("form", FORMS)
def test_read_outs(task, tokens, form):
    logs = mtd_lens.construct_ngram(task, 5.0, form)
    linear = mtd_lens.construct_ngram(task, 5.0, form, read_out="probs")
    assert torch.allclose(logs(tokens).softmax(-1), linear(tokens), atol=1e-6)
    assert (linear(tokens)[:, task.window :].sum(-1) - 1).abs().max() < 1e-5


def test_the_absolute_form_with_probabilities_is_stock_throughout(task):
    model = mtd_lens.construct_ngram(task, 5.0, "absolute", read_out="probs")
    assert special(model) == set()
    assert model.cfg.act_fn == "relu"
    assert (model.cfg.n_layers, model.cfg.n_heads) == (2, task.window)


def test_the_fitted_sharpness_is_the_default():
    task = mtd_lens.load_task("ngram-q3-s12-t32")
    tokens = task.sample(8, seed=0).tokens
    named = mtd_lens.load_model("ngram-q3-s12-t32/constructed-absolute")
    fitted = mtd_lens.families.ngram.causal_model.best_sharpness(task)
    assert torch.equal(named(tokens), mtd_lens.construct_ngram(task, fitted)(tokens))


@pytest.mark.parametrize("part", list(mtd_lens.NGRAM_PARTS))
def test_an_ablation_changes_its_part_and_nothing_before_it(tokens, model, part):
    broken = mtd_lens.ablate_ngram(model, part)
    assert broken.cfg.dtype == torch.float64
    hooks = [
        "blocks.0.hook_attn_out",
        "blocks.0.hook_mlp_out",
        "blocks.1.attn.hook_pattern",
        "blocks.1.hook_resid_post",
    ]
    place = list(mtd_lens.NGRAM_PARTS).index(part)
    _, before = model.run_with_cache(tokens)
    _, after = broken.run_with_cache(tokens)
    for index, hook in enumerate(hooks):
        assert torch.allclose(before[hook], after[hook], atol=1e-12) == (index < place), hook
    with pytest.raises(ArgumentError, match="is broken already"):
        mtd_lens.ablate_ngram(broken, part)


def test_a_doubled_model_is_ablated_in_its_own_dtype(task):
    doubled = mtd_lens.construct_ngram(task, 5.0).double()
    assert next(mtd_lens.ablate_ngram(doubled, "values").parameters()).dtype == torch.float64


def test_random_models_have_the_architecture_and_a_trained_scale():
    task = mtd_lens.load_task("ngram-q3-s12-t32")
    tokens = task.sample(64, seed=0).tokens
    for form in FORMS:
        random = mtd_lens.load_model(f"ngram-q3-s12-t32/random-{form}")
        built = mtd_lens.load_model(f"ngram-q3-s12-t32/constructed-{form}")
        shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (random, built)]
        assert shapes[0] == shapes[1]
        assert 0.25 < random(tokens).std() < 1.0


@pytest.mark.usefixtures("_no_type_checker")
def test_bad_arguments(task):
    with pytest.raises(ArgumentError, match="expected an NGramTask; got MTDTask"):
        mtd_lens.construct_ngram(mtd_lens.load_task("mtd-q3-m2-t32"))
    with pytest.raises(ArgumentError, match="unknown form 'rotary'"):
        mtd_lens.construct_ngram(task, form="rotary")
    with pytest.raises(ArgumentError, match="unknown read_out"):
        mtd_lens.construct_ngram(task, read_out="odds")
    with pytest.raises(ArgumentError, match="sharpness must be a number of at least 0"):
        mtd_lens.construct_ngram(task, sharpness=-1)
    with pytest.raises(ArgumentError, match="dtype"):
        mtd_lens.construct_ngram(task, 5.0, dtype=torch.int32)
    with pytest.raises(ArgumentError, match=r"unknown part 'copie'.*copier"):
        mtd_lens.ablate_ngram(mtd_lens.construct_ngram(task, 5.0), "copie")
    with pytest.raises(ModelError, match="n-gram construction can be ablated"):
        mtd_lens.ablate_ngram(mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative"), "copier")
