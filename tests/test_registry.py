"""Names: what is listed can be loaded, and what others register is found."""

import dataclasses
import json
from importlib import metadata

import pytest
import torch

import mtd_lens
from mtd_lens import listing, registry

GOOD = [[0.5, 0.5], [0.25, 0.75]]


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_tasks", {})
    monkeypatch.setattr(registry, "_models", {})


def test_every_listed_model_loads_and_knows_itself():
    names = mtd_lens.list_models()
    shipped = registry.shipped_checkpoints()
    further = {"posterior": 3, "product-of-likelihoods": 3, "gated": 3, "two-pass": 4, "fused": 4}
    for variant, count in further.items():
        assert sum(name.endswith(f"/constructed-{variant}") for name in names) == count
    assert len(names) == 4 * len(mtd_lens.list_tasks()) + sum(further.values()) + len(shipped)
    assert mtd_lens.DEFAULT_MODEL in names
    for name in names:
        if name.startswith("mtd-q10"):
            continue  # large; the same code
        model = mtd_lens.load_model(name)
        assert not model.training
        assert mtd_lens.task_of(model) == mtd_lens.load_task(name.split("/")[0])
        assert model.mtd_lens_info.name == name


def test_dtype_and_device():
    model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative", "cpu", torch.float64)
    assert model.cfg.dtype == torch.float64
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_a_registered_task_has_every_variant():
    task = mtd_lens.register_task("mine", mtd_lens.MTDTask(GOOD, 2, 8))
    assert task == mtd_lens.MTDTask(GOOD, 2, 8, name="mine")
    assert "mine" in mtd_lens.list_tasks()
    assert mtd_lens.load_task("mine") == task
    assert "mine/constructed-absolute" in mtd_lens.list_models()
    assert mtd_lens.task_of(mtd_lens.load_model("mine/random-relative")) == task
    card = mtd_lens.score(mtd_lens.load_model("mine/constructed-relative"), n_sequences=64)
    assert (card.model, card.task) == ("mine/constructed-relative", "mine")
    assert "on mine\n" in card.plot().get_suptitle()


TASKS = {
    "mtd": mtd_lens.MTDTask(GOOD, 2, 8, name="other"),
    "ngram": mtd_lens.NGramTask(2, (1, 2), 2, 8),
    "autoregressive": mtd_lens.AutoregressiveTask(3, 8),
}


@pytest.mark.parametrize("family", TASKS)
def test_what_is_registered_offered_or_in_a_file_bears_that_name(family, tmp_path, monkeypatch):
    task = TASKS[family]
    mtd_lens.register_task("mine", task)
    assert mtd_lens.load_task("mine").to_json() == task.to_json() | {"name": "mine"}
    offered = {"mtd_lens.tasks": {"offered": lambda: task}}
    monkeypatch.setattr(registry, "offered_in", lambda group: offered.get(group, {}))
    assert mtd_lens.load_task("offered").name == "offered"
    path = tmp_path / "in-a-file.json"
    path.write_text(json.dumps(task.to_json() | {"name": None}))
    for given in (path, str(path)):
        assert mtd_lens.load_task(given).to_json() == task.to_json() | {"name": "in-a-file"}
    path.write_text(json.dumps(task.to_json() | {"name": "its own"}))
    assert mtd_lens.load_task(path).name == "its own"


@pytest.mark.parametrize("family", TASKS)
def test_a_field_of_a_file_that_the_task_does_not_have_is_named_with_the_nearest(family, tmp_path):
    """Every field alike, though those with a default could go unmissed."""
    data = TASKS[family].to_json()
    path = tmp_path / "typo.json"
    for field in data.keys() - {"family"}:
        typo = field[:-2] + field[-1]
        path.write_text(json.dumps({typo if k == field else k: v for k, v in data.items()}))
        with pytest.raises(
            mtd_lens.CheckpointError,
            match=rf"typo\.json' describes no task: .*no field '{typo}'\. Nearest known: {field}\b",
        ):
            mtd_lens.load_task(path)
    path.write_text(json.dumps(data | {"family": family[:-1] + "r"}))
    with pytest.raises(mtd_lens.CheckpointError, match=rf"not installed\. Nearest .*{family}"):
        mtd_lens.load_task(path)


def test_a_file_is_no_model_and_a_folder_no_task(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(TASKS["mtd"].to_json()))
    for load in (mtd_lens.load_model, listing.check_model):
        with pytest.raises(mtd_lens.UnknownNameError, match=r"this is a file; .*mtd-lens train"):
            load(str(path))
    for load in (mtd_lens.load_task, listing.check_task):
        with pytest.raises(mtd_lens.UnknownNameError, match=r"this is a folder\..*JSON file"):
            load(str(tmp_path))


SETTINGS = mtd_lens.TrainingConfig(
    architecture="attn-only", n_layers=1, d_model=8, n_heads=1, steps=4, batch_size=2,
    evaluation_sequences=64, threads=1, log_every=2, checkpoint_every=2,
)  # fmt: skip


def test_a_folder_that_training_or_export_wrote_is_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.json").write_text(json.dumps(mtd_lens.MTDTask(GOOD, 2, 8).to_json()))
    run = mtd_lens.train("task.json", SETTINGS, "mine")
    assert json.loads((run.folder / "run.json").read_text())["task"]["name"] == "task"
    mtd_lens.export_checkpoint("mine/step-0000002", "small")
    first, last = (mtd_lens.load_model(f"mine/step-000000{step}") for step in (2, 4))
    for name, same, label in (
        ("mine", last, "task/mine/step-0000004"),
        (tmp_path / "mine", last, "task/mine/step-0000004"),
        ("small", first, "task/small"),
    ):
        model = mtd_lens.load_model(name, dtype=torch.float64)
        assert model.mtd_lens_info.name == label
        assert not model.training
        for key, value in same.state_dict().items():
            assert torch.equal(model.state_dict()[key], value.to(model.state_dict()[key].dtype))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not torch.equal(first.state_dict()["unembed.W_U"], last.state_dict()["unembed.W_U"])


def test_a_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / mtd_lens.DEFAULT_MODEL).mkdir(parents=True)
    (tmp_path / "mtd-q3-m2-t32").write_text("no task")
    assert mtd_lens.load_model(mtd_lens.DEFAULT_MODEL).mtd_lens_info.name == mtd_lens.DEFAULT_MODEL
    assert mtd_lens.load_task("mtd-q3-m2-t32").name == "mtd-q3-m2-t32"
    with pytest.raises(mtd_lens.CheckpointError, match="holds no checkpoint"):
        mtd_lens.load_model(f"./{mtd_lens.DEFAULT_MODEL}")
    with pytest.raises(mtd_lens.CheckpointError, match=r"cannot be read as JSON.*a task's name"):
        mtd_lens.load_task("./mtd-q3-m2-t32")


def test_what_is_neither_is_answered_with_the_nearest_names_and_what_else_is_taken():
    with pytest.raises(
        mtd_lens.UnknownNameError,
        match=r"'mtd-q3-m2-t32/random', nor is there .*Nearest known: mtd-q3.*run or of a check",
    ):
        mtd_lens.load_model("mtd-q3-m2-t32/random")
    with pytest.raises(
        mtd_lens.UnknownNameError, match=r"'mtd-q3', nor is .*Nearest known: mtd-.* JSON file is"
    ):
        mtd_lens.load_task("mtd-q3")


def test_a_registered_model_is_loaded_by_name():
    mtd_lens.register_task("mine", mtd_lens.MTDTask(GOOD, 2, 8))
    mtd_lens.register_model(
        "mine/sharp", lambda: mtd_lens.construct(mtd_lens.load_task("mine"), beta=50.0)
    )
    assert "mine/sharp" in mtd_lens.list_models()
    model = mtd_lens.load_model("mine/sharp", dtype=torch.float64)
    assert model.mtd_lens_info.name == "mine/sharp"
    assert model.mtd_lens_info.blueprint[0].beta == 50.0
    assert next(model.parameters()).dtype == torch.float64


def entry_task():
    return mtd_lens.MTDTask(GOOD, 1, 9, name="offered")


def entry_model():
    return mtd_lens.construct(entry_task(), beta=2.0)


def entry_broken():
    raise RuntimeError("no such file")


def entry_number():
    return 3


def test_entry_points_of_other_packages(monkeypatch):
    offered = {
        "mtd_lens.tasks": [
            metadata.EntryPoint("offered", "test_registry:entry_task", "mtd_lens.tasks"),
            metadata.EntryPoint("broken", "test_registry:entry_broken", "mtd_lens.tasks"),
            metadata.EntryPoint("number", "test_registry:entry_number", "mtd_lens.tasks"),
        ],
        "mtd_lens.models": [
            metadata.EntryPoint("offered/theirs", "test_registry:entry_model", "mtd_lens.models")
        ],
    }
    offered["mtd_lens.families"] = [
        metadata.EntryPoint("toy", "toys.copying:FAMILY", "mtd_lens.families"),
        metadata.EntryPoint("wrong", "test_registry:entry_number", "mtd_lens.families"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: offered[group])
    with pytest.warns(UserWarning, match="family 'wrong' is left out: .*returned int"):
        assert "toy-q4-t9" in mtd_lens.list_tasks()
    offered["mtd_lens.families"].pop()
    assert "offered" in mtd_lens.list_tasks()
    assert mtd_lens.load_task("offered").name == "offered"
    model = mtd_lens.load_model("offered/theirs")
    assert model.mtd_lens_info.name == "offered/theirs"
    with pytest.raises(mtd_lens.MTDLensError, match=r"'broken'.*no such file"):
        mtd_lens.load_task("broken")
    with pytest.raises(mtd_lens.MTDLensError, match=r"'number' returned int"):
        mtd_lens.load_task("number")


def test_a_loader_that_fails_or_returns_something_else_is_named():
    mtd_lens.register_model("mtd-q3-m2-t32/none", lambda: None)
    mtd_lens.register_model("mtd-q3-m2-t32/failing", entry_broken)
    mtd_lens.register_model(
        "mtd-q3-m2-t32/other", lambda: mtd_lens.construct(entry_task(), beta=1.0)
    )
    for variant, message in (
        ("none", r"'mtd-q3-m2-t32/none' returned NoneType"),
        ("failing", r"'mtd-q3-m2-t32/failing' failed: RuntimeError: no such file"),
        ("other", r"task has 3 tokens, but the model reads 2"),
    ):
        with pytest.raises(mtd_lens.MTDLensError, match=message):
            mtd_lens.load_model(f"mtd-q3-m2-t32/{variant}")
    with pytest.raises(mtd_lens.MTDLensError, match="lambda: model"):
        mtd_lens.register_model("mtd-q3-m2-t32/bare", torch.nn.Identity())


def test_loading_leaves_the_registered_model_alone():
    mine = mtd_lens.construct(mtd_lens.load_task("mtd-q3-m2-t32"), beta=3.0).train()
    mtd_lens.register_model("mtd-q3-m2-t32/mine", lambda: mine)
    loaded = mtd_lens.load_model("mtd-q3-m2-t32/mine", dtype=torch.float64)
    assert loaded is not mine
    assert mine.training
    assert next(mine.parameters()).dtype == torch.float32
    assert mine.mtd_lens_info.name != loaded.mtd_lens_info.name


def test_one_broken_package_does_not_hide_the_models_of_the_others(monkeypatch):
    broken = metadata.EntryPoint("broken", "test_registry:entry_broken", "mtd_lens.tasks")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [broken] if group == "mtd_lens.tasks" else []
    )
    with pytest.warns(UserWarning, match="task 'broken' is left out"):
        assert mtd_lens.DEFAULT_MODEL in mtd_lens.list_models()
    assert mtd_lens.load_model(mtd_lens.DEFAULT_MODEL).cfg.n_layers == 3


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithms": ()}, "family 'mtd' names no algorithm. Give at least one"),
        ({"algorithms": None}, "algorithms must be a list of mtd_lens.Algorithm records; got None"),
        ({"algorithms": (1,)}, "algorithms must be a list of mtd_lens.Algorithm records"),
        ({"name": 3}, "family's name must be a text; got 3"),
    ],
)
def test_a_family_without_an_algorithm_or_a_name_cannot_be_made(changes, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        dataclasses.replace(mtd_lens.families.mtd.FAMILY, **changes)
