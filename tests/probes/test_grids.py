"""Labelled grids: identities, what is refused, round trips, and figures that show something."""

import dataclasses
import json
import re

import jaxtyping
import numpy as np
import pytest
import torch
from drawn import made_grid
from matplotlib import image

import mtd_lens
import probes
from probes.patching import grid as grids


@pytest.fixture
def _no_type_checker():
    """Users have none: what they get must be our own errors, not those of the tests' checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gap", [2.0, -2.0])
def test_base_has_no_effect_and_source_has_all(seed, gap):
    grid = made_grid(seed=seed, gap=gap)
    values = grid.values.clone()
    values[0, 0], values[1, 1] = grid.base, grid.source
    grid = made_grid(seed=seed, gap=gap, values=values)
    assert grid.normalized
    assert grid.effects[0, 0] == 0
    assert float(grid.effects[1, 1]) == pytest.approx(1)
    low, high = grid.intervals()
    assert [float(x[0, 0]) for x in (low, high)] == pytest.approx([0, 0], abs=1e-12)
    assert [float(x[1, 1]) for x in (low, high)] == pytest.approx([1, 1])
    assert ((low <= grid.effects) & (grid.effects <= high)).all()
    assert grid.p_values()[0, 0] == 1
    assert grid.shape == (3, 5)
    assert grid.n_sequences == 24
    assert grid.n_sites == 15


@pytest.mark.parametrize("seed", range(3))
def test_effects_equal_a_slow_loop(seed):
    grid, ablation = made_grid(seed=seed), made_grid(seed=seed, patched=False)
    assert not ablation.normalized
    for i, j in np.ndindex(3, 5):
        moved = float(sum(grid.values[i, j]) - sum(grid.base)) / 24
        whole = float(sum(grid.source) - sum(grid.base)) / 24
        assert float(grid.effects[i, j]) == pytest.approx(moved / whole)
        assert float(ablation.effects[i, j]) == pytest.approx(moved)
        assert float(grid.mean[i, j]) == pytest.approx(float(sum(grid.values[i, j])) / 24)
        slow = probes.one_minus_ratio(grid.source - grid.values[i, j], grid.source - grid.base, 3)
        low, high = (float(x[i, j]) for x in grid.intervals(seed=3))
        assert (low, high) == pytest.approx((slow.low, slow.high))
        slow = probes.mean_interval(grid.values[i, j] - grid.base, 3)
        low, high = (float(x[i, j]) for x in ablation.intervals(seed=3))
        assert (low, high) == pytest.approx((slow.low, slow.high))
    p = probes.sign_flip_p_values(grid.differences, seed=4)
    assert torch.equal(grid.p_values(seed=4), p)
    assert torch.equal(grid.adjusted("fdr_bh", seed=4), probes.adjust_p_values(p, "fdr_bh"))


def test_only_sites_with_an_effect_are_significant():
    share = torch.zeros(15, dtype=torch.float64)
    share[[3, 7]] = torch.tensor([0.8, -0.5], dtype=torch.float64)
    grid = made_grid(share=share)
    assert grid.significant().flatten().nonzero().flatten().tolist() == [3, 7]
    (first, effect), (second, _) = grid.top(2)
    assert (first, second) == ({"layer": 0, "position": 3}, {"layer": 1, "position": 2})
    assert effect == pytest.approx(0.8, abs=0.1)
    assert len(grid.top(100)) == 15


def test_holm_can_be_reached_among_many_sites():
    """10,000 flips alone could not: the smallest p times 2000 sites is 0.2."""
    axes = {"layer": range(4), "head": range(5), "position": range(100)}
    share = torch.zeros(2000, dtype=torch.float64)
    share[77] = 1.0
    grid = made_grid(axes, share=share)
    assert grids.N_FLIPS < 2000 / 0.05
    assert grid.significant().flatten()[77]
    assert int(grid.significant().sum()) <= 2


def test_p_of_two_stages_keeps_its_level(monkeypatch):
    """Without an effect, p <= t in a share t of the sites, below and above the screen."""
    monkeypatch.setattr(grids, "N_FLIPS", 199)
    monkeypatch.setattr(grids, "SCREEN", 0.1)
    monkeypatch.setattr(grids, "FLIPS_A_SITE", 1)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 20)))
    p = made_grid({"site": range(3000)}, 20, patched=False, values=values, base=torch.zeros(20))
    for level in (0.01, 0.05, 0.1, 0.3):
        error = (level * (1 - level) / 3000) ** 0.5
        assert abs(float((p.p_values() <= level).double().mean()) - level) < 4 * error


def test_a_gap_of_nothing_leaves_only_differences():
    grid = made_grid(gap=0.0)
    grid = made_grid(base=grid.base, source=grid.base.flip(0), values=grid.values)
    assert not grid.normalized
    for call in (lambda: grid.effects, grid.intervals, grid.top):
        with pytest.raises(probes.DataError, match=r"cannot be normalised.*Use \.differences"):
            call()
    assert torch.equal(grid.differences, grid.values - grid.base)
    with pytest.warns(UserWarning, match="no effects, but differences: logit difference .* differ"):
        table = grid.to_dataframe()
    assert table[["effect", "low", "high"]].isna().all(axis=None)
    assert table[["mean", "p", "p_holm"]].notna().all(axis=None)
    assert "difference of logit difference" in repr(grid)
    with pytest.warns(UserWarning, match="no effects, but differences"):
        assert grid.plot().axes[-1].get_ylabel().startswith("difference of")


def test_select():
    grid = made_grid({"layer": (0, 1, 2), "head": ("L0H0", "logits"), "position": range(5)})
    part = grid.select(layer=1, position=[4, 2])
    assert part.axes == {"layer": (1,), "head": ("L0H0", "logits"), "position": (4, 2)}
    assert torch.equal(part.values[0], grid.values[1][:, [4, 2]])
    assert torch.equal(part.base, grid.base)
    assert grid.select(head="logits").effects[2, 0, 3] == grid.effects[2, 1, 3]
    for wanted, message in (
        ({"layr": 1}, "no axis 'layr'.*layer"),
        ({"layer": 3}, "axis 'layer' has no label 3"),
        ({"head": "logit"}, "no label 'logit'.*logits"),
        ({"layer": []}, "at least one label"),
    ):
        with pytest.raises(probes.DataError, match=message):
            grid.select(**wanted)


def test_dataframe():
    grid = made_grid({"layer": (0, 1), "head": ("a", "b", "c")})
    table = grid.to_dataframe(seed=2)
    assert list(table) == ["layer", "head", "mean", "effect", "low", "high", "p", "p_holm"]
    row = table[(table.layer == 1) & (table["head"] == "a")].iloc[0]
    low, high = grid.intervals(2)
    expected = (grid.mean, grid.effects, low, high, grid.p_values(2), grid.adjusted("holm", 2))
    assert row[2:].tolist() == [float(figure[1, 0]) for figure in expected]


def test_dataframe_of_few_sequences():
    table = made_grid(n_sequences=5).to_dataframe()
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert table[["mean", "effect"]].notna().all(axis=None)
    with pytest.raises(probes.DataError, match="at least 16 sequences; got 5"):
        made_grid(n_sequences=5).intervals()
    assert made_grid(n_sequences=1).shape == (3, 5)


@pytest.mark.parametrize("patched", [True, False])
def test_round_trip(tmp_path, patched):
    grid = made_grid(
        {"layer": (0, 1), "to": ("logits", "L1H0")}, patched=patched, details={"seed": (1, 2)}
    )
    path = tmp_path / "grid.json"
    text = grid.to_json(path)
    assert json.loads(text)["shape"] == [2, 2]
    for back in (probes.Grid.from_json(path), probes.Grid.from_json(text)):
        for name, value in vars(grid).items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(getattr(back, name), value), name
        assert back.to_json() == text
    halves = made_grid(values=made_grid().values.float(), base=made_grid().base.float())
    assert torch.equal(probes.Grid.from_json(halves.to_json()).values, halves.values)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "what Grid.to_json writes: KeyError: 'shape'"),
        ("{", "what Grid.to_json writes: JSONDecodeError"),
        ("nowhere.json", "'nowhere.json' is not.*FileNotFoundError"),
        (5, "'5' is not"),
        (
            made_grid().to_json().replace('"shape": [3, 5]', '"shape": [5, 3]'),
            r"not \[5, 3\] as it",
        ),
        (made_grid().to_json().replace('"engine"', '"engin"'), "TypeError.*engin"),
    ],
)
def test_what_is_no_grid(text, message):
    with pytest.raises(probes.DataError, match=message):
        probes.Grid.from_json(text)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"values": torch.zeros(3, 4, 24)},
            r"\[layer, position, sequence\].*\(3, 5, 24\).*3, 4, 24",
        ),
        ({"values": torch.zeros(3, 5)}, r"got \(3, 5\)"),
        ({"base": torch.zeros(3)}, r"values must be.*\(3, 5, 3\)"),
        ({"source": torch.zeros(3)}, r"source must be.*\(24,\).*got \(3,\)"),
        ({"base": torch.zeros(0), "values": torch.zeros(3, 5, 0)}, "at least one sequence"),
        ({"base": torch.full((24,), torch.nan)}, r"base must be finite; entry \[0\] is nan"),
        ({"axes": {}}, "at least one"),
        ({"axes": {"layer": (0, 0, 1), "position": range(5)}}, "each once"),
        ({"axes": {"layer": (0, 0.5, 1), "position": range(5)}}, r"label.*'layer'.*got 0\.5"),
        ({"axes": {"mean": (0, 1, 2), "position": range(5)}}, "cannot be called 'mean'"),
        ({"details": {"x": torch.zeros(2)}}, "plain data.*Turn tensors into lists"),
    ],
)
@pytest.mark.usefixtures("_no_type_checker")
def test_grids_that_cannot_be(changed, message):
    with pytest.raises(probes.DataError, match=message):
        dataclasses.replace(made_grid(), **changed)


def test_words():
    grid = made_grid({"layer": (0, 1), "to": ("<b>", "logits")}, metric="p(<x>)", patched=False)
    assert repr(grid).startswith(
        "Grid(mean ablation of resid_pre: layer (2) × to (2), 24 sequences; strongest "
        "difference of "
    )
    n = int(grid.significant().sum())
    assert repr(grid).endswith(f"at layer 1, to logits; {n} of 4 sites at p ≤ 0.05 (Holm))")
    assert "\n" not in repr(grid)
    page = grid._repr_html_()
    assert "&lt;b&gt;" in page
    assert "p(&lt;x&gt;)" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 5


def test_one_line_says_how_many_sites_are_significant_where_that_takes_no_time():
    noise = torch.randn(4, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = torch.zeros(24, dtype=torch.float64)
    grid = probes.Grid("mean ablation", "z", {"head": range(4)}, noise, base, None, "m", "e")
    assert "; 0 of 4 sites at p ≤ 0.05" in repr(grid)
    moved = dataclasses.replace(grid, values=noise + torch.tensor([[0], [9], [0], [9]]))
    assert "; 2 of 4 sites at p ≤ 0.05" in repr(moved)
    few = dataclasses.replace(grid, values=noise[:, :8], base=base[:8])
    assert "sites at p" not in repr(few)
    many = dataclasses.replace(
        grid, axes={"head": range(2000)}, values=noise[:1].expand(2000, -1) + 1
    )
    assert "sites at p" not in repr(many)


def test_a_grid_s_table_has_intervals_and_p_where_the_grid_has_them(tmp_path):
    grid = made_grid()
    page, table = grid.to_html(tmp_path / "grid.html"), grid.to_dataframe()
    assert (tmp_path / "grid.html").read_text("utf-8") == page
    assert grid._repr_html_() in page
    row = table.loc[table["effect"].abs().idxmax()]
    assert f"<td>{row.effect:.3f}</td><td>[{row.low:.3f}, {row.high:.3f}]</td>" in page
    assert f"<td>{row.p:.2g}</td><td>{min(row.p * 15, 1):.2g}</td>" in page
    few = made_grid(n_sequences=15)._repr_html_()
    assert "95% interval" not in few
    assert "<th>p</th>" not in few


def test_p_of_a_table_s_sites_can_pass_among_many():
    axes = {"layer": range(40), "position": range(50)}
    page = made_grid(axes, share=torch.ones(2000, dtype=torch.float64))._repr_html_()
    corrected = re.findall(r"<td>([\d.e-]+)</td></tr>", page)
    assert len(corrected) == 8
    assert max(map(float, corrected)) < 0.05


def test_a_grid_keeps_its_own_values():
    given = {name: getattr(made_grid(), name).clone() for name in ("values", "base", "source")}
    grid = made_grid(**given)
    for tensor in given.values():
        tensor.zero_()
    assert torch.equal(grid.differences, made_grid().differences)
    assert torch.equal(grid.effects, made_grid().effects)


# Figures

SHAPES = {
    "one axis": {"receiver": ("logits", "L1H0")},
    "layer, position": {"layer": range(3), "position": range(32)},
    "layer, head": {"layer": range(3), "head": range(4)},
    "layer, head, position": {"layer": range(3), "head": range(4), "position": range(8)},
    "attention": {"layer": range(2), "head": range(2), "dest": range(4), "src": range(4)},
}


@pytest.mark.parametrize("axes", SHAPES.values(), ids=SHAPES)
def test_figures_show_the_effects(axes, tmp_path):
    grid = made_grid(axes)
    path = tmp_path / "grid.png"
    figure = grid.plot(path)
    pixels = image.imread(path)[..., :3]
    assert pixels.std() > 0.05
    drawn = [panel.images[0].get_array() for panel in figure.axes if panel.images]
    found = np.concatenate([x.data.ravel() for x in drawn])
    assert np.array_equal(found, grid.effects.flatten().numpy())
    norms = {(panel.images[0].norm.vmin, panel.images[0].norm.vmax) for panel in figure.axes[:-1]}
    limit = float(grid.effects.abs().max())
    assert norms == {(-limit, limit)}
    dots = sum(len(c.get_offsets()) for panel in figure.axes[:-1] for c in panel.collections)
    assert dots == int(grid.significant().sum())
    assert "(sign flips, Holm)" in figure.get_suptitle().replace("\n", " ")
    assert figure.axes[-1].get_ylabel().replace("\n", " ") == "normalised effect"


def test_small_figures_have_numbers_and_few_sequences_no_dots(tmp_path):
    grid = made_grid({"layer": range(3), "head": range(4)}, n_sequences=8)
    figure = grid.plot(tmp_path / "grid.svg")
    assert (tmp_path / "grid.svg").read_text().startswith("<?xml")
    written = [text.get_text() for text in figure.axes[0].texts]
    expected = [f"{x:.2f}".replace("-", "−") for x in grid.effects.flatten().tolist()]
    assert written == [x if x != "−0.00" else "0.00" for x in expected]
    assert not figure.axes[0].collections
    assert "dots" not in figure.get_suptitle()
    wide = made_grid({"layer": range(3), "position": range(32)}).plot()
    assert not wide.axes[0].texts


def test_figures_of_nothing_and_of_parts():
    nothing = made_grid(share=torch.zeros(15), values=made_grid().base.expand(3, 5, 24))
    assert nothing.plot().axes[0].images[0].norm.vmax == 1
    part = made_grid(SHAPES["attention"]).select(layer=1)
    figure = part.plot()
    assert "layer 1" in figure.get_suptitle()
    assert [panel.get_title() for panel in figure.axes[:2]] == ["head 0", "head 1"]


def test_figures_that_cannot_be(tmp_path):
    with pytest.raises(probes.OutputPathError, match=r"\.png or \.svg; got 'a\.pdf'"):
        made_grid().plot(tmp_path / "a.pdf")
    with pytest.raises(probes.OutputPathError, match="no folder"):
        made_grid().plot(tmp_path / "missing" / "a.png")
    many = made_grid({"layer": range(13), "head": range(12), "dest": range(2), "src": range(2)})
    with pytest.raises(probes.DataError, match=r"144 panels; got layer 13 × head 12.*Select"):
        many.plot()


def test_one_sequence_can_be_ablated(task):
    model, tokens = mtd_lens.construct(task, 2.0), task.sample(3, seed=0).tokens
    whole = probes.ablate(model, tokens, "z", lambda logits: logits[:, 0], "zero")
    alone = probes.ablate(model, tokens[:1], "z", lambda logits: logits[:, 0], "zero")
    torch.testing.assert_close(alone.values, whole.values[..., :1])


def test_a_metric_of_truth_values_is_one_of_zeros_and_ones(task):
    model, tokens = mtd_lens.construct(task, 2.0), task.sample(3, seed=0).tokens

    def right(logits):
        return logits.argmax(-1) == 0

    grid = probes.ablate(model, tokens, "z", right, "zero")
    assert set(grid.values.unique().tolist()) <= {0.0, 1.0}
    assert grid.base.tolist() == right(model(tokens)[:, -1]).double().tolist()
