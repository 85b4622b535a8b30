"""The trained models that the package ships: whole, small, what their cards say, and good."""

import json
import re
import shlex

import pytest
import torch

import mtd_lens
import probes
from mtd_lens.checkpoints import MANIFEST
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.training.run_folder import read_metrics

SHIPPED = shipped_checkpoints()
FINAL = sorted(name for name in SHIPPED if "@" not in name)
RECIPES = list({re.sub(r"-s\d+$", "", name): name for name in reversed(FINAL)}.values())
"""Of models that differ in their seed alone, the first."""

T32, T64 = "mtd-q5-m3-t32", "mtd-q5-m3-t64"
REACHED = [
    *(f"{T32}/trained-disentangled-3l-s{seed}" for seed in range(3)),
    *(f"{T32}/trained-attn-only-3l-s{seed}" for seed in range(3)),
    *(f"{T32}/trained-gpt-3l-s{seed}" for seed in range(2)),
    f"{T32}/trained-disentangled-5l-s0",
]
CONTROLS = [f"{T32}/trained-attn-only-{n}l-s0" for n in (1, 2)]
LONGER = [f"{T64}/trained-{architecture}-3l-s0" for architecture in ("attn-only", "disentangled")]

N_HELD_OUT = 4096
HELD_OUT_SEED = 7


@pytest.fixture(scope="module")
def held_out():
    """Held-out sequences with what the reference estimators predict at their end."""
    task = mtd_lens.load_task(T32)
    batch = task.sample(N_HELD_OUT, HELD_OUT_SEED)
    algorithm = mtd_lens.MTDCausalModel(task, mtd_lens.best_beta(task))
    uniform = torch.full_like(batch.weights, 1 / task.order)
    return {
        "tokens": batch.tokens,
        "truth": mtd_lens.predict(task, batch.tokens, batch.weights),
        "one step": algorithm.run(batch.tokens)["prediction"][:, -1],
        "uniform": mtd_lens.predict(task, batch.tokens, uniform),
    }


def kl(held_out, first, second):
    return float(probes.kl_divergence(held_out[first], second).mean())


def prediction(name, held_out):
    return mtd_lens.model_predictions(mtd_lens.load_model(name), held_out["tokens"])


def test_all_that_should_be_there_is():
    assert set(REACHED + CONTROLS + LONGER) <= set(SHIPPED)
    assert set(SHIPPED) <= set(mtd_lens.list_models())
    assert len([name for name in SHIPPED if name.startswith(f"{REACHED[0]}@")]) >= 4


def test_all_together_are_small():
    files = [path for folder in SHIPPED.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".md"}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_each_loads_by_name_and_knows_its_task(name):
    model = mtd_lens.load_model(name)
    task_name = name.split("/")[0]
    assert mtd_lens.task_of(model) == mtd_lens.load_task(task_name)
    assert not model.training
    tokens = mtd_lens.task_of(model).sample(2, 0).tokens
    assert model(tokens).isfinite().all()


def test_what_is_handed_out_is_a_copy():
    first, second = (mtd_lens.load_model(REACHED[0]) for _ in range(2))
    first.W_U.data.zero_()
    assert second.W_U.abs().sum() > 0


@pytest.mark.parametrize("name", REACHED)
def test_predictions_are_near_the_truth_and_one_step(name, held_out):
    """Within 1.15 times one step's KL from the truth, a tenth of uniform weights' from it."""
    predicted = prediction(name, held_out)
    assert kl(held_out, "truth", predicted) <= 1.15 * kl(held_out, "truth", held_out["one step"])
    of_uniform = kl(held_out, "one step", held_out["uniform"])
    assert kl(held_out, "one step", predicted) <= 0.1 * of_uniform


def test_one_layer_does_not_come_near(held_out):
    ratio = kl(held_out, "truth", prediction(CONTROLS[0], held_out)) / kl(
        held_out, "truth", held_out["one step"]
    )
    assert ratio > 1.8


@pytest.mark.parametrize("name", FINAL)
def test_cards_say_what_the_files_hold(name):
    folder = SHIPPED[name]
    card = (folder / "card.md").read_text(encoding="utf-8")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    command = shlex.split(command_of(card))
    assert command[:3] == ["mtd-lens", "train", name.split("/")[0]]
    config = manifest["config"]
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given["--arch"] == config["architecture"]
    assert int(given["--layers"]) == config["n_layers"]
    assert int(given["--steps"]) == config["steps"] == manifest["step"]
    assert int(given["--seed"]) == config["seed"]
    assert float(given["--learning-rate"]) == config["learning_rate"]
    for row in read_metrics(folder)[:4]:
        assert f"| {row['step']} | {row['loss']:.6f} |" in card
    assert "## Scorecard" in card
    assert "## Oddities" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_cards_command_gives_the_recorded_losses(name, tmp_path):
    """Its first 200 steps. Rounding differs between machines, and early training damps it."""
    from mtd_lens.cli import app

    folder = SHIPPED[name]
    command = shlex.split(command_of((folder / "card.md").read_text(encoding="utf-8")))
    out = tmp_path / "run"
    command[command.index("DIR")] = str(out)
    app([*command[1:], "--stop-after", "200"], standalone_mode=False)
    recorded = {row["step"]: row["loss"] for row in read_metrics(folder)}
    again = {row["step"]: row["loss"] for row in read_metrics(out)}
    assert set(again) == {50, 100, 150, 200}
    for step, loss in again.items():
        assert loss == pytest.approx(recorded[step], abs=2e-4), step


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHED[:3])
def test_disentangled_models_do_what_the_construction_does(name):
    """The causal claims, at the construction's own layers.

    Where all evidence positions are swapped the layer after the construction's will do as well.
    """
    card = mtd_lens.score(mtd_lens.load_model(name))
    for claim, layers in (
        ("responsibilities.interchange", {0, 1}),
        ("mean_responsibility.interchange", {1}),
        ("mixture_weights.interchange", {2}),
    ):
        assert card[claim].verdict == "supported", claim
        assert card[claim].layer in layers, claim


def command_of(card):
    return re.search(r"^mtd-lens train .*$", card, re.MULTILINE).group()
