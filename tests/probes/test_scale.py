"""Numbers do not change with the unit that a metric, or a divergence, is measured in."""

import warnings

import numpy as np
import pytest
import torch
from drawn import made_grid
from random_models import SHAPE, build, metric, sequences

import probes
from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig
from mtd_lens.measures.pairs import negligible
from probes.patching import partial_runs

SITES = {
    "a head before the last position": probes.Site.at("z", 2, [0, 3], head=1),
    "attention before the last position": probes.Site.at("attn_out", 2, [1]),
    "earlier queries": probes.Site.at("q", 2, [2]),
}
"""Sites of three layers that the output at the last of six positions does not read."""


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request):
    return build("gpt", request.param)


@pytest.fixture(scope="module")
def pair():
    return sequences(12)  # too few for a doubt about the gap


def figures(grid):
    return {"effects": grid.effects, "p": grid.p_values(), "normalized": grid.normalized}


@pytest.mark.parametrize("power", [-200, -60, -20, 20, 60])
@pytest.mark.parametrize("accelerate", [True, False])
def test_a_power_of_two_changes_nothing(model, pair, power, accelerate):
    options = {"by": ["head", "position"], "accelerate": accelerate}
    plain = probes.patch_activations(model, *pair, "z", metric, **options)
    scaled = probes.patch_activations(
        model, *pair, "z", lambda logits: metric(logits.double()) * 2.0**power, **options
    )
    assert plain.values.std() > 0
    exact = probes.patch_activations(
        model, *pair, "z", lambda logits: metric(logits.double()), **options
    )
    for name, figure in figures(exact).items():
        assert np.array_equal(figures(scaled)[name], figure), name
    assert torch.equal(scaled.values, exact.values * 2.0**power)


@pytest.mark.parametrize("factor", [1e-8, 1e-6, 1e8])
def test_another_unit_changes_effects_by_rounding_alone(model, pair, factor):
    plain = probes.patch_activations(model, *pair, "resid_mid", metric)
    scaled = probes.patch_activations(
        model, *pair, "resid_mid", lambda logits: factor * metric(logits)
    )
    most = 1e3 * torch.finfo(next(model.parameters()).dtype).eps
    assert torch.allclose(scaled.effects, plain.effects, rtol=0, atol=most * plain.effects.max())
    assert torch.equal(scaled.differences == 0, plain.differences == 0)


def test_intervals_do_not_know_the_unit():
    rng = np.random.default_rng(0)
    below = torch.from_numpy(rng.gamma(2, size=40))
    above = 0.3 * below + torch.from_numpy(rng.gamma(1, 0.2, size=40))
    for power in (-300, -80, -40, 40):
        scaled = [x * 2.0**power for x in (above, below)]
        assert probes.one_minus_ratio(*scaled) == probes.one_minus_ratio(above, below)
    grid = made_grid()
    changed = {name: getattr(grid, name) * 2.0**-70 for name in ("values", "base", "source")}
    assert all(map(torch.equal, made_grid(**changed).intervals(), grid.intervals()))
    rare = torch.zeros(40, dtype=torch.float64)
    rare[3] = 1  # some resamples leave it out, and with it all of the reference
    found = probes.ratio_intervals(rare[None], rare)
    assert [float(x) for x in found] == pytest.approx([0, 0, 1])


def test_probabilities_in_a_large_vocabulary():
    """They are about 5e-5 each: far below what rounds a number of about 1."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        settings = {**SHAPE, "n_layers": 2, "d_mlp": 16, "normalization_type": "LN"}
        model = HookedTransformer(HookedTransformerConfig(**{**settings, "d_vocab": 20_000})).eval()
    pair = torch.randint(20_000, (2, 12, 6), generator=torch.Generator().manual_seed(0))

    def probability(logits):
        return logits.softmax(-1)[:, 5]

    fast, slow = (
        probes.patch_activations(model, *pair, "z", probability, accelerate=flag)
        for flag in (True, False)
    )
    assert fast.engine != slow.engine
    assert torch.allclose(fast.effects, slow.effects, rtol=0, atol=1e-3)
    assert slow.effects.abs().max() > 0.1


@pytest.mark.parametrize("name", ["attn-only", "gpt", "grouped", "relative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_nothing_reads_has_no_effect_at_all(name, dtype, pair):
    model, tokens = build(name, dtype), pair[0]
    source = torch.arange(len(tokens)).roll(1)
    read = {"read": probes.Site.at("attn_out", 2, [-1])}
    runs = probes.run_interchange(model, tokens, source, SITES | read, batch_size=5)
    for site in SITES:
        assert torch.equal(runs.patched[site], runs.base), site
    assert not torch.allclose(runs.patched["read"], runs.base)
    everywhere = {"it": [probes.Site.at("resid_pre", layer) for layer in range(3)]}
    itself = probes.run_interchange(model, tokens, torch.arange(len(tokens)), everywhere)
    assert torch.equal(itself.patched["it"], itself.base)


def test_rounding_is_told_by_rows():
    natural = torch.tensor([[-87.0, 1.0, 0.5], [-87.0, 1.0, 0.5], [3.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    unit = torch.finfo(torch.float32).eps
    away = torch.tensor([[0, 8, 0], [0, 64, 0], [16, 32, 0], [0, 0, 1]]) * unit
    found = partial_runs.without_rounding(natural + away, natural)
    assert (found == natural).all(-1).tolist() == [True, False, True, False]
    assert torch.equal(found[1], (natural + away)[1])
    half = natural.bfloat16()
    moved = half * (1 + 2**-7)
    assert torch.equal(partial_runs.without_rounding(moved.clone(), half), moved)
    wide = torch.zeros(2, 3, 40)
    wide[..., 30] = 1.0
    edited = wide.expand(4, 2, 3, 40).clone()
    edited[1, 0, 2, 30] += 0.5  # beyond what rules out rows at a glance
    edited[2, 1, 1, 30] += 4 * unit
    found = partial_runs.without_rounding(edited.clone(), wide)
    changed = (found != wide).any(-1).nonzero().tolist()
    assert changed == [[1, 0, 2]]


def test_small_outputs_are_held_against_their_own_size(pair):
    """Arithmetic that resumed runs do not know is noticed where outputs are small, too."""
    model = build("attn-only", torch.float32)
    for parameter in (model.unembed.W_U, model.unembed.b_U):
        parameter.data *= 1e-6

    class Attention(type(model.blocks[1].attn)):  # the stock name, other arithmetic
        def calculate_attention_scores(self, q, k):
            return 1.2 * super().calculate_attention_scores(q, k)

    model.blocks[1].attn.__class__ = Attention
    fast, slow = (
        probes.patch_activations(model, *pair, "resid_pre", metric, accelerate=flag)
        for flag in (True, False)
    )
    assert fast.engine.startswith("hooked loop: resumed runs differ")
    assert torch.equal(fast.values, slow.values)
    site, source = {"it": probes.Site.at("resid_pre", 0)}, torch.arange(12).roll(1)
    found = probes.run_interchange(model, pair[0], source, site)
    expected = probes.last_outputs(model, pair[0])[source]
    assert torch.allclose(found.patched["it"], expected, rtol=1e-4)


# The gap between source and base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("accelerate", [True, False])
def test_the_same_sequences_leave_no_gap(dtype, accelerate):
    model, clean = build("gpt", torch.float64).to(dtype, print_details=False), sequences(70)[0]
    for component in ("z", "q"):  # kept in resumed runs, and read by hooks
        grid = probes.patch_activations(
            model, clean, clean, component, metric, layers=[1], accelerate=accelerate
        )
        assert torch.equal(grid.source, grid.base)
        assert not grid.normalized
    if dtype is torch.float32:
        paths = probes.patch_paths(model, clean, clean, "logits", metric, layers=[1])
        assert torch.equal(paths.source, paths.base)


def test_a_weak_contrast_is_not_normalised():
    """Its mean is half a standard error: nothing can be a share of it."""
    rng = np.random.default_rng(0)
    n = 64
    base, gap = (torch.from_numpy(rng.normal(size=n)) for _ in range(2))
    gap += gap.std() * 0.5 / n**0.5 - gap.mean()
    values = torch.stack([base, base + gap])  # nothing changes, and all of it does
    grid = made_grid({"site": (0, 1)}, n, base=base, source=base + gap, values=values)
    assert not grid.normalized
    message = r"cannot be normalised: .* 95% interval \[-0\.\d+, 0\.\d+\], maybe 0\. Use"
    for call in (lambda: grid.effects, grid.intervals, grid.top):
        with pytest.raises(probes.DataError, match=message):
            call()
    with pytest.warns(UserWarning, match="no effects, but differences: .* maybe 0"):
        assert grid.to_dataframe()["effect"].isna().all()
    with pytest.warns(UserWarning, match="no effects, but differences"):
        grid.plot()
    strong = made_grid({"site": (0, 1)}, n, base=base, source=base + gap + 1, values=values)
    assert strong.normalized
    low, high = strong.intervals()
    assert (float(low[0]), float(high[0])) == pytest.approx((0, 0), abs=1e-9)


def test_an_interval_wants_a_gap_at_its_own_confidence():
    rng = np.random.default_rng(1)
    base, gap = (torch.from_numpy(rng.normal(size=64)) for _ in range(2))
    gap += gap.std() * 2.2 / 64**0.5 - gap.mean()
    values = torch.stack([base, base + 0.5 * gap])
    grid = made_grid({"site": (0, 1)}, 64, base=base, source=base + gap, values=values)
    assert grid.normalized
    assert grid.intervals()[1].abs().max() < 10
    with pytest.raises(probes.DataError, match=r"99\.9% interval .* maybe 0"):
        grid.intervals(confidence=0.999)


# Squares and other units


def test_a_variable_in_a_small_unit_is_not_negligible():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3)))
    for unit in (1e-9, 1.0, 1e9):
        scaled = unit * values
        apart = probes.squared_error(scaled, scaled.flip(0))
        assert not negligible(apart, scaled)
        assert negligible(probes.squared_error(scaled, scaled * (1 + 1e-9)), scaled)
    assert negligible(torch.zeros(20), torch.zeros(20, 3))


def test_scales_of_matrices_in_any_unit():
    reference = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5)))
    for unit in (1e-12, 1.0, 1e12):
        scaled = unit * reference
        assert probes.fit_scale(-3 * scaled, scaled) == pytest.approx((-3, 1))
        assert probes.fit_scale(1e-9 * scaled.flip(0), scaled)[1] == 0
