"""Trainable models compute the same function as the HookedTransformers made of their weights."""

import pytest
import torch

from mtd_lens import ArgumentError
from mtd_lens.architectures import ARCHITECTURES, VECTOR_ARCHITECTURES, Size, build_trainable
from mtd_lens.errors import ModelError
from mtd_lens.hooked import ModelInfo, assemble, randomized

SIZES = [Size(5, 16, 1), Size(5, 16, 3), Size(3, 9, 2, d_model=12, n_heads=3), Size(2, 7, 5)]


def disturbed(name, size, seed):
    """A trainable model with every weight away from its initial value, in float64."""
    trained = build_trainable(name, size, seed).double()
    generator = torch.Generator().manual_seed(seed + 100)
    for parameter in trained.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.add_(0.1 * noise)
    if name == "disentangled":
        trained.get_parameter("unembed.W_U").data[size.n_tokens] += 3  # keeps most above the floor
    return trained


def hooked(trained, **info):
    info = ModelInfo(None, "trained", **info)
    return assemble(trained.architecture, trained.weights(), info, torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_the_hooked_transformer_at_every_position(name, size, seed):
    trained = disturbed(name, size, seed)
    generator = torch.Generator().manual_seed(seed)
    model = hooked(trained)
    for length in (size.n_ctx, size.n_ctx - 2):
        tokens = torch.randint(size.n_tokens, (6, length), generator=generator)
        with torch.no_grad():
            ours, theirs = trained(tokens), model(tokens)
        assert ours.shape == (6, length, size.n_tokens)
        assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)
        assert ours.std(0).max() > 1e-3  # it depends on the tokens


def test_the_floor_of_probabilities_is_the_same_in_both():
    trained = disturbed("disentangled", SIZES[0], 0)
    trained.get_parameter("unembed.W_U").data[:, 0] -= 5
    tokens = torch.zeros(1, 16, dtype=torch.long)
    with torch.no_grad():
        ours, theirs = trained(tokens), hooked(trained)(tokens)
    assert ours[0, :, 0].exp().tolist() == pytest.approx([1e-3] * 16)
    assert torch.allclose(ours, theirs)


def test_below_the_floor_the_gradient_still_passes():
    trained = disturbed("disentangled", SIZES[0], 0)
    trained.get_parameter("unembed.W_U").data[:, 0] -= 5
    trained(torch.zeros(1, 16, dtype=torch.long))[..., 0].sum().backward()
    assert trained.get_parameter("unembed.W_U").grad[:, 0].abs().sum() > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_position_sees_a_later_one(name):
    trained = disturbed(name, SIZES[1], 0)
    tokens = torch.randint(5, (4, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 5
    with torch.no_grad():
        before, after = trained(tokens), trained(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_a_disentangled_stream_is_never_overwritten():
    """Every layer writes where no earlier one did."""
    trained = disturbed("disentangled", SIZES[1], 0)
    model = hooked(trained)
    tokens = torch.randint(5, (3, 16), generator=torch.Generator().manual_seed(0))
    _, cache = model.run_with_cache(tokens)
    for layer, (width, appended) in enumerate(
        zip(trained.widths[:-1], trained.widths[1:], strict=True)
    ):
        written = cache[f"blocks.{layer}.hook_attn_out"].abs().amax((0, 1))
        assert (written[:width] == 0).all()
        assert (written[width:appended] > 0).all()
        assert (written[appended:] == 0).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_seeds_decide_the_initial_weights(name):
    first, again, other = (build_trainable(name, SIZES[1], seed) for seed in (0, 0, 1))
    for (key, a), (_, b), (_, c) in zip(
        first.named_parameters(), again.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), key
        constant = a.unique().numel() == 1
        assert constant or not torch.equal(a, c), key


def test_a_null_keeps_the_copies_and_redraws_the_rest():
    trained = disturbed("disentangled", SIZES[1], 0)
    model = hooked(trained, redraw=trained.redraw)
    null = randomized(model, 0, "null")
    before, after = model.state_dict(), null.state_dict()
    for name, value in before.items():
        part = name.rsplit(".", 1)[-1]
        if part in ("W_E", "W_Q", "W_V", "W_O"):
            assert torch.equal(value, after[name]), name
        elif part in ("W_K", "RK", "RV", "W_U", "W_pos"):
            assert not torch.allclose(value, after[name]), name
    tokens = torch.randint(5, (32, 16), generator=torch.Generator().manual_seed(0))
    scores = null.run_with_cache(tokens)[1]
    seen = scores["blocks.2.attn.hook_attn_scores"]
    assert 0.2 < float(seen[seen.isfinite()].std()) < 5


@pytest.mark.parametrize("name", ARCHITECTURES | VECTOR_ARCHITECTURES)
def test_shapes_alone_are_those_of_the_weights(name):
    """And take no memory; a model of shapes alone becomes one with values by taking them."""
    size = Size(5, 16, 2, d_model=8, n_heads=2, n_outputs=None)
    shapes, trained = build_trainable(name, size, seed=None), build_trainable(name, size)
    weights = {name: value.detach() for name, value in trained.named_parameters()}
    assert all(value.is_meta for value in shapes.parameters())
    assert {n: v.shape for n, v in shapes.named_parameters()} == {
        n: v.shape for n, v in weights.items()
    }
    shapes.load(weights)
    for name, value in shapes.named_parameters():
        assert torch.equal(value, weights[name])


def test_load_refuses_what_is_not_of_the_architecture():
    trained = build_trainable("attn-only", SIZES[0])
    weights = {name: value.detach() for name, value in trained.named_parameters()}
    with pytest.raises(ModelError, match=r"do not both have unembed\.b_U"):
        trained.load({name: w for name, w in weights.items() if name != "unembed.b_U"})
    with pytest.raises(ModelError, match=r"embed\.W_E has shape \(4, 64\); .* \(5, 64\)"):
        trained.load(weights | {"embed.W_E": weights["embed.W_E"][:4]})


def test_sizes_out_of_range():
    with pytest.raises(ArgumentError, match="n_layers must be an integer from 1 to 6; got 7"):
        Size(5, 16, 7)
    with pytest.raises(ArgumentError, match="n_heads must divide d_model; got 5 heads"):
        Size(5, 16, 2, d_model=64, n_heads=5)
    with pytest.raises(ArgumentError, match=r"unknown architecture 'gpt2'.*gpt"):
        build_trainable("gpt2", SIZES[0])
