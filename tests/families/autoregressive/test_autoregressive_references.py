"""Reference estimators: fitted as they should be, and on the fit split alone."""

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import AutoregressiveCausalModel, AutoregressiveTask, Trial
from mtd_lens.families.autoregressive import estimators, references
from mtd_lens.questions.estimators import from_model, from_truth
from mtd_lens.registry import family_of

TASKS = [
    AutoregressiveTask(3, 7),
    AutoregressiveTask(4, 9, "unitary"),
    AutoregressiveTask(5, 6, noise=0.3),
]
IDS = ["orthogonal", "unitary", "noisy"]
STEPS = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)


def descend(tokens, step_sizes):
    """What gradient descent predicts after the last vector, step by step."""
    estimate = estimators.gradient_descent(tokens, step_sizes, last_only=True)
    return estimators.predict_next(tokens, estimate)[:, 0]


def descend_prefix(tokens, step_sizes):
    """The same of causal layers."""
    return estimators.residual_steps(tokens, step_sizes, causal=True)[:, -1]


@pytest.fixture(params=TASKS, ids=IDS)
def case(request):
    task = request.param
    return task, task.sample(6, seed=3)


def test_free_steps_are_the_best_of_all_step_sizes():
    batch = AutoregressiveTask(3, 9).sample(300, seed=0)
    coefficients = references.fit_polynomial(batch.tokens, batch.truth, 3)
    predicted = references.krylov(batch.tokens, 3) @ coefficients
    sizes = references.free_step_sizes(coefficients)
    stepped = descend(batch.tokens, torch.tensor(list(sizes.values())))
    assert torch.allclose(predicted, stepped, atol=1e-9)
    best = float((predicted - batch.truth).square().sum(-1).mean())
    tied = references.fit_common(batch.tokens, batch.truth, descend, 3)
    rng = np.random.default_rng(0)
    for tried in [[tied["step_size"]] * 3, *(rng.uniform(0.05, 0.6, (20, 3)))]:
        other = descend(batch.tokens, torch.tensor(tried, dtype=torch.float64))
        assert float((other - batch.truth).square().sum(-1).mean()) >= best - 1e-12


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_common_step_size_is_recovered(n_steps):
    tokens = AutoregressiveTask(3, 9).sample(100, seed=0).tokens
    for size in (0.02, 0.2):
        target = descend(tokens, torch.full((n_steps,), size, dtype=torch.float64))
        found = references.fit_common(tokens, target, descend, n_steps)
        assert found == {"step_size": pytest.approx(size, rel=1e-4)}


DIRECT = [(references.krylov, descend), (references.krylov_prefix, descend_prefix)]


@pytest.mark.parametrize(("basis", "direct"), DIRECT, ids=["whole", "prefix"])
def test_predictions_of_steps_are_linear_in_the_powers(case, basis, direct):
    _, batch = case
    found = basis(batch.tokens, 3) @ references.step_coefficients(STEPS.tolist())
    assert torch.allclose(found, direct(batch.tokens, STEPS), atol=1e-12)


@pytest.mark.parametrize(("basis", "direct"), DIRECT, ids=["whole", "prefix"])
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_a_common_step_size_is_that_of_the_steps_themselves(case, basis, direct, n_steps):
    _, batch = case
    expected = references.fit_common(batch.tokens, batch.truth, direct, n_steps)
    powers = basis(batch.tokens, n_steps)
    found, coefficients = references.fit_tied(batch.tokens, batch.truth, powers)
    assert found == pytest.approx(expected, rel=1e-9)
    stepped = direct(batch.tokens, STEPS.new_full((n_steps,), expected["step_size"]))
    assert torch.allclose(powers @ coefficients, stepped, rtol=0, atol=1e-9)


def test_reference_predictions_are_the_estimators(case):
    """Each is its estimator on new sequences, with what it says was fitted on the others."""
    task, batch = case
    new = task.sample(5, seed=8).tokens
    found = references.references(task, batch.tokens, batch.truth, new)
    checked = set()
    for name, reference in found.items():
        predicted, fitted = reference.prediction, reference.parameters
        sizes = [size for key, size in fitted.items() if "bound" not in key]
        if not sizes:
            continue
        n_steps = int(name[0]) if name[0].isdigit() else 1
        sizes = STEPS.new_tensor(sizes * n_steps if len(sizes) == 1 < n_steps else sizes)
        direct = descend_prefix if name.endswith("prefix") else descend
        assert torch.allclose(predicted, direct(new, sizes), rtol=1e-9, atol=1e-9), name
        checked.add(name)
    assert checked >= {
        "one step",
        *(f"{n} steps{kind}" for n in "234" for kind in ("", ", prefix")),
    }
    squares = estimators.least_squares(new, last_only=True)
    assert torch.equal(
        found["least squares"].prediction, estimators.predict_next(new, squares)[:, 0]
    )
    assert torch.equal(found["last vector"].prediction, new[:, -1])


# What is fitted, is fitted on the fit split.


def fitted(entries):
    return {
        f"{estimator}: {name}": value
        for estimator, (_, parameters) in entries.items()
        for name, value in parameters.items()
    }


def same(parameters):
    """Up to rounding, which the search for a step size makes larger."""
    return pytest.approx(parameters, rel=1e-6)


FITTED = {"one step: step_size", "2 steps, free: step_size_1", "4 steps, prefix: step_size"}


def test_scorecards_fit_estimators_on_the_fit_split_alone():
    model = mtd_lens.load_model("ar-d3-t16/constructed-4-steps-bidirectional")
    task = mtd_lens.task_of(model)
    one, two, three = (task.sample(64, seed=seed).tokens for seed in range(3))
    causal = AutoregressiveCausalModel(task, 0.2)

    def entries(fit_tokens, tokens):
        trial = Trial(model, task, causal, fit_tokens, tokens, 0)
        return from_model(family_of(task), trial)

    expected = fitted(entries(one, two))
    assert set(expected) >= FITTED
    assert fitted(entries(one, three)) == same(expected)
    other = fitted(entries(three, two))
    for name in FITTED:
        assert other[name] != same(expected[name])


def test_comparisons_fit_estimators_on_the_fit_split_alone(monkeypatch):
    model = mtd_lens.load_model("ar-d3-t16/constructed-one-step")
    task, sample, n = mtd_lens.task_of(model), AutoregressiveTask.sample, 64

    def entries(fit_seed, test_seed):
        def halves(self, n_sequences, seed):
            fit, test = (sample(self, n, seed=each) for each in (fit_seed, test_seed))
            assert n_sequences == 2 * n
            return type(fit)(
                torch.cat([fit.tokens, test.tokens]), torch.cat([fit.matrices, test.matrices])
            )

        monkeypatch.setattr(AutoregressiveTask, "sample", halves)
        return from_truth(family_of(task), task, model, 16, n, 0)

    expected = entries(1, 2)
    changed = entries(1, 3)
    assert set(fitted(expected)) >= FITTED
    assert fitted(changed) == same(fitted(expected))
    other = fitted(entries(3, 2))
    for name in FITTED:
        assert other[name] != same(fitted(expected)[name])
    assert set(expected) == set(changed)
    for name, (before, _) in expected.items():
        assert len(before) == n
        assert not torch.equal(before, changed[name][0])  # scored on the other half
