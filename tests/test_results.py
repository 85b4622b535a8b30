"""The results page says what was measured, and measuring again gives the same."""

import importlib.util
import json
from pathlib import Path

import pytest

from mtd_lens.registry import shipped_checkpoints

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("make_results", TUTORIALS / "make_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_and_cards_are_those_of_the_data(results):
    models = [results.read_model(name) for name in sorted(shipped_checkpoints())]
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
    monkeypatch.setattr(results, "DATA", tmp_path)
    results.measure(name)
    again = json.loads(results.data_file(name).read_text(encoding="utf-8"))
    for one, two in zip(before["scorecard"]["claims"], again["scorecard"]["claims"], strict=True):
        assert (one["id"], one["verdict"]) == (two["id"], two["verdict"])
        assert one["score"] == pytest.approx(two["score"], abs=2e-3)
    for who, interval in before["held_out"]["kl_from_truth"].items():
        assert interval["score"] == pytest.approx(
            again["held_out"]["kl_from_truth"][who]["score"], rel=1e-3
        )
