"""Estimators against two-loop oracles, and the identities that hold for every seed."""

import itertools
from functools import partial

import numpy as np
import oracles
import pytest
import torch
from conftest import transition
from hypothesis import given, settings, strategies as st
from scipy import optimize

import mtd_lens
from mtd_lens.families.mtd import estimators, iterative, posterior

TASKS = [
    pytest.param(
        mtd_lens.MTDTask(transition(q, seed, c, zeros), m, length), id=f"q{q}-m{m}-t{length}"
    )
    for seed, (q, m, length, c, zeros) in enumerate(
        [
            (2, 1, 2, 1, 0),
            (3, 2, 12, 1, 0),
            (5, 3, 20, 0.1, 0),
            (4, 4, 15, 1, 0.4),
            (6, 5, 17, 1, 0),
        ]
    )
]


def _weights(task, n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(task.order), n))


def _close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(np.array(expected))
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance


@pytest.mark.parametrize("task", TASKS)
def test_every_estimator_equals_its_oracle(task):
    tokens = task.sample(6, seed=1).tokens
    rows, weights = tokens.tolist(), _weights(task, 6)
    pairs = list(zip(rows, weights.tolist(), strict=True))
    _close(
        mtd_lens.responsibilities(task, tokens),
        [oracles.responsibilities(task, row) for row in rows],
    )
    _close(
        mtd_lens.responsibilities(task, tokens, weights),
        [oracles.responsibilities(task, row, w) for row, w in pairs],
    )
    _close(
        mtd_lens.log_likelihood(task, tokens, weights),
        [oracles.log_likelihood(task, row, w) for row, w in pairs],
        1e-11,  # a sum of up to 17 logarithms of size up to 10
    )
    for n_steps, step in ((1, 0.3), (3, 0.05)):
        _close(
            mtd_lens.mirror_descent(task, tokens, step, n_steps),
            [oracles.mirror_descent(task, row, step, n_steps) for row in rows],
        )
        _close(
            mtd_lens.expectation_maximization(task, tokens, n_steps),
            [oracles.expectation_maximization(task, row, n_steps) for row in rows],
        )
    for steps in ([0.3], [0.05, 0.2], [0.2, 0.01, 0.1]):
        _close(
            mtd_lens.mirror_descent(task, tokens, step_sizes=steps),
            [oracles.free_mirror_descent(task, row, steps) for row in rows],
        )
        _close(
            mtd_lens.mirror_descent(task, tokens[:2], step_sizes=steps, prefix=True),
            [oracles.prefix_mirror_descent(task, row, steps) for row in rows[:2]],
        )
    _close(
        mtd_lens.predict(task, tokens, weights),
        [oracles.predict(task, row, w) for row, w in pairs],
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_query_at_once_equals_a_loop_over_prefixes(task):
    tokens = task.sample(4, seed=2).tokens
    queries = range(task.order + 1, task.seq_len + 1)
    for n_steps in (1, 3):
        steps = [0.2, 0.05, 0.1][:n_steps]
        for function in (
            partial(mtd_lens.mirror_descent, step_size=0.1, n_steps=n_steps),
            partial(mtd_lens.mirror_descent, step_sizes=steps),
            partial(mtd_lens.mirror_descent, step_sizes=steps, prefix=True),
            partial(mtd_lens.expectation_maximization, n_steps=n_steps),
        ):
            at_once = function(task, tokens, every_query=True)
            one_by_one = [function(task, tokens[:, :end]) for end in queries]
            assert (at_once - torch.stack(one_by_one, 1)).abs().max() <= 1e-12
    weights = mtd_lens.mirror_descent(task, tokens, 0.1, every_query=True)
    predictions = mtd_lens.predict(task, tokens, weights)
    for index, end in enumerate(queries):
        single = mtd_lens.predict(task, tokens[:, :end], weights[:, index])
        assert (predictions[:, index] - single).abs().max() <= 1e-14


def test_a_step_size_for_each_query():
    task = TASKS[1].values[0]
    tokens = task.sample(4, seed=2).tokens
    steps = torch.linspace(0.1, 0.4, task.seq_len - task.order)
    found = mtd_lens.mirror_descent(task, tokens, steps, 2, every_query=True)
    for index, step in enumerate(steps.tolist()):
        prefix = tokens[:, : task.order + index + 1]
        expected = mtd_lens.mirror_descent(task, prefix, step, 2)
        assert (found[:, index] - expected).abs().max() <= 1e-7  # float32 step sizes


def test_prefix_steps_of_a_size_for_each_query():
    """A tensor has an entry for every query, and each position steps by its own entry."""
    task = TASKS[1].values[0]
    tokens = task.sample(4, seed=2).tokens
    first = torch.linspace(0.4, 0.1, task.seq_len - task.order, dtype=torch.float64)
    before = mtd_lens.mirror_descent(task, tokens, first, every_query=True)
    likelihoods = estimators.lag_likelihoods(task, tokens)
    mixture = (likelihoods * before).sum(-1, keepdim=True)
    slope = (likelihoods / mixture).sum(1)
    expected = (before[:, -1].log() + 0.2 * slope).softmax(-1)
    found = mtd_lens.mirror_descent(task, tokens, step_sizes=(first, 0.2), prefix=True)
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either step_size.*or step_sizes.*neither"),
        ({"step_size": 0.1, "step_sizes": [0.1]}, "either step_size.*or step_sizes.*both"),
        ({"step_sizes": []}, r"one step size for each step.*\[\]"),
        ({"step_sizes": 0.1}, "one step size for each step.*0.1"),
        ({"step_sizes": torch.tensor(0.1)}, "one step size for each step"),
        ({"step_sizes": "0.1"}, "one step size for each step.*'0.1'"),
        ({"step_sizes": [0.1, 0.2], "n_steps": 3}, "n_steps be left out.*n_steps=3"),
        ({"step_sizes": [0.1, -0.2]}, r"step_sizes\[1\] must be positive.*-0.2"),
        ({"step_sizes": [torch.ones(2, 2)]}, r"step_sizes\[0\] must be positive.*one a query"),
        ({"step_sizes": [0.1, torch.ones(5)]}, r"step_sizes\[1\] has 5 entries for 1 queries"),
        ({"step_size": torch.ones(5), "prefix": True}, "5 entries for 11 queries"),
        ({"step_sizes": [0.1, 1e308], "prefix": True}, "overflows"),
    ],
)
def test_step_sizes_that_cannot_be(task, tokens, arguments, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        mtd_lens.mirror_descent(task, tokens, **arguments)


seeds = st.integers(0, 2**31)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, order=st.integers(1, 4), q=st.integers(2, 6), n_steps=st.integers(1, 4))
def test_identities_of_free_and_prefix_steps(seed, order, q, n_steps):
    task = mtd_lens.MTDTask(transition(q, seed), order, order + 9)
    tokens = task.sample(5, seed).tokens
    descend = partial(mtd_lens.mirror_descent, task, tokens)
    steps = np.random.default_rng(seed).uniform(0.01, 0.3, n_steps)
    free = descend(step_sizes=steps)
    prefix = descend(step_sizes=steps, prefix=True)
    for weights in (free, prefix):
        assert (weights.sum(-1) - 1).abs().max() < 1e-12
        assert (weights > 0).all()
    # steps of one size are tied steps
    tied = descend(step_sizes=[0.1] * n_steps)
    assert (tied - descend(0.1, n_steps)).abs().max() < 1e-12
    tied = descend(step_sizes=[0.1] * n_steps, prefix=True)
    assert (tied - descend(0.1, n_steps, prefix=True)).abs().max() < 1e-12
    # the first step has no weights of its own to differ in
    first = descend(step_sizes=steps[:1], prefix=True)
    assert (first - descend(steps[0])).abs().max() < 1e-12
    # a last step of almost no size changes almost nothing
    longer = descend(step_sizes=[*steps, 1e-9], prefix=True)
    assert (longer - prefix).abs().max() < 1e-6
    assert (descend(step_sizes=[*steps, 1e-9]) - free).abs().max() < 1e-6


def test_later_prefix_steps_differ_from_plain_ones_and_never_look_ahead(task, tokens):
    plain = mtd_lens.mirror_descent(task, tokens, 0.2, 2)
    prefix = mtd_lens.mirror_descent(task, tokens, 0.2, 2, prefix=True, every_query=True)
    assert (plain - prefix[:, -1]).abs().max() > 1e-3
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % task.n_tokens
    again = mtd_lens.mirror_descent(task, changed, 0.2, 2, prefix=True, every_query=True)
    assert torch.equal(prefix[:, :-1], again[:, :-1])
    assert (prefix[:, -1] - again[:, -1]).abs().max() > 1e-3


def test_the_path_of_em_is_em_step_by_step(task, tokens):
    path = iterative.em_path(estimators.lag_likelihoods(task, tokens), 4)
    assert len(path) == 4
    for n_steps, weights in enumerate(path, start=1):
        expected = mtd_lens.expectation_maximization(task, tokens, n_steps)
        assert (weights - expected).abs().max() < 1e-14


@settings(max_examples=25, deadline=None)
@given(seed=seeds, order=st.integers(1, 4), q=st.integers(2, 6))
def test_identities(seed, order, q):
    task = mtd_lens.MTDTask(transition(q, seed), order, order + 9)
    tokens = task.sample(5, seed).tokens
    weights = _weights(task, 5, seed)
    gamma = mtd_lens.responsibilities(task, tokens, weights)
    assert (gamma.sum(-1) - 1).abs().max() < 1e-12
    uniform = mtd_lens.responsibilities(task, tokens)
    one_step = mtd_lens.mirror_descent(task, tokens, 0.2)
    assert (one_step - (0.2 * order * uniform.sum(1)).softmax(-1)).abs().max() < 1e-12
    # EM never lowers the likelihood
    before = mtd_lens.log_likelihood(task, tokens)
    for n_steps in (1, 2, 5):
        after = mtd_lens.log_likelihood(
            task, tokens, mtd_lens.expectation_maximization(task, tokens, n_steps)
        )
        assert (after >= before - 1e-10).all()
        before = after


@pytest.mark.parametrize("order", [2, 3])
def test_permuting_lags_permutes_weights(order, monkeypatch):
    task = mtd_lens.MTDTask(transition(4, seed=8), order, 20, concentration=0.6)
    tokens = task.sample(6, seed=0).tokens
    functions = {
        "one step": lambda: mtd_lens.mirror_descent(task, tokens, 0.1),
        "three steps": lambda: mtd_lens.mirror_descent(task, tokens, 0.1, 3),
        "EM": lambda: mtd_lens.expectation_maximization(task, tokens, 4),
        "maximum likelihood": lambda: mtd_lens.maximum_likelihood(task, tokens),
        "Bayes": lambda: mtd_lens.posterior_mean(task, tokens, "quadrature"),
    }
    before = {name: function() for name, function in functions.items()}
    permutation = torch.arange(order).roll(1)
    natural = estimators.lag_likelihoods
    for module in (iterative, posterior):
        monkeypatch.setattr(module, "lag_likelihoods", lambda *a: natural(*a)[..., permutation])
    for name, function in functions.items():
        assert (function() - before[name][:, permutation]).abs().max() < 1e-9, name


def test_gradients_flow_through_weights(task, tokens):
    weights = _weights(task, len(tokens)).requires_grad_()
    (gradient,) = torch.autograd.grad(mtd_lens.log_likelihood(task, tokens, weights).sum(), weights)
    expected = [
        oracles.gradient(task, row, w)
        for row, w in zip(tokens.tolist(), weights.tolist(), strict=True)
    ]
    _close(gradient, expected, 1e-9)
    for value in (
        mtd_lens.responsibilities(task, tokens, weights)[..., 0].sum(),
        mtd_lens.predict(task, tokens, weights)[:, 0].sum(),
    ):
        assert torch.autograd.grad(value, weights)[0].abs().sum() > 0


@pytest.mark.parametrize("task", TASKS)
def test_maximum_likelihood_meets_its_optimality_conditions(task):
    tokens = task.sample(32, seed=3).tokens
    weights = mtd_lens.maximum_likelihood(task, tokens)
    n_evidence = task.seq_len - task.order
    best = mtd_lens.log_likelihood(task, tokens, weights)
    # KKT: no coordinate of the gradient exceeds n, which bounds the suboptimality.
    for row, w in zip(tokens.tolist(), weights.tolist(), strict=True):
        assert oracles.gradient(task, row, w).max() <= n_evidence * (1 + 1e-8)
    for seed in range(5):
        other = mtd_lens.log_likelihood(task, tokens, _weights(task, 32, seed))
        assert (best >= other - 1e-10).all()


def test_maximum_likelihood_equals_a_root_of_the_derivative():
    """For two lags the optimum is a root in one variable: bisection is an independent method."""
    task = mtd_lens.MTDTask(transition(4, seed=9), 2, 40)
    tokens = task.sample(40, seed=0).tokens
    found = mtd_lens.maximum_likelihood(task, tokens)

    def slope(share, row):
        first, second = oracles.gradient(task, row, [share, 1 - share])
        return first - second

    inside = 0
    for row, weights in zip(tokens.tolist(), found.tolist(), strict=True):
        if slope(1e-9, row) > 0 > slope(1 - 1e-9, row):
            inside += 1
            root = optimize.brentq(slope, 1e-9, 1 - 1e-9, args=(row,), xtol=1e-14, rtol=1e-14)
            assert weights[0] == pytest.approx(root, abs=1e-8)
        else:
            assert min(weights) < 1e-8
    assert inside >= 10


def test_maximum_likelihood_is_where_em_converges_to(task, tokens):
    em = mtd_lens.expectation_maximization(task, tokens, 20_000)
    limit = mtd_lens.log_likelihood(task, tokens, em)
    best = mtd_lens.log_likelihood(task, tokens, mtd_lens.maximum_likelihood(task, tokens))
    assert (best >= limit - 1e-10).all()
    assert (best - limit).max() < 1e-3


def test_a_huge_step_stays_on_the_simplex(task, tokens):
    for n_steps in (1, 2, 5):
        weights = mtd_lens.mirror_descent(task, tokens, 1e6, n_steps)
        assert weights.isfinite().all()
        assert (weights.sum(-1) - 1).abs().max() < 1e-12


def test_other_integer_dtypes_and_non_contiguous_tokens(task, tokens):
    expected = mtd_lens.responsibilities(task, tokens)
    for view in (tokens.to(torch.int32), tokens.to(torch.uint8), tokens.T.contiguous().T):
        assert torch.equal(mtd_lens.responsibilities(task, view), expected)


def test_theorem_1_one_step_follows_bayes_to_first_order():
    """At η = 1/(mα+1) the step and the posterior mean share their slope at 'no evidence'."""
    for order, alpha in itertools.product((2, 3), (1.0, 2.5)):
        errors = []
        for size in (0.04, 0.02):
            base = np.full((3, 3), 1 / 3)
            noise = np.random.default_rng(0).normal(size=(3, 3))
            noise -= noise.mean(1, keepdims=True)
            task = mtd_lens.MTDTask(base + size * noise / 5, order, order + 6, alpha)
            tokens = torch.from_numpy(np.random.default_rng(1).integers(3, size=(20, order + 6)))
            step = mtd_lens.mirror_descent(task, tokens, 1 / (order * alpha + 1))
            bayes = mtd_lens.posterior_mean(task, tokens)
            errors.append(float((step - bayes).abs().max()))
        assert errors[1] < errors[0] / 3  # second order: a quarter, up to higher terms
