"""The results pages say what was measured, and measuring again gives the same."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from mtd_lens.registry import shipped_checkpoints

TUTORIALS = Path(__file__).parent.parent / "tutorials"


FAMILIES = ("mtd", "ngram", "autoregressive")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("make_results")
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(params=FAMILIES)
def results(script, request):
    return script.RESULTS[request.param]


def test_every_shipped_model_is_on_a_page(script):
    assert set(script.RESULTS) == set(FAMILIES)
    names = [name for results in script.RESULTS.values() for name in results.names()]
    assert sorted(names) == sorted(shipped_checkpoints())


def test_page_and_cards_are_those_of_the_data(results):
    written = results.pages(results.read())
    assert len(written) > 5
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"run make results: {path}"


def test_every_figure_of_the_page_is_there(results):
    page = (TUTORIALS / results.page).read_text(encoding="utf-8")
    figures = {line.split("(")[-1].rstrip(")") for line in page.splitlines() if "![" in line}
    assert len(figures) >= 2
    for figure in figures:
        assert (TUTORIALS / figure).stat().st_size > 10_000, figure


def test_unknown_families_have_no_results(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_results.py", "--page", "mtd", "nothing"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    assert "no results of nothing; families are mtd, ngram" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mtd", "mtd-q5-m3-t32/trained-disentangled-3l-s0"),
        ("ngram", "ngram-q3-s12-t32/trained-gpt-2l-s0"),
        ("autoregressive", "ar-d5-t32/trained-linear-augmented-2l-s0"),
    ],
)
def test_measuring_again_gives_the_page_s_figures(script, family, name):
    before = json.loads(sys.modules["model_pages"].data_file(name).read_text(encoding="utf-8"))
    again = script.RESULTS[family].measure(name)
    for one, two in zip(before["scorecard"]["claims"], again["scorecard"]["claims"], strict=True):
        assert (one["id"], one["verdict"]) == (two["id"], two["verdict"])
        assert one["score"] == pytest.approx(two["score"], abs=2e-3)
    for who, interval in before["held_out"]["from_truth"].items():
        found = again["held_out"]["from_truth"][who]
        assert interval["score"] == pytest.approx(found["score"], rel=1e-3)
