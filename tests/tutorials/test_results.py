"""The results pages say what was measured, and measuring again gives the same."""

import re
from types import SimpleNamespace

import pytest

from mtd_lens.checkpoints import read_manifest
from mtd_lens.registry import shipped_checkpoints
from tutorials.site import (
    algorithms,
    answers,
    measurements,
    pages,
    results as site,
    standard,
    story,
)

FAMILIES = ("mtd", "ngram", "autoregressive")
MAX_BYTES = 16_000
LONGEST_TABLE = 12
"""Lines of one that is not folded."""


@pytest.fixture(params=FAMILIES)
def results(request):
    return site.RESULTS[request.param]


def test_every_shipped_model_is_on_a_page():
    assert set(site.RESULTS) == set(FAMILIES)
    names = [name for results in site.RESULTS.values() for name in results.names()]
    assert sorted(names) == sorted(shipped_checkpoints())


def test_page_and_cards_are_those_of_the_data(results):
    written = results.pages(results.read())
    assert len(written) > 5
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"run make results: {path}"


@pytest.mark.parametrize("name", sorted(set(site.PAGES) - set(FAMILIES)))
def test_further_pages_are_those_of_the_data(name):
    further = site.PAGES[name]
    for path, text in further.pages(further.read()).items():
        assert path.read_text(encoding="utf-8") == text, f"run make results: {path}"


@pytest.mark.parametrize("name", sorted(set(site.PAGES) - {"story"}))
def test_pages_begin_with_sentences_and_a_figure(name):
    """And long tables are folded, so that a reader meets none on the way."""
    head, *lines = site.PAGES[name].page.read_text(encoding="utf-8").splitlines()
    assert head.startswith("# ")
    before = lines[: next(i for i, line in enumerate(lines) if line.startswith("!["))]
    assert 2 <= sum(line.startswith("- ") for line in before) <= 6
    assert not any(line.startswith(("|", "#")) or "`make" in line for line in before)
    folded, rows = False, 0
    for line in lines:
        folded = line == "<details markdown>" or (folded and line != "</details>")
        rows = rows + 1 if line.startswith("|") and not folded else 0
        assert rows <= LONGEST_TABLE, line


def test_answers_count_every_model_once(results):
    finals = pages.final(results.read())
    counted = [re.match(r"\*\*(\d+) of (\d+) models\*\*", text) for text in results.answers(finals)]
    counts = [(int(found[1]), int(found[2])) for found in counted if found]
    assert sum(n for n, _ in counts) == len(finals)
    assert {of for _, of in counts} == {len(finals)}


def test_an_answer_is_a_models_that_holds_first():
    def model(seed, verdict):
        claim = {"verdict": verdict, "score": 0.5 - seed}
        return {"config": SimpleNamespace(seed=seed), "claims": {"a.b": claim}}

    given = {"x, T = 2": [model(0, "supported"), model(1, "refuted")], "y": [model(2, "refuted")]}
    said = answers.sentences(
        given,
        [
            answers.Answer(lambda m: answers.has(m, "supported", "a.b"), "[does|do]", {}),
            answers.Answer(lambda m: True, "[does|do] not", {"b": "a.b"}),
        ],
    )
    assert said == [
        "**1 of 3 models** does: x, T\u00a0=\u00a02, seed 0.",
        "**2 of 3 models** do not: x, T\u00a0=\u00a02, seed 1; y. Scores: b −1.50 to −0.50.",
    ]


def test_another_story_is_not_told():
    found = story.STORY.read()
    assert "**How we know.**" in story.text(found)
    found["own"]["claims"]["mixture_weights.interchange"]["verdict"] = "supported"
    with pytest.raises(ValueError, match=f"no longer holds: {story.OWN}: mixture_weights"):
        story.text(found)


def test_every_model_of_a_further_page_is_measured():
    measured = {*standard.TRAINED, *standard.BESIDE, *standard.OVER_TRAINING}
    assert set(standard.STANDARD.read()) == measured
    known = [(found.model, found.seed) for found in algorithms.ALGORITHMS.read()]
    assert known == algorithms.ALGORITHMS.runs()


def test_constructions_run_what_they_are_known_to_run():
    found = algorithms.constructions(algorithms.ALGORITHMS.read())
    assert len(found) == len(algorithms.TASKS)
    assert [text for members in found.values() for text in algorithms.departures(members)] == []


def test_every_figure_of_the_page_is_there(results):
    page = results.page.read_text(encoding="utf-8")
    figures = {line.split("(")[-1].rstrip(")") for line in page.splitlines() if "![" in line}
    assert len(figures) >= 2
    for figure in figures:
        assert (results.page.parent / figure).stat().st_size > 10_000, figure


def test_pages_are_written_without_measuring(results, monkeypatch, capsys):
    """``--page`` writes what is there again, and changes nothing."""
    before = results.page.read_bytes()
    monkeypatch.setattr(site, "PAGES", {results.family: results})
    monkeypatch.setattr(type(results), "draw", lambda self, models: None)
    monkeypatch.setattr(type(results), "measure", None)
    site.main(["--page", results.family])
    assert capsys.readouterr().out == f"wrote {results.page}\n"
    assert results.page.read_bytes() == before


def test_unknown_families_have_no_results(capsys):
    with pytest.raises(SystemExit) as stopped:
        site.main(["--page", "mtd", "nothing"])
    assert stopped.value.code == 2
    assert "no results of nothing; pages are mtd, ngram" in capsys.readouterr().err


def test_measurements_are_small_and_change_no_checkpoint():
    for name, folder in shipped_checkpoints().items():
        path = measurements.file_of(name)
        assert path.parent == folder
        assert path.stat().st_size < MAX_BYTES, name
        assert path.name not in read_manifest(folder)["sha256"]


def test_what_is_kept_is_read_back(tmp_path):
    """A line for each entry, numbers rounded, whatever lies between them as it was."""
    given = {"a": 0.1234567891, "b": [1, None, "é", {"c": -1e-20, "d": (1.5, 2)}]}
    rounded = {"a": 0.12345679, "b": [1, None, "é", {"c": -1e-20, "d": [1.5, 2]}]}
    for figures, expected in ((given, rounded), ([given, given], [rounded, rounded])):
        path = tmp_path / "figures.json"
        measurements.write(path, figures)
        assert measurements.read(path) == expected
        assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    with pytest.raises(ValueError, match="not JSON compliant"):
        measurements.write(tmp_path / "figures.json", {"a": float("nan")})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mtd", "mtd-q5-m3-t32/trained-disentangled-3l-s0"),
        ("ngram", "ngram-q3-s12-t32/trained-gpt-2l-s0"),
        ("autoregressive", "ar-d5-t32/trained-linear-augmented-2l-s0"),
    ],
)
def test_measuring_again_gives_the_page_s_figures(family, name):
    before = measurements.read(measurements.file_of(name))
    again = measurements.measure(name, site.RESULTS[family].study)
    assert again.keys() == before.keys()
    for one, two in zip(before["scorecard"]["claims"], again["scorecard"]["claims"], strict=True):
        assert (one["id"], one["verdict"]) == (two["id"], two["verdict"])
        assert one["score"] == pytest.approx(two["score"], abs=2e-3)
    for who, interval in before["held_out"]["from_truth"].items():
        found = again["held_out"]["from_truth"][who]
        assert interval["score"] == pytest.approx(found["score"], rel=1e-3)
