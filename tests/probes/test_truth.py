"""Hooks that show one thing and pass on another are found, whatever the model and the hook."""

import pytest
import torch
from random_models import build, metric, sequences

import probes
from probes.patching.truth import ADDED, STREAMS, TOGETHER, check_true
from probes.sites import NEURONS, hook_suffix

COMPONENTS = (*STREAMS, *ADDED, *TOGETHER)
REFUSED = "does not do what it says"


@pytest.fixture(params=["gpt", "grouped", "rotary"])
def model(request):
    return build(request.param)


def deafen(model, component, layer=1):
    """Let a hook show its activation, and pass on what came."""
    where = model.blocks[layer].get_submodule(hook_suffix(component))
    kind = type(where)

    class Deaf(kind):
        def __call__(self, x):
            super().__call__(x)
            return x

    where.__class__ = Deaf


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_deaf_hook_is_found(model, component):
    clean, corrupted = sequences()
    check_true(model, clean, COMPONENTS, range(3))
    deafen(model, component)
    with pytest.raises(probes.SiteError, match=rf"blocks.1.*hook_\w+' {REFUSED}"):
        check_true(model, clean, [component], range(3))
    others = [c for c in COMPONENTS if component not in (c, *TOGETHER.get(c, ()))]
    if component == "mlp_out":  # what neurons are held against
        others = [c for c in others if c not in NEURONS]
    if component != "attn_out":  # what attention's parts are held against
        check_true(model, clean, others, range(3))
    check_true(model, clean, [component], [0, 2])
    if component != "attn_scores":
        with pytest.raises(probes.SiteError, match=REFUSED):
            probes.patch_activations(model, clean, corrupted, component, metric)
    if component in ("z", "pattern", "attn_out", "mlp_out"):
        with pytest.raises(probes.SiteError, match=REFUSED):
            probes.check_editable(model, clean, (hook_suffix(component),))


def test_a_stream_that_one_reader_alone_follows_is_found(model):
    block = model.blocks[0]

    def forward(stream, *args, **kwargs):
        normed = block.ln1(block.hook_resid_pre(stream))
        attention = {f"{part}_input": normed for part in ("query", "key", "value")}
        middle = stream + block.hook_attn_out(block.attn(**attention))
        branch = block.mlp(block.ln2(block.hook_resid_mid(middle)))
        return block.hook_resid_post(middle + block.hook_mlp_out(branch))

    block.forward = forward
    clean, _ = sequences()
    for component in COMPONENTS:
        if component in ("resid_pre", "resid_mid"):
            with pytest.raises(probes.SiteError, match=REFUSED):
                check_true(model, clean, [component], [0])
        else:
            check_true(model, clean, [component], range(3))
    source = torch.arange(len(clean)).roll(1)
    with pytest.raises(probes.SiteError, match=REFUSED):
        probes.run_interchange(model, clean, source, {"it": probes.Site.at("resid_mid", 0)})


def test_the_same_sequence_twice_is_no_test(model):
    deafen(model, "z")
    clean, _ = sequences()
    for tokens in (clean[:1], clean[:1].expand(3, -1)):
        with pytest.raises(probes.SiteError, match=REFUSED):
            check_true(model, tokens, ["z"], [1])
