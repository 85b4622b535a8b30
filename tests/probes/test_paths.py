"""Path patching against three plain hooked passes."""

import pytest
import torch
from random_models import LENGTH, build, metric, sequences

import mtd_lens
import probes


def oracle(model, clean, corrupted, sender, receiver, through, freeze_mlps=False):
    """Wang et al.'s three passes, a sender at a time; corrupted runs are patched."""
    layer, head = sender
    _, source = model.run_with_cache(clean)
    _, base = model.run_with_cache(corrupted)
    top = model.cfg.n_layers if receiver == "logits" else receiver[0]
    hooks = []
    for below in range(top):
        z = base[f"blocks.{below}.attn.hook_z"].clone()
        if below == layer:
            z[:, :, head] = source[f"blocks.{below}.attn.hook_z"][:, :, head]
        hooks.append((f"blocks.{below}.attn.hook_z", lambda old, hook, z=z: z))
        if freeze_mlps:
            out = base[f"blocks.{below}.hook_mlp_out"]
            hooks.append((f"blocks.{below}.hook_mlp_out", lambda old, hook, out=out: out))
    if receiver == "logits":
        return metric(model.run_with_hooks(corrupted, fwd_hooks=hooks)[:, -1])
    with model.hooks(fwd_hooks=hooks):
        _, seen = model.run_with_cache(corrupted)
    name = f"blocks.{receiver[0]}.attn.hook_{through}"
    arriving = seen[name][:, :, receiver[1]]

    def put(activation, hook):
        activation = activation.clone()
        activation[:, :, receiver[1]] = arriving
        return activation

    return metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, put)])[:, -1])


@pytest.mark.parametrize("name", ["attn-only", "gpt", "grouped", "relative"])
@pytest.mark.parametrize("receiver", ["logits", (2, 0), (1, 0)])
def test_equals_three_hooked_passes(name, receiver):
    model = build(name)
    clean, corrupted = sequences(40)  # more than one batch
    for through in ("q",) if receiver == "logits" else ("q", "k", "v"):
        for freeze in (False,) if model.cfg.attn_only else (False, True):
            grid = probes.patch_paths(
                model,
                clean,
                corrupted,
                receiver,
                metric,
                receiver_input=through,
                freeze_mlps=freeze,
            )
            assert grid.engine == "resumed from the edited position"
            below = 3 if receiver == "logits" else receiver[0]
            assert grid.shape == (below, model.cfg.n_heads)
            for layer in range(below):
                for head in range(model.cfg.n_heads):
                    expected = oracle(
                        model, clean, corrupted, (layer, head), receiver, through, freeze
                    )
                    assert torch.allclose(grid.values[layer, head], expected, atol=1e-10)
            assert grid.differences.abs().max() > 1e-4


def test_the_construction_is_a_chain(task):
    """Layer 0 reaches layer 1 as values, layer 1 layer 2 as the query, layer 2 the logits."""
    model = mtd_lens.construct(task, 5.0, "relative", dtype=torch.float64)
    clean, corrupted = (task.sample(20, seed).tokens for seed in (1, 2))

    def strength(receiver, through="q"):
        grid = probes.patch_paths(model, clean, corrupted, receiver, metric, receiver_input=through)
        return grid.differences.abs().mean(-1)[:, 0]

    assert strength("logits").argmax() == 2
    assert strength("logits")[:2].max() < 1e-9
    assert strength((1, 0), "v")[0] > 1e-3
    assert strength((1, 0), "q")[0] < 1e-9
    query = strength((2, 0), "q")
    assert query[1] > 1e-3
    assert query[0] < 1e-9
    assert strength((2, 0), "v").max() < 1e-9


def test_noising_and_positions(gpt):
    clean, corrupted = sequences(20)
    one = probes.patch_paths(gpt, clean, corrupted, (2, 1), metric, direction="noising")
    two = probes.patch_paths(gpt, corrupted, clean, (2, 1), metric)
    assert torch.equal(one.values, two.values)
    assert one.intervention == "path patching, noising"
    assert one.component == "z to L2H1 q"
    last = probes.patch_paths(gpt, clean, corrupted, "logits", metric, positions=[LENGTH - 1])
    every = probes.patch_paths(gpt, clean, corrupted, "logits", metric)
    assert torch.allclose(last.values, every.values)  # the read-out sees the last position alone
    first = probes.patch_paths(gpt, clean, corrupted, "logits", metric, positions=[0])
    assert first.differences.abs().max() < 1e-12


@pytest.fixture(scope="module")
def gpt():
    return build("gpt")


@pytest.mark.parametrize(
    ("receiver", "options", "message"),
    [
        ("logit", {}, "'logits'; got 'logit'"),
        ((0, 0), {}, "receiver's layer must be an integer from 1 to 2"),
        ((1, 2), {}, "receiver's head must be an integer from 0 to 1"),
        ((1, 0), {"receiver_input": "z"}, "unknown input of the receiver"),
        ((1, 0), {"layers": [1]}, "layers of senders below L1H0"),
    ],
)
def test_errors(gpt, receiver, options, message):
    clean, corrupted = sequences(3)
    with pytest.raises(probes.SiteError, match=message):
        probes.patch_paths(gpt, clean, corrupted, receiver, metric, **options)
