"""Runs of models with a vocabulary of their own, against runs of the models as they are."""

import threading

import pytest
import torch
from own_vocabulary import TASK, VOCABULARIES, logits_by_hand, random_model
from random_models import ARCHITECTURES

import mtd_lens
import probes
from mtd_lens.vocabulary import translated
from probes import interchange
from probes.capture import NaturalRuns
from probes.interchange import HookedRuns
from probes.passes import undisturbed
from probes.patching.swaps import SwappedRuns


def by_hand(model, vocabulary, tokens, edits=()):
    """Logits at the last position and every activation of a run of the model itself."""
    rows = [[*vocabulary.before, *(vocabulary.ids[t] for t in row)] for row in tokens.tolist()]
    cache = {}

    def keep(activation, hook):
        cache[hook.name] = activation.clone()

    with torch.no_grad(), model.hooks(fwd_hooks=[*edits, *((name, keep) for name in POINTS)]):
        output = model(torch.tensor(rows))
    return output[:, -1, list(vocabulary.ids)], cache


POINTS = [
    f"blocks.{layer}.{point}"
    for layer in range(3)
    for point in (
        *("hook_resid_pre", "hook_attn_out", "hook_resid_post"),
        *(f"attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern", "attn_scores")),
    )
]


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("name", [*ARCHITECTURES, "relative"])
def test_what_is_read_is_at_the_tasks_positions(name, kind):
    model, vocabulary = random_model(name), VOCABULARIES[kind]
    seen, n = translated(model, TASK, vocabulary), len(vocabulary.before)
    tokens = TASK.sample(4, seed=1).tokens
    logits, cache = by_hand(model, vocabulary, tokens)
    found = NaturalRuns(seen, tokens)
    for point in POINTS:
        [value] = found.read([probes.Site(point)])
        whole = cache[point]
        pattern = point.endswith(("pattern", "attn_scores"))
        expected = whole[:, :, n:, n:] if pattern else whole[:, n:]
        assert torch.equal(value, expected), point
        [last] = found.read([probes.Site(point, positions=[2, -1])])
        picked = [n + 2, n + TASK.seq_len - 1]
        assert torch.equal(last, whole[:, :, picked, n:] if pattern else whole[:, picked]), point
    assert torch.equal(found.outputs, logits)
    output, kept = seen.run_with_cache(tokens, names_filter=lambda name: "resid_post" in name)
    assert torch.equal(output[:, -1], logits)
    assert torch.equal(kept["blocks.1.hook_resid_post"], cache["blocks.1.hook_resid_post"][:, n:])
    _, outside = logits_by_hand(model, vocabulary, tokens)
    assert torch.allclose(seen.outside(tokens), outside, atol=1e-12)
    assert outside.mean() > 0.01


SETS = {
    "stream": ["resid_pre"],
    "attention output": ["attn_out"],
    "heads": ["z", "q", "k", "v"],
    "patterns": ["pattern"],
    "scores": ["attn_scores"],
    "patterns and what follows": ["pattern", "resid_post"],
}


@pytest.mark.parametrize("kinds", SETS)
@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("name", [*ARCHITECTURES, "relative"])
def test_what_is_written_is_at_the_tasks_positions(name, kind, kinds):
    """By resumed and by hooked runs, as by hand; what lies before is left as it is computed."""
    model, vocabulary = random_model(name), VOCABULARIES[kind]
    seen, n = translated(model, TASK, vocabulary), len(vocabulary.before)
    tokens = TASK.sample(5, seed=2).tokens
    natural = NaturalRuns(seen, tokens)
    rows, source = torch.tensor([0, 1, 2]), torch.tensor([4, 3, 0])
    writes, edits = [], []
    for layer in (1, 2):
        for component in SETS[kinds]:
            headed = component not in ("resid_pre", "resid_post", "attn_out")
            by_key_value = component in ("k", "v") and name == "grouped"
            head = (0 if by_key_value else 1) if headed else None
            if component == "attn_scores" or component in ("resid_pre", "resid_post", "attn_out"):
                hook = f"blocks.{layer}.{'attn.' if headed else ''}hook_{component}"
            else:
                hook = probes.Site.at(component, layer).hook
            site = probes.Site(hook, positions=(1, 3), head=head)
            [value] = natural.read([site])
            writes.append((site, value[source]))
            edits.append((hook, put_by_hand(component, value[source], head, n)))
    expected, _ = by_hand(model, vocabulary, tokens[rows], edits)
    resumed = interchange.resumable(natural, [writes])
    assert resumed is not None
    for runs in (HookedRuns(natural, rows), interchange.patched(natural, rows, resumed)):
        with torch.no_grad():
            assert torch.allclose(runs.swap(writes), expected, atol=1e-9), type(runs)
    assert isinstance(runs, SwappedRuns)
    assert not torch.allclose(expected, natural.outputs[rows], atol=1e-3)
    [found] = probes.run_written(seen, natural, rows, {"x": writes}).values()
    assert torch.allclose(found, expected, atol=1e-9)


def put_by_hand(component, value, head, n):
    def put(activation, hook):
        activation = activation.clone()
        for index, position in enumerate((1, 3)):
            if component in ("pattern", "attn_scores"):
                activation[:, head, n + position, n:] = value[:, index]
            elif head is not None:
                activation[:, n + position, head] = value[:, index]
            else:
                activation[:, n + position] = value[:, index]
        return activation

    return put


def test_gradients_are_hooked_at_the_tasks_positions():
    model, vocabulary = random_model("gpt"), VOCABULARIES["bos and prefix"]
    seen, grads = translated(model, TASK, vocabulary), {}
    tokens = TASK.sample(2, seed=3).tokens

    def keep(where, gradient, hook):
        grads[where] = gradient.clone()

    for where, asked, given in (
        ("seen", seen, tokens),
        ("by hand", model, seen.spelt(tokens)),
    ):
        hooks = [("blocks.1.hook_resid_pre", lambda g, hook, where=where: keep(where, g, hook))]
        output = asked.run_with_hooks(given, bwd_hooks=hooks)[:, -1]
        (output if where == "seen" else output[:, list(vocabulary.ids)]).square().sum().backward()
    assert torch.allclose(grads["seen"], grads["by hand"][:, 2:])


def test_hooks_of_the_users_own_act():
    """On the model as it is, at its own positions, also where runs start at a later layer."""
    model, vocabulary = random_model("gpt"), VOCABULARIES["bos and prefix"]
    seen = translated(model, TASK, vocabulary)
    tokens = TASK.sample(4, seed=4).tokens

    def ablate(activation, hook):
        return activation.index_fill(1, torch.tensor([0, 3]), 0.0)

    site, source = probes.Site.at("resid_post", 1, [1]), torch.tensor([1, 2, 3, 0])
    before = probes.run_interchange(seen, tokens, source, {"x": site}).patched["x"]
    own = ("blocks.0.hook_attn_out", ablate)
    with model.hooks(fwd_hooks=[own]):
        found = probes.run_interchange(seen, tokens, source, {"x": site}).patched["x"]
        _, cache = by_hand(model, vocabulary, tokens)
        value = cache[site.hook][source][:, 3]

        def put(activation, hook):
            activation = activation.clone()
            activation[:, 3] = value
            return activation

        expected, _ = by_hand(model, vocabulary, tokens, [(site.hook, put)])
    assert torch.allclose(found, expected, atol=1e-9)
    assert not torch.allclose(found, before, atol=1e-3)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_attention_to_what_comes_before_counts_as_distance():
    model, vocabulary = random_model("gpt"), VOCABULARIES["bos and prefix"]
    found = mtd_lens.inspect(model, task=TASK, vocabulary=vocabulary, n_sequences=3)
    _, cache = by_hand(model, vocabulary, found.tokens)
    whole = torch.stack([cache[f"blocks.{n}.attn.hook_pattern"] for n in range(3)]).transpose(1, 2)
    assert torch.allclose(found.attention.double(), whole[..., 2:, 2:], atol=1e-6)
    assert found.n_before == 2
    pattern = found.analysis.patterns[-1]
    away = found.distances(pattern)
    query, target = 3, pattern.values[:, 3]
    padded = torch.cat([torch.zeros(3, 2), target], 1)
    by_loop = (whole[2, 1, :, 2 + query] - padded).abs().sum(-1).mean() / 2
    assert float(away[2, 1, query]) == pytest.approx(float(by_loop), abs=1e-6)
    assert (
        "reads 2 further ids"
        in mtd_lens.dashboard(model, task=TASK, vocabulary=vocabulary, n_sequences=1).to_html()
    )


def test_weights_are_those_of_the_tasks_tokens_and_positions():
    model, vocabulary = random_model("gpt"), VOCABULARIES["bos and prefix"]
    seen = translated(model, TASK, vocabulary)
    rows = list(vocabulary.ids)
    whole = probes.token_scores(model, 1, 0)
    assert torch.allclose(probes.token_scores(seen, 1, 0), whole[rows][:, rows])
    scores = probes.token_outputs(model, 1, 0)
    assert torch.allclose(probes.token_outputs(seen, 1, 0), scores[rows][:, rows])
    assert torch.equal(seen.W_pos, model.W_pos[2:])
    reading = mtd_lens.read_weights(model, TASK, n_random=2, vocabulary=vocabulary)
    assert reading.findings


def test_a_null_is_a_random_model_of_the_same_kind():
    model, vocabulary = random_model("gpt"), VOCABULARIES["bos and prefix"]
    experiment = mtd_lens.Experiment.of(model, TASK, 0, vocabulary=vocabulary)
    null = experiment.null()
    assert null.vocabulary == vocabulary
    assert null.underlying.cfg.d_vocab == model.cfg.d_vocab
    assert not torch.equal(null.W_E, experiment.model.W_E)
    again = experiment.null(7, over=null)
    assert again.underlying is null.underlying
    tokens = TASK.sample(3, seed=1).tokens
    fresh = experiment.null(7)
    assert torch.equal(again(tokens), fresh(tokens))
    stream = torch.zeros(3, TASK.seq_len, 12, dtype=torch.float64)
    assert torch.equal(again(stream, start_at_layer=1), fresh(stream, start_at_layer=1))


def test_two_views_of_one_model_take_turns():
    """Hooks of one thread do not act in another's runs."""
    model = random_model("gpt")
    one, two = (translated(model, TASK, each) for each in VOCABULARIES.values())
    entered, seen = threading.Event(), []

    def wait():
        with undisturbed(two):
            entered.set()
            seen.append("second")

    with undisturbed(one):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.2)
        seen.append("first")
    thread.join()
    assert seen == ["first", "second"]


def test_runs_from_a_later_layer_show_no_hook_what_was_run_for_them():
    seen = translated(random_model("gpt"), TASK, VOCABULARIES["bos and prefix"])
    tokens, shapes = TASK.sample(3, seed=1).tokens, []
    stream = seen(tokens, stop_at_layer=1)
    hooks = [(f"blocks.{n}.hook_resid_pre", lambda x, hook: shapes.append(x.shape)) for n in (0, 1)]
    with seen.hooks(fwd_hooks=hooks):
        output = seen(stream, start_at_layer=1)
    assert torch.allclose(output, seen(tokens))
    assert shapes == [stream.shape]
