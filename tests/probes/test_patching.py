"""Patching grids against TransformerLens's own, and what they promise about the model."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from random_models import LENGTH, NAMES, PAD, build, metric, sequences
from transformer_lens import patching

import probes


def pad_left(model):
    """As a tokenizer that pads on the left does; the model asks it for these alone."""
    model.tokenizer = SimpleNamespace(
        padding_side="left", pad_token_id=PAD, bos_token_id=None, pad_token="p", bos_token="b"
    )


def last_squares(logits):
    return logits[:, -1].square().sum(-1) + logits[:, -1, 0]


def all_squares(logits):
    weights = torch.linspace(0.5, 2, logits.shape[1] * logits.shape[2]).to(logits)
    return (logits.flatten(1).square() * weights).sum(-1)


def grids_of(model):
    """Every grid that the library has: its function, our component and axes."""
    every = {
        "resid_pre": (patching.get_act_patch_resid_pre, "resid_pre", ["position"]),
        "attn_out": (patching.get_act_patch_attn_out, "attn_out", ["position"]),
    }
    if not model.cfg.attn_only:
        every |= {
            "resid_mid": (patching.get_act_patch_resid_mid, "resid_mid", ["position"]),
            "mlp_out": (patching.get_act_patch_mlp_out, "mlp_out", ["position"]),
        }
    for short, component in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v")):
        for suffix, axes in (("by_pos", ["position", "head"]), ("all_pos", ["head"])):
            name = f"attn_head_{short}_{suffix}"
            every[name] = (getattr(patching, f"get_act_patch_{name}"), component, axes)
    for suffix, axes in (
        ("by_pos", ["head", "position"]),
        ("all_pos", ["head"]),
        ("dest_src_pos", ["head", "position", "key"]),
    ):
        name = f"attn_head_pattern_{suffix}"
        every[name] = (getattr(patching, f"get_act_patch_{name}"), "pattern", axes)
    return every


def library_grid(function, model, tokens, cache, metric, axes):
    if "key" in axes:  # the library writes each cell in turn: a few are enough
        import pandas as pd

        frame = pd.DataFrame(
            [[layer, 0, 4, key] for layer in range(3) for key in (0, 3, 4)],
            columns=["layer", "head_index", "dest_pos", "src_pos"],
        )
        found = patching.generic_activation_patch(
            model,
            tokens,
            cache,
            metric,
            patching.layer_head_dest_src_pos_pattern_patch_setter,
            "pattern",
            index_df=frame,
        )
        return found.view(3, 3)
    found = function(model, tokens, cache, metric)
    return found.transpose(1, 2) if axes == ["position", "head"] else found


def our_grid(model, clean, corrupted, component, metric, axes, **options):
    if "key" in axes:
        grid = probes.patch_activations(
            model, clean, corrupted, component, metric, by=axes, heads=[0], positions=[4], **options
        )
        return grid, grid.mean[:, 0, 0][:, [0, 3, 4]]
    grid = probes.patch_activations(model, clean, corrupted, component, metric, by=axes, **options)
    return grid, grid.mean


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(patching, "tqdm", lambda rows: rows)


def library_cases():
    """Every model, whole and padded; of grids over all logits, those of two models are fast."""
    for name, logits, padded in itertools.product(NAMES, ("last", "all"), (False, True)):
        fast = logits == "last" or (name in ("gpt", "relative") and not padded)
        yield pytest.param(
            name,
            logits,
            padded,
            id=f"{name}-{logits}-{'padded' if padded else 'whole'}",
            marks=() if fast else pytest.mark.slow,
        )


@pytest.mark.parametrize(("name", "logits", "padded"), list(library_cases()))
def test_every_grid_equals_the_library(name, padded, logits):
    model = build(name)
    if padded:
        pad_left(model)
    clean, corrupted = sequences(padded=padded)
    _, cache = model.run_with_cache(clean)
    per_sequence = last_squares if logits == "last" else all_squares

    def ours(outputs):
        return per_sequence(outputs[:, None] if logits == "last" else outputs)

    for title, (function, component, axes) in grids_of(model).items():
        expected = library_grid(
            function, model, corrupted, cache, lambda x: per_sequence(x).mean(), axes
        )
        grid, found = our_grid(model, clean, corrupted, component, ours, axes, logits=logits)
        assert grid.engine == "resumed from the edited position", title
        assert found.shape == expected.shape, title
        # the library keeps its grids in float32
        scale = expected.abs().max()
        assert (found - expected).abs().max() <= 1e-6 * scale, title
        loop = our_grid(
            model, clean, corrupted, component, ours, axes, logits=logits, accelerate=False
        )[0]
        assert loop.engine == "hooked loop: asked for"
        assert (grid.values - loop.values).abs().max() <= 1e-10 * scale, title
        assert float(grid.values.std()) > 1e-3  # the comparison is not of constants


@pytest.mark.parametrize("name", NAMES)
def test_single_precision(name):
    model = build(name, torch.float32)
    clean, corrupted = sequences()
    for component, axes in (("resid_pre", ["position"]), ("z", ["head"]), ("k", ["head"])):
        grids = [
            probes.patch_activations(
                model, clean, corrupted, component, metric, by=axes, accelerate=fast
            )
            for fast in (True, False)
        ]
        assert grids[0].engine != grids[1].engine
        difference = (grids[0].values - grids[1].values).abs().max()
        assert difference <= 1e-5 * grids[1].values.abs().max().clamp_min(1)


@pytest.fixture(scope="module")
def gpt():
    return build("gpt")


@pytest.fixture(scope="module")
def pair():
    return sequences(20)


def test_directions_and_effects(gpt, pair):
    clean, corrupted = pair
    into_corrupted = probes.patch_activations(gpt, clean, corrupted, "resid_pre", metric)
    into_clean = probes.patch_activations(
        gpt, clean, corrupted, "resid_pre", metric, direction="noising"
    )
    assert torch.allclose(into_corrupted.base, into_clean.source)
    swapped = probes.patch_activations(gpt, corrupted, clean, "resid_pre", metric)
    assert torch.allclose(into_clean.values, swapped.values)
    everything = probes.patch_activations(gpt, clean, corrupted, "z", metric, by="position")
    assert everything.shape == (3, LENGTH)
    whole = probes.patch_activations(
        gpt, clean, corrupted, "resid_pre", metric, by="position", layers=[1], positions=[5, 0]
    )
    assert whole.axes == {"layer": (1,), "position": (5, 0)}
    assert torch.allclose(whole.values[0, 0], into_corrupted.values[1, 5])
    assert into_corrupted.metric == "metric"
    assert into_corrupted.intervention == "denoising"


def test_same_run_has_no_effect_and_the_other_run_has_all(gpt, pair):
    clean, corrupted = pair
    nothing = probes.patch_activations(gpt, clean, clean, "v", metric, by=["head", "position"])
    assert nothing.differences.abs().max() < 1e-12
    last = probes.patch_activations(
        gpt, clean, corrupted, "resid_post", metric, layers=[2], positions=[LENGTH - 1]
    )
    assert torch.allclose(last.values[0, 0], last.source)


def test_positions_together(gpt, pair):
    """Without a position axis, all chosen positions are patched at once."""
    clean, corrupted = pair
    for component in ("z", "k", "pattern"):
        grids = [
            probes.patch_activations(
                gpt, clean, corrupted, component, metric, positions=[1, 3, 5], accelerate=fast
            )
            for fast in (True, False)
        ]
        assert grids[0].axes.keys() == {"layer", "head"}
        assert torch.allclose(grids[0].values, grids[1].values, atol=1e-10)


def test_ablations(gpt, pair):
    tokens = pair[0]
    _, cache = gpt.run_with_cache(tokens)

    def with_z(layer, head, replace):
        def edit(z, hook):
            z[:, :, head] = replace(cache[hook.name][:, :, head])
            return z

        hook = f"blocks.{layer}.attn.hook_z"
        return metric(gpt.run_with_hooks(tokens, fwd_hooks=[(hook, edit)])[:, -1]).detach()

    for kind, replace in {
        "zero": torch.zeros_like,
        "mean": lambda z: z.mean(0, keepdim=True).expand_as(z),
    }.items():
        grid = probes.ablate(gpt, tokens, "z", metric, kind)
        assert grid.intervention == f"{kind} ablation"
        assert grid.source is None
        assert torch.allclose(grid.values[1, 0], with_z(1, 0, replace))
    one, two = (probes.ablate(gpt, tokens, "z", metric, "resample", seed=s) for s in (0, 1))
    assert not torch.equal(one.values, two.values)
    again = probes.ablate(gpt, tokens, "z", metric, "resample", seed=0)
    assert torch.equal(one.values, again.values)
    constant = tokens[:1].expand(20, -1)
    same = probes.ablate(gpt, tokens, "z", metric, "resample", reference=constant)
    assert not torch.equal(same.values, one.values)


def state_of(model):
    hooks = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    return hooks, model.training, dict(model.cfg.to_dict()), model.state_dict()


def test_leaves_no_trace_even_when_a_metric_fails(pair):
    clean, corrupted = pair
    for name in ("gpt", "relative"):
        model = build(name).train()
        hooks, training, cfg, weights = state_of(model)
        weights = {key: value.clone() for key, value in weights.items()}
        before = clean.clone(), corrupted.clone()
        for error in (RuntimeError, KeyboardInterrupt):
            calls = []

            def explode(logits, error=error, calls=calls):
                calls.append(1)
                if len(calls) > 5:
                    raise error("from the metric")
                return metric(logits)

            for component in ("resid_pre", "k"):
                with pytest.raises(error, match="from the metric"):
                    probes.patch_activations(model, clean, corrupted, component, explode)
                calls.clear()
        after = state_of(model)
        assert (after[0], after[1], after[2]) == (hooks, training, cfg)
        assert all(torch.equal(after[3][key], value) for key, value in weights.items())
        assert torch.equal(clean, before[0])
        assert torch.equal(corrupted, before[1])
        assert all(parameter.grad is None for parameter in model.parameters())


def test_models_with_hooks_of_their_own_run_the_loop(pair):
    clean, corrupted = pair
    model = build("gpt")

    def double(activation, hook):
        return 2 * activation

    plain = probes.patch_activations(model, clean, corrupted, "attn_out", metric)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", double)]):
        hooked = probes.patch_activations(model, clean, corrupted, "attn_out", metric)
        assert len(model.hook_dict["blocks.1.hook_resid_pre"].fwd_hooks) == 1
    assert hooked.engine == "hooked loop: it has hooks of its own"
    assert not torch.allclose(hooked.values, plain.values)


def test_a_model_that_resuming_would_get_wrong_runs_the_loop(pair):
    """The trial before each run notices arithmetic that the short cut does not know."""
    clean, corrupted = pair
    model = build("attn-only")

    class Attention(type(model.blocks[1].attn)):  # the stock name, other arithmetic
        def calculate_attention_scores(self, q, k):
            return (
                super().calculate_attention_scores(q, k)
                + 1.0 * k.sum(-1).permute(0, 2, 1)[:, :, None]
            )

    model.blocks[1].attn.__class__ = Attention
    fast, slow = (
        probes.patch_activations(model, clean, corrupted, "resid_pre", metric, accelerate=flag)
        for flag in (True, False)
    )
    assert fast.engine.startswith("hooked loop: resumed runs differ")
    assert torch.allclose(fast.values, slow.values)


def test_hooks_that_ignore_edits_are_noticed(pair):
    clean, corrupted = pair
    model = build("attn-only")
    model.blocks[1].attn.W_O.data.zero_()
    model.blocks[1].attn.b_O.data.zero_()
    grid = probes.patch_activations(model, clean, corrupted, "z", metric)
    assert grid.details["inert_hooks"] == ["blocks.1.attn.hook_z"]
    for layer in (0, 2):
        model.blocks[layer].attn.W_O.data.zero_()
    with pytest.raises(probes.SiteError, match=r"changes no logit.*nothing depends on that act"):
        probes.patch_activations(model, clean, corrupted, "z", metric)


def test_half_precision_runs_the_loop(pair):
    """Nor is an edit there taken for one that the model ignores, or its effect for rounding."""
    clean, corrupted = pair
    model = build("gpt").to(torch.bfloat16, print_details=False)
    _, cache = model.run_with_cache(clean)
    for component in ("q", "z"):
        grid = probes.patch_activations(model, clean, corrupted, component, metric)
        assert grid.engine.startswith("hooked loop: in 16 bits")
        assert "inert_hooks" not in grid.details
        hook = f"blocks.1.attn.hook_{component}"

        def put(activation, hook):
            activation[:, :, 1] = cache[hook.name][:, :, 1]
            return activation

        patched = model.run_with_hooks(corrupted, fwd_hooks=[(hook, put)])[:, -1]
        assert torch.equal(grid.values[1, 1], metric(patched.float()).double())


def test_places_without_an_effect_are_exactly_without(gpt, pair):
    clean, corrupted = pair
    clean = torch.cat([corrupted[:, :3], clean[:, 3:]], 1)
    grid = probes.patch_activations(gpt, clean, corrupted, "resid_pre", metric)
    assert not grid.differences[:, :3].any()
    assert torch.equal(grid.p_values()[:, :3], torch.ones(3, 3, dtype=torch.float64))


def test_memory_is_bounded(gpt, pair):
    clean, corrupted = pair
    with pytest.raises(probes.DataError, match=r"more than the 0\.01 MB allowed"):
        probes.patch_activations(gpt, clean, corrupted, "z", metric, max_memory=10_000)
    tight = probes.patch_activations(gpt, clean, corrupted, "z", metric, max_memory=600_000)
    roomy = probes.patch_activations(gpt, clean, corrupted, "z", metric)
    assert torch.allclose(tight.values, roomy.values)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"component": "resid_prae"}, probes.SiteError, "Nearest known: resid_pre"),
        ({"component": "z", "by": ["key"]}, probes.SiteError, "can be by head, position"),
        ({"component": "resid_pre", "heads": [0]}, probes.SiteError, "'resid_pre' has none"),
        ({"component": "z", "by": "position", "heads": [0]}, probes.SiteError, "Add 'head' to by"),
        ({"layers": 1}, probes.SiteError, "layers must be a list of integers"),
        ({"by": 3}, probes.SiteError, "can be by head, position"),
        ({"max_memory": -1}, probes.DataError, "It is in bytes"),
        ({"clean": torch.zeros(20, 6, dtype=torch.int16)}, probes.DataError, "integer tensor"),
        ({"component": "z", "heads": [2]}, probes.SiteError, "heads must be an integer"),
        ({"component": "z", "layers": [0, 0]}, probes.SiteError, "distinct"),
        ({"component": "z", "positions": [6]}, probes.SiteError, "positions must be an integer"),
        ({"component": "z", "direction": "up"}, probes.DataError, "unknown direction"),
        ({"component": "z", "logits": "first"}, probes.DataError, "unknown kind of logits"),
        ({"metric": lambda x: x.mean()}, probes.DataError, "one finite value for each of the 20"),
        ({"metric": lambda x: x[:, 0] * torch.nan}, probes.DataError, "NaN or infinity"),
        ({"clean": torch.zeros(3, 6, dtype=torch.long)}, probes.DataError, "of one shape"),
        ({"clean": torch.zeros(20, 7, dtype=torch.long)}, probes.DataError, "context"),
    ],
)
def test_errors(gpt, pair, options, error, message):
    arguments = {"clean": pair[0], "corrupted": pair[1], "component": "z", "metric": metric}
    with pytest.raises(error, match=message):
        probes.patch_activations(gpt, **{**arguments, **options})


def test_ablation_errors(gpt, pair):
    with pytest.raises(probes.DataError, match="unknown kind of ablation"):
        probes.ablate(gpt, pair[0], "z", metric, "lesion")
    with pytest.raises(probes.DataError, match="at least two for resampling"):
        probes.ablate(gpt, pair[0], "z", metric, "resample", reference=pair[1][:1])


def test_a_lambda_is_called_a_metric(gpt, pair):
    clean, corrupted = pair
    grid = probes.patch_activations(
        gpt, clean, corrupted, "resid_pre", lambda logits: metric(logits), by="position", layers=[1]
    )
    assert grid.metric == "metric"
    assert "lambda" not in repr(grid)
