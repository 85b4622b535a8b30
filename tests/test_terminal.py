"""Names and tables at a terminal: what is taken for a model or task, and how wide things are."""

import json

import pytest
from test_cli import FEW, NAME, SMALL, run

import mtd_lens
from mtd_lens.printing import text_table


def test_a_run_and_a_task_file_are_taken_wherever_a_name_is(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "score"):
        (tmp_path / name).mkdir()
    task = mtd_lens.load_task("mtd-q3-m2-t32").to_json() | {"name": None}
    (tmp_path / "mine.json").write_text(json.dumps(task))
    status, _, err = run(capsys, monkeypatch, "train", "mine.json", "--out", "runs", *SMALL)
    assert status == 0
    assert err.endswith("wrote runs\nscore it with: mtd-lens score runs\n")
    assert run(capsys, monkeypatch, "export", "runs", "--out", "copy")[0] == 0
    step = "runs/step-0000002"
    for command in (
        *(("score", "--quick", *FEW), ("compare", "--lengths=8", *FEW), ("localize", *FEW)),
        *(("compete", "--sequences=128"), ("fit", "--form=own pairs", *FEW), ("weights",)),
        ("dashboard", "--no-score", "--out=d.html"),
    ):
        for folder, called in ((step, f"mine/{step}"), ("runs", f"mine/{step}"), ("copy", "copy")):
            if folder != "runs" and command[0] not in ("compare", "weights"):
                continue  # they all load it alike
            status, out, err = run(capsys, monkeypatch, command[0], folder, *command[1:])
            assert status == 0, err
            page = (tmp_path / "d.html").read_text() if command[0] == "dashboard" else out
            assert called in page
            told = f"of {folder}, its last checkpoint is taken, step-0000002" in err
            assert told == (folder == "runs")
    for empty in ("pipe", "score"):  # folders that are no checkpoints
        status, _, err = run(capsys, monkeypatch, "score", empty)
        assert (status, "holds no checkpoint" in err) == (2, True)
    message = run(capsys, monkeypatch, "localize", "runs", "--algorithm", "kernel")[2]
    assert "unknown mtd algorithm 'kernel'" in message


def shown_at(columns, capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("mtd_lens.printing.is_terminal", lambda stream: True)
    status, out, _ = run(capsys, monkeypatch, *arguments)
    assert status == 0
    return out


@pytest.mark.parametrize("command", ["tasks", "weights", "score"])
def test_tables_fit_the_terminal_and_are_whole_elsewhere(capsys, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    arguments = {"tasks": ("tasks",), "weights": ("weights", NAME)} | {
        "score": ("score", NAME, *FEW, "--quick")
    }
    whole = run(capsys, monkeypatch, *arguments[command])[1]
    assert max(map(len, whole.splitlines())) > 120
    for columns in (80, 120):
        out = shown_at(columns, capsys, monkeypatch, *arguments[command])
        assert max(map(len, out.splitlines())) <= columns
        marks = str.maketrans("", "", " \n─")
        assert sorted(out.translate(marks)) == sorted(whole.translate(marks))  # nothing is lost


def test_a_narrow_table_breaks_names_and_words_but_no_numbers():
    header, row = ["claim", "95% interval"], ["mean_responsibility.probe", "[-1.052, -0.526]"]
    lines = text_table(header, [row], width=32).splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["mean_responsibility.", "[-1.052,"],
        ["probe", "-0.526]"],
    ]
    assert text_table(header, [row], width=4) == text_table(header, [row], width=1)  # cannot fit


def test_columns_that_do_not_fit_stand_in_a_further_table():
    header = ["claim", "why", *(f"layer {n}" for n in range(9))]
    rows = [["one", "a b", *"123456789"], ["two", "c", *"abcdefghi"]]
    text = text_table(header, rows, left=(0, 1), width=30)
    assert max(map(len, text.splitlines())) <= 30
    for row in rows:
        lines = [line.split() for line in text.splitlines() if line.split()[:1] == row[:1]]
        assert len(lines) > 2
        assert [c for cells in lines for c in cells[1:]] == " ".join(row[1:]).split()
    assert len(text_table(header, rows, left=(0, 1), width=120).splitlines()) == 4


def test_nothing_in_a_table_is_markup():
    names = ["mine.swap[last]", "mine.x[/]", ":bug: [b]x[/b]", r"\[x]", "[link=a]b", "1.5 'a'"]
    shown = text_table(names, [names])
    header, _, row = shown.splitlines()
    for line in (header, row):
        assert [part.strip() for part in line.split("   ") if part.strip()] == names
