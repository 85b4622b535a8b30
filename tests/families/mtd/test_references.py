"""The reference estimators fitted to a target: what is fitted, and that it follows the target."""

import itertools
import math
import re

import pytest
import torch
from conftest import transition
from hypothesis import given, settings, strategies as st
from scipy import optimize

import mtd_lens
import probes
from mtd_lens.families.mtd import iterative, references
from mtd_lens.questions.estimators import from_truth
from mtd_lens.registry import family_of

NAMES = [
    "uniform",
    "one step",
    *itertools.chain(*((f"{k} steps", f"{k} steps, free") for k in (2, 3, 4, 5))),
    "2 steps, prefix",
    "3 steps, prefix",
    "product of likelihoods",
    "EM",
    "maximum likelihood",
    "exact Bayes",
]


def _truth(task, n, seed):
    batch = task.sample(n, seed)
    return batch.tokens, mtd_lens.predict(task, batch.tokens, batch.weights)


def _loss(task, tokens, target, weights, *, target_first=True):
    prediction = mtd_lens.predict(task, tokens, weights)
    pair = (target, prediction) if target_first else (prediction, target)
    return float(probes.kl_divergence(*pair).mean())


def _steps(fitted):
    return [value for name, value in fitted.items() if not name.endswith("_at_bound")]


def _fitted(task, target_first=True, n=64, seed=0):
    """Reference estimators fitted to the truth, with their weights on the fit split itself."""
    tokens, truth = _truth(task, n, seed)
    found = references.reference_weights(task, tokens, truth, tokens, target_first=target_first)
    return tokens, truth, found


@pytest.fixture(scope="module")
def medium():
    return mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=24)


@pytest.mark.parametrize("target_first", [True, False])
def test_weights_are_the_public_estimators_at_the_fitted_parameters(medium, target_first):
    tokens, truth = _truth(medium, 64, seed=0)
    others = medium.sample(16, seed=1).tokens
    found = references.reference_weights(medium, tokens, truth, others, target_first=target_first)
    assert list(found) == NAMES
    descend = mtd_lens.mirror_descent
    for name, (weights, fitted) in found.items():
        if "step" in name:
            n_steps = 1 if name == "one step" else int(name[0])
            each = name.endswith(("free", "prefix"))
            kept = [key for key in fitted if not key.endswith("_at_bound")]
            steps = _steps(fitted)
            if each:
                assert kept == [f"step_size_{index}" for index in range(1, n_steps + 1)]
                prefix = name.endswith("prefix")
                expected = descend(medium, others, step_sizes=steps, prefix=prefix)
            else:
                assert kept == ["step_size"]
                expected = descend(medium, others, steps[0], n_steps)
        elif name == "EM":
            expected = mtd_lens.expectation_maximization(medium, others, int(fitted["n_steps"]))
        elif name == "product of likelihoods":
            expected = _powers_of_products(medium, others, fitted["exponent"])
        else:
            assert fitted == {}
            expected = {
                "uniform": lambda: torch.full((16, 3), 1 / 3, dtype=torch.float64),
                "maximum likelihood": lambda: mtd_lens.maximum_likelihood(medium, others),
                "exact Bayes": lambda: mtd_lens.posterior_mean(medium, others),
            }[name]()
        assert (weights - expected).abs().max() < 1e-12, name


def _powers_of_products(task, tokens, exponent):
    """One sequence and one lag at a time."""
    weights = torch.zeros(len(tokens), task.order, dtype=torch.float64)
    for row, sequence in enumerate(tokens.tolist()):
        for lag in range(1, task.order + 1):
            product = 1.0
            for k in range(task.order, len(sequence)):
                product *= float(task.transition[sequence[k - lag], sequence[k]])
            weights[row, lag - 1] = product**exponent
    return weights / weights.sum(-1, keepdim=True)


def test_the_exponent_of_a_product_is_found(medium):
    tokens = medium.sample(64, seed=3).tokens
    for exponent in (0.02, 1.0, 3.0):
        weights = _powers_of_products(medium, tokens, exponent)
        target = mtd_lens.predict(medium, tokens, weights)
        found = references.reference_weights(medium, tokens, target, tokens, target_first=False)
        _, fitted = found["product of likelihoods"]
        assert fitted == {"exponent": pytest.approx(exponent, rel=1e-3)}


def test_gradients_may_be_switched_off_by_the_caller(task):
    with torch.no_grad():
        switched_off = _fitted(task)[2]
    for name, (weights, fitted) in _fitted(task)[2].items():
        assert torch.equal(weights, switched_off[name][0])
        assert fitted == switched_off[name][1]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.integers(2, 3), target_first=st.booleans())
def test_free_steps_follow_the_target_at_least_as_well_as_tied_ones(seed, order, target_first):
    task = mtd_lens.MTDTask(transition(4, seed), order, 16)
    tokens, truth, found = _fitted(task, target_first, seed=seed)
    losses = {
        name: _loss(task, tokens, truth, weights, target_first=target_first)
        for name, (weights, _) in found.items()
    }
    for k in (2, 3, 4, 5):
        assert losses[f"{k} steps, free"] <= losses[f"{k} steps"] + 1e-14
    for k in (2, 3):
        tied = found["one step"][1]["step_size"] / k  # some common size, if not the best one
        weights = mtd_lens.mirror_descent(task, tokens, tied, k, prefix=True)
        bound = _loss(task, tokens, truth, weights, target_first=target_first)
        assert losses[f"{k} steps, prefix"] <= bound + 1e-12


@pytest.mark.parametrize(("name", "prefix"), [("2 steps, free", False), ("2 steps, prefix", True)])
def test_two_free_steps_are_at_their_optimum(medium, name, prefix):
    """A search without gradients, from elsewhere, finds nothing better, and the same weights."""
    tokens, truth, found = _fitted(medium, n=128)
    weights, _ = found[name]

    def objective(log_steps):
        steps = [math.exp(value) for value in log_steps]
        descended = mtd_lens.mirror_descent(medium, tokens, step_sizes=steps, prefix=prefix)
        return _loss(medium, tokens, truth, descended)

    stable = 1 / ((medium.seq_len - medium.order) * medium.order**2)
    search = optimize.minimize(
        objective,
        [math.log(0.2), math.log(0.02)],
        method="Nelder-Mead",
        bounds=[[math.log(stable * factor) for factor in references.STEP_SPAN]] * 2,
        options={"xatol": 1e-6, "fatol": 1e-14},
    )
    assert _loss(medium, tokens, truth, weights) <= search.fun * (1 + 1e-6)
    steps = [math.exp(value) for value in search.x]
    expected = mtd_lens.mirror_descent(medium, tokens, step_sizes=steps, prefix=prefix)
    assert (weights - expected).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("name", "steps", "prefix"),
    [
        ("one step", [0.13], False),
        ("2 steps", [0.07, 0.07], False),
        ("2 steps, free", [0.15, 0.05], False),
        ("2 steps, prefix", [0.05, 0.15], True),
        ("3 steps, free", [0.1, 0.03, 0.1], False),
        ("3 steps, prefix", [0.1, 0.03, 0.1], True),
    ],
)
def test_a_target_that_is_an_estimator_is_recognised(medium, name, steps, prefix):
    """The estimator that made the target is the closest, and two sizes are read off."""
    tokens = medium.sample(96, seed=3).tokens
    weights = mtd_lens.mirror_descent(medium, tokens, step_sizes=steps, prefix=prefix)
    target = mtd_lens.predict(medium, tokens, weights)
    fit, test = slice(0, 64), slice(64, None)
    found = references.reference_weights(
        medium, tokens[fit], target[fit], tokens[test], target_first=False
    )
    losses = {
        other: _loss(medium, tokens[test], target[test], weights, target_first=False)
        for other, (weights, _) in found.items()
    }
    assert losses[name] < 1e-7
    fewer_or_other_kind = [
        other
        for other in NAMES
        if other not in (name, f"{name}, free")
        and not (other.endswith(("free", "prefix")) and int(other[0]) > len(steps))
        and not (name == "one step" and other.endswith(("free", "prefix")))
    ]
    for other in fewer_or_other_kind:
        assert losses[other] > 10 * losses[name], other
    if len(steps) <= 2:
        distinct = steps[:1] if len(set(steps)) == 1 else steps
        assert _steps(found[name][1]) == pytest.approx(distinct, rel=1e-2)


def test_step_sizes_at_the_end_of_their_range_are_flagged(medium):
    """Two free steps that follow one step are that step and one of no size."""
    tokens = medium.sample(64, seed=3).tokens
    one_step = mtd_lens.mirror_descent(medium, tokens, 0.13)
    target = mtd_lens.predict(medium, tokens, one_step)
    found = references.reference_weights(medium, tokens, target, tokens, target_first=False)
    fitted = found["2 steps, free"][1]
    assert "step_size_at_bound" not in found["one step"][1]
    assert max(_steps(fitted)) == pytest.approx(0.13, rel=1e-2)
    small = min((1, 2), key=lambda index: fitted[f"step_size_{index}"])
    assert fitted[f"step_size_{small}_at_bound"] == 1.0
    assert f"step_size_{3 - small}_at_bound" not in fitted
    without_context = mtd_lens.predict(medium, tokens, torch.full((64, 3), 1 / 3).double())
    found = references.reference_weights(
        medium, tokens, without_context, tokens, target_first=False
    )
    assert found["one step"][1]["step_size_at_bound"] == 1.0
    assert found["2 steps, free"][1]["step_size_1_at_bound"] == 1.0


def test_em_takes_the_number_of_steps_that_follows_best(medium):
    tokens, truth, found = _fitted(medium)
    losses = {
        n: _loss(medium, tokens, truth, mtd_lens.expectation_maximization(medium, tokens, n))
        for n in range(1, references.MAX_EM_STEPS + 1)
    }
    assert found["EM"][1] == {"n_steps": min(losses, key=losses.get)}


@pytest.mark.parametrize("steps", [iterative.mirror_steps, iterative.prefix_steps])
def test_gradients_in_the_step_sizes_are_those_of_finite_differences(medium, steps):
    tokens = medium.sample(4, seed=0).tokens
    likelihoods = mtd_lens.lag_likelihoods(medium, tokens)
    sizes = torch.tensor([0.1, 0.05, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: steps(likelihoods, values), (sizes,))


def test_sampled_posterior_means_report_their_error(medium, monkeypatch):
    tokens, truth = _truth(medium, 4, seed=0)
    monkeypatch.setattr(
        references,
        "posterior_with_error",
        lambda task, tokens: (torch.full((4, 3), 1 / 3).double(), torch.full((4, 3), 1e-3)),
    )
    found = references.reference_weights(medium, tokens, truth, tokens, target_first=True)
    assert found["exact Bayes"][1] == {"standard_error": pytest.approx(1e-3)}


def test_contenders_and_estimates_have_the_same_estimators(medium):
    model = mtd_lens.construct(medium, 4.0)
    rows = from_truth(family_of(medium), medium, model, 12, 64, 0)
    assert [*rows] == [*NAMES, "model"]
    assert all(divergence.shape == (64,) for divergence, _ in rows.values())
    card = mtd_lens.score(model, n_sequences=64)
    assert [row.name for row in card.estimators] == NAMES
    assert "step_size_2" in card.to_json()
    [row] = [line for line in str(card).splitlines() if "3 steps, free" in line]
    assert re.search(r"step size [^ ]+, [^ ]+, [^ ]+", row)  # numbered parameters share a label
