"""Two passes: the stages beside loops, the fit, and the weights of five layers."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from conftest import transition
from verdict_sets import supported

import mtd_lens
import probes
from mtd_lens import TwoPassCausalModel
from mtd_lens.architectures.writing import leak_bound
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.causal_model import BETA_SPAN
from mtd_lens.families.mtd.family import FAMILY, TWO_PASS
from mtd_lens.families.mtd.two_pass_claims import (
    later_half,
    two_pass_control,
    two_pass_patterns,
)
from mtd_lens.families.mtd.two_pass_model import FIRST_SPAN, best_two_passes, fit_two_passes
from mtd_lens.hooked import probabilities

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SMALL = "mtd-q3-m2-t32"


def made(q, m, length, zeros=0.0, seed=0):
    return mtd_lens.MTDTask(transition(q, 10 * q + m + 100 * seed, 1.0, zeros), m, length)


@pytest.fixture(scope="module")
def small():
    return made(4, 3, 14, 0.3)


@pytest.fixture(scope="module")
def causal(small):
    return TwoPassCausalModel(small, 6.0, 3.0)


def softmax(scores):
    found = np.exp(scores - scores.max())
    return found / found.sum()


def test_stages_equal_loops_at_every_query(causal, small):
    tokens = small.sample(6, seed=1).tokens
    values = causal.run(tokens)
    assert tuple(values) == causal.variables
    rows, lags = small.transition.numpy(), range(1, small.order + 1)
    for i, row in enumerate(tokens.tolist()):
        first, second = [], []
        for index, k in enumerate(causal.query_positions(len(row))):
            p = np.array([rows[row[k - g], row[k]] for g in lags])
            first.append(p / p.sum())
            mean = np.mean(first, 0)
            prefix = softmax(6.0 * mean)
            second.append(prefix * p / (prefix * p).sum())
            second_mean = np.mean(second, 0)
            weights = softmax(3.0 * second_mean)
            prediction = oracles.predict(small, row[: k + 1], weights)
            expected = (first[-1], mean, prefix, second[-1], second_mean, weights, prediction)
            for name, value in zip(values, expected, strict=True):
                assert values[name][i, index].numpy() == pytest.approx(value, abs=1e-12), name


def test_with_a_first_size_of_0_it_is_one_step(small):
    tokens = small.sample(8, seed=0).tokens
    found = TwoPassCausalModel(small, 0, 5.0).run(tokens)
    one_step = mtd_lens.MTDCausalModel(small, 5.0).run(tokens)
    for name in ("mixture_weights", "prediction"):
        assert (found[name] - one_step[name]).abs().max() < 1e-12


@pytest.mark.parametrize("index", range(7))
def test_an_intervention_reaches_what_follows_and_nothing_else(causal, small, index):
    base, source = (small.sample(8, seed=seed).tokens for seed in (1, 2))
    natural, other = causal.run(base), causal.run(source)
    name = causal.variables[index]
    held = causal.do(**{name: other[name]}).run(base)
    for before in causal.variables[:index]:
        assert torch.equal(held[before], natural[before])
    assert torch.equal(held[name], other[name])
    if index < 2:  # by way of the prefix weights alone: evidence is the base's own
        assert torch.allclose(held["prefix_weights"], other["prefix_weights"])
    if index < 3:
        weighted = held["prefix_weights"] * mtd_lens.lag_likelihoods(small, base)
        expected = weighted / weighted.sum(-1, keepdim=True)
        assert torch.allclose(held["second_responsibilities"], expected)
        assert not torch.allclose(expected, other["second_responsibilities"])
    if index == 3:
        assert torch.allclose(
            held["second_mean_responsibility"], other["second_mean_responsibility"]
        )
    if index < 6:
        expected = mtd_lens.predict(small, base, held["mixture_weights"])
        assert torch.allclose(held["prediction"], expected)


def test_prefix_weights_at_a_corner_leave_no_evidence_impossible():
    task = made(3, 2, 20, 0.4)
    tokens = task.sample(50, seed=0).tokens
    corner = torch.tensor([1.0, 0.0]).double()
    found = TwoPassCausalModel(task, 1, 1).do(prefix_weights=corner).run(tokens)
    excluded = mtd_lens.lag_likelihoods(task, tokens)[..., 0] == 0
    assert excluded.any()
    second = found["second_responsibilities"]
    assert torch.equal(second[excluded][:, 1], torch.ones_like(second[excluded][:, 1]))
    assert (second[~excluded][:, 0] == 1).all()


@pytest.mark.parametrize("name", [SMALL, "mtd-q5-m3-t32"])
def test_sizes_are_found_again_from_their_own_predictions(name):
    task = mtd_lens.load_task(name)
    tokens = task.sample(400, seed=0).tokens
    best = best_two_passes(task)
    for first, second in itertools.product((0.4, 1.0, 2.5), repeat=2):
        model = TwoPassCausalModel(task, first * best.first_beta, second * best.second_beta)
        fitted = fit_two_passes(task, tokens, model.run(tokens)["prediction"][:, -1])
        assert fitted.parameters == pytest.approx(model.parameters, rel=1e-4)


def test_no_size_in_the_range_is_one_step(small):
    tokens = small.sample(400, seed=0).tokens
    best = best_two_passes(small)
    assert best.first_beta == mtd_lens.best_beta(small)
    one_step = mtd_lens.MTDCausalModel(small, best.first_beta).run(tokens)["prediction"][:, -1]
    fitted = fit_two_passes(small, tokens, one_step)
    assert fitted.parameters["first_beta_at_bound"] == 1
    assert fitted.first_beta == pytest.approx(best.first_beta / FIRST_SPAN, rel=1e-3)
    found = fitted.run(tokens)["prediction"][:, -1]
    assert probes.kl_divergence(one_step, found).mean() > 1e-5
    uniform = mtd_lens.MTDCausalModel(small, 0.0).run(tokens)["prediction"][:, -1]
    fitted = fit_two_passes(small, tokens, uniform)
    assert fitted.parameters["second_beta_at_bound"] == 1
    assert fitted.second_beta == pytest.approx(best.second_beta / BETA_SPAN, rel=1e-3)


def test_the_best_second_size_is_best(small):
    batch = small.sample(2048, seed=0)
    truth = mtd_lens.predict(small, batch.tokens, batch.weights)
    best = best_two_passes(small)

    def away(factor):
        model = TwoPassCausalModel(small, best.first_beta, factor * best.second_beta)
        return float(
            probes.kl_divergence(truth, model.run(batch.tokens)["prediction"][:, -1]).mean()
        )

    assert away(1.0) < min(away(0.97), away(1.03))


CASES = [*itertools.product([2, 3, 6], [1, 2, 3], [9, 24], [0.0, 0.4]), (2, 5, 40, 0.0)]
SIZES = [(0, 4.0), (5.0, 2.0), (80.0, 20.0)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("q", "m", "length", "zeros"), CASES)
def test_the_weights_compute_the_algorithm_at_every_query(q, m, length, zeros, dtype):
    for seed, sizes in enumerate(SIZES):
        task = made(q, m, length, zeros, seed)
        tokens = task.sample(16, seed).tokens
        causal = TwoPassCausalModel(task, *sizes)
        model = mtd_lens.construct_two_pass(causal, dtype=dtype)
        with torch.no_grad():
            found = probabilities(model, model(tokens))[:, m:]
        error = (found - causal.run(tokens)["prediction"]).abs().max()
        assert error <= TOLERANCE[dtype], sizes


def test_the_largest_sizes(small):
    tokens = made(4, 3, 20, 0.4).sample(32, seed=0).tokens
    causal = TwoPassCausalModel(made(4, 3, 20, 0.4), 500.0, 1e4)
    model = mtd_lens.construct_two_pass(causal, dtype=torch.float64)
    found = probabilities(model, model(tokens))[:, 3:].detach()
    assert (found - causal.run(tokens)["prediction"]).abs().max() < 1e-9


def test_shorter_inputs_and_the_query_before_any_evidence(causal, small):
    tokens = small.sample(8, seed=2).tokens
    model = mtd_lens.construct_two_pass(causal, dtype=torch.float64)
    whole = probabilities(model, model(tokens)).detach()
    for length in range(small.order, tokens.shape[1]):
        short = probabilities(model, model(tokens[:, :length]))
        assert (short - whole[:, :length]).abs().max() < 1e-12
    rows = small.transition[tokens[:, : small.order]].mean(1)
    assert (whole[:, small.order - 1] - rows).abs().max() < 1e-12


def test_every_stage_stands_where_the_algorithm_puts_it(causal, small):
    tokens = small.sample(12, seed=1).tokens
    model = mtd_lens.construct_two_pass(causal, dtype=torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    values, m = causal.run(tokens), small.order
    assert model.cfg.n_layers == 5
    assert model.cfg.attn_only
    for layer, name in ((0, "responsibilities"), (2, "second_responsibilities")):
        written = cache[f"blocks.{layer}.hook_attn_out"][:, m:]
        held = written[..., written.abs().amax((0, 1)) > 1e-12]
        assert (held - values[name]).abs().max() < 1e-12
    for layer, name in ((1, "mean_responsibility"), (3, "second_mean_responsibility")):
        written = cache[f"blocks.{layer}.hook_attn_out"][:, m:]
        held = written[..., written.abs().amax((0, 1)) > 1e-12]
        for index, t in enumerate(range(m, small.seq_len)):
            by_lag = held[:, index, [(t - g) % m for g in range(m)]]
            assert (by_lag - values[name][:, index]).abs().max() < 1e-12


def test_analytic_patterns_are_those_of_the_construction(causal, small):
    tokens = small.sample(12, seed=1).tokens
    model = mtd_lens.construct_two_pass(causal, dtype=torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    found = two_pass_patterns(causal, tokens)
    assert [pattern.variable for pattern in found] == [
        carrier.variable for carrier in TWO_PASS.carriers(small)
    ]
    for layer, pattern in enumerate(found):
        assert pattern.values[:, : small.order].isnan().all()
        for t in range(small.order, small.seq_len):
            head = 0 if layer == 4 else t % small.order
            own = cache[f"blocks.{layer}.attn.hook_pattern"][:, head, t]
            assert (own - pattern.values[:, t]).abs().max() < 1e-12


@pytest.mark.parametrize("first", [5.0, 300.0])
def test_what_leaks_out_of_a_band_is_within_the_bound(first):
    task = made(5, 3, 24, 0.5)
    tokens = task.sample(32, seed=0).tokens
    causal = TwoPassCausalModel(task, first, 2.0)
    model = mtd_lens.construct_two_pass(causal, dtype=torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for t in range(3, 24):
        pattern = cache["blocks.2.attn.hook_pattern"][:, t % 3, t]
        outside = [key for key in range(24) if not 1 <= t - key <= 3]
        assert pattern[:, outside].sum(-1).max() <= leak_bound(24)


def test_both_read_outs_say_the_same(causal, small):
    tokens = small.sample(4, seed=1).tokens
    found = [
        probabilities(model, model(tokens))
        for read_out in ("log_probs", "probs")
        for model in [mtd_lens.construct_two_pass(causal, read_out, torch.float64)]
    ]
    assert (found[0] - found[1]).abs().max() < 1e-12


def test_the_control_is_a_task_of_windows_alone(causal, small):
    """Equal windows have equal controls, which say nothing of the responsibilities."""
    tokens = small.sample(200, seed=3).tokens
    decoys = two_pass_control(causal, tokens, "responsibilities", 0)
    second = two_pass_control(causal, tokens, "second_responsibilities", 0)
    prefix = two_pass_control(causal, tokens, "prefix_weights", 0)
    assert torch.allclose(second, prefix * decoys / (prefix * decoys).sum(-1, keepdim=True))
    own = causal.run(tokens)
    for control, name in ((decoys, "responsibilities"), (second, "second_responsibilities")):
        pair = torch.stack([control[..., 0].flatten(), own[name][..., 0].flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.3


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: TwoPassCausalModel(t, -1, 2), r"first_beta must be .* got -1"),
        (lambda t: TwoPassCausalModel(t, 501, 2), r"first_beta must be .* got 501"),
        (lambda t: TwoPassCausalModel(t, 1, float("nan")), r"second_beta must be .* got nan"),
        (lambda t: TwoPassCausalModel("x", 1, 2), r"MTDTask"),
        (lambda t: mtd_lens.construct_two_pass(t), r"Use TwoPassCausalModel\(task, first_beta"),
        (lambda t: mtd_lens.construct(t, 2.0, algorithm="two-pass"), r"beta and form are of one"),
        (
            lambda t: mtd_lens.construct(t, form="relative", algorithm="two-pass"),
            r"'two-pass' has stock modules alone. Leave both out",
        ),
        (
            lambda t: fit_two_passes(t, t.sample(4, 0).tokens, torch.ones(4, 2)),
            r"targets must be finite, \[sequence, token\] = \(4, 4\)",
        ),
    ],
)
def test_errors(small, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(small)


def test_the_running_mean_is_swapped_in_the_later_half():
    for length in (4, 5, 32):
        task = made(3, 2, length)
        queries = range(2, length)[later_half(task)]
        assert len(queries) == max((length - 2) - (length - 2) // 2 - 1, 0)


NOT_ONE_STEP = {"responsibilities.injection", "mixture_weights.attention", "prediction.algorithm"}
"""What falls of one step's claims for two passes: the mean that is read out is of the second
responsibilities, so it follows the first ones in part only, and so do the weights."""

NOT_TWO_PASSES = {
    "responsibilities.interchange",
    "mean_responsibility.interchange",
    "prediction.algorithm",
}
"""What falls of two passes' claims for one step: its responsibilities act at once, not by way of
prefix weights, and its running mean before the query is not used. The nearest two passes have a
first size at the end of its range: their second responsibilities are much like the first ones."""


@pytest.mark.parametrize(
    ("variant", "algorithm", "false"),
    [
        ("constructed-two-pass", "two-pass", set()),
        ("constructed-two-pass", "one-step", NOT_ONE_STEP),
        ("constructed-absolute", "two-pass", NOT_TWO_PASSES),
    ],
)
def test_scorecards_tell_the_algorithms_apart(variant, algorithm, false):
    model = mtd_lens.load_model(f"{SMALL}/{variant}", dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=256, algorithm=algorithm)
    assert card.algorithm == FAMILY.algorithm(algorithm).name
    assert not supported(card) & false, card
    if not false:
        assert all(claim.verdict == "supported" for claim in card), card
    if algorithm == "two-pass":
        own = next(row for row in card.estimators if row.name == "two passes")
        assert own.parameters == card.parameters
        assert own.closest == (variant == "constructed-two-pass")
