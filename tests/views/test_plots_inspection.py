"""Figures of inspections: what is drawn is what was found, and is what the data say."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import IN_ORDER, LENGTH, N_SEQUENCES, ORDER, changed, legend_of, made_inspection
from matplotlib.colors import to_rgba

import mtd_lens
from mtd_lens.contracts import AnalyticPattern
from mtd_lens.views import plots
from mtd_lens.views.plots import style
from mtd_lens.views.plots.simplex import CORNERS, in_plane


@pytest.fixture(scope="module")
def found():
    return made_inspection()


FUNCTIONS = [
    mtd_lens.plot_scatter, mtd_lens.plot_latents, mtd_lens.plot_predictions, mtd_lens.plot_simplex
]  # fmt: skip


# --- latents


def test_latents_have_a_panel_a_component_and_a_line_a_source(found, tmp_path):
    figure = mtd_lens.plot_latents(found, 0, data=tmp_path / "l.csv")
    table = pd.read_csv(tmp_path / "l.csv")
    assert legend_of(figure) == IN_ORDER
    assert [axes.get_title() for axes in figure.axes] == ["lag 1", "lag 2", "lag 3"]
    for index, axes in enumerate(figure.axes):
        for source, line in zip(IN_ORDER, axes.get_lines(), strict=True):
            values = found.analysis.latents[source][0, :, index]
            kept = values.isfinite()
            assert list(line.get_xdata()) == kept.nonzero()[:, 0].tolist()
            assert list(line.get_ydata()) == values[kept].tolist()
            rows = table.query("component == @axes.get_title() and source == @source")
            assert rows["position"].tolist() == list(line.get_xdata())
            assert rows["value"].tolist() == pytest.approx(list(line.get_ydata()), rel=1e-14)
        assert axes.get_xlabel() == "query position (tokens)"
        assert axes.get_ylim() == (-0.03, 1.03)
    assert len(table) == 3 * (6 * 9 - 1)
    title = figure.get_suptitle()
    assert all(words in title for words in ("m on t", "sequence 0", "seed 7", "β 9"))


def test_models_are_in_colour_and_the_rest_is_neutral(found):
    [axes, *_] = mtd_lens.plot_latents(found).axes
    for source, line in zip(IN_ORDER, axes.get_lines(), strict=True):
        colour = to_rgba(line.get_color())
        assert (colour[:3] == to_rgba(style.INK)[:3]) == (source != "model")
        assert (line.get_marker() in ("o",)) == (source == "model")
        assert (colour[3] == 1) == (source in ("model", "truth"))


def test_missing_sources_and_many_components(found):
    latents = {
        "one step": torch.full((N_SEQUENCES, LENGTH, 5), 0.2),
        "model": torch.full((N_SEQUENCES, LENGTH, 5), torch.nan),
    }
    names = tuple(f"lag {lag}" for lag in range(1, 6))
    figure = mtd_lens.plot_latents(changed(found, components=names, latents=latents), 1)
    assert legend_of(figure) == ["one step"]
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == list(names)
    assert [bool(axes.get_xlabel()) for axes in visible] == [False, False, False, True, True]


# --- predictions


def test_predictions_stand_beside_each_other(found, tmp_path):
    figure = mtd_lens.plot_predictions(found, 1, -2, data=tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    [axes] = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list("abcde")
    assert legend_of(figure) == IN_ORDER
    places = []
    for source, line in zip(IN_ORDER, axes.get_lines(), strict=True):
        expected = found.analysis.predictions[source][1, LENGTH - 2].tolist()
        assert list(line.get_ydata()) == expected
        rows = table.query("source == @source")
        assert rows["probability"].tolist() == pytest.approx(expected, rel=1e-14)
        assert rows["outcome"].tolist() == list("abcde")
        places += list(line.get_xdata())
    assert len(set(np.round(places, 6))) == len(places)
    assert set(table["position"]) == {LENGTH - 2}
    title = figure.get_suptitle()
    words = " ".join("abcde"[token] for token in found.tokens[1, : LENGTH - 1][-6:])
    assert f"after position {LENGTH - 2} of sequence 1" in title
    assert f"… {words}" in title


def test_of_many_outcomes_the_likeliest_are_drawn(found):
    values = torch.full((N_SEQUENCES, LENGTH, 40), 0.01)
    values[..., 39] = 0.61
    many = changed(found, predictions={"model": values})
    many = replace(many, token_names=tuple(f"w{n}" for n in range(40)))
    names = [t.get_text() for t in mtd_lens.plot_predictions(many).axes[0].get_xticklabels()]
    assert len(names) == 24
    assert names[-1] == "w39"


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("position", [LENGTH, -LENGTH - 1, 1.5, None, True])
def test_positions_that_are_not_there(found, position):
    with pytest.raises(mtd_lens.ArgumentError, match="position must be an integer from -12 to 11"):
        mtd_lens.plot_predictions(found, 0, position)


def test_before_the_first_query_nothing_is_predicted(found):
    with pytest.raises(mtd_lens.ArgumentError, match=r"follows position 2 of sequence 0. Choose"):
        mtd_lens.plot_predictions(found, 0, 2)


# --- the simplex


def test_corners_map_to_corners():
    assert torch.equal(
        in_plane(torch.eye(3, dtype=torch.float64)), torch.tensor(CORNERS, dtype=torch.float64)
    )
    assert in_plane(torch.full((3,), 1 / 3)).tolist() == pytest.approx([0.5, math.sqrt(3) / 6])
    sides = torch.tensor(CORNERS).roll(1, 0) - torch.tensor(CORNERS)
    assert sides.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_paths_of_the_simplex(found, tmp_path):
    figure = mtd_lens.plot_simplex(found, 0, data=tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv")
    [axes] = figure.axes
    corners = {t.get_text(): t for t in axes.texts if t.get_text().startswith("lag")}
    for corner, name in zip(CORNERS, ("lag 1", "lag 2", "lag 3"), strict=True):
        assert math.dist(corners[name].get_position(), corner) == pytest.approx(0.06, abs=1e-6)
    assert legend_of(figure) == IN_ORDER
    paths = [line for line in axes.get_lines() if len(line.get_xdata()) == LENGTH]
    for source, line in zip([s for s in IN_ORDER if s != "truth"], paths, strict=True):
        expected = in_plane(found.analysis.latents[source][0])
        drawn = torch.tensor(np.stack([line.get_xdata(), line.get_ydata()], -1))
        assert torch.equal(drawn.isnan(), expected.isnan())  # gaps, not bridges
        assert torch.equal(drawn.nan_to_num(), expected.nan_to_num())
        rows = table.query("source == @source")
        kept = expected.isfinite().all(-1)
        assert rows["position"].tolist() == kept.nonzero()[:, 0].tolist()
        assert rows[["x", "y"]].to_numpy() == pytest.approx(expected[kept].numpy(), rel=1e-12)
        assert rows[["lag 1", "lag 2", "lag 3"]].sum(axis=1).to_numpy() == pytest.approx(1)
    [star] = [line for line in axes.get_lines() if line.get_marker() == "*"]
    truth = in_plane(found.analysis.latents["truth"][0, -1]).tolist()
    assert [star.get_xdata()[0], star.get_ydata()[0]] == truth


def test_labels_of_the_grid_are_where_the_component_has_that_value(found):
    """Each stands beside the end of its line: nearly on a side, where its component is so large."""
    [axes] = mtd_lens.plot_simplex(found).axes
    inverse = torch.linalg.inv(torch.cat([torch.tensor(CORNERS), torch.ones(3, 1)], 1))
    labels = [text for text in axes.texts if text.get_text().startswith("0.")]
    assert len(labels) == 9
    for index, text in enumerate(labels):
        weights = torch.tensor([*text.get_position(), 1.0]) @ inverse
        assert float(weights[index // 3]) == pytest.approx(float(text.get_text()), abs=1e-5)
        assert float(weights.min()) == pytest.approx(-0.03, abs=0.01)


@pytest.mark.parametrize("n", [2, 4])
def test_the_simplex_is_for_three_components(found, n):
    other = changed(found, components=tuple(map(str, range(n))))
    with pytest.raises(mtd_lens.ArgumentError, match=rf"three components.*have {n}. Use plot_lat"):
        mtd_lens.plot_simplex(other)


# --- the scatter


def test_scatter_of_a_head_that_is_the_pattern(found, tmp_path):
    figure = mtd_lens.plot_scatter(found, data=tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv")
    assert [axes.get_title(loc="left").splitlines()[0] for axes in figure.axes] == [
        "band", "average", "mixture weights",
    ]  # fmt: skip
    title = figure.axes[0].get_title(loc="left")
    n = N_SEQUENCES * (LENGTH - ORDER) * ORDER
    assert title.splitlines()[1:] == ["attention of layer 2, nearest heads", f"R² = 1.000, n = {n}"]
    rows = table.query("panel == 'band'")
    assert len(rows) == n
    assert (rows["algorithm_value"] == rows["model_value"]).all()
    assert set(rows["head"]) == {1}
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["0", "1", "2"]
    assert figure.axes[0].get_legend().get_title().get_text() == "query − key"


def test_scatter_points_one_by_one(found, tmp_path):
    figure = mtd_lens.plot_scatter(found, data=tmp_path / "s.csv")
    exactly = {"algorithm_value": float, "model_value": float}
    table = pd.read_csv(tmp_path / "s.csv", converters=exactly)
    pattern = found.analysis.patterns[1]
    rows = table.query("panel == 'average'")
    layer = int(rows["layer"].iloc[0])
    distances = found.distances(pattern)[:, 0].nanmean(-1)
    assert layer == int(distances.argmin())
    expected = {
        (s, q, k): (float(pattern.values[s, q, k]), float(found.attention[layer, 0, s, q, k]))
        for s in range(N_SEQUENCES)
        for q in range(ORDER, LENGTH)
        for k in range(ORDER, q + 1)
    }
    columns = ["sequence", "query", "key", "algorithm_value", "model_value"]
    got = {tuple(map(int, row[:3])): tuple(row[3:]) for row in rows[columns].to_numpy()}
    assert set(got) == set(expected)
    for place, values in expected.items():
        assert got[place] == pytest.approx(values, rel=1e-6)
    drawn = np.concatenate([c.get_offsets() for c in figure.axes[1].collections])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, rows[columns[3:]].to_numpy()))


def test_scatter_of_the_latent_leaves_out_what_is_undefined(found, tmp_path):
    figure = mtd_lens.plot_scatter(found, data=tmp_path / "s.csv")
    rows = pd.read_csv(tmp_path / "s.csv").query("panel == 'mixture weights'")
    assert len(rows) == 3 * (N_SEQUENCES * (LENGTH - ORDER) - 1)
    one, model = rows["algorithm_value"], rows["model_value"]
    r_squared = 1 - ((one - model) ** 2).sum() / ((one - one.mean()) ** 2).sum()
    assert f"R² = {r_squared:.3f}".replace("-", "−") in figure.axes[2].get_title(loc="left")
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == ["lag 1", "lag 2", "lag 3"]


def test_scatter_without_a_latent_or_without_spread(found):
    flat = AnalyticPattern("flat", "x", torch.full((N_SEQUENCES, LENGTH, LENGTH), 1 / LENGTH))
    bare = changed(found, patterns=(flat,), latents={"model": found.analysis.latents["model"]})
    bare = replace(bare, nearest_heads={"flat": found.nearest_heads["band"]})
    [axes] = mtd_lens.plot_scatter(bare).axes
    assert "R² not defined" in axes.get_title(loc="left")
    nothing = changed(bare, patterns=())
    with pytest.raises(mtd_lens.ArgumentError, match=r"no value to compare.*Inspect longer"):
        mtd_lens.plot_scatter(nothing)


# --- all of them


@pytest.mark.parametrize("draw", FUNCTIONS, ids=lambda draw: draw.__name__)
def test_files_of_every_ending(found, tmp_path, draw):
    draw(found, path=tmp_path / "f.png", data=tmp_path / "f.CSV")
    draw(found, path=str(tmp_path / "f.svg"))
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "f.svg").getroot().tag.endswith("svg")
    table = pd.read_csv(tmp_path / "f.CSV")
    assert list(table.columns[:3]) == ["model", "task", "seed"]
    assert set(table["task"]) == {"t"}
    assert "Unnamed: 0" not in table


@pytest.mark.parametrize("draw", FUNCTIONS, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"path": "f.pdf"}, mtd_lens.ArgumentError, r"\.png or \.svg; got 'f.pdf'"),
        ({"data": "f.json"}, mtd_lens.ArgumentError, r"\.csv; got 'f.json'"),
        ({"data": "/no/such/f.csv"}, mtd_lens.OutputPathError, "there is no folder"),
    ],
)
def test_endings_that_cannot_be_written(found, draw, files, error, message):
    with pytest.raises(error, match=message):
        draw(found, **files)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("draw", FUNCTIONS, ids=lambda draw: draw.__name__)
def test_what_is_no_inspection(found, draw):
    for given in (None, "x", found.analysis):
        with pytest.raises(mtd_lens.ArgumentError, match=r"mtd_lens\.inspect returned; got a"):
            draw(given)
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"'t/m' has no analysis.*`analyse`; see mtd_lens"
    ):
        draw(replace(found, analysis=None, nearest_heads={}))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("draw", FUNCTIONS[1:], ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("sequence", [2, -1, 0.5, "0", True])
def test_sequences_that_are_not_there(found, draw, sequence):
    with pytest.raises(mtd_lens.ArgumentError, match="sequence must be an integer from 0 to 1"):
        draw(found, sequence)


@pytest.mark.parametrize("draw", [mtd_lens.plot_latents, mtd_lens.plot_simplex])
def test_nothing_defined(found, draw):
    undefined = torch.full((N_SEQUENCES, LENGTH, 3), torch.nan)
    with pytest.raises(mtd_lens.ArgumentError, match="no source says anything of the mixture w"):
        draw(changed(found, latents={"model": undefined}), 1)


def test_svg_of_two_sequences_on_one_page(found):
    texts = [plots.svg_text(mtd_lens.plot_latents(found, sequence)) for sequence in (0, 1)]
    page = ElementTree.fromstring(f"<div>{''.join(texts)}</div>")
    ids = [node.get("id") for node in page.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) > 0
    assert all("currentColor" in text and style.INK not in text for text in texts)


@pytest.mark.parametrize("draw", FUNCTIONS, ids=lambda draw: draw.__name__)
def test_names_are_shown_as_they_are(found, draw):
    hostile = replace(found, model="<b>$\\frac$</b>", token_names=("$", "<i>", "$\\bad$", "%", "_"))
    hostile = changed(hostile, latent="$_$", components=("a$^$", "b$", "</svg>"))
    root = ElementTree.fromstring(plots.svg_text(draw(hostile)))
    words = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    words += [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}tspan")]
    assert any("<b>$\\frac$</b>" in text for text in words)


def test_a_model_under_the_lens(task):
    """A construction lies on the line of equality in every panel."""
    inspection = mtd_lens.inspect(mtd_lens.construct(task, beta=6.0), n_sequences=2)
    figure = mtd_lens.plot_scatter(inspection)
    assert len(figure.axes) == 4
    assert all("R² = 1.000" in axes.get_title(loc="left") for axes in figure.axes)
    assert legend_of(mtd_lens.plot_simplex(inspection)) == IN_ORDER[:5]
