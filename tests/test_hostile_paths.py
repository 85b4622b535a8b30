"""Paths that cannot be: everywhere one is taken, a short error of our own comes at once."""

import os
import signal

import pytest
from drawn import made_grid

import mtd_lens
import probes
from mtd_lens import TrainingConfig, train
from mtd_lens.training.config import read_settings
from mtd_lens.training.loop import train_or_resume
from mtd_lens.training.run_folder import export_checkpoint, read_metrics

pytestmark = pytest.mark.usefixtures("_no_type_checker")

CONFIG = TrainingConfig(n_layers=1, steps=1, batch_size=4, log_every=1, checkpoint_every=1)
TASK = "mtd-q3-m2-t32"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TASK, CONFIG, tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="module")
def card():
    return mtd_lens.score(mtd_lens.load_model(f"{TASK}/random-relative"), n_sequences=64)


@pytest.fixture(autouse=True)
def _at_once():
    """What waits for a pipe fails instead."""

    def waited(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def no_paths(folder):
    loop = folder / "loop"
    loop.symlink_to(loop)
    return {"number": 5, "bytes": b"a", "long": "x" * 5000, "NUL": "a\0b", "loop": loop}


def no_files(folder):
    """What is there, but must not be read."""
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "folder").mkdir()
    (folder / "deep").write_text('{"a": ' + "[" * 100_000)
    (folder / "sparse").touch()
    os.truncate(folder / "sparse", 50 * 2**30)
    return {name: folder / name for name in ("pipe", "zero", "folder", "deep", "sparse")}


def accepted(functions, paths):
    """Of every function and path, those that are not refused as they should be."""
    found = {}
    for name, call in functions.items():
        for kind, path in paths.items():
            try:
                found[name, kind] = f"no error, but {call(path)!r}"
            except Exception as error:
                if not isinstance(error, probes.ProbesError) or not 10 < len(str(error)) < 700:
                    found[name, kind] = repr(error)
    return found


READERS = {
    "load_checkpoint": mtd_lens.load_checkpoint,
    "resume": lambda path: train_or_resume(None, {}, None, path),
    "read_settings": read_settings,
    "Scorecard.from_json": mtd_lens.Scorecard.from_json,
    "Grid.from_json": probes.Grid.from_json,
}


def test_readers(tmp_path):
    paths = no_paths(tmp_path) | no_files(tmp_path) | {"none": None, "nowhere": tmp_path / "no"}
    assert accepted(READERS | {"export": lambda path: export_checkpoint(path, "x")}, paths) == {}


def test_files_of_a_run(run, tmp_path):
    """Each file of a run and of its checkpoint, replaced by what must not be read."""
    kinds, step = no_files(tmp_path), "step-0000001"
    readers = {
        "run.json": READERS["resume"],
        "metrics.jsonl": READERS["resume"],
        f"{step}/manifest.json": READERS["load_checkpoint"],
        f"{step}/model.safetensors": READERS["load_checkpoint"],
        f"{step}/state.safetensors": READERS["resume"],
    }
    for name, read in readers.items():
        path, kept = run / name, tmp_path / "kept"
        path.rename(kept)
        found = {}
        for kind, other in kinds.items():
            if (name, kind) == ("metrics.jsonl", "deep"):
                continue  # no row, which is left out
            path.symlink_to(other)
            found |= accepted({name: read}, {kind: run})
            path.unlink()
        kept.rename(path)
        assert found == {}
    assert [row["step"] for row in read_metrics(run)] == [1]
    assert mtd_lens.load_checkpoint(run) is not None


def test_writers(run, card, tmp_path):
    grid, page = made_grid(), mtd_lens.dashboard(mtd_lens.load_model(f"{TASK}/random-relative"))
    writers = {
        "to_json": card.to_json,
        "to_html": card.to_html,
        "plot": card.plot,
        "data": lambda path: card.plot(data=path),
        "Grid.to_json": grid.to_json,
        "Grid.plot": grid.plot,
        "Dashboard.to_html": page.to_html,
        "train": lambda path: train(TASK, CONFIG, path),
        "resume": lambda path: train(TASK, CONFIG, path, resume=True),
        "export": lambda path: export_checkpoint(run, path),
    }
    assert accepted(writers, no_paths(tmp_path)) == {}
    for write in (card.to_html, page.to_html):
        with pytest.raises(mtd_lens.OutputPathError, match=r"as \.html or \.htm; got 'page\.pdf'"):
            write(tmp_path / "page.pdf")
        assert write(tmp_path / "page.HTM") == (tmp_path / "page.HTM").read_text("utf-8")
