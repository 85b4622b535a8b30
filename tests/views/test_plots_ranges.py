"""Figures of rows with ranges show the numbers of the result, from the top."""

from dataclasses import replace

import pandas as pd
import pytest
from stored import stored

import mtd_lens
from mtd_lens.views.plots import LOWEST_SCORE


def drawn(figure):
    """By height: where each mark stands, and the ends of each bar; and words by height."""
    [axes] = figure.axes
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    marks = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in lines if len(line.get_xdata()) == 1
    }
    bars = {
        line.get_ydata()[0]: list(line.get_xdata()) for line in lines if len(line.get_xdata()) == 2
    }
    return marks, bars, {text.xy[1]: text.get_text() for text in axes.texts}


def test_a_report_s_scores_and_intervals_are_drawn(tmp_path):
    report = stored("AlignmentReport")
    figure = report.plot(tmp_path / "a.png", data=tmp_path / "a.csv")
    marks, bars, words = drawn(figure)
    for height, score in enumerate(report.scores.values()):
        assert marks[height] == max(score.score, LOWEST_SCORE)
        assert bars[height] == [max(score.low, LOWEST_SCORE), max(score.high, LOWEST_SCORE)]
        assert words[height].startswith(f"{score.score:.2f} [")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "learned subspace"
    assert pd.read_csv(tmp_path / "a.csv")["score"].tolist() == pytest.approx(
        [score.score for score in report.scores.values()], rel=1e-12
    )


def test_findings_are_drawn_beside_their_nulls():
    reading = stored("WeightReading")
    nothing = replace(reading.findings[0], score=None, value=None, null_score=None)
    reading = replace(reading, findings=(*reading.findings, nothing))
    marks, bars, words = drawn(reading.plot())
    for height, finding in enumerate(reading.findings[:-1]):
        assert marks[height] == finding.score
        assert bars[height] == list(finding.null_score)
        assert words[height].endswith(finding.unit)
    last = len(reading.findings) - 1
    assert last not in marks
    assert last not in bars
    assert words[last] == "–"


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("plot", [mtd_lens.plot_alignment, mtd_lens.plot_weights])
def test_other_things_are_refused(plot):
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"draws what mtd_lens\.\w+ returned; got a Sco"
    ):
        plot(stored("Scorecard"))
