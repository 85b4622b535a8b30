"""Progress: when it shows, what it says, and that everything that takes a while has it."""

import fcntl
import inspect
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest
import torch

import mtd_lens
import probes
from probes import progress


def work(wanted, seconds=0.0):
    with progress.shown("work", wanted):
        for _ in progress.steps(range(2), "rows"):
            with progress.part("parts", 3):
                time.sleep(seconds)
                progress.step()


def test_where_nobody_looks_on_it_shows_when_asked_to(capsys, monkeypatch):
    for quiet in (None, False):
        work(quiet)
        assert capsys.readouterr().err == ""
    work(True)
    assert capsys.readouterr().err == "work: rows 0 of 2\n"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    work(True)
    assert capsys.readouterr().err == ""


def test_in_a_pipe_a_line_comes_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.shown("work", True):
        progress.note("loss 1")
        for _ in progress.steps(["a", "b"], "rows", done=4):
            list(progress.steps(iter("xy"), "parts"))
        progress.tell("kept")
    # the inner loop's number is not known, so that only the outer one is counted
    rows = ["4", "4", "4", "5", "5", "5", "6"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said[:-1]] == rows
    assert "parts" in said[1]
    assert said[-1] == "work: kept"
    assert said[2].endswith("loss 1")


def test_what_is_said_beside_a_part_goes_with_it(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.shown("work", True):
        for _ in progress.steps("ab", "rows"):
            progress.note("loss 1")
            with progress.part("within"):
                pass
        list(progress.steps("c", "letters"))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "work: rows 0 of 2",
        *("work: rows 1 of 2, loss 1", "work: rows 2 of 2, loss 1"),
        *("work: letters 0 of 1", "work: letters 1 of 1"),
    ]


def test_within_another_display_it_is_that_one_that_goes_on(capsys):
    with progress.shown("outer", True):
        work(None)
        work(False)
    assert capsys.readouterr().err == "outer: rows 0 of 2\n"


def test_no_step_is_shown_where_no_display_is_open(capsys):
    assert list(progress.steps("abc", "letters")) == ["a", "b", "c"]
    progress.step()
    progress.note("x")
    progress.tell("y")
    assert capsys.readouterr().err == ""


def test_what_fails_ends_the_display(capsys):
    with pytest.raises(ZeroDivisionError), progress.shown("work", True):
        list(progress.steps((1 / n for n in (1, 0)), "rows"))
    work(True)
    assert capsys.readouterr().err.splitlines()[-1] == "work: rows 0 of 2"


ON_A_TERMINAL = """
import time
from probes import progress
with progress.shown("quick"):
    pass
with progress.shown("work"):
    for _ in progress.steps(range(2), "rows"):
        time.sleep(1.2)
    with progress.part("resting"):
        progress.tell("kept")
        time.sleep(0.8)
"""


def test_on_a_terminal_its_clock_runs_and_nothing_is_left_but_what_was_told():
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(main, 4096)
            except OSError:  # the end, on Linux
                break
    os.close(main)
    text = shown.decode()
    assert process.returncode == 0
    assert "quick" not in text  # done before half a second: it would only flicker
    assert "work: rows:   0%" in text
    assert "0/2 [00:01]" in text  # within the first step, which takes longer
    assert "1/2 [00:0" in text
    assert "work: resting [00:0" in text
    lines = [line.split("\r")[-1].strip() for line in text.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line] == ["work: kept"]


NAME, FEW = "mtd-q3-m2-t32/constructed-relative", {"n_sequences": 64}
SHOWN = {
    "score": (lambda m, p: mtd_lens.score(m, quick=True, progress=p, **FEW), "claims 0 of"),
    "compare": (lambda m, p: mtd_lens.compare(m, lengths=[8], progress=p, **FEW), "lengths 0 of 1"),
    "compete": (lambda m, p: mtd_lens.compete(m, None, 128, progress=p), "pairs of algorithms 0"),
    "localize": (lambda m, p: mtd_lens.localize(m, progress=p, **FEW), "variables 0 of 3"),
    "align": (
        lambda m, p: mtd_lens.align(m, "mean_responsibility", 1, steps=2, progress=p, **FEW),
        "align: steps 0 of 2",
    ),
    "fit_algorithm": (
        lambda m, p: mtd_lens.fit_algorithm(m, form="own pairs", progress=p, **FEW),
        "fits 0 of 5",
    ),
    "read_weights": (
        lambda m, p: mtd_lens.read_weights(m, n_random=2, progress=p),
        "models 0 of 2",
    ),
    "inspect": (lambda m, p: mtd_lens.inspect(m, progress=p), "inspect: nearest heads 0 of"),
    "dashboard": (lambda m, p: mtd_lens.dashboard(m, progress=p), "inspect: nearest heads 0 of"),
    "patch_activations": (
        lambda m, p: probes.patch_activations(m, *pair(m), "z", by_first, progress=p),
        "denoising: layers 0 of 3",
    ),
    "ablate": (
        lambda m, p: probes.ablate(m, pair(m)[0], "z", by_first, "zero", progress=p),
        "zero ablation: layers 0 of 3",
    ),
    "patch_paths": (
        lambda m, p: probes.patch_paths(m, *pair(m), "logits", by_first, progress=p),
        "path patching: layers 0 of 3",
    ),
}


def pair(model):
    return mtd_lens.task_of(model).sample(8, 0).tokens.chunk(2)


def by_first(logits):
    return logits[:, 0]


@pytest.mark.parametrize("name", SHOWN)
def test_what_takes_a_while_shows_how_far_it_is_by_the_same_rule(name, capsys):
    ask, said = SHOWN[name]
    function = getattr(mtd_lens, name, None) or getattr(probes, name)
    assert inspect.signature(function).parameters["progress"].default is None
    model = mtd_lens.load_model(NAME)
    ask(model, None)
    assert capsys.readouterr().err == ""
    ask(model, True)
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("name", SHOWN)
def test_progress_is_true_false_or_none(name):
    model = mtd_lens.load_model(NAME)
    with pytest.raises(probes.ProbesError, match="progress must be True or False; got 'yes'"):
        SHOWN[name][0](model, "yes")


def test_results_are_the_same_with_and_without():
    model = mtd_lens.load_model(NAME)
    found = [mtd_lens.localize(model, progress=p, **FEW).to_json() for p in (True, False)]
    assert found[0] == found[1]
    assert torch.is_grad_enabled()
