"""What instruments compute depends on the model and its input alone."""

import gc
import threading
import warnings

import pytest
import torch
from random_models import build, metric, sequences

import probes

HOOK = "blocks.0.ln1.hook_normalized"  # runs before queries, before keys and before values


@pytest.fixture(scope="module")
def pair():
    return sequences(20)


def everything(model, clean, corrupted):
    """Numbers of every instrument that runs the model, or applies a part of it."""
    source = torch.arange(len(clean)).roll(1)
    site = probes.Site.at("attn_out", 1, [-1])
    targets = torch.nn.functional.one_hot(clean[:, 0], 7).double()
    fitted = probes.fit_alignment(
        model,
        clean,
        source,
        targets,
        site,
        1,
        predict=lambda outputs: outputs.softmax(-1).double(),
        divergence=probes.kl_divergence,
        steps=3,
    )
    probes.check_editable(model, clean, ("hook_attn_out",))
    return {
        "patched": probes.patch_activations(model, clean, corrupted, "z", metric).values,
        "looped": probes.patch_activations(
            model, clean, corrupted, "z", metric, accelerate=False
        ).values,
        "ablated": probes.ablate(model, clean, "resid_pre", metric, "mean").values,
        "paths": probes.patch_paths(model, clean, corrupted, (1, 0), metric).values,
        "read": probes.read_activations(model, clean, {"it": site})["it"],
        "outputs": probes.last_outputs(model, clean),
        "swapped": probes.run_interchange(model, clean, source, {"it": site}).patched["it"],
        "in a subspace": probes.run_interchange(model, clean, source, {"it": fitted.site}).patched[
            "it"
        ],
        "basis": fitted.basis,
        "scores": probes.token_scores(model, 0, 0),
        "positions": probes.position_scores(model, 0, 0, 4),
        "direct": probes.direct_patterns(model, 4),
        "token patterns": probes.mean_token_patterns(model, 4),
        "token outputs": probes.token_outputs(model, 0, 0),
    }


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
    ],
    ids=["autocast", "inference mode", "no gradients"],
)
def test_numbers_do_not_depend_on_the_callers_modes(pair, around):
    model = build("gpt", torch.float32)
    plain = everything(model, *pair)
    with around():
        within = everything(model, *(tokens.clone() for tokens in pair))
        if torch.is_autocast_enabled("cpu"):  # which does change the model's own outputs
            assert not torch.equal(model(pair[0])[:, -1], plain["outputs"])
    for name, value in within.items():
        assert torch.equal(value, plain[name]), name
        assert not value.is_inference()


def test_weights_made_in_inference_mode_have_no_gradient(pair):
    with torch.inference_mode():
        model = build("gpt")
    assert probes.last_outputs(model, pair[0]).isfinite().all()
    with pytest.raises(probes.DataError, match=r"inference_mode\. Build or load"):
        everything(model, *pair)


def test_two_threads_with_one_model(pair):
    """The second one comes while the first one's hooks are there."""
    model, (tokens, _) = build("gpt"), pair
    source, sites = torch.arange(20).roll(1), {"it": probes.Site.at("attn_out", 1)}
    alone = probes.run_interchange(model, tokens, source, sites), probes.last_outputs(model, tokens)
    inside, done, found = threading.Event(), threading.Event(), {}

    def pause(activation, hook):
        if threading.current_thread() is first:
            inside.set()
            done.wait(0.2)

    def other():
        inside.wait()
        found["outputs"] = probes.last_outputs(model, tokens)
        done.set()

    def one():
        found["runs"] = probes.run_interchange(model, tokens, source, sites)

    first, second = threading.Thread(target=one), threading.Thread(target=other)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", pause)]):
        for thread in (first, second):
            thread.start()
        for thread in (first, second):
            thread.join()
    assert inside.is_set()
    assert torch.equal(found["outputs"], alone[1])
    assert torch.allclose(found["runs"].base, alone[0].base, atol=1e-12)
    assert torch.allclose(found["runs"].patched["it"], alone[0].patched["it"], atol=1e-12)


def test_a_lock_goes_with_its_model_and_may_be_taken_again(pair):
    from probes import passes

    model = build("gpt")

    def within(logits):  # a metric that asks the same model
        probes.last_outputs(model, pair[0])
        return metric(logits)

    plain = probes.patch_activations(model, *pair, "z", metric)
    assert torch.equal(probes.patch_activations(model, *pair, "z", within).values, plain.values)
    n_locks = len(passes._locks)
    del model, within
    gc.collect()
    assert len(passes._locks) < n_locks


@pytest.mark.parametrize("part", ["the model", "a wrapper", "blocks.1", "blocks.1 wrapped", "fn"])
def test_compiled_models_are_refused(pair, part):
    """Once they have run, added hooks would be left out, and every effect would be 0."""
    model = build("gpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if part == "the model":
            model.compile(backend="eager")
        elif part == "blocks.1":
            model.blocks[1].compile(backend="eager")
        elif part == "blocks.1 wrapped":
            model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
        elif part == "fn":
            model.forward = torch.compile(model.forward, backend="eager")
        else:
            model = torch.compile(model, backend="eager")
    named = "blocks.1" if part.startswith("blocks") else "the model"
    for run in (
        lambda: probes.patch_activations(model, *pair, "z", metric, accelerate=False),
        lambda: probes.last_outputs(model, pair[0]),
        lambda: probes.token_scores(model, 0, 0),
    ):
        with pytest.raises(probes.DataError, match=f"^{named} is compiled, .* effect would be 0"):
            run()


# Hooks that run several times in a pass


@pytest.mark.parametrize("option", [None, "set_use_split_qkv_input", "set_use_attn_in"])
def test_a_hook_that_runs_several_times_is_read_once(pair, option):
    model = build("gpt")
    if option:
        getattr(model, option)(True)
    found = probes.read_activations(model, pair[0], {"it": probes.Site(HOOK)}, batch_size=8)["it"]
    _, cache = model.run_with_cache(pair[0], names_filter=HOOK)
    assert found.shape == cache[HOOK].shape
    assert torch.allclose(found, cache[HOOK], atol=1e-12)


def test_an_edit_acts_each_time_that_a_hook_runs(pair):
    model, tokens = build("gpt"), pair[0]
    source = torch.arange(20).roll(1)
    runs = probes.run_interchange(model, tokens, source, {"it": probes.Site(HOOK)})
    _, cache = model.run_with_cache(tokens[source], names_filter=HOOK)
    calls = []

    def swap(activation, hook):
        calls.append(1)
        return cache[HOOK].clone()

    expected = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, swap)])[:, -1]
    assert len(calls) == 3
    assert torch.allclose(runs.patched["it"], expected, atol=1e-12)
    assert not torch.allclose(runs.patched["it"], runs.base)


def test_a_hook_that_runs_with_different_activations_is_refused(pair):
    model, site = build("gpt"), probes.Site(HOOK)
    model.set_use_split_qkv_input(True)

    def scale(activation, hook):
        return activation * torch.linspace(1, 2, activation.shape[-1]).to(activation)

    with model.hooks(fwd_hooks=[("blocks.0.hook_k_input", scale)]):
        for run in (
            lambda: probes.read_activations(model, pair[0], {"it": site}),
            lambda: probes.run_interchange(model, pair[0], torch.arange(20), {"it": site}),
        ):
            with pytest.raises(probes.SiteError, match=r"more than once in a pass .* different"):
                run()


# Tensors given to a user's functions


@pytest.mark.parametrize("component", ["z", "resid_mid", "k", "pattern"])
@pytest.mark.parametrize("logits", ["last", "all"])
@pytest.mark.parametrize("accelerate", [True, False])
def test_a_metric_may_edit_its_logits(pair, component, logits, accelerate):
    model, buffer = build("gpt"), torch.empty(20, dtype=torch.float64)

    def pure(outputs):
        return metric(outputs / 2 if logits == "last" else outputs[:, -1] / 2)

    def in_place(outputs):
        outputs.div_(2)
        return metric(outputs if logits == "last" else outputs[:, -1])

    def into_a_buffer(outputs):
        return buffer.copy_(pure(outputs))

    expected, *others = (
        probes.patch_activations(
            model, *pair, component, function, logits=logits, accelerate=accelerate
        )
        for function in (pure, in_place, into_a_buffer)
    )
    for grid in others:
        assert torch.equal(grid.values, expected.values)
        assert torch.equal(grid.base, expected.base)
        assert torch.equal(grid.source, expected.source)


def test_a_reader_may_edit_what_it_reads(pair):
    class Doubled:
        hook = "blocks.1.hook_attn_out"

        def read(self, activation: torch.Tensor) -> torch.Tensor:
            return activation.mul_(2)

    model, site = build("gpt"), probes.Site(Doubled.hook)
    plain, outputs = probes.run_and_capture(model, pair[0], {"it": site})
    found, others = probes.run_and_capture(model, pair[0], {"doubled": Doubled(), "it": site})
    assert torch.equal(found["doubled"], 2 * plain["it"])
    assert torch.equal(found["it"], plain["it"])
    assert torch.equal(others, outputs)
