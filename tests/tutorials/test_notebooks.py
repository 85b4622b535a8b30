"""The notebooks run from top to bottom, and their committed outputs are those of such a run."""

import ast
import json
import re
import sys
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 - its first import builds a cache, and says so
import nbformat
import pytest

from tutorials.site.notebooks import INSTALL, INSTALL_TAG, execute

NOTEBOOKS = Path(__file__).parents[2] / "tutorials" / "notebooks"

FAST = {
    "1_task_and_estimators": {"N_SEQUENCES": 128, "LENGTHS": (8, 192)},
    "2_construction_layer_by_layer": {"N_SEQUENCES": 16},
    "3_testing_a_trained_model": {"N_SEQUENCES": 128, "N_LOCALIZE": 64},
    "4_your_own_model_and_claim": {"STEPS": 300, "N_SEQUENCES": 64},
    "5_induction_heads_on_ngrams": {"N_SEQUENCES": 192, "N_SCORE": 128},
    "6_autoregression_by_gradient_descent": {
        "N_SEQUENCES": 64,
        "BROKEN": ("values",),
        "DEPTHS": (1, 2),
    },
    "7_which_algorithm_is_it": {"N_SEQUENCES": 512, "N_FITTED": 4096},
}
"""Settings that the tests run each notebook with, in place of those of its parameters cell."""

MAX_BYTES = 900_000

notebooks = pytest.mark.parametrize("name", FAST)


def read(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def names(source, context):
    """Variables that a cell reads (``ast.Load``) or sets (``ast.Store``)."""
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, context)}


def settings_of(notebook):
    """The parameters cell and what it sets."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    settings = {}
    for statement in ast.parse(cell.source).body:
        (target,) = statement.targets
        settings[target.id] = ast.literal_eval(statement.value)
    return cell, settings


def stream(cell, name):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == name)


def test_every_notebook_is_run_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FAST)


@notebooks
def test_settings_are_set_once_and_used(name):
    """So that what is put in their place decides the whole run."""
    notebook = read(name)
    cell, settings = settings_of(notebook)
    assert settings.keys() == FAST[name].keys()
    assert all(settings[key] != fast for key, fast in FAST[name].items())
    others = [other.source for other in code_cells(notebook) if other is not cell]
    assert settings.keys() <= set().union(*(names(source, ast.Load) for source in others))
    assert not settings.keys() & set().union(*(names(source, ast.Store) for source in others))


@pytest.mark.slow
@notebooks
def test_it_runs_without_errors_or_warnings(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # no start-up files of the user's
    notebook = read(name)
    settings_of(notebook)[0].source = "\n".join(f"{k} = {v!r}" for k, v in FAST[name].items())
    shown = f"import json; print(json.dumps([{', '.join(FAST[name])}]))"
    notebook.cells.append(nbformat.v4.new_code_cell(shown))
    execute(notebook, tmp_path)
    for cell in code_cells(notebook):
        assert not stream(cell, "stderr"), cell.source
    taken = json.loads(stream(notebook.cells[-1], "stdout"))
    assert taken == json.loads(json.dumps(list(FAST[name].values())))


@notebooks
def test_committed_outputs_are_those_of_a_clean_run(name):
    """``make notebooks`` writes them."""
    cells = [cell for cell in code_cells(read(name)) if cell.source]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert not any(stream(cell, "stderr") for cell in cells)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@notebooks
def test_its_first_code_installs_the_package_where_it_is_missing(name, monkeypatch):
    first = code_cells(read(name))[0]
    assert first.metadata["tags"] == [INSTALL_TAG]
    assert first.source == INSTALL
    ran = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    exec(INSTALL, {})
    assert ran == []
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    exec(INSTALL, {})
    [command] = ran
    assert command[1:] == ["-m", "pip", "install", "--quiet", "../.."]
    assert (NOTEBOOKS / command[-1] / "pyproject.toml").is_file()


@notebooks
def test_it_is_small_and_names_no_machine(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < MAX_BYTES
    text = path.read_text(encoding="utf-8")
    for folder in ("/home/", "/Users/", "/tmp/", "/work/", "/usr/", sys.prefix):
        assert folder not in text


@notebooks
def test_it_teaches(name):
    """A title, a figure with labelled axes, claims that are asserted, and exercises at the end."""
    notebook = read(name)
    number = name.split("_")[0]
    assert notebook.cells[0].source.startswith(f"# {number}. ")
    sources = [cell.source for cell in code_cells(notebook)]
    assert any("xlabel" in source or "mtd_lens.plot_" in source for source in sources)
    assert sum(source.count("assert ") for source in sources) >= 5
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    exercises = last.source.partition("## Exercises")[2]
    assert 3 <= len(re.findall(r"^\d\. \*", exercises, re.MULTILINE)) <= 4
    assert "*Hint:*" in exercises
