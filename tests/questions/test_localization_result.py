"""What a localization says: numbers, JSON, tables, figure, command."""

import json
import sys

import pytest
from stored import stored
from test_localization import TASKS, VARIABLES

import mtd_lens
from mtd_lens import cli
from mtd_lens.results.forms import figure
from mtd_lens.results.localization import Localization
from mtd_lens.results.places import Finding, Place


@pytest.fixture(scope="module")
def found():
    return mtd_lens.localize(mtd_lens.construct(TASKS["m3"]), n_sequences=128)


def test_the_numbers_of_every_site_are_there(found):
    kinds = [(VARIABLES[0], "z", False)]
    kinds += [(VARIABLES[1], "z", given) for given in (False, True)]
    kinds += [(VARIABLES[2], "pattern", given) for given in (False, True)]
    sites = [
        (e.variable, e.place.kind, e.given_query, e.place.layer, e.place.head) for e in found.sites
    ]
    expected = {(*kind, layer, head) for kind in kinds for layer in range(3) for head in range(3)}
    assert set(sites) == expected
    assert len(sites) == 45
    assert all(e.low <= e.score <= e.high for e in found.sites)
    assert all(0 < e.p_value <= e.adjusted_p_value <= 1 for e in found.sites)
    assert all(e.significant == (e.adjusted_p_value < found.level) for e in found.sites)
    assert len(found.probes) == 3 * 3 * 5  # three heads, attn_out and resid_post in each layer
    best = max((e for e in found.probes if e.variable == "responsibilities"), key=lambda e: e.score)
    assert best.place.kind in ("attn_out", "resid_post")
    assert best.selectivity > 0.8
    finding = found["responsibilities"]
    assert finding.where == "positions 3 to 18"
    assert finding.probed == "positions 3 to 18"
    assert finding.pairs == 64
    idle = finding.unswapped
    assert idle < -0.5
    assert finding.wrong.high < 0
    assert finding.whole_layers == pytest.approx((1.0, idle, idle), abs=1e-3)
    with pytest.raises(mtd_lens.UnknownNameError, match=r"'mixture'.*mixture_weights"):
        found.given_query("mixture")
    with pytest.raises(mtd_lens.UnknownNameError, match=r"'mixture'.*mixture_weights"):
        found["mixture"]


def test_json_round_trip(found, tmp_path):
    text = found.to_json(tmp_path / "l.json")
    assert (tmp_path / "l.json").read_text() == text
    data = json.loads(text)
    assert Localization.from_dict(data) == found
    assert data["order"]["carried_in_order"] is True
    assert data["parameters"]["beta"] > 0
    assert {"p_value", "adjusted_p_value", "low", "high"} <= set(data["sites"][0])
    assert data["floor"] == 0.1
    with pytest.raises(mtd_lens.ArgumentError, match=r"Localization.to_dict returns.*findings"):
        Localization.from_dict({key: data[key] for key in data if key != "findings"})


def test_text_and_html(found):
    text = str(found)
    assert text.startswith("m3/constructed-absolute   against one step   β")
    assert "L0H0 z, L0H1 z, L0H2 z" in text
    assert "1.00*+" in text
    assert "mean_responsibility, given the query" in text
    assert "Order of the found sets: causal" in text
    assert "no better than without a look at the source" in text
    line = repr(found)
    assert "\n" not in line
    assert "mixture_weights in L2H0 pattern" in line
    page = found._repr_html_()
    assert page.count("<table>") == 4
    hostile = Localization(**{**vars(found), "model": "<script>"})
    assert "<script>" not in hostile._repr_html_()


def test_what_is_lost_in_rounding_is_not_read(found):
    """Layer 1's resting heads hold the mean responsibility too, some 33 orders too faintly."""
    served = (TASKS["m3"].seq_len - 1) % 3
    for entry in found.probes:
        place = entry.place
        if entry.variable == "mean_responsibility" and (place.layer, place.kind) == (1, "z"):
            assert (entry.score > 0.9) == (place.head == served)


def _with_places(found, **changed):
    findings = [
        Finding(**{**vars(f), "places": changed.get(f.variable, f.places)}) for f in found.findings
    ]
    return Localization(**{**vars(found), "findings": tuple(findings)})


def test_order_is_that_of_what_can_follow_from_what(found):
    side_by_side = _with_places(found, mean_responsibility=(Place(0, "z", 0),))
    assert side_by_side.carried_in_order is False
    assert "not causal" in str(side_by_side)
    after = _with_places(found, mean_responsibility=(Place(0, "mlp_out"),))
    assert after.carried_in_order is True


def test_the_figure_is_not_blank_and_says_what_was_found(found, tmp_path):
    drawn = found.plot(tmp_path / "f.png")
    panels = drawn.axes[:10]
    texts = [text.get_text() for axes in panels for text in axes.texts]
    assert sum(text.endswith("*") for text in texts) == sum(e.significant for e in found.sites)
    outlines = [p for axes in panels for p in axes.patches if not p.get_fill()]
    assert len(outlines) == 3 + 2 + 2
    assert "given the query: found" in panels[4].get_title(loc="left")
    assert "responsibilities: found, F = 1.00" in panels[0].get_title(loc="left")
    assert "L0H0+1+2 z" in panels[0].get_title(loc="left")
    headings = [text.get_text() for text in drawn.texts]
    assert any("constructed-absolute" in text and "of m3" in text for text in headings)
    assert any(text.startswith("At which sites does swapping") for text in headings)
    from matplotlib.image import imread

    pixels = imread(tmp_path / "f.png")[..., :3]
    assert pixels.min() < 0.2
    assert pixels.std() > 0.05
    with pytest.raises(mtd_lens.ArgumentError, match=r"written as \.png or \.svg"):
        found.plot(tmp_path / "f.pdf")


def test_cells_are_white_where_a_swap_does_nothing_and_red_where_it_harms(found):
    idle = found.findings[0].unswapped
    scores = iter([idle, idle / 2, 0.0, 0.5, 1.0, 2 * idle, -7.0, 1.0, 1.0])
    sites = [type(e)(**{**vars(e), "score": next(scores, 1.0)}) for e in found.sites]
    axes = Localization(**{**vars(found), "sites": tuple(sites)}).plot().axes[0]
    texts = [text.get_text().rstrip("*") for text in axes.texts]
    assert texts[:9] == [figure(entry.score, 2) for entry in sites[:9]]
    assert "-7.00" in texts
    red, _, blue = zip(*(p.get_facecolor()[:3] for p in axes.patches if p.get_fill()), strict=True)
    assert red[0] == pytest.approx(blue[0], abs=0.01)
    assert list(red[:5]) == sorted(red[:5], reverse=True)
    assert red[4] < red[3] < red[2] < red[1] < red[0]
    assert blue[5] < red[5]
    assert blue[6] < red[6]


def test_colour_bars_are_clear_of_titles(not_found):
    drawn = not_found.plot()
    renderer = drawn._get_renderer()
    drawn.draw(renderer)
    *panels, one, other = drawn.axes
    titles = [axes._left_title for axes in panels if axes.get_title(loc="left")]
    boxes = [title.get_window_extent(renderer) for title in titles]
    assert len(boxes) == len(panels)
    for bar in (one, other):
        extent = bar.get_tightbbox(renderer)
        assert not any(extent.overlaps(box) for box in boxes)
        assert not any(extent.overlaps(axes.get_window_extent(renderer)) for axes in panels)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(rest) for rest in boxes[index + 1 :])


@pytest.fixture(scope="module")
def not_found():
    random = mtd_lens.hooked.randomized(mtd_lens.construct(TASKS["m3"]), 0, "null")
    return mtd_lens.localize(random, n_sequences=64)


def test_a_set_that_was_not_found_is_not_listed_as_one(not_found):
    finding = not_found["mean_responsibility"]
    assert finding.verdict == "not_found"
    assert finding.places == ()
    assert len(finding.tried) > 0
    assert "no higher than" in finding.reason
    text = str(not_found)
    assert f"no set found; best tried: {', '.join(map(str, finding.tried))} (" in text
    assert f"({figure(finding.score)} [" in text
    assert "mean_responsibility: not found, since the interval reaches no higher" in text
    assert "no set found; best tried" in not_found._repr_html_()
    assert "smallest set" in text
    assert not any(not_found.in_set(entry) for entry in not_found.sites)
    panel = not_found.plot().axes[2]
    assert "NO SET FOUND\nbest tried" in panel.get_title(loc="left")
    outlines = [p for p in panel.patches if not p.get_fill()]
    assert {p.get_linestyle() for p in outlines} == {"dotted"}
    data = json.loads(not_found.to_json())
    written = next(f for f in data["findings"] if f["variable"] == "mean_responsibility")
    assert (written["places"], len(written["tried"])) == ([], len(finding.tried))
    assert Localization.from_dict(data) == not_found
    listed = [{**f, "places": f["tried"]} for f in data["findings"]]
    with pytest.raises(mtd_lens.ArgumentError, match="empty where none was found"):
        Localization.from_dict({**data, "findings": listed})


def test_what_cannot_be_asked_keeps_its_reason(found):
    reason = "only 3 of 32 sequences have a source that can share the query's last 3 tokens"
    findings = [
        Finding(f.variable, "not_applicable", given_query=True, reason=reason)
        if f.given_query
        else f
        for f in found.findings
    ]
    sites = [entry for entry in found.sites if not entry.given_query]
    kept = Localization(**{**vars(found), "findings": tuple(findings), "sites": tuple(sites)})
    assert Localization.from_dict(json.loads(kept.to_json())) == kept
    assert f"given the query: not applicable, since {reason}" in str(kept)
    title = kept.plot().axes[4].get_title(loc="left")
    assert "not applicable" in title
    assert "only 3 of 32" in title


def test_older_results_are_read_and_shown_as_they_were():
    """Their scores are over base runs, and they list sets that were not found."""
    old = stored("Localization")
    assert not old.over_blind
    assert "blind F" in str(old)
    assert "F is 0 where swapping has no effect" in str(old)
    data = old.to_dict()
    for finding in data["findings"]:
        finding["verdict"] = "not_found"
        del finding["tried"]
    again = Localization.from_dict(data)
    assert [f.tried for f in again.findings] == [f.places for f in old.findings]
    assert not any(f.places for f in again.findings)
    headings = [text.get_text() for text in again.plot().figure.texts]
    assert any("0: no effect" in text for text in headings)


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mtd-lens", "localize", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_the_command_prints_and_writes(capsys, monkeypatch, tmp_path):
    files = [tmp_path / "l.json", tmp_path / "l.png"]
    status, out, err = run(
        capsys,
        monkeypatch,
        *("mtd-q3-m2-t32/constructed-relative", "--sequences", "64", "--seed", "2"),
        *("--threshold", "0.9", "--json", str(files[0]), "--figure", str(files[1])),
    )
    assert status == 0
    assert "L1H0 z" in out
    assert all(str(path) in err and path.exists() for path in files)
    data = json.loads(files[0].read_text())
    assert (data["seed"], data["n_sequences"], data["threshold"]) == (2, 64, 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mtd-q3-m2-t32/constructed"], "no model is named"),
        (["no-model", "--figure", "f.docx"], "written as .png or .svg"),
        (["no-model", "--json", "/no/such/l.json"], "there is no folder"),
        (["mtd-q3-m2-t32/random-relative", "--threshold", "2"], "threshold"),
    ],
)
def test_the_command_refuses_at_once(capsys, monkeypatch, arguments, message):
    status, out, err = run(capsys, monkeypatch, *arguments)
    assert (status, out) == (2, "")
    assert message in err
