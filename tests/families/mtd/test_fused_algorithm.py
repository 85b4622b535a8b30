"""One step to first order: its stages, its weights, and what its claims tell apart."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from conftest import transition
from verdict_sets import supported

import mtd_lens
from mtd_lens import FusedCausalModel, MTDCausalModel
from mtd_lens.architectures.writing import leak_bound
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.family import FAMILY
from mtd_lens.families.mtd.fused_claims import fused_patterns
from mtd_lens.families.mtd.fused_model import FLOOR, fit_fused
from mtd_lens.families.mtd.fused_weights import EPSILON, construct_fused
from mtd_lens.hooked import probabilities

SMALL = "mtd-q3-m2-t32"

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Of the correction."""


def made(q, m, length, zeros=0.0, seed=0):
    rows = transition(q, 10 * q + m + 100 * seed, 1.0, zeros)
    return mtd_lens.MTDTask(rows, m, length, name="made")


@pytest.fixture(scope="module")
def small():
    return made(4, 2, 14, 0.3)


@pytest.fixture(scope="module")
def causal(small):
    return FusedCausalModel(small, 6.0)


def floored(prediction):
    """Queries at which a probability was raised."""
    return (prediction < 1.2 * FLOOR / prediction.shape[-1]).any(-1)


def test_stages_equal_oracles_at_every_query(causal, small):
    q, m = small.n_tokens, small.order
    tokens = small.sample(24, seed=1).tokens
    values = causal.run(tokens)
    assert tuple(values) == causal.variables
    n_raised = 0
    for i, row in enumerate(tokens.tolist()):
        gammas = np.array(oracles.responsibilities(small, row))
        for index, t in enumerate(causal.query_positions(len(row))):
            mean = gammas[: index + 1].mean(0)
            rows = [small.transition[row[t + 1 - g]].numpy() for g in range(1, m + 1)]
            correction = sum((mean[g] - 1 / m) * rows[g] for g in range(m))
            prediction = sum(rows) / m + causal.beta / m * correction
            n_raised += (prediction < FLOOR / q).any()
            prediction = np.maximum(prediction, FLOOR / q)
            expected = (gammas[index], correction, prediction / prediction.sum())
            for name, value in zip(values, expected, strict=True):
                assert values[name][i, index].numpy() == pytest.approx(value, abs=1e-12), name
    assert n_raised > 5


@pytest.mark.parametrize(("name", "order"), [(SMALL, 3), ("mtd-q5-m3-t32", 2)])
def test_it_is_one_step_to_first_order(name, order):
    """With two lags the softmax has no second order."""
    task = mtd_lens.load_task(name)
    tokens = task.sample(64, seed=0).tokens
    differences = [
        (
            FusedCausalModel(task, beta).run(tokens)["prediction"]
            - MTDCausalModel(task, beta).run(tokens)["prediction"]
        )[~floored(FusedCausalModel(task, 1.0).run(tokens)["prediction"])]
        for beta in (1e-3, 2e-3)
    ]
    ratio = float(differences[1].norm() / differences[0].norm())
    assert ratio == pytest.approx(2**order, rel=1e-2)
    uniform = FusedCausalModel(task, 0).run(tokens)["prediction"]
    even = torch.full((64, task.order), 1 / task.order).double()
    far = ~floored(uniform[:, -1])
    assert torch.allclose(uniform[far, -1], mtd_lens.predict(task, tokens, even)[far])


def test_the_last_prediction_is_that_of_the_run(causal, small):
    tokens = small.sample(8, seed=2).tokens
    other = causal.run(small.sample(8, seed=3).tokens)
    for held in ({}, {"responsibilities": other["responsibilities"]},
                 {"correction": other["correction"]}):  # fmt: skip
        model = causal.do(**held)
        run = model.run(tokens)["prediction"][:, -1]
        assert torch.allclose(model.last_prediction(tokens), run, atol=1e-14)


@pytest.mark.parametrize("index", range(3))
def test_an_intervention_reaches_what_follows_and_nothing_else(causal, small, index):
    base, source = (small.sample(8, seed=seed).tokens for seed in (1, 2))
    natural, other = causal.run(base), causal.run(source)
    name = causal.variables[index]
    held = causal.do(**{name: other[name]}).run(base)
    for before in causal.variables[:index]:
        assert torch.equal(held[before], natural[before])
    assert torch.equal(held[name], other[name])
    for after in causal.variables[index + 1 :]:
        assert not torch.allclose(held[after], natural[after])


def test_beta_is_found_again_from_its_own_predictions(small):
    tokens = small.sample(400, seed=0).tokens
    for beta in (1.0, 3.0, 8.0):
        predictions = FusedCausalModel(small, beta).run(tokens)["prediction"][:, -1]
        assert fit_fused(small, tokens, predictions).parameters == {
            "beta": pytest.approx(beta, rel=1e-4)
        }
    uniform = FusedCausalModel(small, 0).run(tokens)["prediction"][:, -1]
    assert fit_fused(small, tokens, uniform).parameters["beta_at_bound"] == 1


def computed(causal, tokens, dtype=torch.float64, epsilon=EPSILON):
    """A construction's correction and predictions at every query, and its cache."""
    task = causal.task
    model = construct_fused(causal, dtype=dtype, epsilon=epsilon)
    with torch.no_grad():
        output, cache = model.run_with_cache(tokens)
    written = cache["blocks.1.hook_attn_out"][..., -task.n_tokens :].double()
    return written[:, task.order :], probabilities(model, output)[:, task.order :], cache


CASES = [
    *itertools.product([2, 3, 5], [1, 2, 3], [8, 32], [0.0, 0.4]),
    (10, 5, 64, 0.0),
    (3, 2, 192, 0.4),
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("q", "m", "length", "zeros"), CASES)
def test_the_weights_compute_the_algorithm_at_every_query(q, m, length, zeros, dtype):
    for seed in range(2):
        task = made(q, m, length, zeros, seed)
        causal = FusedCausalModel(task, mtd_lens.best_fused_beta(task) if m > 1 else 2.0)
        tokens = task.sample(16, seed=seed).tokens
        values = causal.run(tokens)
        correction, prediction, _ = computed(causal, tokens, dtype)
        error = (correction - values["correction"]).abs().max()
        assert error <= TOLERANCE[dtype]
        # raising and dividing move probabilities by no more than the correction's own error
        bound = 2 * q * causal.beta / m * TOLERANCE[dtype]
        assert (prediction - values["prediction"]).abs().max() <= bound


@pytest.mark.parametrize("zeros", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_falls_as_the_square_of_epsilon(seed, zeros):
    task = made(4, 3, 24, zeros, seed)
    causal, tokens = FusedCausalModel(task, 5.0), task.sample(32, seed=seed).tokens
    exact = causal.run(tokens)["correction"]
    found = {e: (computed(causal, tokens, epsilon=e)[0] - exact).abs() for e in (0.4, 0.2, 0.1)}
    for epsilon, error in found.items():
        assert error.max() <= epsilon**2
    for larger, smaller in itertools.pairwise(found.values()):
        assert float(larger.max() / smaller.max()) == pytest.approx(4, rel=0.05)


def test_every_stage_stands_where_the_algorithm_puts_it(causal, small):
    q, m, length = small.n_tokens, small.order, small.seq_len
    tokens = small.sample(12, seed=1).tokens
    values = causal.run(tokens)
    correction, _, cache = computed(causal, tokens)
    start = m * q + length  # parents and position come before γ
    written = cache["blocks.0.hook_attn_out"]
    held = written[:, m:, start : start + m]
    assert (held - values["responsibilities"]).abs().max() < 1e-12
    for g in range(2, m + 1):  # what comes next's parents
        copied = written[:, m:, (g - 1) * q : g * q].argmax(-1)
        assert torch.equal(copied, tokens[:, m + 1 - g : length + 1 - g])
    written = cache["blocks.1.hook_attn_out"][:, m:]
    assert written[..., :-q].abs().max() == 0
    assert (correction - values["correction"]).abs().max() < 1e-6
    pattern = cache["blocks.1.attn.hook_pattern"][:, : 2 * q, m:]
    assert (pattern[..., 0] - 0.5).abs().max() < EPSILON
    assert pattern[..., 1:m].max() <= leak_bound(length)


def test_patterns_are_those_of_the_weights(causal, small):
    tokens = small.sample(6, seed=1).tokens
    _, _, cache = computed(causal, tokens)
    m = small.order
    own, halves = fused_patterns(causal, tokens)
    queries = torch.arange(m, small.seq_len)
    heads = cache["blocks.0.attn.hook_pattern"][:, queries % m, queries]
    assert (heads - own.values[:, m:]).abs().max() < 1e-12
    heads = cache["blocks.1.attn.hook_pattern"][:, : 2 * small.n_tokens, m:]
    assert (heads - halves.values[:, None, m:]).abs().max() < EPSILON


def test_without_evidence_nothing_is_corrected(causal, small):
    tokens = small.sample(4, seed=1).tokens
    model = construct_fused(causal, dtype=torch.float64)
    _, cache = model.run_with_cache(tokens)
    before = cache["blocks.1.hook_attn_out"][:, : small.order]
    assert before.abs().max() < 1e-9


def test_read_outs(small):
    causal, tokens = FusedCausalModel(small, 12.0), small.sample(64, seed=1).tokens
    raised, plain = (
        probabilities(model, model(tokens))[:, small.order :]
        for read_out in ("log_probs", "probs")
        for model in [construct_fused(causal, read_out, torch.float64)]
    )
    far = ~floored(raised)
    assert 0 < far.double().mean() < 1
    assert (raised - plain)[far].abs().max() < 1e-6
    assert plain.min() < 0 < raised.min()


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: FusedCausalModel(t, -1), r"beta must be .* got -1"),
        (lambda t: FusedCausalModel("x", 1), r"MTDTask"),
        (lambda t: FusedCausalModel(t, 1).do(mean=torch.zeros(2)), r"unknown variable 'mean'"),
        (lambda t: construct_fused(t), r"Use FusedCausalModel\(task, beta\)"),
        (lambda t: construct_fused(FusedCausalModel(t, 1), epsilon=0), r"epsilon must be .* 0"),
        (lambda t: construct_fused(FusedCausalModel(t, 1), "logits"), r"read_out 'logits'"),
        (lambda t: mtd_lens.construct(t, form="relative", algorithm="fused"), r"Leave both out"),
    ],
)
def test_errors(small, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(small)


def test_construct_builds_it_with_the_tasks_best_beta(small):
    model = mtd_lens.construct(small, algorithm="fused")
    assert model.cfg.n_layers == 2
    assert model.cfg.attn_only
    assert model.mtd_lens_info.blueprint.beta == mtd_lens.best_fused_beta(small)
    with pytest.raises(mtd_lens.ModelError, match="construction of one step"):
        mtd_lens.ablate_construction(model, "beta")


NOT_ONE_STEP = {
    "mean_responsibility.interchange",
    "mixture_weights.interchange",
    "mixture_weights.attention",
}
"""What is refuted of one step's claims for the fused model: no layer has the mean by itself, since
what layer 1 writes is made for the query's own parents; and no pattern is the mixture weights."""

NOT_READ = {"mean_responsibility.probe"}
"""Not supported either; what can be read of the mean without the query's tokens is little."""

NOT_FUSED = {"correction.interchange", "correction.scores", "correction.competing_scores"}
"""What falls of the fused algorithm's claims for one step in stages: no layer has the correction,
but given the query's tokens the mean, of which it is a function, and layer 2's scores are made of
means, not of keys' windows."""


@pytest.mark.parametrize(
    ("variant", "algorithm", "refuted", "fallen"),
    [
        ("constructed-fused", "fused", set(), set()),
        ("constructed-fused", "one-step", NOT_ONE_STEP, NOT_READ),
        ("constructed-absolute", "fused", {"correction.interchange"}, NOT_FUSED),
    ],
)
def test_scorecards_tell_the_algorithms_apart(variant, algorithm, refuted, fallen):
    model = mtd_lens.load_model(f"{SMALL}/{variant}", dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=384, algorithm=algorithm)
    assert card.algorithm == FAMILY.algorithm(algorithm).name
    assert not supported(card) & (refuted | fallen)
    assert {claim.id for claim in card if claim.verdict == "refuted"} >= refuted
    if not refuted:
        assert all(claim.verdict == "supported" for claim in card), card
