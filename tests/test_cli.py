"""The commands as a user runs them: output, files, exit status, and what gets imported."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
import typer

from mtd_lens import cli
from mtd_lens.errors import OutputPathError
from mtd_lens.results.base import Result


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mtd-lens", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_lists(capsys, monkeypatch):
    status, out, _ = run(capsys, monkeypatch, "models")
    assert status == 0
    assert "mtd-q5-m3-t64/constructed-absolute" in out.split()
    status, out, _ = run(capsys, monkeypatch, "tasks")
    assert status == 0
    assert "mtd-q10-m5-t192" in out
    assert "MTDTask(" not in out  # in words


@pytest.mark.parametrize("variant", ["constructed-relative", "random-relative"])
def test_score_prints_writes_and_exits_with_0(capsys, monkeypatch, tmp_path, variant):
    files = [tmp_path / "a.json", tmp_path / "a.html"]
    status, out, err = run(
        capsys,
        monkeypatch,
        *("score", f"mtd-q3-m2-t32/{variant}", "--sequences", "64", "--seed", "3"),
        *("--json", str(files[0]), "--html", str(files[1]), "--device", "cpu"),
    )
    assert status == 0
    assert "responsibilities.interchange" in out
    assert str(files[0]) in err
    data = json.loads(files[0].read_text())
    assert (data["seed"], data["n_sequences"]) == (3, 64)
    verdicts = {claim["verdict"] for claim in data["claims"]}
    assert ("supported" in verdicts) == (variant == "constructed-relative")
    assert files[1].read_text().startswith("<!doctype html>")


def test_version(capsys, monkeypatch):
    status, out, _ = run(capsys, monkeypatch, "--version")
    assert status == 0
    assert re.fullmatch(r"mtd-lens \d+\.\d+\.\d+\n", out)


def test_compare(capsys, monkeypatch, tmp_path):
    status, out, _ = run(
        capsys,
        monkeypatch,
        *("compare", "mtd-q3-m2-t32/constructed-relative", "--lengths", "8,32"),
        *("--sequences", "64", "--json", str(tmp_path / "c.json")),
    )
    assert status == 0
    assert "exact Bayes" in out
    assert "T = 32" in out
    assert len(json.loads((tmp_path / "c.json").read_text())["lengths"]) == 2


R = "mtd-q3-m2-t32/random-relative"
N = "ngram-q3-s12-t32/random-relative"

CHEAP = [  # refused before torch is loaded, and in one line
    (["score", "mtd-q3-m2-t32/constructed"], "UnknownNameError: no model is named"),
    (["score", R, "--sequences", "3"], "--sequences"),
    (["compete", R, "--sequences", "127"], "--sequences"),
    (["dashboard", R, "--out", "x.html", "--sequences", "17"], "--sequences"),
    (["localize", R, "--algorithm", "two-step"], "Nearest known: one-step, two-pass"),
    (["fit", R, "--form", "triples"], "unknown form of a table 'triples'"),
    (["fit", R, "--figure", "a.docx"], "written as .png or .svg"),
    (["train", "mtd-q3-m2", "--out", "y"], "a task's JSON file is taken as well"),
    (["score", "mtd-q3-m2-t32/random-relative", "--seed", "-3"], "seed"),
    (["score", "mtd-q3-m2-t32/random-relative", "--json", "/no/such/a.json"], "no folder"),
    (["compare", "mtd-q3-m2-t32/random-relative", "--lengths", "a,b"], "integers"),
    (["compare", "mtd-q3-m2-t32/random-relative", "--lengths", "500"], "got 500"),
    (["score", "mtd-q3-m2-t32/random-relative", "--seed", "9" * 20], "seed"),
    (["score", "mtd-q3-m2-t32/random-relative", "--threshold", "3"], "threshold"),
    (["score", "mtd-q3-m2-t32/random-relative", "--algorithm", "x"], "unknown mtd algorithm"),
    (
        ["train", "mtd-q3-m2-t32", "--out", "y", "--config", "x" * 5000],
        "cannot be read: File name too long",
    ),
    (["train", "mtd-q3-m2-t32", "--out", "y", "--config", "/dev/zero"], "not a regular file"),
    (["score", "x" * 5000], "no model is named"),
    (["score", "mtd-q3-m2-t32/random-relative", "--json", "x" * 5000], "File name too long"),
    (["score", R, "--json", "a", "--html", "a"], "same path"),
    (["score", R, "--html", "a.txt"], "a page is written as .html or .htm; got 'a.txt'"),
    (["dashboard", R, "--out", "x.pdf"], "a page is written as .html or .htm; got 'x.pdf'"),
    (["score", R, N], f"{R!r} of mtd and {N!r} of ngram. Score each family's models by themselves"),
    (["fit", N], "the family 'ngram' has no additive form that could be fitted"),
    (["fit", N, "--form", "pairs"], "the family 'ngram' has no additive form"),
    (["compare", R, "--lengths", "4,99"], "from 3 to 32; got 99"),
    (["score"], "Missing argument"),
    (["score", "x", "--sequences", "many"], "Invalid value"),
    (["score", "x", "--sequence", "64"], "--sequences"),
    (["scor"], "No such command"),
    (["score", "a\x1b[31m\nb"], r"a\x1b[31m\nb"),
    (["score", R, "--json", "/no/such\x1b[2J\n/a.json"], r"no folder /no/such\x1b[2J"),
    (["dashboard", "mtd-q3-m2-t32/random-relative", "--out", "/no/such/a.html"], "no folder"),
    (["train", "mtd-q3", "--out", "/no/such/a"], "no task is named"),
]


LATER = [  # refused where it is found, below a line that says what goes on
    (["score", R, "--device", "gpu"], "device 'gpu'"),
    (["score", R, "--device", "meta"], "device 'meta'"),
    (["score", R, "--sequences", "1000000000000"], "Use fewer"),
    (["train", "mtd-q3-m2-t32", "--batch-size", "1000000000000", "--out", "x" * 99], "Lower batch"),
    (["train", "mtd-q3-m2-t32", "--out", "x" * 5000], "cannot be the folder of a run: File name"),
    (["train", "--resume", "x" * 5000], "cannot be resumed: File name too long"),
    (["export", "x" * 5000, "--out", "y"], "cannot be loaded: File name too long"),
    (["export", "/no/such/run", "--out", "/no/such/a"], "/no/such/run"),
]


def test_bad_input_exits_with_2_and_a_clear_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for arguments, message in CHEAP + LATER:
        status, out, err = run(capsys, monkeypatch, *arguments)
        *before, last = err.splitlines()
        said = [line for line in before if not line.startswith(f"{arguments[0]}: ")]
        cheap = (arguments, message) in CHEAP
        if (status, out, said) != (2, "", []) or message not in last or (cheap and before):
            wrong.append((arguments, status, out, err))
    assert wrong == []


REFUSING = """
import contextlib, io, sys
import mtd_lens.cli
for arguments, message in {commands}:
    sys.argv = ["mtd-lens", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
        mtd_lens.cli.main()
    assert message in said.getvalue(), (arguments, said.getvalue())
    assert "torch" not in sys.modules, arguments
"""


def test_what_is_cheap_to_check_is_checked_before_torch_is_loaded(tmp_path):
    from_files = [command for command in CHEAP if command[0][0] != "train"]
    code = REFUSING.format(commands=from_files)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_what_the_files_list_is_what_the_registry_knows():
    from mtd_lens import listing

    stored = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in listing.FOLDER.glob(f"*/{listing.FILE}")
    }
    assert stored == listing.made(), "run python -m mtd_lens.listing"


def test_help_shows_every_default_and_what_there_is_to_choose_from(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, shown in {
        "score": ["768", "0.8", "one-step", "kernel", "cpu", "64", "first of the task's family"],
        "compare": ["256", "the task's and its halves", "cpu"],
        "compete": ["1024", "128"],
        "localize": ["512", "0.8", "two-pass"],
        "fit": ["24576", "windows, pairs, own pairs", "65,536"],
        "dashboard": ["default: 4", "16"],
        "weights": ["default: 0", "whose last checkpoint is taken"],
    }.items():
        status, out, _ = run(capsys, monkeypatch, command, "--help")
        assert status == 0
        text = re.sub(r"[\s│]+", " ", out)  # broken anywhere
        for words in shown:
            assert words in text, (command, words)


PROBE = """
import sys
sys.argv = ["mtd-lens", *{command}]
{code}
heavy = [name for name in ("torch", "transformer_lens", "scipy", "pandas") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "command", ["", "--help", "--version", "models", "tasks", "score --help", "train --help"]
)
def test_import_help_and_lists_load_nothing_heavy(command):
    code = "import mtd_lens, probes; dir(mtd_lens)"
    if command:
        code = "import mtd_lens.cli\ntry:\n    mtd_lens.cli.main()\nexcept SystemExit: pass"
    code = PROBE.format(code=code, command=command.split())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_word_comes_before_torch_is_loaded():
    command = [sys.executable, "-X", "importtime", "-m", "mtd_lens", "weights", R]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    said = [f"weights: loading {R}", r"\| +torch", r"\| +transformer_lens"]
    found = [re.search(f"{words}$", done.stderr, re.MULTILINE).start() for words in said]
    assert found == sorted(found)


def test_every_public_name_can_be_had_and_has_a_docstring():
    import mtd_lens
    import probes

    for package in (mtd_lens, probes):
        for name in package.__all__:
            value = getattr(package, name)
            if callable(value):
                assert value.__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = mtd_lens.nothing


def test_weights(capsys, monkeypatch, tmp_path):
    name, path = "mtd-q3-m2-t32/constructed-relative", tmp_path / "w.json"
    status, out, _ = run(capsys, monkeypatch, "weights", name, "--json", str(path))
    assert status == 0
    assert "selector.via_average" in out
    assert json.loads(path.read_text())["model"] == name


def test_compare_draws_a_figure_or_says_at_once_why_not(capsys, monkeypatch, tmp_path):
    command = ["compare", "mtd-q3-m2-t32/constructed-relative", "--lengths", "8,16"]
    path = tmp_path / "f.svg"
    status, _, err = run(capsys, monkeypatch, *command, "--sequences", "64", "--figure", str(path))
    assert (status, path.exists()) == (0, True)
    assert str(path) in err
    wrong = str(tmp_path / "f.docx")
    status, _, err = run(capsys, monkeypatch, *command, "--figure", wrong)
    assert status == 2
    assert "written as .png or .svg" in err


def test_fit_takes_the_form_of_a_table(capsys, monkeypatch, tmp_path):
    command, path = ["fit", "mtd-q3-m2-t32/constructed-relative"], tmp_path / "f.json"
    few = ("--sequences", "64", "--form", "own pairs", "--json", str(path))
    status, out, _ = run(capsys, monkeypatch, *command, *few)
    assert status == 0
    assert "additive evidence from a table of own pairs" in out
    assert json.loads(path.read_text())["table_form"] == "own pairs"
    status, _, err = run(capsys, monkeypatch, *command, "--form", "triples")
    assert (status, "unknown form of a table 'triples'" in err) == (2, True)


NAME, FEW = "mtd-q3-m2-t32/constructed-relative", ("--sequences", "64")
SMALL = (
    *("--arch=attn-only", "--layers=1", "--d-model=8", "--n-heads=1", "--steps=2"),
    *("--batch-size=2", "--evaluation-sequences=64", "--threads=1"),
)
WRITING = {
    "weights": (("weights", NAME, "--json", "w.json"), ["w.json"]),
    "score": (("score", NAME, *FEW, "--json", "s.json", "--html", "s.html"), ["s.json", "s.html"]),
    "compare": (
        ("compare", NAME, *FEW, "--lengths=8", "--json", "c.json", "--figure", "c.svg"),
        ["c.json", "c.svg"],
    ),
    "compete": (
        (
            "compete",
            NAME,
            "--sequences=128",
            "--json",
            "c.json",
            "--html",
            "c.html",
            "--figure",
            "c.svg",
        ),
        ["c.json", "c.html", "c.svg"],
    ),
    "fit": (
        ("fit", NAME, *FEW, "--json", "f.json", "--html", "f.html", "--figure", "f.png"),
        ["f.json", "f.html", "f.png"],
    ),
    "localize": (
        ("localize", NAME, *FEW, "--json", "l.json", "--figure", "l.png"),
        ["l.json", "l.png"],
    ),
    "dashboard": (("dashboard", NAME, "--no-score", "--out", "d.html"), ["d.html"]),
    "train": (("train", "mtd-q3-m2-t32", "--out", "run", *SMALL), ["run"]),
}
LISTING = {name: ((name,), []) for name in ("--version", "--help", "models", "tasks")}


def run_to(stream, monkeypatch, *arguments):
    """Exit status with the stream as standard output and error."""
    monkeypatch.setattr(sys, "argv", ["mtd-lens", *arguments])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return stopped.value.code


@pytest.mark.parametrize("command", WRITING | LISTING)
def test_no_run_is_lost_on_a_pipe_whose_reader_has_gone(monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    arguments, written = (WRITING | LISTING)[command]
    reader, writer = os.pipe()
    os.close(reader)
    # Nothing is kept back, as with PYTHONUNBUFFERED: the first write fails.
    with io.TextIOWrapper(io.FileIO(writer, "w"), "utf-8", write_through=True) as stream:
        assert run_to(stream, monkeypatch, *arguments) == 0
    assert all((tmp_path / name).exists() for name in written)
    assert command != "train" or run_to(None, monkeypatch, "export", "run", "--out", "copy") == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["weights", "tasks"])
def test_what_the_encoding_lacks_is_replaced(monkeypatch, tmp_path, command, encoding):
    monkeypatch.chdir(tmp_path)
    arguments, written = (WRITING | LISTING)[command]
    with io.TextIOWrapper(io.BytesIO(), encoding) as stream:
        assert run_to(stream, monkeypatch, *arguments) == 0
        stream.flush()
        shown = stream.buffer.getvalue().decode(encoding)
    assert "???" in shown  # the line below the header
    assert all((tmp_path / name).exists() and f"wrote {name}" in shown for name in written)


def test_a_closed_output_is_no_error(monkeypatch):
    assert run_to(None, monkeypatch, "tasks") == 0


def test_the_end_of_a_process_is_silent_too():
    """Python itself would report what it cannot flush."""
    for buffered in ("", "1"):
        command = f"{sys.executable} -m mtd_lens tasks | true"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": buffered}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_full_disk_is_said_after_the_files_are_written(capsys, monkeypatch, tmp_path):
    path = tmp_path / "w.json"
    command = ["mtd-lens", "weights", "mtd-q3-m2-t32/random-relative", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", command)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 2
    assert "cannot print: No space left on device" in capsys.readouterr().err
    assert path.exists()


def test_a_result_is_printed_though_its_file_cannot_be_written(capsys, monkeypatch, tmp_path):
    def fail(self, path):
        raise OutputPathError("the disk is full.")

    monkeypatch.setattr(Result, "to_json", fail)
    command = ["weights", "mtd-q3-m2-t32/random-relative", "--json", str(tmp_path / "w.json")]
    status, out, err = run(capsys, monkeypatch, *command)
    assert (status, err.splitlines()[-1]) == (2, "OutputPathError: the disk is full.")
    assert "selector.via_average" in out


def test_without_a_command_the_help_is_shown(capsys, monkeypatch):
    status, out, err = run(capsys, monkeypatch)
    assert (status, err) == (2, "")
    assert "localize" in out


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort, MemoryError])
def test_stopping_a_run_prints_no_traceback(capsys, monkeypatch, stop):
    def stopped(*args, **kwargs):
        raise stop

    monkeypatch.setattr("mtd_lens.listing.models", stopped)
    status, out, err = run(capsys, monkeypatch, "models")
    assert (status, out) == (2 if stop is MemoryError else 130, "")
    assert len(err.splitlines()) == (stop is MemoryError)
