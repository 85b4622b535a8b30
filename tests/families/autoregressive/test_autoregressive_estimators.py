"""Estimators and the causal model, each against a slow and obvious computation."""

import math

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import AutoregressiveCausalModel, AutoregressiveTask
from mtd_lens.contracts import CausalModel
from mtd_lens.errors import ArgumentError, TaskError, TokensError
from mtd_lens.families.autoregressive import estimators

TASKS = [
    AutoregressiveTask(3, 7),
    AutoregressiveTask(4, 9, "unitary"),
    AutoregressiveTask(5, 6, noise=0.3),
]
IDS = ["orthogonal", "unitary", "noisy"]
STEPS = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)


@pytest.fixture(params=TASKS, ids=IDS)
def case(request):
    task = request.param
    return task, task.sample(6, seed=3)


def slow_descent(context, step_sizes):
    """Gradient descent on ½ Σ ‖s_j - W s_{j-1}‖², pair by pair."""
    W = torch.zeros(context.shape[1], context.shape[1], dtype=torch.float64)
    for step_size in step_sizes:
        gradient = torch.zeros_like(W)
        for j in range(1, len(context)):
            gradient -= torch.outer(context[j] - W @ context[j - 1], context[j - 1])
        W = W - step_size * gradient
    return W


def test_gradient_descent_against_loops_at_every_query(case):
    _, batch = case
    found = estimators.gradient_descent(batch.tokens, STEPS)
    predicted = estimators.predict_next(batch.tokens, found)
    for n, tokens in enumerate(batch.tokens):
        for t in range(1, len(tokens)):
            W = slow_descent(tokens[: t + 1], STEPS)
            assert torch.allclose(found[n, t - 1], W, atol=1e-12)
            assert torch.allclose(predicted[n, t - 1], W @ tokens[t], atol=1e-12)
    last = estimators.gradient_descent(batch.tokens, STEPS, last_only=True)
    assert torch.allclose(last, found[:, -1:], atol=1e-12)


def test_descent_follows_the_gradient_of_the_loss(case):
    """One step from 0 is -η times the gradient that automatic differentiation finds."""
    task, batch = case
    W = torch.zeros(6, task.dim, task.dim, dtype=torch.float64, requires_grad=True)
    residual = batch.tokens[:, 1:] - batch.tokens[:, :-1] @ W.transpose(1, 2)
    (gradient,) = torch.autograd.grad(0.5 * residual.square().sum(), W)
    one = estimators.gradient_descent(batch.tokens, STEPS[:1], last_only=True)[:, 0]
    assert torch.allclose(one, -STEPS[0] * gradient, atol=1e-12)


def test_least_squares_against_numpy(case):
    _, batch = case
    found = estimators.least_squares(batch.tokens)
    for n, tokens in enumerate(batch.tokens.numpy()):
        for t in range(1, len(tokens)):
            solution = np.linalg.lstsq(tokens[:t], tokens[1 : t + 1], rcond=1e-10)[0].T
            assert np.allclose(found[n, t - 1].numpy(), solution, atol=1e-8)
    last = estimators.least_squares(batch.tokens, last_only=True)
    assert torch.allclose(last, found[:, -1:], atol=1e-10)


def test_least_squares_finds_the_matrix_of_exact_sequences():
    batch = AutoregressiveTask(3, 9).sample(200, seed=0)
    found = estimators.least_squares(batch.tokens, last_only=True)[:, 0]
    close = (found - batch.matrices).abs().amax((1, 2)) < 1e-6
    assert close.double().mean() > 0.9  # the others hardly excite one direction


def test_many_steps_tend_to_least_squares():
    batch = AutoregressiveTask(3, 9, noise=0.3).sample(20, seed=0)
    _, gram = estimators.moments(batch.tokens, last_only=True)
    step = 1 / float(torch.linalg.eigvalsh(gram).max())
    many = estimators.gradient_descent(batch.tokens, torch.full((3000,), step), last_only=True)
    exact = estimators.least_squares(batch.tokens, last_only=True)
    assert torch.allclose(many, exact, atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
def test_residual_steps_against_loops(case, causal):
    _, batch = case
    found = estimators.residual_steps(batch.tokens, STEPS, causal=causal)
    for n, s in enumerate(batch.tokens):
        T = len(s)
        r = {j: s[j] for j in range(1, T)}
        out = {t: torch.zeros_like(s[0]) for t in range(1, T)}
        for step_size in STEPS:
            seen = {j: range(1, j + 1) if causal else range(1, T) for j in range(1, T)}
            new = {
                j: r[j] - step_size * sum((s[i - 1] @ s[j - 1]) * r[i] for i in seen[j]) for j in r
            }
            out = {
                t: out[t] + step_size * sum((s[t] @ s[i - 1]) * r[i] for i in seen[t]) for t in out
            }
            r = new
        for t in range(1, T):
            assert torch.allclose(found[n, t - 1], out[t], atol=1e-12)


def test_residual_steps_of_the_whole_sequence_are_gradient_descent(case):
    _, batch = case
    exact = estimators.gradient_descent(batch.tokens, STEPS, last_only=True)
    steps = estimators.residual_steps(batch.tokens, STEPS, causal=False)[:, -1]
    assert torch.allclose(steps, estimators.predict_next(batch.tokens, exact)[:, 0], atol=1e-12)
    prefix = estimators.residual_steps(batch.tokens, STEPS, causal=True)[:, -1]
    assert not torch.allclose(prefix, steps, atol=1e-3)


def test_the_trigonometric_rule_is_exact_for_rotations():
    task = AutoregressiveTask(6, 8, "unitary")
    batch = task.sample(50, seed=1)
    found = estimators.trigonometric_rule(task, batch.tokens)
    truth = batch.tokens[:, 1:] @ batch.matrices.transpose(1, 2)
    assert torch.allclose(found[:, 1:], truth[:, 1:], atol=1e-10)
    assert torch.allclose(found[:, 0], -batch.tokens[:, 0])
    with pytest.raises(TaskError, match="rule is one of rotations"):
        estimators.trigonometric_rule(TASKS[0], batch.tokens)


def test_the_trigonometric_rule_of_a_pair_of_zeros_has_the_cosine_0():
    task = AutoregressiveTask(4, 6, "unitary")
    tokens = task.sample(3, seed=1).tokens
    expected = estimators.trigonometric_rule(task, tokens)
    tokens[:, :, :2] = 0.0
    found = estimators.trigonometric_rule(task, tokens)
    assert torch.equal(found[..., :2], torch.zeros_like(found[..., :2]))
    assert torch.equal(found[..., 2:], expected[..., 2:])
    tokens[:, 4:, 0] = 1.0  # evidence of this pair comes with query 5 alone
    found = estimators.trigonometric_rule(task, tokens)
    assert torch.equal(found[:, 3, :2], -tokens[:, 3, :2])
    assert torch.allclose(found[:, 4, :2], tokens[:, 5, :2] - tokens[:, 4, :2])


# The causal model.


def test_the_causal_model_against_loops(case):
    task, batch = case
    model = AutoregressiveCausalModel(task, 0.7)
    assert isinstance(model, CausalModel)
    found = model.run(batch.tokens)
    assert tuple(found) == model.variables
    positions = model.query_positions(task.seq_len)
    for n, s in enumerate(batch.tokens):
        for q, t in enumerate(positions):
            assert torch.equal(found["augmented_token"][n, q], torch.cat([s[t], s[t - 1]]))
            prediction = torch.zeros_like(s[0])
            for e, j in enumerate(range(1, task.seq_len)):
                product = 0.7 * float(s[t] @ s[j - 1]) if j <= t else 0.0
                assert float(found["inner_products"][n, q, e]) == pytest.approx(product, abs=1e-14)
                prediction += product * s[j]
            assert torch.allclose(found["prediction"][n, q], prediction, atol=1e-14)


def test_its_prediction_is_one_step(case):
    task, batch = case
    found = AutoregressiveCausalModel(task, 0.3).run(batch.tokens)["prediction"]
    one = estimators.gradient_descent(batch.tokens, STEPS[:1])
    assert torch.allclose(found, estimators.predict_next(batch.tokens, one), atol=1e-12)


def test_interventions_act_downstream_and_leave_nan_alone(case):
    task, batch = case
    model = AutoregressiveCausalModel(task, 0.5)
    natural = model.run(batch.tokens)
    source = {name: value.roll(1, 0) for name, value in natural.items()}
    whole = model.do(augmented_token=source["augmented_token"]).run(batch.tokens)
    for name, value in whole.items():
        assert torch.equal(value, source[name])
    held = torch.full_like(natural["inner_products"], math.nan)
    held[:, -1] = source["inner_products"][:, -1]
    found = model.do(inner_products=held).run(batch.tokens)
    assert torch.equal(found["augmented_token"], natural["augmented_token"])
    assert torch.equal(found["prediction"][:, :-1], natural["prediction"][:, :-1])
    mixed = source["inner_products"][:, -1, None] @ batch.tokens[:, 1:]
    assert torch.allclose(found["prediction"][:, -1], mixed[:, 0], atol=1e-12)
    assert not model.interventions


def test_the_step_size_is_fitted_in_closed_form(case):
    task, batch = case
    target = AutoregressiveCausalModel(task, 0.21).run(batch.tokens)["prediction"][:, -1]
    assert mtd_lens.fit_step_size(task, batch.tokens, target) == pytest.approx(0.21)
    assert mtd_lens.fit_step_size(task, batch.tokens, target, (0.3, 0.5)) == 0.3
    best = mtd_lens.best_step_size(task)
    many = task.sample(4000, seed=9)

    def error(step_size):
        found = AutoregressiveCausalModel(task, step_size).run(many.tokens)["prediction"][:, -1]
        return float((found - many.truth).square().sum(-1).mean())

    assert error(best) < min(error(0.9 * best), error(1.1 * best))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, t: m.do(weights=t), ArgumentError, "unknown variable 'weights'"),
        (
            lambda m, t: m.do(prediction=t.long()),
            ArgumentError,
            "held at must be a floating-point",
        ),
        (
            lambda m, t: m.do(prediction=t[:, :2]).run(t),
            ArgumentError,
            r"shape \(6, 2, 3\); expected one that broadcasts to \(6, 6, 3\)",
        ),
        (lambda m, t: m.run(t.long()), TokensError, "tokens are vectors"),
        (
            lambda m, t: AutoregressiveCausalModel(m.task, -1),
            ArgumentError,
            "step_size must be a number of at least 0",
        ),
        (
            lambda m, t: mtd_lens.fit_step_size(m.task, t, t[:, 0, :2]),
            ArgumentError,
            r"\[sequence, component\] = \(6, 3\); got shape \(6, 2\)",
        ),
        (
            lambda m, t: mtd_lens.fit_step_size(m.task, t, t[:, 0], (0.5, 0.1)),
            ArgumentError,
            "bounds of step_size must be increasing",
        ),
        (
            lambda m, t: mtd_lens.fit_step_size(m.task, t, t[:, 0].tolist()),
            ArgumentError,
            "targets must be a floating-point tensor.*a list",
        ),
        (
            lambda m, t: mtd_lens.fit_step_size(m.task, 0 * t, t[:, 0]),
            TokensError,
            "finite and not 0; the sum of its predictions' squares is 0 at step_size 1",
        ),
        (
            lambda m, t: mtd_lens.fit_step_size(m.task, 1e200 * t, t[:, 0]),
            TokensError,
            "the sum of its predictions' squares is (inf|nan) at step_size 1",
        ),
        (
            lambda m, t: estimators.checked_step_sizes([]),
            ArgumentError,
            "step_sizes must be one finite number or more",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    task = TASKS[0]
    with pytest.raises(error, match=message):
        call(AutoregressiveCausalModel(task, 1.0), task.sample(6, seed=3).tokens)


# What users call: predictions at every query, of checked input.


def test_public_estimators_are_the_matrices_predictions(case):
    task, batch = case
    tokens = batch.tokens
    for sizes in (STEPS, STEPS.tolist(), tuple(STEPS.tolist())):
        found = mtd_lens.autoregressive_gradient_descent(task, tokens, sizes)
        matrices = estimators.gradient_descent(tokens, STEPS)
        assert torch.allclose(found, estimators.predict_next(tokens, matrices), atol=1e-12)
    for sizes in (STEPS.numpy(), [np.float64(size) for size in STEPS.tolist()]):
        again = mtd_lens.autoregressive_gradient_descent(task, tokens, sizes)
        assert torch.equal(again, found)
    single = mtd_lens.autoregressive_gradient_descent(task, tokens, 0.3)
    for size in (np.float64(0.3), np.array(0.3), torch.tensor(0.3, dtype=torch.float64)):
        again = mtd_lens.autoregressive_gradient_descent(task, tokens, size)
        assert torch.equal(again, single)
    narrow = mtd_lens.autoregressive_gradient_descent(task, tokens, np.float32(0.3))
    assert torch.allclose(narrow, single, rtol=1e-6)
    step = tokens.new_tensor([0.3])
    assert torch.equal(
        single, estimators.predict_next(tokens, estimators.gradient_descent(tokens, step))
    )
    prefix = mtd_lens.autoregressive_gradient_descent(task, tokens, STEPS, prefix=True)
    assert torch.equal(prefix, estimators.residual_steps(tokens, STEPS, causal=True))
    squares = mtd_lens.autoregressive_least_squares(task, tokens)
    expected = estimators.predict_next(tokens, estimators.least_squares(tokens))
    assert torch.equal(squares, expected)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "sizes",
    [
        [],
        None,
        "0.1",
        [0.1, math.nan],
        math.inf,
        [[0.1]],
        np.array([[0.1]]),
        10**400,
        1j,
        True,
        [0.1, True],
        torch.tensor(True),
        np.array([False]),
        np.bool_(True),
    ],
)
def test_step_sizes_that_are_none_are_refused(sizes):
    task = AutoregressiveTask(2, 5)
    tokens = task.sample(1, seed=0).tokens
    with pytest.raises(ArgumentError, match="step_sizes must be one finite number or more"):
        mtd_lens.autoregressive_gradient_descent(task, tokens, sizes)


@pytest.mark.parametrize(
    "estimator",
    [
        lambda task, tokens: mtd_lens.autoregressive_gradient_descent(task, tokens, 0.1),
        mtd_lens.autoregressive_least_squares,
        mtd_lens.trigonometric_rule,
    ],
    ids=["gradient descent", "least squares", "trigonometric rule"],
)
def test_tokens_that_are_no_vectors_are_refused(estimator):
    task = AutoregressiveTask(4, 5, "unitary")
    for tokens in (torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5, 3), torch.zeros(1, 1, 4)):
        with pytest.raises(
            TokensError, match=r"vectors: a floating-point|got shape|tokens must hold|components"
        ):
            estimator(task, tokens)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "call",
    [
        lambda task, t: mtd_lens.autoregressive_gradient_descent(task, t, 0.1),
        mtd_lens.autoregressive_least_squares,
        mtd_lens.trigonometric_rule,
        lambda task, t: mtd_lens.fit_step_size(task, t, t[:, 0]),
        lambda task, t: mtd_lens.best_step_size(task),
        lambda task, t: AutoregressiveCausalModel(task, 1.0),
        lambda task, t: mtd_lens.construct_autoregressive(task, 1.0),
    ],
)
@pytest.mark.parametrize(
    ("task", "shown"), [("x", "'x'"), (mtd_lens.NGramTask(3, (1,), 1, 5), "NGramTask")]
)
def test_other_tasks_are_refused(call, task, shown):
    with pytest.raises(
        ArgumentError, match=f"expected an AutoregressiveTask; got {shown}.*Use load_task"
    ):
        call(task, torch.ones(1, 5, 3))
