"""Both constructions against one-step mirror descent, everywhere, and each stage in its place."""

import itertools

import pytest
import torch
from conftest import transition
from random_models import special

import mtd_lens
from mtd_lens.architectures.writing import MARGIN, leak_bound
from mtd_lens.families.mtd.plan import Plan
from mtd_lens.hooked import probabilities

FORMS = ("relative", "absolute")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
KINDS = {"dirichlet-1": (1.0, 0.0), "dirichlet-0.1": (0.1, 0.0), "zeros": (1.0, 0.4)}


def worst_error(task, beta, n_sequences, dtypes=tuple(TOLERANCE)):
    """Largest error of the predicted probabilities over all queries, by form and dtype."""
    tokens = task.sample(n_sequences, seed=0).tokens
    counts = torch.arange(1, task.seq_len - task.order + 1, dtype=torch.float64)
    weights = mtd_lens.mirror_descent(task, tokens, beta / (task.order * counts), every_query=True)
    expected = mtd_lens.predict(task, tokens, weights)
    found = {}
    for form, dtype in itertools.product(FORMS, dtypes):
        model = mtd_lens.construct(task, beta, form, dtype=dtype)
        with torch.no_grad():
            outputs = torch.cat([model(batch) for batch in tokens.split(32)])[:, task.order :]
        found[form, dtype] = float((probabilities(model, outputs) - expected).abs().max())
    return found


def check(q, m, length, kind, n_sequences):
    concentration, zeros = KINDS[kind]
    task = mtd_lens.MTDTask(transition(q, 10 * q + m, concentration, zeros), m, length)
    for (form, dtype), error in worst_error(task, 9.0, n_sequences).items():
        assert error <= TOLERANCE[dtype], (form, dtype, error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("q", [2, 3, 5, 12])
def test_equal_to_one_step_at_every_query(q, m, kind):
    check(q, m, 16, kind, 64)
    check(q, m, m + 1, kind, 64)


@pytest.mark.slow
@pytest.mark.parametrize("length", ["m+1", 16, 64, 192])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("q", [2, 3, 5, 12])
def test_the_whole_grid(q, m, length):
    for kind in KINDS:
        check(q, m, m + 1 if length == "m+1" else length, kind, 64)


@pytest.mark.parametrize("form", FORMS)
def test_with_the_fitted_beta(task, form):
    model = mtd_lens.construct(task, form=form, dtype=torch.float64)
    tokens = task.sample(16, seed=0).tokens
    beta = mtd_lens.best_beta(task)
    expected = mtd_lens.MTDCausalModel(task, beta).run(tokens)["prediction"]
    assert (probabilities(model, model(tokens))[:, task.order :] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_shorter_inputs_and_the_query_before_any_evidence(task, tokens, form):
    model = mtd_lens.construct(task, 5.0, form, dtype=torch.float64)
    whole = probabilities(model, model(tokens))
    for length in range(task.order, tokens.shape[1]):
        short = probabilities(model, model(tokens[:, :length]))
        assert (short - whole[:, :length]).abs().max() < 1e-12
    # with a full window but no evidence yet, the weights are uniform
    rows = task.transition[tokens[:, : task.order]].mean(1)
    assert (whole[:, task.order - 1] - rows).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_every_stage_stands_where_the_algorithm_puts_it(task, tokens, form):
    model = mtd_lens.construct(task, 5.0, form, dtype=torch.float64)
    values = mtd_lens.MTDCausalModel(task, 5.0).run(tokens)
    _, cache = model.run_with_cache(tokens)
    m, length = task.order, tokens.shape[1]
    gamma_pattern, last_pattern = (cache[f"blocks.{i}.attn.hook_pattern"] for i in (0, 2))
    for index, t in enumerate(range(m, length)):
        head = 0 if form == "relative" else t % m
        lags = [t - g for g in range(1, m + 1)]
        error = gamma_pattern[:, head, t, lags] - values["responsibilities"][:, index]
        assert error.abs().max() < 1e-12
        readers = [t + 1 - g for g in range(1, m + 1)]
        error = last_pattern[:, 0, t, readers] - values["mixture_weights"][:, index]
        assert error.abs().max() < 1e-12
    # γ lies in the lag subspace of layer 0's output, for both forms
    out = cache["blocks.0.hook_attn_out"]
    start = task.n_tokens + (length if form == "absolute" else 2)
    written = out[:, m:, start : start + m]
    assert (written - values["responsibilities"]).abs().max() < 1e-12
    assert (out[:, m:].abs().sum(-1) - written.abs().sum(-1)).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_what_leaks_out_of_a_band_is_within_the_bound(form, zeros):
    m, length = 3, 24
    task = mtd_lens.MTDTask(transition(5, 3, 0.3, zeros), m, length)
    tokens = task.sample(32, seed=0).tokens
    model = mtd_lens.construct(task, 12.0, form, dtype=torch.float64)
    _, cache = model.run_with_cache(tokens)
    query, key = torch.arange(length)[:, None], torch.arange(length)
    bands = {
        0: (query - key >= 1) & (query - key <= m),
        1: (key >= m) & (key <= query),
        2: (query - key >= 0) & (query - key < m),
    }
    for layer, band in bands.items():
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        for t in range(m, length):
            head = t % m if form == "absolute" and layer < 2 else 0
            leak = pattern[:, head, t, ~band[t]].sum(-1)
            assert leak.max() <= leak_bound(length)


def test_the_bound_holds_for_a_softmax_at_the_margin():
    scores = torch.zeros(200, dtype=torch.float64)
    scores[1:] = -MARGIN
    assert scores.softmax(0)[1:].sum() <= leak_bound(200)
    scores[1:] = -MARGIN + 1
    assert scores.softmax(0)[1:].sum() > leak_bound(200)  # the bound is sharp


def test_gaps_leave_the_margin():
    plan = Plan(mtd_lens.MTDTask(transition(4, 1, zeros=0.4), 2, 9), beta=7.0)
    possible = plan.task.transition[plan.task.transition > 0].log()
    assert plan.content_floor <= float(possible.min()) - MARGIN
    assert float(plan.content_scores.max()) <= 0
    assert plan.responsibility_gap >= MARGIN - plan.content_floor
    assert plan.weights_gap - plan.beta >= MARGIN
    assert plan.average_gap >= MARGIN


@pytest.mark.parametrize("form", FORMS)
def test_read_outs(task, tokens, form):
    logs = mtd_lens.construct(task, 5.0, form)
    linear = mtd_lens.construct(task, 5.0, form, read_out="probs")
    assert torch.allclose(logs(tokens).softmax(-1), linear(tokens), atol=1e-6)
    assert torch.allclose(logs(tokens).exp(), linear(tokens), atol=1e-6)
    assert (linear(tokens)[:, task.order :].sum(-1) - 1).abs().max() < 1e-5
    card = mtd_lens.score(linear, n_sequences=64)
    assert card["prediction.estimator"].score > 0.999


def test_the_absolute_form_with_probabilities_is_stock_throughout(task):
    model = mtd_lens.construct(task, 5.0, "absolute", read_out="probs")
    assert special(model) == set()
    logs = mtd_lens.construct(task, 5.0, "absolute")
    assert special(logs) == {"AnalyticTransformer", "LogProbUnembed"}


def test_random_models_have_the_architecture_and_a_trained_scale():
    task = mtd_lens.load_task("mtd-q5-m3-t32")
    tokens = task.sample(64, seed=0).tokens
    for form in FORMS:
        random = mtd_lens.load_model(f"mtd-q5-m3-t32/random-{form}")
        built = mtd_lens.load_model(f"mtd-q5-m3-t32/constructed-{form}")
        shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (random, built)]
        assert shapes[0] == shapes[1]
        logits, cache = random.run_with_cache(tokens)
        assert 0.25 < logits.std() < 1.0
        for layer in range(3):
            scores = cache[f"blocks.{layer}.attn.hook_attn_scores"]
            assert 0.5 < scores[scores.isfinite()].std() < 2.5
        again = mtd_lens.load_model(f"mtd-q5-m3-t32/random-{form}")
        assert torch.equal(again(tokens), logits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", list(mtd_lens.PARTS))
def test_an_ablation_changes_its_part_and_nothing_before_it(task, tokens, form, part):
    whole = mtd_lens.construct(task, 5.0, form, dtype=torch.float64)
    broken = mtd_lens.ablate_construction(whole, part)
    assert broken.cfg.dtype == torch.float64
    layer = {"transition": 0, "average": 1, "beta": 2, "lag": 2}[part]
    _, before = whole.run_with_cache(tokens)
    _, after = broken.run_with_cache(tokens)
    for index in range(3):
        name = f"blocks.{index}.attn.hook_pattern"
        same = torch.allclose(before[name], after[name], atol=1e-12)
        assert same == (index < layer or (index == 1 and layer == 0)), index
    assert not torch.allclose(whole(tokens), broken(tokens))
