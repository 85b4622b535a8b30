"""A notebook in a kernel of its own shows every figure and result, though it imports no pyplot."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from drawn import made_grid
from matplotlib.image import imread
from nbclient import NotebookClient
from stored import KINDS, stored

import mtd_lens
import probes

ROOTS = [Path(package.__file__).parent for package in (mtd_lens, probes)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """By name, the output of a cell that ends in a result's figure, and of one that is a result."""
    folder = tmp_path_factory.mktemp("results")
    classes = {name: f"mtd_lens.{name}" for name in KINDS} | {"Grid": "probes.Grid"}
    for name in classes:
        (made_grid() if name == "Grid" else stored(name)).to_json(folder / f"{name}.json")
    cells = ["import mtd_lens, probes, sys"]
    for name, kind in classes.items():
        read = f"{kind}.from_json({str(folder / name)!r} + '.json')"
        cells += [f"{read}.plot()", read]
    cells.append("'matplotlib.pyplot' in sys.modules")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=300).execute()
    outputs = [[o.data for o in cell.outputs] for cell in notebook.cells]
    assert outputs[-1][0]["text/plain"] == "False"
    return dict(zip(classes, zip(outputs[1:-1:2], outputs[2:-1:2], strict=True), strict=True))


@pytest.mark.parametrize("name", [*KINDS, "Grid"])
def test_a_figure_is_a_picture(shown, name):
    [[data], _] = shown[name]
    picture = imread(io.BytesIO(base64.b64decode(data["image/png"])), format="png")
    assert min(picture.shape[:2]) > 200
    assert picture[..., :3].std() > 0.01  # something is drawn


@pytest.mark.parametrize("name", [*KINDS, "Grid"])
def test_a_result_is_styled(shown, name):
    [_, [data]] = shown[name]
    assert "<style>" in data["text/html"]
    assert "prefers-color-scheme: dark" in data["text/html"]
    assert "<table" in data["text/html"]


def test_all_figures_are_made_in_one_place():
    makers = [
        path.relative_to(root.parent).as_posix()
        for root in ROOTS
        for path in root.rglob("*.py")
        if re.search(r"\bFigure\(|import pyplot|matplotlib\.pyplot", path.read_text("utf-8"))
    ]
    assert makers == ["probes/drawing.py"]
