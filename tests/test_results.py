"""The results page says what was measured, and measuring again gives the same."""

import importlib
import json
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("make_results")
    sys.path.remove(str(TUTORIALS))


def test_page_and_cards_are_those_of_the_data(results):
    models = [results.read_model(name) for name in results.models_of_the_page()]
    written = results.pages(models)
    assert len(written) > 10
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"run make results: {path}"


def test_every_figure_of_the_page_is_there(results):
    page = results.PAGE.read_text(encoding="utf-8")
    figures = {line.split("(")[-1].rstrip(")") for line in page.splitlines() if "![" in line}
    assert len(figures) >= 4
    for figure in figures:
        assert (TUTORIALS / figure).stat().st_size > 10_000, figure


@pytest.mark.slow
def test_measuring_again_gives_the_page_s_figures(results, tmp_path, monkeypatch):
    name = "mtd-q5-m3-t32/trained-disentangled-3l-s0"
    before = json.loads(results.data_file(name).read_text(encoding="utf-8"))
    monkeypatch.setattr(sys.modules["measurements"], "DATA", tmp_path)
    results.measure(name)
    again = json.loads(results.data_file(name).read_text(encoding="utf-8"))
    for one, two in zip(before["scorecard"]["claims"], again["scorecard"]["claims"], strict=True):
        assert (one["id"], one["verdict"]) == (two["id"], two["verdict"])
        assert one["score"] == pytest.approx(two["score"], abs=2e-3)
    for who, interval in before["held_out"]["kl_from_truth"].items():
        assert interval["score"] == pytest.approx(
            again["held_out"]["kl_from_truth"][who]["score"], rel=1e-3
        )
