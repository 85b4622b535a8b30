"""Patches from activations that the caller has, against the same from tokens."""

import bridges
import pytest
import torch
from random_models import build, metric, sequences

import probes

patch = probes.patch_activations


@pytest.fixture(scope="module")
def gpt():
    return build("gpt")


@pytest.fixture(scope="module")
def pair():
    return sequences(20)


@pytest.mark.parametrize("name", ["gpt", "grouped", "relative"])
def test_a_cache_stands_for_its_tokens(name, pair):
    """To no difference but that of a product whose operands lie elsewhere in memory."""
    clean, corrupted = pair
    model = build(name)
    components = ["resid_pre", "z", "k", "pattern"] + ([] if model.cfg.attn_only else ["post"])
    for direction, source in (("denoising", clean), ("noising", corrupted)):
        _, cache = model.run_with_cache(source)
        cached = {"denoising": (cache, corrupted), "noising": (clean, cache)}[direction]
        for component in components:
            options = {"component": component, "metric": metric, "direction": direction}
            plain = patch(model, clean, corrupted, **options, accelerate=False)
            found = patch(model, *cached, **options, accelerate=False)
            for own, other in zip(
                (found.values, found.base, found.source),
                (plain.values, plain.base, plain.source),
                strict=True,
            ):
                assert torch.allclose(own, other, rtol=0, atol=1e-13 * float(other.abs().max()))
            fast = patch(model, *cached, **options)
            assert fast.engine == "resumed from the edited position"
            assert torch.allclose(fast.values, plain.values, atol=1e-10)


def test_a_dict_a_cache_and_logits_of_every_position(gpt, pair):
    clean, corrupted = pair
    _, cache = gpt.run_with_cache(clean)
    expected = patch(gpt, clean, corrupted, "z", metric, accelerate=False)
    found = patch(gpt, dict(cache), corrupted, "z", metric, accelerate=False)
    assert torch.allclose(found.values, expected.values, atol=1e-13)

    def everywhere(logits):
        return logits[:, 2, 0] - logits[:, -1, 1]

    both = [
        patch(gpt, source, corrupted, "z", everywhere, logits="all", accelerate=False)
        for source in (clean, cache)
    ]
    assert torch.allclose(both[0].values, both[1].values, atol=1e-13)
    assert torch.allclose(both[0].source, both[1].source, atol=1e-13)


def test_without_the_last_stream_effects_are_differences(gpt, pair):
    clean, corrupted = pair
    _, cache = gpt.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_z"))
    grid = patch(gpt, cache, corrupted, "z", metric)
    whole = patch(gpt, clean, corrupted, "z", metric)
    assert grid.source is None
    assert not grid.normalized
    assert torch.allclose(grid.effects, whole.differences.mean(-1), atol=1e-10)


def test_paths_and_attributions_from_a_cache(gpt, pair):
    clean, corrupted = pair
    _, cache = gpt.run_with_cache(clean)
    for receiver in ("logits", (2, 1)):
        plain, found = (
            probes.patch_paths(gpt, source, corrupted, receiver, metric)
            for source in (clean, cache)
        )
        assert torch.allclose(found.values, plain.values, atol=1e-12)
        assert torch.allclose(found.source, plain.source, atol=1e-12)
    plain, found = (
        probes.attribute_patches(gpt, source, corrupted, "z", metric) for source in (clean, cache)
    )
    assert torch.allclose(found.values, plain.values, atol=1e-12)


@pytest.mark.skipif(bool(bridges.MISSING), reason="this TransformerLens makes no such bridges")
@pytest.mark.parametrize("kind", ["gpt2", "native"])
def test_caches_of_bridges(kind):
    """Whose keys are other names, by which the usual ones are found."""
    model = getattr(bridges, kind)()
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(0, bridges.N_TOKENS, (2, 4, 8), generator=generator)
    _, cache = model.run_with_cache(clean)
    for question in (patch, probes.attribute_patches):
        for component in ("z", "resid_pre", "post"):
            plain, found = (
                question(model, source, corrupted, component, metric) for source in (clean, cache)
            )
            assert torch.allclose(found.values, plain.values, atol=1e-5)
            assert torch.allclose(found.source, plain.source, atol=1e-5)
            assert plain.differences.abs().max() > 0.01


def test_what_is_put_in_need_be_of_no_sequence(gpt, pair):
    """A cache of zeros is a zero ablation."""
    _, cache = gpt.run_with_cache(pair[0])
    zeros = {name: torch.zeros_like(value) for name, value in cache.items()}
    found = patch(gpt, zeros, pair[1], "z", metric)
    assert torch.allclose(found.values, probes.ablate(gpt, pair[1], "z", metric, "zero").values)


def test_one_sequence_may_come_without_its_batch_axis(gpt, pair):
    one = [tokens[:1] for tokens in pair]
    _, cache = gpt.run_with_cache(one[0], remove_batch_dim=True)
    found = patch(gpt, cache, one[1], "z", metric)
    assert torch.allclose(found.values, patch(gpt, *one, "z", metric).values)


def test_the_cache_stays_as_it_was(gpt, pair):
    _, cache = gpt.run_with_cache(pair[0])
    before = {name: value.clone() for name, value in cache.items()}
    for component in ("resid_pre", "v", "post"):
        patch(gpt, cache, pair[1], component, metric)
    probes.attribute_patches(gpt, cache, pair[1], "z", metric)
    assert all(torch.equal(cache[name], value) for name, value in before.items())


@pytest.mark.usefixtures("_no_type_checker")
def test_errors(gpt, pair):
    clean, corrupted = pair
    _, cache = gpt.run_with_cache(clean)
    held, hook = dict(cache), "blocks.1.attn.hook_z"
    z = held[hook]
    for changed, message in (
        (None, r"shape \(20, 6, 2, 3\).*got None"),
        (z[:3], "as many"),
        (z[:, :4], "of the same length"),
        (z.long(), "a floating-point tensor"),
        (z * torch.nan, "NaN"),
    ):
        with pytest.raises(probes.DataError, match=message):
            patch(gpt, held | {hook: changed}, corrupted, "z", metric)
    lacking = {name: value for name, value in held.items() if name != hook}
    with pytest.raises(probes.SiteError, match=r"does not hold 'blocks.1.attn.hook_z'\. Nearest"):
        patch(gpt, lacking, corrupted, "z", metric)
    with pytest.raises(probes.SiteError, match=r"does not hold 'blocks.0.attn.hook_z'\. None is"):
        patch(gpt, {}, corrupted, "z", metric)
    with pytest.raises(probes.DataError, match="corrupted must be tokens, since denoising"):
        patch(gpt, clean, cache, "z", metric)
    with pytest.raises(probes.DataError, match="clean must be tokens, since noising"):
        patch(gpt, cache, corrupted, "z", metric, direction="noising")
    _, single = gpt.run_with_cache(clean[:1], remove_batch_dim=True)
    with pytest.raises(probes.DataError, match="keep the batch axis"):
        patch(gpt, single, corrupted, "z", metric)
