"""A family costs one module and no edit elsewhere: three that live in the tests."""

import sys

import pytest
from toys import belief, copying, regression

import mtd_lens
from mtd_lens import cli, registry
from mtd_lens.contracts import Batch, CausalModel, Task

TOYS = {toy.FAMILY.name: toy.FAMILY for toy in (copying, belief, regression)}


@pytest.fixture(autouse=True)
def _registered():
    for family in TOYS.values():
        registry.register_family(family)
    yield
    for name in TOYS:
        registry._families.pop(name)


def first_task(family):
    return mtd_lens.load_task(next(iter(family.presets)))


@pytest.mark.parametrize("name", TOYS)
def test_tasks_and_models_are_found_and_follow_the_contracts(name):
    family, task = TOYS[name], first_task(TOYS[name])
    assert isinstance(task, Task)
    assert registry.family_of(task) is family
    assert task.name in mtd_lens.list_tasks()
    assert {f"{task.name}/{variant}" for variant in family.variants} <= set(mtd_lens.list_models())
    batch = task.sample(8, 0)
    assert isinstance(batch, Batch)
    (algorithm,) = family.algorithms
    causal_model = algorithm.fit(task, batch.tokens, family.truth(task, batch))
    assert isinstance(causal_model, CausalModel)
    assert tuple(causal_model.run(batch.tokens)) == causal_model.variables


@pytest.mark.parametrize(
    ("model", "supported"),
    [
        (
            "toy-q4-t9/constructed",
            ["copied.interchange", "prediction.copying", "prediction.algorithm"],
        ),
        (
            "regression-d3-k8/constructed",
            [
                *("products.interchange", "products.attention"),
                *("prediction.estimator", "prediction.algorithm"),
            ],
        ),
    ],
)
def test_constructions_are_supported_and_random_models_are_not(model, supported, tmp_path):
    card = mtd_lens.score(mtd_lens.load_model(model), n_sequences=128)
    assert [claim.id for claim in card if claim.verdict == "supported"] == supported
    assert all(claim.score > 0.99 for claim in card if claim.verdict == "supported")
    assert all(claim.verdict in ("supported", "not_applicable") for claim in card)
    card.to_html(tmp_path / "card.html")
    null = mtd_lens.score(mtd_lens.load_model(model.replace("constructed", "random")), None, 128)
    assert all(claim.verdict != "supported" for claim in null)


def test_without_a_construction_a_claim_has_no_ceiling_and_says_so():
    card = mtd_lens.score(mtd_lens.load_model("belief-t16/random"), n_sequences=128)
    assert [claim.ceiling for claim in card] == [None] * 4
    assert {claim.id: claim.verdict for claim in card} == {
        "belief.interchange": "refuted",
        "belief.probe": "not_diagnostic",  # two tokens and other random weights do as well
        "prediction.estimator": "refuted",
        "prediction.algorithm": "refuted",
    }
    assert "–" in str(card).split("belief.probe")[1].split("\n")[0]
    # nothing is fitted
    assert str(card).startswith("belief-t16/random   against filter   128 sequences\n")
    assert "Task belief-t16 · against filter · 128 sequences, half" in card.to_html()


@pytest.mark.parametrize(
    ("model", "algorithm"),
    [
        ("toy-q4-t9/constructed", "copying"),
        ("belief-t16/random", "filter"),
        ("regression-d3-k8/constructed", "one step"),
    ],
)
def test_models_are_compared_and_inspected(model, algorithm):
    model = mtd_lens.load_model(model)
    rows = {row.name: row.divergence for row in mtd_lens.compare(model, n_sequences=64).rows[-1]}
    assert {algorithm, "model"} < set(rows)
    found = mtd_lens.inspect(model, n_sequences=2)
    assert found.attention.isfinite().all()
    assert found.analysis is None or algorithm in found.analysis.predictions
    assert mtd_lens.dashboard(model, n_sequences=2).to_html()


def test_what_a_family_lacks_is_refused_with_the_reason():
    model = mtd_lens.load_model("belief-t16/random")
    with pytest.raises(mtd_lens.ModelError, match="'filter' does not say where its variables"):
        mtd_lens.localize(model, n_sequences=64)
    with pytest.raises(mtd_lens.ModelError, match="'belief' says nothing of what parameters"):
        mtd_lens.read_weights(model)


@pytest.mark.slow
def test_a_model_is_trained_on_numbers_that_stand_between_vectors(tmp_path):
    config = mtd_lens.TrainingConfig(
        architecture="linear", n_layers=2, d_model=32, n_heads=2, steps=2000, loss="squared-error",
        warmup_steps=50, learning_rate=1e-2, evaluate_every=2000, checkpoint_every=2000,
    )  # fmt: skip
    run = mtd_lens.train("regression-d3-k8", config, tmp_path / "run")
    assert run.metrics[-1]["error from truth"] < 0.6 * 3  # of predicting 0, E y² = dim = 3
    found = mtd_lens.compare(run.model, n_sequences=256)
    rows = {row.name: row.divergence for row in found.rows[-1]}
    assert rows["model"] < 0.6 * rows["zero"]
    card = mtd_lens.score(run.model, n_sequences=128)
    assert card["prediction.estimator"].score > 0


def test_the_commands_know_them(capsys, monkeypatch):
    words = ["mtd-lens", "score", "toy-q4-t9/constructed", "--sequences", "64"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "copied.interchange" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_type_checker")
def test_families_are_registered_once_and_whole():
    with pytest.raises(mtd_lens.ArgumentError, match="'toy' already"):
        mtd_lens.register_family(copying.FAMILY)
    with pytest.raises(mtd_lens.ArgumentError, match=r"takes a mtd_lens\.contracts\.Family"):
        mtd_lens.register_family("toy")
