"""Several steps and least squares as algorithms: stages beside oracles, fits, the truth table."""

import numpy as np
import pytest
import torch
from verdict_sets import supported

import mtd_lens
from mtd_lens import AutoregressiveCausalModel, LeastSquaresCausalModel
from mtd_lens.errors import ArgumentError
from mtd_lens.families.autoregressive import FAMILY, estimators
from mtd_lens.families.autoregressive.causal_model import fit_steps
from mtd_lens.families.autoregressive.references import DESCENTS
from mtd_lens.spaces import every_prediction

NAME = "ar-d3-t16"
IDS = [algorithm.id for algorithm in FAMILY.algorithms]
SEVERAL = [(n_steps, causal) for n_steps in (2, 3, 4) for causal in (False, True)]


@pytest.fixture(scope="module")
def task():
    return mtd_lens.load_task(NAME)


def test_one_step_comes_first_and_names_are_those_of_references(task):
    assert IDS[0] == "one-step"
    assert IDS[1:] == [
        *("2-steps", "3-steps", "4-steps"),
        *("2-steps-prefix", "3-steps-prefix", "4-steps-prefix"),
        "least-squares",
    ]
    batch = task.sample(64, seed=0)
    found = FAMILY.references(task, batch.tokens, batch.truth, batch.tokens, True)
    assert {algorithm.name for algorithm in FAMILY.algorithms} < set(found)
    assert FAMILY.algorithm("one-step").containing == (
        "2 steps, free",
        "3 steps, free",
        "4 steps, free",
    )
    assert FAMILY.algorithm("3-steps").containing == ("3 steps, free", "4 steps, free")
    assert FAMILY.algorithm("3-steps-prefix").containing == ()
    for algorithm in FAMILY.algorithms:
        assert set(algorithm.containing) < set(found)


@pytest.mark.parametrize(("n_steps", "causal"), SEVERAL)
def test_stages_equal_loops_at_every_query(task, n_steps, causal):
    eta = 0.1
    tokens = task.sample(3, seed=1).tokens
    model = AutoregressiveCausalModel(task, eta, n_steps=n_steps, causal=causal)
    found = model.run(tokens)
    assert tuple(found) == model.variables
    for i, s in enumerate(tokens.numpy()):
        last = len(s) - 1
        residual = {j: s[j] for j in range(1, last + 1)}
        predicted = dict.fromkeys(residual, 0.0)
        for step in range(1, n_steps + 1):
            taken = {}
            for t in residual:
                upto = range(1, (t if causal else last) + 1)
                predicted[t] = predicted[t] + sum(eta * s[t] @ s[j - 1] * residual[j] for j in upto)
                taken[t] = sum(eta * s[t - 1] @ s[j - 1] * residual[j] for j in upto)
            if step < n_steps:
                held = found[f"correction_{step}"][i].numpy()
                assert np.abs(held - np.array([*taken.values()])).max() < 1e-12
            residual = {j: residual[j] - taken[j] for j in residual}
        expected = np.array([*predicted.values()])
        assert np.abs(found["prediction"][i].numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("n_steps", [2, 4])
def test_steps_on_the_whole_sequence_are_gradient_descent_at_the_last_query(task, n_steps):
    tokens = task.sample(8, seed=2).tokens
    model = AutoregressiveCausalModel(task, 0.1, n_steps=n_steps, causal=False)
    sizes = torch.full((n_steps,), 0.1, dtype=torch.float64)
    estimate = estimators.gradient_descent(tokens, sizes, last_only=True)
    expected = estimators.predict_next(tokens, estimate)[:, 0]
    assert (model.run(tokens)["prediction"][:, -1] - expected).abs().max() < 1e-12


def test_least_squares_stages(task):
    tokens = task.sample(8, seed=2).tokens
    model = LeastSquaresCausalModel(task)
    found = model.run(tokens)
    assert tuple(found) == model.variables
    estimate = estimators.least_squares(tokens)
    assert (found["estimate"] - estimate.flatten(-2)).abs().max() < 1e-12
    expected = mtd_lens.autoregressive_least_squares(task, tokens)
    assert (found["prediction"] - expected).abs().max() < 1e-12
    assert (model.last_prediction(tokens) - expected[:, -1]).abs().max() < 1e-12
    batch = task.sample(8, seed=3)  # without noise, the matrix itself
    last = model.run(batch.tokens)["estimate"][:, -1].unflatten(-1, (3, 3))
    assert (last - batch.matrices).abs().max() < 1e-9


def test_the_estimate_settles_what_is_predicted_of_the_querys_own_vector(task):
    """The statistic: that of another sequence, applied to the base's last vector."""
    assert FAMILY.algorithm("least-squares").statistic == "estimate"
    batch = task.sample(8, seed=2)
    model = LeastSquaresCausalModel(task)
    other = model.run(batch.tokens)["estimate"].roll(1, 0)
    held = model.do(estimate=other).last_prediction(batch.tokens)
    expected = torch.einsum("nij,nj->ni", batch.matrices.roll(1, 0), batch.tokens[:, -1])
    assert (held - expected).abs().max() < 1e-9


@pytest.mark.parametrize(("n_steps", "causal"), SEVERAL)
def test_constructions_compute_every_stage(task, n_steps, causal):
    tokens = task.sample(8, seed=4).tokens
    model = mtd_lens.construct_autoregressive(
        task, 0.1, n_steps=n_steps, causal=causal, dtype=torch.float64
    )
    causal_model = AutoregressiveCausalModel(task, 0.1, n_steps=n_steps, causal=causal)
    values, (_, cache) = causal_model.run(tokens), model.run_with_cache(tokens)
    found = every_prediction(model, tokens, task.outputs)[:, 1:]
    assert (found - values["prediction"]).abs().max() < 1e-12
    start = 3 + 16 + 2 * 3  # vector, position, augmented token
    for step in range(1, n_steps):
        written = cache[f"blocks.{step}.hook_attn_out"][:, 1:, start : start + 3]
        assert (written + values[f"correction_{step}"]).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_steps", "causal"), SEVERAL)
def test_fits_find_what_was_built(task, n_steps, causal, seed):
    tokens = task.sample(128, seed).tokens
    built = AutoregressiveCausalModel(task, 0.09, n_steps=n_steps, causal=causal)
    target = built.run(tokens)["prediction"][:, -1]
    found = fit_steps(task, tokens, target, n_steps, causal)
    assert found.parameters == {"step_size": pytest.approx(0.09, rel=1e-5)}
    assert found.variables == built.variables
    assert "step_size_at_bound" in fit_steps(task, tokens, 0 * target, n_steps, causal).parameters


# What the scorecard of every construction must say of every algorithm: own rows support all that
# they claim. Of rivals the prediction's algorithm falls, for predictions are exact; and with it
# what only the own steps have: their corrections, of causal steps or others the pattern.
MADE = ["one-step", "4-steps", "4-steps-prefix"]
FAST = [
    *((made, made) for made in MADE),
    ("one-step", "4-steps"),
    ("one-step", "least-squares"),
    ("4-steps", "4-steps-prefix"),
    ("4-steps-prefix", "one-step"),
]


def false_of(made, held):
    """Claims of an algorithm that a construction must not support."""
    if held == "least-squares":
        return {"prediction.algorithm", "estimate.interchange", "estimate.probe"}
    wrong = {"prediction.algorithm"}
    n_steps = int(held[0]) if held[0].isdigit() else 1
    if made == "one-step" or made.endswith("prefix") != held.endswith("prefix"):
        wrong |= {f"correction_{step}.interchange" for step in range(1, n_steps)}
    bidirectional = made == "4-steps", held in ("2-steps", "3-steps", "4-steps")
    if bidirectional[0] != bidirectional[1]:
        wrong.add("inner_products.attention")
    if n_steps == 1:
        wrong.add("inner_products.interchange")
    return wrong


def check_row(task, made, held, seed):
    model = mtd_lens.construct_autoregressive(task, algorithm=made, dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=192, seed=seed, algorithm=held)
    assert card.algorithm == FAMILY.algorithm(held).name
    if made == held:
        assert all(claim.verdict == "supported" for claim in card), card
        return
    assert not supported(card) & false_of(made, held), card
    claim = card["prediction.algorithm"]
    assert claim.verdict in ("refuted", "not_diagnostic"), card
    assert FAMILY.algorithm(held).name in claim.reason


@pytest.mark.parametrize(("made", "held"), FAST)
def test_the_truth_table(task, made, held):
    check_row(task, made, held, 0)


@pytest.mark.slow
@pytest.mark.parametrize("held", IDS)
@pytest.mark.parametrize("made", MADE)
def test_the_whole_truth_table(task, made, held):
    check_row(task, made, held, seed=1)


@pytest.mark.parametrize("id", ["one-step", "4-steps-prefix", "least-squares"])
def test_inspections_show_the_algorithms_own_patterns(task, id):
    steps = id if id != "least-squares" else "one-step"
    model = mtd_lens.construct_autoregressive(task, algorithm=steps)
    found = mtd_lens.inspect(model, n_sequences=2, algorithm=id)
    assert found.algorithm == FAMILY.algorithm(id).name
    predictions = found.analysis.predictions
    assert {found.algorithm, "model", "least squares", "truth"} == set(predictions)
    names = [pattern.name for pattern in found.analysis.patterns]
    assert names == ["vector before", "inner products"][: 1 if id == "least-squares" else 2]
    if id == steps:
        away = (predictions[found.algorithm] - predictions["model"]).nan_to_num().abs().max()
        assert away < 1e-4


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: AutoregressiveCausalModel(t, 0.1, n_steps=9), r"n_steps must be .* got 9"),
        (lambda t: AutoregressiveCausalModel(t, 0.1, causal="no"), r"causal must be True or False"),
        (lambda t: LeastSquaresCausalModel("x"), r"expected an AutoregressiveTask"),
        (
            lambda t: mtd_lens.construct_autoregressive(t, algorithm="5-steps"),
            r"unknown algorithm '5-steps'.*4-steps",
        ),
        (
            lambda t: mtd_lens.construct_autoregressive(t, algorithm="4-steps", n_steps=4),
            r"Leave n_steps and causal out",
        ),
    ],
)  # fmt: skip
def test_errors(task, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(task)


def test_every_descent_is_an_algorithm():
    assert [FAMILY.algorithm(id).name for id in IDS[:-1]] == list(DESCENTS)
