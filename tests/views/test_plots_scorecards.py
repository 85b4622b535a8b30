"""Figures of scorecards and localizations: cells, outlines, verdicts, data."""

from dataclasses import replace

import pandas as pd
import pytest

import mtd_lens
from mtd_lens.results.scorecard import ClaimResult, MatrixEntry, Scorecard
from mtd_lens.views import plots


def claim(name, layer, score, verdict="supported"):
    ends = (None, None) if score is None else (score - 0.01, score + 0.01)
    return ClaimResult(name, "", layer, None, score, *ends, 0.0, 0.1, 1.0, 0.8, verdict)


def entry(name, layer, score):
    return MatrixEntry(score, score - 0.01, score + 0.01, claim=name, layer=layer, site="")


@pytest.fixture(scope="module")
def card():
    claims = (
        claim("weights.probe", 1, 0.9),
        claim("weights.attention", 0, -3.0, "refuted"),
        claim("mean.probe", None, None, "not_applicable"),
        claim("prediction.estimator", None, 0.95),
    )
    matrix = (
        entry("weights.probe", 0, 0.1),
        entry("weights.probe", 1, 0.9),
        entry("weights.attention", 0, -3.0),
        entry("weights.attention", 1, -4.0),
    )
    return Scorecard(
        model="t/m", task="t", seed=3, n_sequences=64, parameters={"beta": 12.0},
        divergence="KL, nats", claims=claims, matrix=matrix, estimators=(), algorithm="one step",
    )  # fmt: skip


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_further_claim_stands_with_those_of_its_variable(card):
    later = replace(card, claims=(*card.claims, claim("weights.mine", 0, 0.5)))
    labels = mtd_lens.plot_scorecard(later).axes[0].get_yticklabels()
    names = [
        label.get_text() for label in sorted(labels, key=lambda label: label.get_position()[1])
    ]
    assert names == ["probe", "attention", "mine", "probe", "estimator"]


def test_cells_stand_where_claim_and_layer_meet(card):
    figure = mtd_lens.plot_scorecard(card)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["layer 0", "layer 1", "output"]
    rows = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
    assert [label.get_text() for label in rows.values()] == [
        "probe", "attention", "probe", "estimator",
    ]  # fmt: skip
    heights = list(rows)
    assert heights == sorted(heights)
    at = {text.get_position(): text.get_text() for text in axes.texts}
    assert at[0, heights[0]] == "0.10"
    assert at[1, heights[0]] == "0.90"
    assert at[0, heights[1]] == at[1, heights[1]] == "< -1"
    assert at[2, heights[3]] == "0.95"
    title = figure.get_suptitle()
    assert all(
        words in title for words in ("m on t", "64 sequences, seed 3", "β 12", "clipped at -1")
    )


def test_chosen_layers_are_outlined(card):
    axes = mtd_lens.plot_scorecard(card).axes[0]
    outlined = [
        (round(p.get_x() + 0.46), round(p.get_y() + 0.46)) for p in axes.patches if not p.get_fill()
    ]
    heights = axes.get_yticks()
    assert outlined == [(1, heights[0]), (0, heights[1])]


def test_verdicts_and_variables_are_named(card):
    shown = texts(mtd_lens.plot_scorecard(card))
    assert "supported, 0.90 [0.89, 0.91]" in shown
    assert "refuted, -3.00 [-3.01, -2.99]" in shown
    assert "not applicable" in shown
    assert [text for text in shown if text in ("weights", "mean", "prediction")] == [
        "weights", "mean", "prediction",
    ]  # fmt: skip


def test_no_text_leaves_the_figure_or_meets_another(card):
    figure = mtd_lens.plot_scorecard(card)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
    bar = figure.axes[1].get_window_extent()
    assert all(not box.overlaps(bar) for box in boxes)


def test_data_of_a_scorecard(card, tmp_path):
    mtd_lens.plot_scorecard(card, tmp_path / "c.SVG", data=tmp_path / "c.csv")
    table = pd.read_csv(tmp_path / "c.csv")
    assert table["score"].tolist() == [0.1, 0.9, -3.0, -4.0, 0.95]
    assert table["layer"].tolist() == ["0", "1", "0", "1", "output"]
    assert table["chosen"].tolist() == [False, True, True, False, True]
    assert table["verdict"].fillna("").tolist() == ["", "supported", "refuted", "", "supported"]
    assert set(table["seed"]) == {3}


def test_a_card_without_layers(card):
    bare = replace(card, claims=card.claims[3:], matrix=(), task={"kind": "mine"})
    figure = mtd_lens.plot_scorecard(bare)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["output"]
    assert "a task of the user's own" in figure.get_suptitle()


def test_a_claim_that_was_tried_at_one_layer_only(card):
    alone = replace(card, claims=(claim("weights.probe", 2, 0.7),), matrix=())
    axes = mtd_lens.plot_scorecard(alone).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()][-2:] == ["layer 2", "output"]
    assert {text.get_text(): text.get_position() for text in axes.texts}["0.70"] == (2, 0)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("given", [None, "card", 3])
def test_what_is_no_scorecard(given):
    with pytest.raises(mtd_lens.ArgumentError, match=r"mtd_lens\.score returned; got a"):
        mtd_lens.plot_scorecard(given)


def test_data_of_a_localization(tmp_path):
    model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative")
    found = mtd_lens.localize(model, n_sequences=64)
    figure = mtd_lens.plot_localization(found, data=tmp_path / "l.csv")
    table = pd.read_csv(tmp_path / "l.csv")
    cells = [text for axes in figure.axes for text in axes.texts]
    assert len(table) == len(cells)
    sites = table.query("map == 'interchange' and site != 'together'")
    assert sites["score"].tolist() == pytest.approx([e.score for e in found.sites], rel=1e-14)
    assert sites["in_set"].sum() == sum(len(f.places) for f in found.findings)
    probes = table.query("map == 'probe'")
    assert probes["control"].tolist() == pytest.approx([e.control for e in found.probes])


@pytest.mark.usefixtures("_no_type_checker")
def test_what_is_no_localization():
    with pytest.raises(mtd_lens.ArgumentError, match="what localize returned; got a str"):
        plots.plot_localization("map")
