"""Interchange, dose, scrubbing and injection on models whose truth is known, and on a slow path."""

from dataclasses import replace

import pytest
import torch
from known_truth.models import MODELS

import mtd_lens
from mtd_lens.claims import Code, NotApplicable
from mtd_lens.contracts import BUT_LAST, LAST
from mtd_lens.experiment import Experiment
from mtd_lens.measures import Injection, Interchange, Scrubbing
from mtd_lens.measures.injection import _fitted, _span
from mtd_lens.trial import Memo

MEAN = "mean_responsibility"


def trial_of(name, n_sequences=384, order=2):
    """Of a model of known truth."""
    known = next(k for k in MODELS if k.name.startswith(name) and k.task.order == order)
    return Experiment.of(known.build(known.task), known.task, 0).drawn(n_sequences).trial()


@pytest.fixture(scope="module")
def split():
    return trial_of("60/40")


@pytest.fixture(scope="module")
def whole():
    return trial_of("whole, absolute")


def score(measurement):
    return 1 - float(measurement.numerator.mean() / measurement.denominator.mean())


def chosen(found):
    return max(found, key=lambda measurement: measurement.selection)


def test_interchange_beside_hooks_one_pair_at_a_time(split):
    """Patched by TransformerLens's own hooks."""
    found = Interchange(MEAN, "hook_attn_out", LAST, linear=True)(split)
    from mtd_lens.measures import pairs_of

    pairs = pairs_of(split, split.tokens, MEAN, LAST)
    layer = chosen(found).layer
    hook = f"blocks.{layer}.hook_attn_out"
    for n in range(0, len(pairs), 40):
        base, source = pairs.base.sequences[n : n + 1], pairs.source.sequences[n : n + 1]
        value = split.model.run_with_cache(source)[1][hook]

        def swap(activation, hook, value=value):
            activation = activation.clone()
            activation[:, -1] = value[:, -1]
            return activation

        with torch.no_grad():
            output = split.model.run_with_hooks(base, fwd_hooks=[(hook, swap)])[0, -1]
        patched = output.softmax(-1)
        expected = (pairs.counterfactual[n] * (pairs.counterfactual[n] / patched).log()).sum()
        assert float(found[layer].numerator[n]) == pytest.approx(float(expected), abs=1e-9)


def test_a_dose_is_how_much_of_the_source_acts(split, whole):
    """60% in one layer: a dose of 0.6; the whole mean: of 1."""
    part = chosen(Interchange(MEAN, "hook_attn_out", LAST, linear=True)(split))
    assert (part.dose.low, part.dose.high) == pytest.approx((0.6, 0.6), abs=0.02)
    assert score(part) < 0.8
    full = chosen(Interchange(MEAN, "hook_attn_out", LAST, linear=True)(whole))
    assert full.dose.score == pytest.approx(1, abs=0.005)
    assert score(full) == pytest.approx(1, abs=1e-6)
    assert score(replace(full, numerator=full.controls["a wrong source"][0])) < 0


def test_what_is_stored_and_never_used_does_not_pass():
    """Its used copy, made by a later layer, does."""
    found = Interchange(MEAN, "hook_attn_out", LAST, linear=True)(
        trial_of("stored, never used", order=3)
    )
    used = chosen(found)
    assert used.dose.score == pytest.approx(1, abs=0.01)
    assert score(used) == pytest.approx(1, abs=1e-6)
    assert used.layer > 1
    assert all(score(measurement) < 0 for measurement in found if measurement.layer < used.layer)


def test_a_layer_that_carries_60_percent_passes_scrubbing(split):
    """It says that nothing else passes, and nothing of how much does."""
    found = {m.layer: m for m in Scrubbing(MEAN, "hook_attn_out", LAST)(split)}
    carrying = chosen(Interchange(MEAN, "hook_attn_out", LAST)(split)).layer
    assert score(found[carrying]) > 0.99
    assert found[carrying].details["noise_floor"] < 0.01
    assert 0.2 < found[carrying].details["moved_by_random_source"] < 0.6


def test_a_code_of_the_window_fails_scrubbing(whole):
    """A layer that passes on the window's tokens passes more than γ, which an MLP makes of them."""
    test = Scrubbing("responsibilities", "hook_attn_out", BUT_LAST, 3)
    [found] = test(whole)
    assert (found.layer, score(found)) == (0, pytest.approx(1, abs=1e-3))
    looked_up = trial_of("γ looked up", order=3)
    found = replace(test, window=4)(looked_up)
    assert all(score(measurement) < 0.8 for measurement in found)


def test_where_nothing_passes_there_is_nothing_to_scrub():
    trial = trial_of("whole, absolute")
    dead = mtd_lens.ablate_construction(mtd_lens.construct(trial.task), "beta")
    with pytest.raises(NotApplicable, match="moves predictions at no layer"):
        Scrubbing(MEAN, "hook_attn_out", LAST)(replace(trial, model=dead, memo=Memo()))


def test_injection_beside_an_explicit_sum(whole):
    """What is written is the base's activation plus the change of S through a map."""
    found = chosen(Injection(MEAN, "hook_attn_out", LAST, given_query=True)(whole))
    assert (found.layer, found.details["code"]) == (1, MEAN)
    assert score(found) == pytest.approx(1, abs=1e-6)
    for name, errors in found.controls.items():
        assert 1 - float(errors[0].mean() / errors[1].mean()) < 0, name
    assert found.details["layer before"] < 0
    assert found.details["injected: mean log likelihood"] < 0.8


def test_a_swap_of_few_dimensions_carries_as_much_when_fitted_to_noise(whole):
    """The site has one dimension: any subspace of it carries all; the complement none."""
    found = chosen(Injection(MEAN, "hook_attn_out", LAST, given_query=True)(whole))
    assert found.details["swapped: whole site"] == pytest.approx(1, abs=1e-6)
    assert found.details["swapped: 1 fitted to noise"] == pytest.approx(1, abs=1e-6)
    assert found.details["swapped: its complement"] < 0


def test_a_declared_code_is_tried_and_rivals_only_shown(whole):
    """A rival's code is not chosen, however well it does."""
    task = whole.task

    def codes(rival):
        same = Code("the same", MEAN, lambda causal, t: causal.run(t)[MEAN] * 2.0, rival)
        nothing = Code("nothing", MEAN, lambda causal, t: causal.run(t)[MEAN] * 0)
        return lambda task: [same, nothing]

    for rival in (True, False):
        algorithm = replace(whole.algorithm, codes=codes(rival))
        found = chosen(
            Injection(MEAN, "hook_attn_out", LAST, given_query=True)(
                replace(whole, algorithm=algorithm, memo=Memo())
            )
        )
        assert found.details["code"] == MEAN  # the first of equals
        assert found.details["injected: the same"] == pytest.approx(1, abs=1e-6)
        assert found.details["injected: nothing"] < 0
    assert task.order == 2


def test_maps_are_least_squares():
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(40, 2, 3, generator=generator, dtype=torch.float64)
    change = torch.cat([change, -change.sum(-1, keepdim=True)], -1)  # dependent entries
    weights = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    moved = change @ weights
    assert torch.allclose(change @ _fitted(change, moved), moved, atol=1e-10)
    basis = _span(_fitted(change, moved))
    assert basis.shape == (7, 3)
    assert torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64), atol=1e-12)
