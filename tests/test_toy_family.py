"""A further task family costs one folder and no edit elsewhere."""

import shutil
import sys
from pathlib import Path

import pytest

import mtd_lens
from mtd_lens import cli, families
from mtd_lens.contracts import Batch, CausalModel, Family, Task


@pytest.fixture
def toy(tmp_path, monkeypatch):
    folder = tmp_path / "toy"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("toy_family.py"), folder / "__init__.py")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    yield
    sys.modules.pop("mtd_lens.families.toy", None)


@pytest.mark.usefixtures("toy")
def test_its_tasks_and_models_are_found_and_follow_the_contracts():
    assert "toy-q4-t9" in mtd_lens.list_tasks()
    assert {"toy-q4-t9/constructed", "toy-q4-t9/random"} <= set(mtd_lens.list_models())
    task = mtd_lens.load_task("toy-q4-t9")
    family = mtd_lens.registry.family_of(task)
    assert isinstance(task, Task)
    assert isinstance(family, Family)
    assert isinstance(task.sample(2, 0), Batch)
    assert isinstance(family.fit_causal_model(None, task, None), CausalModel)


@pytest.mark.usefixtures("toy")
def test_its_models_are_scored_and_compared(tmp_path):
    card = mtd_lens.score(mtd_lens.load_model("toy-q4-t9/constructed"), n_sequences=128)
    verdicts = {claim.id: claim.verdict for claim in card.claims}
    assert verdicts == {
        "copied.interchange": "supported",
        "copied.attention": "not_applicable",
        "prediction.copying": "supported",
    }
    assert card.to_dict()["parameters"]["sureness"] == 0.9
    assert card["copied.interchange"].score > 0.999
    card.to_html(tmp_path / "toy.html")
    null = mtd_lens.score(mtd_lens.load_model("toy-q4-t9/random"), n_sequences=128)
    assert all(claim.verdict != "supported" for claim in null.claims)
    found = mtd_lens.compare(mtd_lens.load_model("toy-q4-t9/constructed"), n_sequences=64)
    assert found.rows[-1][0].divergence < 1e-6


@pytest.mark.usefixtures("toy")
def test_the_commands_know_it(capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["mtd-lens", "score", "toy-q4-t9/constructed", "--sequences", "64"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "copied.interchange" in capsys.readouterr().out


def test_it_is_gone_when_its_folder_is():
    assert not any(name.startswith("toy") for name in mtd_lens.list_tasks())


def test_the_mtd_family_follows_the_contracts(task):
    family = mtd_lens.registry.family_of(task)
    assert isinstance(task, Task)
    assert isinstance(family, Family)
    assert isinstance(task.sample(2, 0), Batch)
    assert isinstance(mtd_lens.MTDCausalModel(task, 1.0), CausalModel)
    assert family.task_from_json(task.to_json()) == task
