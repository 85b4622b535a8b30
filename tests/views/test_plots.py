"""The figure: what it draws, how its axes are labelled, and that its file is written whole."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest

import mtd_lens
from mtd_lens.views import plots
from mtd_lens.views.plots import style


@pytest.fixture(scope="module")
def compared():
    """Two models on one task; lengths out of order on purpose."""
    return [
        mtd_lens.compare(
            mtd_lens.load_model(f"mtd-q3-m2-t32/{variant}"), lengths=[8, 32, 16], n_sequences=64
        )
        for variant in ("constructed-absolute", "random-absolute")
    ]


def _labels(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def _line(figure, label):
    [line] = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return line


def _row(comparison, name):
    order = sorted(range(len(comparison.lengths)), key=lambda index: comparison.lengths[index])
    return [next(e for e in comparison.rows[i] if e.name == name) for i in order]


def test_lines_are_the_numbers_of_the_comparison_in_order_of_length(compared):
    figure = mtd_lens.plot_comparisons(compared)
    names = {
        "constructed-absolute": (compared[0], "model"),
        "random-absolute": (compared[1], "model"),
        **{name: (compared[0], name) for name in compared[0].drawn},
    }
    assert set(_labels(figure)) == set(names)
    for label, (comparison, name) in names.items():
        line = _line(figure, label)
        assert list(line.get_xdata()) == [8, 16, 32]
        assert list(line.get_ydata()) == [entry.divergence for entry in _row(comparison, name)]


def test_data_are_what_the_lines_show(compared, tmp_path):
    path = tmp_path / "lines.csv"
    figure = mtd_lens.plot_comparisons(compared, data=path)
    table = pd.read_csv(path)
    for name, lines in table.groupby(table["model"].fillna(table["source"])):
        line = _line(figure, name.removeprefix("mtd-q3-m2-t32/"))
        assert lines["length"].tolist() == list(line.get_xdata())
        assert lines["divergence"].tolist() == pytest.approx(list(line.get_ydata()), rel=1e-14)
    assert len(table) == 3 * (len(compared[0].drawn) + 2)
    assert set(table["task"]) == {"mtd-q3-m2-t32"}
    assert set(table["seed"]) == {0}
    assert (table["low"] <= table["divergence"]).all()
    assert list(tmp_path.iterdir()) == [path]


def test_bands_are_the_models_intervals(compared):
    axes = mtd_lens.plot_comparisons(compared).axes[0]
    assert len(axes.collections) == 2
    for band, comparison in zip(axes.collections, compared, strict=True):
        heights = {round(float(y), 12) for _, y in band.get_paths()[0].vertices}
        ends = {
            round(value, 12)
            for entry in _row(comparison, "model")
            for value in (entry.low, entry.high)
        }
        assert heights == ends


def test_axes_title_and_legend(compared):
    figure = compared[0].plot()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "KL(truth ‖ prediction), nats"
    assert axes.get_xlabel() == "context length T (tokens)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8", "16", "32"]
    shown = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    assert len(shown) >= 2
    title = axes.get_title(loc="left")
    assert "mtd-q3-m2-t32" in title
    assert "64 sequences" in title
    assert "seed 0" in title
    # from the highest line at the longest context down, and beside the axes, not over them
    heights = [_line(figure, label).get_ydata()[-1] for label in _labels(figure)]
    assert heights == sorted(heights, reverse=True)
    legend, area = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.x0 > area.x1
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0


def test_chosen_estimators(compared):
    names = [entry.name for entry in compared[0].rows[0] if entry.name != "model"]
    figure = mtd_lens.plot_comparisons(compared, estimators=names)
    assert set(_labels(figure)) == {*names, "constructed-absolute", "random-absolute"}
    styles = {
        (line.get_color(), str(line._unscaled_dash_pattern), line.get_marker())
        for line in figure.axes[0].get_lines()
    }
    assert len(styles) == len(names) + 2  # no two lines look the same
    assert set(_labels(mtd_lens.plot_comparisons(compared[:1], estimators=[]))) == {
        "constructed-absolute"
    }
    with pytest.raises(mtd_lens.UnknownNameError, match=r"'one stp'.*one step"):
        mtd_lens.plot_comparisons(compared, estimators=["one stp"])
    with pytest.raises(mtd_lens.ArgumentError, match=r"must list names.*got 'uniform'"):
        mtd_lens.plot_comparisons(compared, estimators="uniform")


def test_one_length_has_points_and_bars(compared):
    single = replace(compared[0], lengths=(8,), rows=compared[0].rows[:1])
    figure = single.plot()
    [bar] = figure.axes[0].collections
    entry = _row(single, "model")[0]
    assert bar.get_segments()[0].tolist() == [[8, entry.low], [8, entry.high]]
    assert all(line.get_marker() not in ("", "None") for line in figure.axes[0].get_lines())


def test_a_family_of_other_estimators_has_them_all_drawn(compared):
    rows = tuple(
        tuple(replace(e, name="other") for e in row if e.name == "uniform")
        + tuple(e for e in row if e.name == "model")
        for row in compared[0].rows
    )
    figure = replace(compared[0], rows=rows, divergence="squared error").plot()
    assert set(_labels(figure)) == {"other", "constructed-absolute"}
    assert figure.axes[0].get_ylabel() == "squared error from the truth"


@pytest.mark.parametrize(
    ("model", "shown", "label"),
    [
        (
            "ngram-q3-s12-t32/constructed-absolute",
            {"uniform", "kernel", "maximum likelihood", "exact Bayes"},
            "KL(truth ‖ prediction), nats",
        ),
        (
            "ar-d3-t16/constructed-one-step",
            {"zero", "one step", "2 steps", "4 steps, free"},
            "squared error from the truth",
        ),
    ],
)
def test_each_family_has_its_own_estimators_drawn(model, shown, label):
    comparison = mtd_lens.compare(mtd_lens.load_model(model), lengths=[8, 16], n_sequences=64)
    figure = comparison.plot()
    assert set(_labels(figure)) == {*shown, model.partition("/")[2]}
    assert figure.axes[0].get_ylabel() == label
    fewer = tuple(
        tuple(entry for entry in row if entry.name not in ("exact Bayes", "2 steps"))
        for row in comparison.rows
    )
    left = set(_labels(replace(comparison, rows=fewer).plot()))
    assert left == {*shown, model.partition("/")[2]} - {"exact Bayes", "2 steps"}


def test_files_are_written_whole(compared, tmp_path, monkeypatch):
    png, svg = tmp_path / "figure.PNG", tmp_path / "figure.svg"
    compared[0].plot(png)
    mtd_lens.plot_comparisons(compared, str(svg))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.read_bytes().rstrip().endswith(b"IEND\xaeB`\x82")
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"

    before = png.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(mtd_lens.OutputPathError, match="disk full"):
        compared[1].plot(png)
    assert png.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.PNG", "figure.svg"]


def test_paths_are_refused_before_drawing(compared, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mtd_lens.views.plots.comparisons._draw", lambda *arguments: pytest.fail("drawn")
    )
    with pytest.raises(mtd_lens.ArgumentError, match=r"\.png or \.svg; got 'figure.pdf'"):
        compared[0].plot(tmp_path / "figure.pdf")
    with pytest.raises(mtd_lens.OutputPathError, match="no folder"):
        compared[0].plot(tmp_path / "missing" / "figure.png")
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"as \.csv; got 'figure.png'. Change its ending"
    ):
        mtd_lens.plot_comparisons(compared, data=tmp_path / "figure.png")
    with pytest.raises(mtd_lens.OutputPathError, match="no folder"):
        mtd_lens.plot_comparisons(compared, data=tmp_path / "missing" / "figure.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "mtd-q5-m3-t32"}, "share their task.*'mtd-q3-m2-t32'.*'mtd-q5-m3-t32'"),
        ({"lengths": (8, 32, 17)}, r"share their lengths.*\(8, 32, 16\).*\(8, 32, 17\)"),
        ({"n_sequences": 65}, "share their n_sequences.*64.*65"),
        ({"seed": 1}, "share their seed.* 0.* 1"),
        ({"divergence": "squared error"}, "share their divergence.*squared error"),
        ({"model": "mtd-q3-m2-t32/constructed-absolute"}, "two comparisons.*name for each"),
    ],
)
def test_comparisons_that_cannot_share_a_figure(compared, change, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        mtd_lens.plot_comparisons([compared[0], replace(compared[1], **change)])


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to draw"),
        (["figure"], "results of compare; got "),
        (5, "results of compare; got 5"),
    ],
)
def test_what_cannot_be_drawn(given, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        mtd_lens.plot_comparisons(given)


def test_the_table_lists_fitted_step_sizes_below_the_divergences(compared):
    text = str(compared[0])
    above, below = text.split("Fitted at each length")
    assert "η" not in above
    [row] = [line for line in below.splitlines() if "3 steps, free" in line]
    cells = [cell for cell in row.split("  ") if cell.strip()]
    assert len(cells) == 5
    for cell, entries in zip(cells[2:], compared[0].rows, strict=True):
        [entry] = [entry for entry in entries if entry.name == "3 steps, free"]
        assert len(cell.split(", ")) == 3
        size = entry.parameters["step_size_1"]
        assert cell.split(", ")[0].strip().rstrip("*") == (
            f"{size:.2g}" if size >= 0.001 else "<0.001"
        )
    assert "3 steps, free" in compared[0]._repr_html_().split("Fitted at each length")[1]
    flagged = replace(
        compared[0].rows[0][1], parameters={"step_size": 0.5, "step_size_at_bound": 1.0}
    )
    marked = replace(compared[0], lengths=(8,), rows=((flagged,),))
    assert "0.5*" in str(marked)
    assert "* at the end of its range" in str(marked)


def test_neither_pyplot_nor_matplotlib_is_imported_before_a_figure_is_asked_for():
    code = (
        "import sys, mtd_lens; from mtd_lens.views import plots; plots.check_figure_path('f.svg');"
        "assert 'torch' not in sys.modules, 'torch';"
        "[getattr(plots, name) for name in plots.__all__]; mtd_lens.compare;"
        "assert not any(name.startswith('matplotlib') for name in sys.modules), 'early';"
        "plots.svg_text(plots.plot_attention({'a': [[1.0]]}));"
        "assert 'matplotlib.figure' in sys.modules;"
        "assert not {'matplotlib.pyplot', 'pandas'} & set(sys.modules), 'never needed'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def _results(scores):
    return [{"score": s, "low": s - 0.05, "high": s + 0.05, "threshold": 0.8} for s in scores]


def test_training_draws_a_panel_a_variable_and_a_line_a_test(tmp_path):
    claims = {
        "weights.probe": _results([0.1, 0.5, 0.9]),
        "weights.interchange": _results([-7.0, 0.2, 0.95]),
        "prediction.estimator": _results([0.0, 0.4, 0.9]),
    }
    files = {"path": tmp_path / "t.svg", "data": tmp_path / "t.csv"}
    figure = mtd_lens.plot_training([10, 20, 40], claims, title="a run", **files)
    assert [axes.get_title() for axes in figure.axes] == ["weights", "prediction"]
    assert all(axes.get_xlabel() == "step" for axes in figure.axes)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["probe"].get_ydata()) == [0.1, 0.5, 0.9]
    assert list(lines["interchange"].get_ydata()) == [plots.LOWEST_SCORE, 0.2, 0.95]
    assert ElementTree.parse(tmp_path / "t.svg").getroot().tag.endswith("svg")
    table = pd.read_csv(tmp_path / "t.csv")
    assert table.query("claim == 'weights.interchange'")["score"].tolist() == [-7.0, 0.2, 0.95]
    assert table["step"].tolist() == [10, 20, 40] * 3
    with pytest.raises(mtd_lens.ArgumentError, match="as many results a claim"):
        mtd_lens.plot_training([10, 20], claims)


def test_attention_draws_every_layer_of_every_model(tmp_path):
    patterns = {"deep": [[0.2, 0.8], [0.5, 0.5]], "shallow": [[1.0, 0.0]]}
    figure = mtd_lens.plot_attention(patterns, tmp_path / "a.png", data=tmp_path / "a.csv")
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert [[bar.get_height() for bar in axes.patches] for axes in drawn] == [
        [0.2, 0.8],
        [0.5, 0.5],
        [1.0, 0.0],
    ]
    assert (tmp_path / "a.png").stat().st_size > 1000
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["attention"].tolist() == [0.2, 0.8, 0.5, 0.5, 1.0, 0.0]
    assert table["layer"].tolist() == [0, 0, 1, 1, 0, 0]
    with pytest.raises(mtd_lens.ArgumentError, match="at least one model"):
        mtd_lens.plot_attention({})


def test_a_comparison_comes_back_from_its_data(compared):
    again = mtd_lens.Comparison.from_dict(compared[0].to_dict())
    assert again.to_dict() == compared[0].to_dict()
    with pytest.raises(mtd_lens.ArgumentError, match=r"what Comparison\.to_dict returns"):
        mtd_lens.Comparison.from_dict({"model": "x"})


def test_svg_for_a_page():
    """Alone it is well-formed; beside another no id is twice there."""
    one, two = ({"a": [[0.25, 0.75]]}, {"a": [[0.5, 0.5]]})
    texts = [plots.svg_text(mtd_lens.plot_attention(patterns)) for patterns in (one, two, one)]
    assert texts[0] == texts[2]
    root = ElementTree.fromstring(texts[0])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert texts[0].startswith("<svg")
    assert "metadata" not in texts[0]
    assert "<style" not in texts[0]  # it would hold for the whole page
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "key position (tokens)" in words
    assert "currentColor" in texts[0]
    assert style.INK not in texts[0]
    assert not re.search("#(fff|000)", texts[0])  # neither white boxes nor black ink
    ids = [re.findall(r' id="([^"]*)"', text) for text in texts]
    assert not set(ids[0]) & set(ids[1])
    assert len(set(ids[0])) == len(ids[0])
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', texts[0])) == set(ids[0])
    assert len(texts[0]) < 20_000


def test_the_users_own_style_changes_no_colour():
    from matplotlib import rc_context

    plain = plots.svg_text(mtd_lens.plot_attention({"a": [[1.0]]}))
    colours = dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color"), "white")
    with rc_context(colours | {"axes.facecolor": "black"}):
        figure = mtd_lens.plot_attention({"a": [[1.0]]})
        assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)
        assert plots.svg_text(figure) == plain
