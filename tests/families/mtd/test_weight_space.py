"""Weights against the construction: ceilings, broken parts, random models, and slow oracles."""

import copy
import json

import pytest
import torch
from conftest import stock, transition

import mtd_lens
from mtd_lens import read_weights
from mtd_lens.architectures import Size, build_trainable
from mtd_lens.hooked import ModelInfo, assemble, randomized

FORMS = ("relative", "absolute")
BETA = 5.0
N_RANDOM = 8

CEILING = {
    "content": 0,
    "lag_band.direct": 0,
    "lag_band.mean_token": 0,
    "recent_band.direct": 2,
    "recent_band.mean_token": 2,
    "output": 2,
}
"""The layer of the construction that each finding is at its ceiling in."""


def scores(reading):
    """The score of each finding in the construction's own layer; None where not applicable."""
    found = {name: reading[name][layer].score for name, layer in CEILING.items()}
    return found | {"selector.via_average": reading["selector.via_average"][0].score}


def disentangled(task, n_layers, change=None):
    """A disentangled model whose trained weights are zero but for what ``change`` writes."""
    trained = build_trainable("disentangled", Size(task.n_tokens, task.seq_len, n_layers), seed=3)
    weights = dict(trained.named_parameters())
    with torch.no_grad():
        for value in weights.values():
            value.zero_()
        if change:
            change(weights, trained.widths)
    info = ModelInfo(task, "x", redraw=trained.redraw)
    return assemble(trained.architecture, trained.weights(), info, torch.float64)


@pytest.fixture(params=FORMS)
def construction(request, task):
    return mtd_lens.construct(task, BETA, request.param, dtype=torch.float64)


@pytest.mark.parametrize("read_out", ["log_probs", "probs"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("q", "m", "zeros"), [(4, 3, 0.0), (5, 2, 0.3), (6, 4, 0.0)])
def test_a_construction_is_at_every_ceiling(form, q, m, zeros, read_out):
    task = mtd_lens.MTDTask(transition(q, 7 * q + m, zeros=zeros), m, 16)
    model = mtd_lens.construct(task, BETA, form, read_out, dtype=torch.float64)
    reading = read_weights(model, n_random=N_RANDOM)
    assert reading.divergence == ""  # each finding has a unit of its own
    for name, layer in CEILING.items():
        finding = reading[name][layer]
        assert finding.score == pytest.approx(1, abs=1e-9), name
        assert finding.layers == (layer,)
        assert finding.null_score[1] < 0.6, name
    assert reading["content"][0].value < 1e-9
    assert reading["output"][2].value == pytest.approx(1, abs=1e-9)
    assert "transition" in reading["output"][2].matrices
    for name in ("selector.via_average", "selector.direct"):
        (finding,) = reading[name]
        if form == "absolute":
            assert finding.score is finding.value is finding.null_score is None
            assert "no relative tables" in finding.statement
        elif name == "selector.direct":
            assert finding.value == finding.score == 0
        else:
            assert finding.heads == ((0, 0), (1, 0), (2, 0))
            assert finding.value == pytest.approx(BETA, abs=1e-6)
            assert finding.score == pytest.approx(1, abs=1e-9)
            assert finding.details["score_with_bias"] == pytest.approx(1, abs=1e-9)
            assert finding.null_value[1] < 1


def test_the_fitted_beta_is_read_off_in_float32(task):
    (finding,) = read_weights(mtd_lens.construct(task, form="relative"), n_random=1)[
        "selector.via_average"
    ]
    assert finding.value == pytest.approx(mtd_lens.best_beta(task), rel=1e-6)


@pytest.mark.parametrize("part", ["transition", "beta", "lag", "average"])
def test_a_broken_part_loses_its_finding_and_only_that(construction, part):
    whole = scores(read_weights(construction, n_random=1))
    broken = scores(read_weights(mtd_lens.ablate_construction(construction, part), n_random=1))
    loses = {"transition": "content", "beta": "selector.via_average", "lag": "selector.via_average"}
    for name, score in whole.items():
        if name == loses.get(part) and score is not None:
            assert broken[name] < 0.5
        else:
            assert broken[name] == (None if score is None else pytest.approx(1, abs=1e-9)), name


def test_a_lag_too_far_is_a_negative_beta(task):
    model = mtd_lens.ablate_construction(mtd_lens.construct(task, BETA, "relative"), "lag")
    (finding,) = read_weights(model, n_random=1)["selector.via_average"]
    # a permutation without a fixed point has this projection onto the centred identity
    assert finding.value == pytest.approx(-BETA / (task.order - 1), rel=1e-5)
    assert finding.score == 0


def test_a_transpose_would_show(construction):
    turned = copy.deepcopy(construction)
    q = turned.cfg.d_vocab
    with torch.no_grad():
        for head in range(turned.cfg.n_heads):
            square = turned.blocks[0].attn.W_K[head, :q, :q]
            square.copy_(square.T.clone())
        square = turned.unembed.W_U[-q:]
        square.copy_(square.T.clone())
    found = scores(read_weights(turned, n_random=1))
    assert found["content"] < 0.6
    assert found["output"] < 0.6
    assert found["lag_band.direct"] == pytest.approx(1)


def test_random_models_are_far_below(construction):
    reading = read_weights(randomized(construction, 100, "random"), n_random=N_RANDOM)
    for name, score in scores(reading).items():
        assert score is None or name.startswith("selector") or score < 0.6, name
    for finding in reading:
        assert finding.score is None or finding.null_score[0] <= finding.null_score[1]
    (selector,) = reading["selector.via_average"]
    assert selector.value is None or abs(selector.value) < BETA / 5


def test_the_model_is_left_as_it_was(construction):
    construction.train()
    before = {name: value.clone() for name, value in construction.state_dict().items()}
    read_weights(construction, n_random=2)
    assert construction.training
    assert all(torch.equal(value, before[n]) for n, value in construction.state_dict().items())
    assert not any(hook.fwd_hooks for hook in construction.hook_dict.values())
    assert all(parameter.grad is None for parameter in construction.parameters())


def test_results_are_labelled_and_reproducible(task, tmp_path):
    model = mtd_lens.construct(task, BETA, "relative")
    reading = read_weights(model, n_random=2, seed=4)
    path = tmp_path / "reading.json"
    data = json.loads(reading.to_json(path))
    assert data == json.loads(path.read_text())
    assert data == json.loads(read_weights(model, task, n_random=2, seed=4).to_json())
    assert data["seed"] == 4
    assert data["n_random"] == 2
    assert len(data["findings"]) == len(reading) == len(list(reading)) == 3 * 6 + 2
    for finding, plain in zip(reading, data["findings"], strict=True):
        assert plain["name"] == finding.name
        for matrix in plain["matrices"].values():
            assert all(len(row) == len(matrix[0]) for row in matrix)
    assert repr(reading).startswith("WeightReading('small/constructed-relative': content 1.00")
    assert "\n" not in repr(reading)
    table = str(reading)
    assert "0.0 → 1.0 → 2.0" in table
    assert "5.000" in table
    assert "<table>" in reading._repr_html_()
    with pytest.raises(mtd_lens.UnknownNameError, match="content"):
        reading["contents"]


def test_what_does_not_apply_says_why(task):
    one_lag = mtd_lens.MTDTask(transition(4, 1), 1, 8)
    reading = read_weights(mtd_lens.construct(one_lag, BETA, "relative"), n_random=1)
    assert "order 1" in reading["selector.direct"][0].statement
    two_layers = read_weights(disentangled(task, 2), n_random=1)
    assert "3 layers; the model has 2" in two_layers["selector.via_average"][0].statement
    assert two_layers["selector.direct"][0].score == 0
    flat = mtd_lens.MTDTask(torch.full((3, 3), 1 / 3), 2, 8)
    reading = read_weights(mtd_lens.construct(flat, BETA, "absolute"), n_random=1)
    assert [reading[name][0].score for name in ("content", "output")] == [None, None]
    zeros = mtd_lens.MTDTask(transition(4, 1, zeros=0.4), 3, 14)
    reading = read_weights(stock(task, "attn-only"), zeros, n_random=1)
    assert "has zeros" in reading["output"][0].statement
    assert "not applicable" in str(reading)
    unplaced = stock(task, "attn-only")
    unplaced.cfg.positional_embedding_type = "rotary"
    assert (
        "no positional embedding"
        in read_weights(unplaced, n_random=1)["lag_band.direct"][0].statement
    )


@pytest.mark.usefixtures("_no_type_checker")
def test_bad_input_is_refused(task, construction):
    other = mtd_lens.MTDTask(transition(5, 1), 3, 14)
    longer = mtd_lens.MTDTask(task.transition, 3, 15)
    with pytest.raises(mtd_lens.ModelError, match="5 tokens, but the model reads 4"):
        read_weights(construction, other)
    with pytest.raises(mtd_lens.ModelError, match="15 tokens, but the model's context is 14"):
        read_weights(construction, longer)
    with pytest.raises(mtd_lens.ModelError, match="expected a model; got"):
        read_weights("mtd-q5-m3-t64/constructed-relative")
    with pytest.raises(mtd_lens.ModelError, match="5 tokens, but the model reads 4"):
        read_weights(construction, "mtd-q5-m3-t64")
    with pytest.raises(mtd_lens.ArgumentError, match="expected a task; got int"):
        read_weights(construction, 3)
    with pytest.raises(mtd_lens.ArgumentError, match="n_random"):
        read_weights(construction, n_random=0)
    with pytest.raises(mtd_lens.ArgumentError, match="seed"):
        read_weights(construction, seed=-1)


# Models that learn other parts of the construction ------------------------------------------------


@pytest.mark.parametrize(("n_layers", "path"), [(3, (0, 1, 2)), (4, (0, 2, 3)), (4, (0, 1, 3))])
def test_a_selector_planted_in_a_disentangled_model_is_found(task, n_layers, path):
    m = task.order
    first, middle, last = path
    bias = torch.tensor([3.0, -1.0, 0.5])

    def plant(weights, widths):
        rows = torch.arange(1, m + 1)
        weights[f"blocks.{first}.attn.RV"][rows, rows - 1] = 1.0
        where = widths[middle] + 2 * widths[first]  # in the copy of the layer between
        weights[f"blocks.{last}.attn.RK"][:m, where : where + m] = (
            BETA * torch.eye(m) + bias[:, None]
        )

    (finding,) = read_weights(disentangled(task, n_layers, plant), n_random=2)[
        "selector.via_average"
    ]
    assert finding.layers == path
    assert finding.value == pytest.approx(BETA)
    assert finding.score == pytest.approx(1)
    assert finding.details["score_with_bias"] < 0.9
    assert finding.matrices["score"][0] == pytest.approx([BETA + 3.0, -1.0, 0.5])


def test_copies_of_the_constant_count_for_the_mean_token_alone(task):
    """A band that layer 2 reads from layer 0's copy of the constant."""
    q, m = task.n_tokens, task.order

    def plant(weights, widths):
        weights["blocks.2.attn.RK"][m:, widths[0] + q] = -80.0

    reading = read_weights(disentangled(task, 3, plant), n_random=1)
    assert reading["recent_band.mean_token"][2].score == pytest.approx(1)
    assert reading["recent_band.direct"][2].score == pytest.approx(0, abs=1e-9)


def test_logits_are_held_against_the_log_of_the_transition(task):
    q = task.n_tokens
    model = stock(task, "attn-only", d_model=8, n_heads=1)
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(1, q, generator=generator) + torch.randn(q, 1, generator=generator)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(q, 8))
        model.blocks[1].attn.W_V[0] = 2.5 * torch.eye(8)
        model.blocks[1].attn.W_O[0] = torch.eye(8)
        model.unembed.W_U[:q] = task.transition.log() + bias
    finding = read_weights(model, n_random=2)["output"][1]
    assert finding.value == pytest.approx(2.5)
    assert finding.score == pytest.approx(1)
    assert finding.unit == "scale of log transition"
