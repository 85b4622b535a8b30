"""Figures of inspections whose latents are vectors, or attention of both signs."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import LENGTH, N_SEQUENCES, ORDER, changed, legend_of, made_inspection

import mtd_lens
from mtd_lens.contracts import AnalyticPattern
from mtd_lens.views.plots import style


@pytest.fixture(scope="module")
def found():
    return made_inspection()


def of_vectors(found, n, *, offset=0.0):
    """Latents that are no shares: n components of both signs."""
    generator = torch.Generator().manual_seed(n)
    latents = {
        source: torch.randn(N_SEQUENCES, LENGTH, n, generator=generator).double() + offset
        for source in ("model", "one step", "least squares", "trigonometric rule", "truth")
    }
    names = tuple(f"component {index}" for index in range(n))
    tokens = torch.randn(N_SEQUENCES, LENGTH, n, generator=generator)
    made = changed(found, latents=latents, predictions=latents, components=names)
    return replace(made, tokens=tokens, token_names=names)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10])
def test_scatter_of_vectors_shows_every_point_and_fits(found, n):
    figure = mtd_lens.plot_scatter(of_vectors(found, n))
    axes = figure.axes[2]
    points = np.concatenate([c.get_offsets() for c in axes.collections])
    assert len(points) == N_SEQUENCES * LENGTH * n
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left == bottom < points.min() < 0 < points.max() < right == top
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("one step", "model")
    figure.draw_without_rendering()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == (2 if n <= len(style.MODEL_COLOURS) else 1)
    boxes = [legend.get_window_extent() for legend in legends]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    for text in (text for legend in legends for text in legend.get_texts()):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_scatter_of_positive_vectors_has_no_unit_of_shares(found):
    axes = mtd_lens.plot_scatter(of_vectors(found, 3, offset=9.0)).axes[2]
    assert axes.get_xlabel() == "one step"
    assert axes.get_xlim()[0] == pytest.approx(-0.02 * axes.get_xlim()[1])


def test_scatter_of_signed_attention(found, tmp_path):
    flipped = AnalyticPattern("signed", "x", -found.analysis.patterns[0].values)
    signed = changed(found, patterns=(found.analysis.patterns[0], flipped))
    heads = dict.fromkeys(("band", "signed"), found.nearest_heads["band"])
    attention = found.attention.clone()
    attention[0, 0] *= -1
    signed = replace(signed, nearest_heads=heads, attention=attention)
    figure = mtd_lens.plot_scatter(signed, data=tmp_path / "s.csv")
    band, other = figure.axes[:2]
    assert band.get_xlabel() == "algorithm's attention (0 to 1)"
    assert other.get_xlabel() == "algorithm's attention (−1 to 1)"
    assert other.get_ylabel() == "model's attention (−1 to 1)"
    rows = pd.read_csv(tmp_path / "s.csv").query("panel == 'signed'")
    assert len(rows) == N_SEQUENCES * (LENGTH - ORDER) * ORDER
    assert rows["algorithm_value"].max() < 0
    assert other.get_xlim()[0] < rows["algorithm_value"].min()


def test_many_panels_go_on_in_the_next_row(found):
    patterns = tuple(
        replace(found.analysis.patterns[0], name=f"band {index}") for index in range(5)
    )
    heads = {pattern.name: found.nearest_heads["band"] for pattern in patterns}
    figure = mtd_lens.plot_scatter(replace(changed(found, patterns=patterns), nearest_heads=heads))
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert len(visible) == 6
    assert len({axes.get_subplotspec().rowspan.start for axes in visible}) == 2


def test_sources_of_vectors_can_be_told_apart(found):
    vectors = of_vectors(found, 3)
    names = ["model", "one step", "truth", "least squares", "trigonometric rule"]
    figure = mtd_lens.plot_predictions(vectors)
    assert legend_of(figure) == names
    lines = figure.axes[0].get_lines()[: len(names)]
    assert len({line.get_marker() for line in lines}) == len(names)
    lines = mtd_lens.plot_latents(vectors).axes[0].get_lines()
    dashes = {(str(line.get_color()), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(dashes) == len(names)


def test_negative_predictions_stay_clear_of_the_axis(found):
    vectors = of_vectors(found, 10)
    figure = mtd_lens.plot_predictions(vectors)
    [axes] = figure.axes
    values = [float(v[0, -1].min()) for v in vectors.analysis.predictions.values()]
    low, high = axes.get_ylim()
    assert (min(values) - low) / (high - low) > 0.05
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(one.x1 < two.x0 for one, two in itertools.pairwise(boxes))


def test_latents_that_are_no_shares_have_axes_of_their_own(found):
    latents = {"model": torch.linspace(-3, 3, LENGTH)[None, :, None].expand(N_SEQUENCES, -1, 1)}
    figure = mtd_lens.plot_latents(changed(found, components=("slope",), latents=latents))
    assert figure.axes[0].get_ylim()[0] < -3
    assert "0 to 1" not in figure.get_supylabel()


def test_vectors_are_no_points_of_the_simplex():
    """Three components that are no shares of 1."""
    model = mtd_lens.load_model("ar-d3-t16/constructed-one-step")
    inspection = mtd_lens.inspect(model, n_sequences=1)
    with pytest.raises(
        mtd_lens.ArgumentError, match="drawn for shares of 1; the next vector of 'ar-d3"
    ):
        mtd_lens.plot_simplex(inspection)
    tokens = mtd_lens.load_model("ngram-q3-s12-t32/constructed-absolute")
    [axes] = mtd_lens.plot_simplex(mtd_lens.inspect(tokens, n_sequences=1)).axes
    assert axes.lines
