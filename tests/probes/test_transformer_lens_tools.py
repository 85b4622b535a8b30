"""TransformerLens's own tools on both constructions."""

import copy

import pytest
import torch
from transformer_lens import patching

import mtd_lens
from mtd_lens.hooked import HookedTransformer

FORMS = ("relative", "absolute")


@pytest.fixture(scope="module", params=FORMS)
def model(request, task):
    return mtd_lens.construct(task, 5.0, request.param)


def test_run_with_cache_and_hooks(model, task, tokens):
    assert isinstance(model, HookedTransformer)
    logits, cache = model.run_with_cache(tokens)
    assert logits.shape == (*tokens.shape, task.n_tokens)
    assert cache["blocks.1.attn.hook_pattern"].shape[-2:] == (tokens.shape[1],) * 2

    def uniform(pattern, hook):
        pattern[:] = (
            torch.ones_like(pattern).tril() / torch.arange(1, pattern.shape[-1] + 1)[:, None]
        )
        return pattern

    for layer in range(3):
        edited = model.run_with_hooks(
            tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", uniform)]
        )
        moved = (edited - logits)[:, task.order :].abs().max()
        assert moved > 1e-3, layer
    assert torch.equal(model(tokens), logits)


def test_decompositions_add_up(model, tokens):
    _, cache = model.run_with_cache(tokens)
    parts = cache.decompose_resid()
    assert torch.allclose(parts.sum(0), cache["blocks.2.hook_resid_post"], atol=1e-5)
    heads = cache.stack_head_results()
    assert len(heads) == 3 * model.cfg.n_heads
    for layer in range(3):
        own = heads[layer * model.cfg.n_heads : (layer + 1) * model.cfg.n_heads].sum(0)
        out = cache[f"blocks.{layer}.hook_attn_out"] - model.blocks[layer].attn.b_O
        assert torch.allclose(own, out, atol=1e-5)


def test_attention_results_can_be_hooked(model, tokens):
    expected = model(tokens)
    twin = copy.deepcopy(model)
    twin.set_use_attn_result(True)
    found, cache = twin.run_with_cache(tokens)
    assert torch.allclose(found, expected, atol=1e-5)
    assert cache["blocks.0.attn.hook_result"].shape[2] == model.cfg.n_heads


def test_activation_patching(model, task):
    clean, corrupted = task.sample(4, seed=1).tokens, task.sample(4, seed=2).tokens
    clean_logits, cache = model.run_with_cache(clean)
    base = model(corrupted)

    def metric(logits):
        return (logits[:, -1] - base[:, -1]).square().mean() / (
            clean_logits[:, -1] - base[:, -1]
        ).square().mean()

    grid = patching.get_act_patch_resid_pre(model, corrupted, cache, metric)
    assert grid.shape == (3, clean.shape[1])
    assert grid[2, -1] > 0  # the last query reads the mean from its own position
    assert grid[2, : -task.order].abs().max() < 1e-6  # and older tokens only through it
    heads = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, metric)
    assert heads.shape == (3, model.cfg.n_heads)
    assert heads[2, 0] == pytest.approx(1.0, abs=1e-4)
    assert heads[0].abs().sum() > 1e-3


def test_loss_is_the_cross_entropy_of_the_prediction(model, task, tokens):
    logits = model(tokens)
    loss = model.loss_fn(logits, tokens, per_token=True)[:, task.order :]
    values = mtd_lens.MTDCausalModel(task, 5.0).run(tokens)["prediction"][:, :-1]
    expected = -values.gather(-1, tokens[:, task.order + 1 :, None])[..., 0].log()
    assert torch.allclose(loss, expected.float(), atol=1e-4)
    assert model(tokens, return_type="loss").isfinite()


def test_state_dict_round_trip(model, task, tokens):
    form = "relative" if model.cfg.n_heads == 1 else "absolute"
    other = mtd_lens.construct(task, 1.0, form)
    assert not torch.allclose(other(tokens), model(tokens))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens), model(tokens))


def test_float64_and_gradients(task, tokens):
    for form in FORMS:
        model = mtd_lens.construct(task, 5.0, form, dtype=torch.float64)
        assert model(tokens).dtype == torch.float64
        assert model.cfg.dtype == torch.float64
        model(tokens, return_type="loss").backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model.blocks[2].attn.W_Q.grad.abs().sum() > 0


def test_weight_processing_is_refused(model):
    for method in ("process_weights_", "center_unembed", "refactor_factored_attn_matrices"):
        with pytest.raises(mtd_lens.MTDLensError, match="weight processing"):
            getattr(model, method)(model.state_dict())
    with pytest.raises(mtd_lens.MTDLensError, match="load_state_dict"):
        model.load_and_process_state_dict(model.state_dict())


def test_kv_cache_continues_a_sequence(model, tokens):
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", len(tokens))
    mask = torch.ones_like(tokens)
    first = model(tokens[:, :9], past_kv_cache=cache, attention_mask=mask[:, :9])
    rest = model(tokens[:, 9:], past_kv_cache=cache, attention_mask=mask[:, 9:])
    assert torch.allclose(torch.cat([first, rest], 1), model(tokens), atol=1e-5)


def test_relative_attention_equals_brute_force(task, tokens):
    """Random tables, two loops over queries and keys, against the gather and scatter."""
    model = mtd_lens.hooked.randomized(
        mtd_lens.construct(task, 5.0, "relative", dtype=torch.float64), seed=3, name="random"
    )
    _, cache = model.run_with_cache(tokens)
    attn = model.blocks[1].attn
    q, k, v = (cache[f"blocks.1.attn.hook_{kind}"] for kind in "qkv")
    length = tokens.shape[1]
    expected = torch.zeros_like(v)
    for i in range(length):
        scores = torch.stack(
            [(q[:, i, 0] * (k[:, j, 0] + attn.RK[0, i - j])).sum(-1) for j in range(i + 1)], -1
        )
        pattern = scores.softmax(-1)
        for j in range(i + 1):
            expected[:, i, 0] += pattern[:, j, None] * (v[:, j, 0] + attn.RV[0, i - j])
    assert (cache["blocks.1.attn.hook_z"] - expected).abs().max() < 1e-12


OTHERS = [
    {"form": "gated"},
    *({"algorithm": id} for id in ("posterior", "product-of-likelihoods", "two-pass", "fused")),
]


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: next(iter(options.values())))
def test_the_other_constructions_are_like_any_model(options, task, tokens):
    """Caches, decompositions, edits and TransformerLens's own patching."""
    model = mtd_lens.construct(task, **options)
    logits, cache = model.run_with_cache(tokens)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    last = cache[f"blocks.{n_layers - 1}.hook_resid_post"]
    assert torch.allclose(cache.decompose_resid().sum(0), last, atol=1e-4)
    assert len(cache.stack_head_results()) == n_layers * n_heads

    def metric(patched):
        return (patched[:, -1] - logits[:, -1]).square().mean()

    others = task.sample(len(tokens), seed=9).tokens
    _, own = model.run_with_cache(others)
    grid = patching.get_act_patch_resid_pre(model, tokens, own, metric)
    assert grid.shape == (n_layers, tokens.shape[1])
    assert grid[-1, -1] > 0  # the last query reads what it kept of the evidence from its own place
    heads = patching.get_act_patch_attn_head_out_all_pos(model, tokens, own, metric)
    assert heads.abs().max() > 0
    assert torch.equal(model(tokens), logits)
