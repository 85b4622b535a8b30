"""Attribution patching against finite differences, exact patches and autograd by hand."""

from importlib.metadata import version

import pytest
import torch
from random_models import build, metric, sequences

import probes
from probes.patching.attribution import Agreement

BY = {
    "resid_pre": ["position"],
    "resid_mid": ["layer"],
    "attn_out": ["position"],
    "mlp_out": ["position"],
    "z": ["head", "position"],
    "q": ["head"],
    "k": ["position"],
    "v": ["head", "position"],
    "pattern": ["head", "position", "key"],
    "pre": ["position"],
    "post": ["layer"],
}


@pytest.fixture(scope="module")
def gpt():
    return build("gpt")


@pytest.fixture(scope="module")
def pair():
    return sequences(20)


def squares(logits):
    return logits.square().sum(-1) + logits[:, 1]


def near(model, clean, corrupted, share):
    """A source so far on the way from the corrupted runs to the clean ones."""
    _, here = model.run_with_cache(corrupted)
    _, there = model.run_with_cache(clean)
    return {name: here[name] + share * (there[name] - here[name]) for name in here}


@pytest.mark.parametrize("component", BY)
@pytest.mark.parametrize("name", ["gpt", "grouped"])
def test_tiny_patches_have_these_effects(name, component, pair):
    """To first order: the distance falls with the square of the step."""
    model = build(name)
    off = []
    for share in (1e-2, 1e-3):
        source = near(model, *pair, share)
        estimate, exact = (
            question(model, source, pair[1], component, squares, by=BY[component])
            for question in (probes.attribute_patches, probes.patch_activations)
        )
        assert estimate.axes == exact.axes
        off.append(float((estimate.differences - exact.differences).abs().max()))
        scale = float(exact.differences.abs().max())
    whole = probes.attribute_patches(model, *pair, component, squares, by=BY[component])
    assert torch.allclose(1e-3 * whole.differences, estimate.differences, atol=1e-9)
    assert scale > 0
    assert off[1] < 0.05 * scale
    assert off[1] < 0.02 * off[0]  # 0.01 but for the third order


def test_a_read_out_that_is_linear_is_attributed_exactly(pair):
    """The last stream of a model without normalisation, and a difference of logits."""
    model = build("attn-only")
    for component in ("resid_post", "attn_out", "z", "v", "pattern"):
        estimate, exact = (
            question(model, *pair, component, metric, layers=[2])
            for question in (probes.attribute_patches, probes.patch_activations)
        )
        assert torch.allclose(estimate.values, exact.values, atol=1e-10)
        assert estimate.differences.abs().max() > 1e-2
        found = probes.agreement(estimate, exact)
        assert found.correlation == pytest.approx(1)
        assert found.same_sign == 1
        assert found.largest_error < 1e-10
    bent = probes.attribute_patches(model, *pair, "z", squares, layers=[2])
    true = probes.patch_activations(model, *pair, "z", squares, layers=[2])
    assert not torch.allclose(bent.values, true.values, atol=1e-3)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_equals_autograd_by_hand(gpt, pair, direction):
    """A sequence at a time, with the library's hooks."""
    base, source = pair[::-1] if direction == "denoising" else pair
    _, there = gpt.run_with_cache(source)
    grid = probes.attribute_patches(
        gpt, *pair, "z", squares, direction=direction, by=["head", "position"]
    )
    for row in (0, 7):
        kept = {}

        def keep(z, hook, kept=kept):
            z.retain_grad()
            kept[hook.name] = z

        hooks = [(f"blocks.{layer}.attn.hook_z", keep) for layer in range(3)]
        logits = gpt.run_with_hooks(base[row : row + 1], fwd_hooks=hooks)
        squares(logits[:, -1]).sum().backward()
        for layer in range(3):
            z = kept[f"blocks.{layer}.attn.hook_z"]
            change = there[f"blocks.{layer}.attn.hook_z"][row] - z.detach()[0]
            by_hand = (z.grad[0] * change).sum(-1).T  # [head, position]
            assert torch.allclose(grid.differences[layer, :, :, row], by_hand, atol=1e-10)
    gpt.zero_grad(set_to_none=True)
    assert torch.allclose(grid.base, squares(gpt(base)[:, -1]).detach())
    assert torch.allclose(grid.source, squares(gpt(source)[:, -1]).detach())


@pytest.mark.skipif(
    int(version("transformer-lens").split(".")[0]) < 4, reason="is of transformer-lens 4"
)
def test_equals_the_librarys_own_estimates(gpt, pair):
    from transformer_lens.tools import analysis

    found = analysis.attribution_patch(gpt, *pair, lambda logits: metric(logits[:, -1])[0])
    ours = probes.attribute_patches(gpt, *pair, "z", metric, by=["head", "position"])
    heads = [node for node in found.node_scores if node.kind == "attn_head_out"]
    assert len(heads) == ours.n_sites
    for node in heads:
        own = ours.differences[node.layer, node.head, node.position].mean()
        assert found.node_scores[node] == pytest.approx(float(own), abs=1e-6)


def test_axes_are_sums_of_finer_ones(gpt, pair):
    fine = probes.attribute_patches(gpt, *pair, "pattern", squares, by=["head", "pos", "src_pos"])
    for by, axes in ((["head"], (2, 3)), (["position"], (1, 3)), (["head", "key"], (2,))):
        coarse = probes.attribute_patches(gpt, *pair, "pattern", squares, by=by)
        assert torch.allclose(coarse.differences, fine.differences.sum(axes), atol=1e-12)
    some = probes.attribute_patches(
        gpt, *pair, "pattern", squares, by=["head"], positions=[4, 1], heads=[1], layers=[2, 0]
    )
    picked = fine.select(layer=[2, 0], head=1, position=[1, 4]).differences.sum((2, 3))
    assert torch.allclose(some.differences, picked, atol=1e-12)


def test_logits_of_every_position(gpt, pair):
    def everywhere(logits):
        return logits.square().sum((1, 2))

    source = near(gpt, *pair, 1e-3)
    estimate, exact = (
        question(gpt, source, pair[1], "z", everywhere, by=["head", "position"], logits="all")
        for question in (probes.attribute_patches, probes.patch_activations)
    )
    scale = exact.differences.abs().max()
    assert (estimate.differences - exact.differences).abs().max() < 0.01 * scale


def test_models_stay_as_they_were(gpt, pair):
    assert all(parameter.grad is None for parameter in gpt.parameters())
    frozen = build("gpt")
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    for model in (gpt, frozen):
        with torch.no_grad():
            grid = probes.attribute_patches(model, *pair, "resid_pre", squares)
        assert grid.differences.abs().max() > 0
        assert not any(point.fwd_hooks for point in model.hook_dict.values())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.usefixtures("_no_type_checker")
def test_errors(gpt, pair):
    for own, message in (
        (lambda logits: squares(logits).detach(), "no gradient of the metric reaches"),
        (lambda logits: logits.argmax(-1), "no gradient of the metric reaches"),
        (lambda logits: squares(logits).tolist(), "no gradient of the metric reaches"),
        (lambda logits: metric(logits.numpy()), "Use torch alone where gradients"),
        (lambda logits: squares(logits).mean(), "one finite value for each"),
        (lambda logits: (logits[:, 0] * 0).sqrt(), "gradient at .* is NaN or infinite"),
    ):
        with pytest.raises(probes.DataError, match=message):
            probes.attribute_patches(gpt, *pair, "z", own)
    with pytest.raises(probes.DataError, match=r"more than the 0\.01 MB allowed"):
        probes.attribute_patches(gpt, *pair, "z", squares, max_memory=10_000)
    with pytest.raises(probes.SiteError, match="Nearest known"):
        probes.attribute_patches(gpt, *pair, "zz", squares)
    model = build("attn-only")
    for block in model.blocks:
        block.attn.W_O.data.zero_()
    with pytest.raises(probes.SiteError, match="changes no logit"):
        probes.attribute_patches(model, *pair, "z", squares)


def grid_of(effects, **changes):
    values = torch.tensor(effects, dtype=torch.float64)[:, None].expand(-1, 4) + 1.0
    base = torch.ones(4, dtype=torch.float64)
    fields = {"axes": {"layer": range(len(effects))}, "component": "z", "base": base} | changes
    return probes.Grid("denoising", values=values, source=None, metric="m", engine="e", **fields)


@pytest.mark.usefixtures("_no_type_checker")
def test_agreement_by_hand():
    estimate, exact = grid_of([1.0, -2.0, 0.5, 3.0]), grid_of([2.0, -1.0, -1.0, 0.0])
    found = probes.agreement(estimate, exact)
    expected = torch.corrcoef(torch.tensor([[1.0, -2.0, 0.5, 3.0], [2.0, -1.0, -1.0, 0.0]]))
    assert found.correlation == pytest.approx(float(expected[0, 1]))
    assert (found.n_sites, found.same_sign) == (4, pytest.approx(2 / 3))
    assert (found.largest_error, found.largest_effect) == (3.0, 2.0)
    assert isinstance(found, Agreement)
    assert '"same_sign": 0.66' in found.to_json()
    assert str(found).startswith("4 sites: correlation 0.401")
    for other, message in (
        (grid_of([1.0, 2.0]), "same sites"),
        (grid_of([1.0, 2.0, 3.0, 4.0], component="q"), "same sites"),
        (grid_of([1.0, 2.0, 3.0, 4.0], base=2 * torch.ones(4).double()), "same runs and metric"),
        (grid_of([1.0, 1.0, 1.0, 1.0]), "nothing can correlate"),
        (3, "must be of the class Grid"),
    ):
        with pytest.raises(probes.DataError, match=message):
            probes.agreement(estimate, other)
