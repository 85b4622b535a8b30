"""Names of activations and axes as TransformerLens has them, and metrics as users write them."""

import re

import numpy as np
import pytest
import torch
from random_models import LENGTH, build, metric, sequences
from transformer_lens import patching

import probes
from probes.sites import COMPONENTS, component_of, hook_name, hook_suffix, suffix_of

patch = probes.patch_activations


@pytest.fixture(scope="module")
def gpt():
    return build("gpt")


@pytest.fixture(scope="module")
def pair():
    return sequences(20)


def test_every_component_has_the_names_that_the_library_gives_it():
    utilities = pytest.importorskip("transformer_lens.utilities")
    for component in COMPONENTS:
        full = utilities.get_act_name(component, 2)
        assert full == hook_name(component, 2)
        for name in (component, f"hook_{component}", hook_suffix(component)):
            assert component_of(name) == (component, None)
            assert suffix_of(name) == hook_suffix(component)
        assert component_of(full) == (component, 2)
    for name in ("query", "key", "value", "attn", "mlp_pre", "mlp_post"):
        component, _ = component_of(name)
        assert utilities.get_act_name(name, 1) == hook_name(component, 1)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hook_zz", "Nearest known: hook_z"),
        ("mlp.hook_z", "unknown component 'mlp.hook_z'.*Nearest known: mlp.hook_p"),
        ("blocks.0.attn.hook_zet", "Nearest known: attn.hook_z"),
        ("blocks.x.attn.hook_z", "Nearest known: attn.hook_z"),
        ("", "Components are resid_pre"),
        (3, "unknown component 3"),
    ],
)
def test_unknown_names_list_the_nearest(gpt, pair, name, message):
    with pytest.raises(probes.SiteError, match=message):
        patch(gpt, *pair, name, metric)
    with pytest.raises(probes.SiteError, match=message):
        probes.Site.at(name, 0)


def named_in(message):
    listed = re.search(r"(?:Nearest known|Known): (.*?)\. ", f"{message} ")[1].split(", ")
    return [name for name in listed if name != "…"]


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "name", ["hook_normalized", "hook_q_input", "hook_attn_score", "attn_scores", "hook_rot_q", "x"]
)
def test_every_component_that_an_error_names_has_a_grid(gpt, pair, name):
    with pytest.raises(probes.SiteError, match=r"Components are .*\bz, .*, result\.") as refused:
        patch(gpt, *pair, name, metric)
    for near in named_in(refused.value):
        assert patch(gpt, *pair, near, metric, layers=[0]).values.isfinite().all()


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(("component", "axis"), [("resid_pre", "head"), ("z", "src"), ("z", "key")])
def test_every_axis_that_an_error_names_is_one(gpt, pair, component, axis):
    with pytest.raises(probes.SiteError, match="can be by") as refused:
        patch(gpt, *pair, component, metric, by=[axis])
    for near in named_in(refused.value):
        assert patch(gpt, *pair, component, metric, by=[near], layers=[0]).values.isfinite().all()


def test_a_model_without_mlps_is_said_to_have_none(pair):
    model = build("attn-only")
    for component in ("post", "pre", "mlp_out"):
        with pytest.raises(probes.SiteError, match="no MLPs") as refused:
            patch(model, *pair, component, metric)
        assert "hook_mlp" not in str(refused.value).partition("MLPs")[2]


def test_names_of_one_activation_give_one_grid(gpt, pair):
    expected = patch(gpt, *pair, "z", metric)
    for name in ("hook_z", "attn.hook_z", "result", "hook_result"):
        assert torch.equal(patch(gpt, *pair, name, metric).values, expected.values)
    one = patch(gpt, *pair, "blocks.1.attn.hook_z", metric)
    assert one.axes["layer"] == (1,)
    assert torch.equal(one.values, patch(gpt, *pair, "z", metric, layers=[1]).values)
    assert probes.Site.at("blocks.1.attn.hook_z", 1) == probes.Site.at("z", 1)
    with pytest.raises(probes.SiteError, match="names a layer, and so does layers"):
        patch(gpt, *pair, "blocks.1.attn.hook_z", metric, layers=[1])
    with pytest.raises(probes.SiteError, match="is of layer 1, and layer 0 is asked for"):
        probes.Site.at("blocks.1.attn.hook_z", 0)
    with pytest.raises(probes.SiteError, match=r"every layer's hook is meant\. Use 'attn"):
        suffix_of("blocks.1.attn.hook_z")


def test_a_result_is_patched_as_by_its_own_hook(pair):
    """What a head adds to the stream is a function of ``z`` alone."""
    clean, corrupted = pair
    model = build("gpt")
    grid = patch(model, clean, corrupted, "result", metric)
    model.set_use_attn_result(True)
    _, cache = model.run_with_cache(clean)

    def put(result, hook):
        result[:, :, 1] = cache[hook.name][:, :, 1]
        return result

    hooked = model.run_with_hooks(corrupted, fwd_hooks=[("blocks.1.attn.hook_result", put)])
    assert torch.allclose(grid.values[1, 1], metric(hooked[:, -1]), atol=1e-12)


def test_names_of_axes(gpt, pair):
    expected = patch(gpt, *pair, "pattern", metric, by=["position", "key", "head"])
    assert list(expected.axes) == ["layer", "head", "position", "key"]
    for axes in (["layer", "head_index", "dest_pos", "src_pos"], ["key", "pos", "head"]):
        found = patch(gpt, *pair, "pattern", metric, by=axes)
        assert found.axes == expected.axes
        assert torch.equal(found.values, expected.values)
    short = patch(gpt, *pair, "resid_pre", metric, by="pos")
    assert torch.equal(short.values, patch(gpt, *pair, "resid_pre", metric).values)
    layers = patch(gpt, *pair, "resid_pre", metric, by=["layer"])
    assert list(layers.axes) == ["layer"]
    with pytest.raises(probes.SiteError, match="Nearest known: pos"):
        patch(gpt, *pair, "resid_pre", metric, by=["poss"])
    with pytest.raises(probes.SiteError, match="Name each axis once"):
        patch(gpt, *pair, "resid_pre", metric, by=["pos", "position"])


def test_axes_stand_as_the_guide_says_beside_the_library(gpt, pair, monkeypatch):
    """There [layer, position, head] by position; here [layer, head, position]."""
    monkeypatch.setattr(patching, "tqdm", lambda rows: rows)
    _, cache = gpt.run_with_cache(pair[0])
    theirs = patching.get_act_patch_attn_head_out_by_pos(
        gpt, pair[1], cache, lambda logits: metric(logits[:, -1]).mean()
    )
    ours = patch(gpt, *pair, "z", metric, by=["pos", "head"])
    assert theirs.shape == (3, LENGTH, 2)
    assert torch.allclose(ours.mean, theirs.transpose(1, 2).double(), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "grouped", "rotary"])
def test_neurons_are_patched_as_by_a_plain_hook(name, pair):
    clean, corrupted = pair
    model = build(name)
    _, cache = model.run_with_cache(clean)
    for component in ("pre", "post"):
        for logits in ("last", "all"):
            read = (lambda x: metric(x[:, -1]) + metric(x[:, 2])) if logits == "all" else metric
            fast, slow = (
                patch(model, clean, corrupted, component, read, logits=logits, accelerate=flag)
                for flag in (True, False)
            )
            assert fast.engine == "resumed from the edited position"
            assert torch.allclose(fast.values, slow.values, atol=1e-10)
            whole = [
                patch(
                    model, clean, corrupted, component, read, by=["layer"], positions=[1, 4],
                    logits=logits, accelerate=flag,
                )
                for flag in (True, False)
            ]  # fmt: skip
            assert torch.allclose(whole[0].values, whole[1].values, atol=1e-10)

        def put(neurons, hook):
            neurons[:, 4] = cache[hook.name][:, 4]
            return neurons

        hook = hook_name(component, 1)
        out = model.run_with_hooks(corrupted, fwd_hooks=[(hook, put)])
        grid = patch(model, clean, corrupted, component, metric)
        assert torch.allclose(grid.values[1, 4], metric(out[:, -1]), atol=1e-10)
        assert grid.differences[1, 4].abs().max() > 1e-3


def test_an_mlp_that_ignores_its_hook_is_noticed(pair):
    model = build("gpt")

    class Deaf(type(model.blocks[1].mlp)):
        def forward(self, x):
            pre = x @ self.W_in + self.b_in
            self.hook_pre(pre)
            self.hook_post(self.act_fn(pre))
            return self.act_fn(pre) @ self.W_out + self.b_out

    model.blocks[1].mlp.__class__ = Deaf
    with pytest.raises(probes.SiteError, match="the MLP must write what it does there"):
        patch(model, *pair, "post", metric)


def test_interchanges_take_every_name(gpt, pair):
    source = torch.arange(20).roll(1)
    probes.check_editable(gpt, pair[0], ("z", "hook_resid_post", "mlp_post", "attn.hook_q"))
    sites = {"neurons": probes.Site.at("post", 1, [4]), "z": probes.Site.at("hook_z", 1, [4])}
    runs = probes.run_interchange(gpt, pair[0], source, sites)
    _, cache = gpt.run_with_cache(pair[0])
    for name, site in sites.items():

        def put(activation, hook):
            activation[:, 4] = cache[hook.name][source][:, 4]
            return activation

        out = gpt.run_with_hooks(pair[0], fwd_hooks=[(site.hook, put)])
        assert torch.allclose(runs.patched[name], out[:, -1], atol=1e-10)


@pytest.mark.usefixtures("_no_type_checker")
class TestMetrics:
    def test_a_metric_of_positions_is_told_of_all_logits(self, gpt, pair):
        answers = gpt(pair[0])[:, -1].argmax(-1)
        for own in (
            lambda logits: logits[:, -1, 0],
            lambda logits: logits[:, -1].gather(-1, answers[:, None])[:, 0],
            lambda logits: logits.numpy()[:, -1, 0],
            lambda logits: logits[:, -1] @ torch.ones(7, dtype=logits.dtype),
        ):
            with pytest.raises(probes.DataError, match=r"\(20, 7\).*Pass logits='all'") as caught:
                patch(gpt, *pair, "z", own)
            assert caught.value.__cause__ is not None
            assert patch(gpt, *pair, "z", own, logits="all").n_sequences == 20
        with pytest.raises(probes.DataError, match=r"Index \[sequence, position, token\]"):
            patch(gpt, *pair, "z", lambda logits: logits[:, 6, 0], logits="all")

    def test_other_errors_of_a_metric_are_its_own(self, gpt, pair):
        for error in (RuntimeError("mine"), ValueError("mine"), TypeError("mine")):

            def fail(logits, error=error):
                raise error

            with pytest.raises(type(error), match=r"^mine$"):
                patch(gpt, *pair, "z", fail)

    def test_values_may_be_arrays_lists_or_one_number(self, gpt, pair):
        expected = patch(gpt, *pair, "z", metric)
        for own in (
            lambda logits: metric(logits.numpy()),
            lambda logits: metric(logits).tolist(),
            lambda logits: np.float64(metric(logits)),
        ):
            assert torch.equal(patch(gpt, *pair, "z", own).values, expected.values)
        one = [tokens[:1] for tokens in pair]
        single = patch(gpt, *one, "z", metric)
        for own in (lambda x: float(metric(x)), lambda x: metric(x)[0], lambda x: metric(x).mean()):
            assert torch.equal(patch(gpt, *one, "z", own).values, single.values)
        for bad in ("text", None, [[1.0] * 20], object()):
            with pytest.raises(probes.DataError, match="one finite value for each of the 20"):
                patch(gpt, *pair, "z", lambda logits, bad=bad: bad)
