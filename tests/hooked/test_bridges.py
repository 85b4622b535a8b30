"""Users' own bridges: exact twins, true edits or an error, nulls, and the same numbers."""

import copy

import bridges
import pytest
import torch

import mtd_lens
import probes
from mtd_lens.hooked import moved, randomized
from mtd_lens.hooked.bridges import bridge_twin
from mtd_lens.hooked.library import OWN
from probes.patching.truth import ADDED, STREAMS, TOGETHER, check_true
from probes.twins import stand_in, through

pytestmark = pytest.mark.skipif(
    bool(bridges.MISSING), reason=f"this transformer-lens has no {', '.join(bridges.MISSING)}"
)


def first_logit(outputs):
    return outputs[:, 0]


def grid(model, component="z", **options):
    pair = bridges.tokens(), bridges.tokens(seed=1)
    return probes.patch_activations(model, *pair, component, first_logit, **options)


def scaled(activation, hook):
    return activation * 1.1


def hooked(bridge):
    bridge.add_hook("blocks.0.hook_resid_post", scaled)
    return bridge


@pytest.fixture(params=bridges.KINDS.values(), ids=bridges.KINDS)
def bridge(request):
    return request.param()


def test_a_twin_computes_what_its_bridge_does(bridge):
    twin = stand_in(bridge)
    assert twin is not bridge
    assert bridge_twin(bridge).model is twin  # kept while the weights are
    tokens, names = bridges.tokens(), ["hook_attn_out", "attn.hook_pattern", "attn.hook_z"]
    names = [f"blocks.{layer}.{name}" for layer in (0, 1) for name in names]
    (own, kept), (of_twin, found) = (
        model.run_with_cache(tokens, names_filter=names) for model in (bridge, twin)
    )
    assert torch.allclose(own, of_twin, atol=1e-5)
    for name in names:
        assert torch.allclose(kept[name], found[name], atol=1e-5), name


def test_patching_a_bridge_is_fast_and_that_of_its_hooks(bridge):
    fast = grid(bridge)
    twin = "an exact twin of the TransformerBridge"
    if bridge.cfg.parallel_attn_mlp:
        assert fast.engine.startswith(f"hooked loop, of {twin}: its attention and MLP run in")
    else:
        assert fast.engine == f"resumed from the edited position, of {twin}"
    for layer, head in ((0, 1), (1, 2)):
        clean, corrupted = bridges.tokens(), bridges.tokens(seed=1)
        hook = f"blocks.{layer}.attn.hook_z"
        kept = bridge.run_with_cache(clean, names_filter=hook)[1][hook]

        def write(z, hook, head=head, kept=kept):
            z = z.clone()
            z[:, :, head] = kept[:, :, head]
            return z

        outputs = bridge.run_with_hooks(corrupted, fwd_hooks=[(hook, write)])
        assert torch.allclose(
            fast.values[layer, head], outputs[:, -1, 0].to(fast.values), atol=1e-5
        )


def test_what_changes_a_bridge_changes_or_forbids_its_twin():
    bridge = bridges.gpt2()
    twin = stand_in(bridge)
    with torch.no_grad():
        next(bridge.parameters()).mul_(2)
    assert stand_in(bridge) not in (twin, bridge)
    block = bridge.original_model.transformer.h[0]
    handle = block.register_forward_hook(
        lambda module, args, out: (out[0] * 1.1, *out[1:]) if isinstance(out, tuple) else out * 1.1
    )
    assert stand_in(bridge) is bridge
    assert "own hooks: a HookedTransformer of its weights and options differs" in through(bridge)
    handle.remove()
    bridge = hooked(bridges.gpt2())
    assert through(bridge) == "the TransformerBridge's own hooks: it has hooks of the caller's"
    assert through(moved(bridges.gpt2(), dtype=torch.bfloat16)).endswith("from another model")


@pytest.mark.parametrize("make", [lambda: hooked(bridges.gpt2()), bridges.changed])
def test_without_a_twin_edits_go_through_the_bridges_hooks(make):
    bridge = make()
    found = grid(bridge)
    assert found.engine == f"hooked loop: {through(bridge)}"
    with pytest.raises(probes.SiteError, match=r"'blocks.0.hook_resid_mid' does not do what it"):
        grid(bridge, "resid_mid")
    source = torch.tensor([1, 2, 3, 0])
    sites = {"stream": probes.Site.at("resid_post", 1), "head": probes.Site.at("z", 0, head=1)}
    swapped = probes.run_interchange(bridge, bridges.tokens(), source, sites)
    assert torch.allclose(swapped.patched["stream"], swapped.base[source], atol=1e-5)
    assert not torch.allclose(swapped.patched["head"], swapped.base)
    with pytest.raises(probes.SiteError, match="weights are read from TransformerLens's blocks"):
        probes.token_scores(bridge, 0, 0)


def test_hooks_that_lie_are_found_and_no_others(bridge):
    """Bare bridges, as if there were no twins: the streams are right, some hooks are not."""
    one_stream = bridge.cfg.attn_only or bridge.cfg.parallel_attn_mlp
    lying = set() if one_stream else {"resid_mid"}
    if type(bridge.original_model).__name__ == "NativeModel":
        lying |= {"attn_scores"} if OWN else {"attn_scores", "pattern"}
    found = set()
    for component in (*STREAMS, *ADDED, *TOGETHER):
        try:
            check_true(bridge, bridges.tokens(), [component], [0, 1])
        except probes.SiteError as error:
            assert "does not do what it says" in str(error)  # noqa: PT017
            found.add(component)
    assert found == lying


def test_dropout_is_refused():
    bridge = bridges.gpt2().train()
    with pytest.raises(probes.DataError, match=r"dropout \(.*0\.1\).*Call model\.eval\(\) first"):
        grid(bridge)
    with pytest.raises(probes.DataError, match="training mode"):
        mtd_lens.score(bridge, "mtd-q5-m3-t32", n_sequences=64)
    assert stand_in(bridges.gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train())


@pytest.mark.parametrize("make", [bridges.gpt2, bridges.llama, bridges.changed])
def test_random_bridges(make):
    bridge, tokens = make(), bridges.tokens()
    before = bridge(tokens)  # after which it may not be copied
    weights, state = copy.deepcopy(dict(bridge.state_dict())), torch.get_rng_state()
    null, same, other = (randomized(bridge, seed, "null") for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(null(tokens), same(tokens))
    assert not torch.equal(null(tokens), other(tokens))
    assert 0.1 < float(null(tokens).detach().std()) < 10
    assert not null.training
    assert torch.equal(bridge(tokens), before)
    assert all(torch.equal(weights[name], x) for name, x in bridge.state_dict().items())
    for name, weight in null.named_parameters():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.full_like(weight, float(not name.endswith("bias"))))


def test_a_callers_hooks_act_in_the_null():
    bridge = hooked(bridges.gpt2())
    null, tokens = randomized(bridge, 1, "null"), bridges.tokens()
    acted = null(tokens)
    null.reset_hooks()
    assert not torch.allclose(null(tokens), acted)


SHIPPED = {
    "mtd-q5-m3-t32/trained-attn-only-3l-s0": bridges.native_with_weights_of,
    "mtd-q5-m3-t32/trained-gpt-3l-s0": bridges.gpt2_with_weights_of,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of"), SHIPPED.items(), ids=["native", "GPT-2"])
def test_a_bridge_scores_as_the_hooked_transformer_does(name, of):
    model = mtd_lens.load_model(name)
    bridge, task = of(model), mtd_lens.task_of(model)
    for question in (mtd_lens.score, mtd_lens.localize, mtd_lens.compare):
        expected, found = (question(m, task, n_sequences=64, name="it") for m in (model, bridge))
        assert found.through == "an exact twin of the TransformerBridge"
        assert expected.through == ""
        assert found.from_dict(found.to_dict()).through in str(found)
        one, other = expected.to_dataframe(), found.to_dataframe()
        numbers = one.select_dtypes("number").columns
        assert one.drop(columns=numbers).equals(other.drop(columns=numbers))
        assert (one[numbers] - other[numbers]).abs().max().max() < 1e-5
        assert (one[numbers].isna() == other[numbers].isna()).all().all()


@pytest.mark.skipif(OWN, reason="edits of patterns are followed from version 4 on")
def test_a_native_bridge_that_ignores_edits_of_patterns_is_refused_without_a_twin():
    with pytest.raises(probes.SiteError, match=r"hook_pattern' does not do what it says"):
        mtd_lens.score(bridges.changed(), "mtd-q5-m3-t32", n_sequences=64, quick=True)


FOLLOWED = [lambda: hooked(bridges.gpt2()), *([bridges.changed] if OWN else [])]
"""Bridges without a twin, all of whose patterns are."""


@pytest.mark.slow
@pytest.mark.parametrize("make", FOLLOWED)
def test_every_question_without_a_twin(make):
    bridge, task = make(), mtd_lens.load_task("mtd-q5-m3-t32")
    card = mtd_lens.score(bridge, task, n_sequences=64, quick=True)
    assert "TransformerBridge's own hooks" in str(card)
    place = mtd_lens.localize(bridge, task, n_sequences=64)
    aligned = mtd_lens.align(bridge, "mean_responsibility", 1, task=task, n_sequences=64, steps=2)
    shown = mtd_lens.inspect(bridge, task=task)
    assert {card.through, place.through, aligned.through, shown.through} == {through(bridge)}
    with pytest.raises(mtd_lens.ModelError, match="reads the weights of TransformerLens's blocks"):
        mtd_lens.read_weights(bridge, task)
