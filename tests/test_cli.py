"""The commands as a user runs them: output, files, exit status, and what gets imported."""

import json
import subprocess
import sys

import pytest

from mtd_lens import cli


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
    assert (status, out) == (0, "mtd-lens 0.1.0\n")


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


BAD_INPUT = [
    (["score", "mtd-q3-m2-t32/constructed"], "UnknownNameError: no model is named"),
    (["score", "mtd-q3-m2-t32/random-relative", "--sequences", "3"], "too few"),
    (["score", "mtd-q3-m2-t32/random-relative", "--seed", "-3"], "seed"),
    (["score", "mtd-q3-m2-t32/random-relative", "--json", "/no/such/a.json"], "no folder"),
    (["score", "mtd-q3-m2-t32/random-relative", "--device", "gpu"], "device 'gpu'"),
    (["compare", "mtd-q3-m2-t32/random-relative", "--lengths", "a,b"], "integers"),
    (["compare", "mtd-q3-m2-t32/random-relative", "--lengths", "500"], "got 500"),
    (["score", "mtd-q3-m2-t32/random-relative", "--seed", "9" * 20], "seed"),
    (["score", "mtd-q3-m2-t32/random-relative", "--device", "meta"], "device 'meta'"),
    (["score", "mtd-q3-m2-t32/random-relative", "--threshold", "3"], "threshold"),
    (["score", "mtd-q3-m2-t32/random-relative", "--sequences", "1000000000000"], "Use fewer"),
    (["train", "mtd-q3-m2-t32", "--batch-size", "1000000000000", "--out", "x" * 99], "Lower batch"),
    (["train", "mtd-q3-m2-t32", "--out", "x" * 5000], "cannot be the folder of a run: File name"),
    (["train", "--resume", "x" * 5000], "cannot be resumed: File name too long"),
    (["train", "x", "--out", "y", "--config", "x" * 5000], "cannot be read: File name too long"),
    (["train", "x", "--out", "y", "--config", "/dev/zero"], "not a regular file"),
    (["export", "x" * 5000, "--out", "y"], "cannot be loaded: File name too long"),
    (["score", "x" * 5000], "no model is named"),
    (["score", "mtd-q3-m2-t32/random-relative", "--json", "x" * 5000], "File name too long"),
    (["score", "x", "--json", "a", "--html", "a"], "same path"),
    (["score"], "Missing argument"),
    (["score", "x", "--sequences", "many"], "Invalid value"),
    (["scor"], "No such command"),
]


def test_bad_input_exits_with_2_and_one_clear_line(capsys, monkeypatch):
    wrong = []
    for arguments, message in BAD_INPUT:
        status, out, err = run(capsys, monkeypatch, *arguments)
        if (status, out) != (2, "") or message not in err or "Traceback" in err:
            wrong.append((arguments, status, out, err))
    assert wrong == []


PROBE = """
import sys
sys.argv = ["mtd-lens", "--help"]
{code}
heavy = [name for name in ("torch", "transformer_lens", "scipy", "pandas") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "code",
    [
        "import mtd_lens, probes; dir(mtd_lens)",
        "import mtd_lens.cli\ntry:\n    mtd_lens.cli.main()\nexcept SystemExit: pass",
    ],
    ids=["import", "help"],
)
def test_import_and_help_load_nothing_heavy(code):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
