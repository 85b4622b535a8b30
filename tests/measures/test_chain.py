"""Chains and paths: beside hooks, one pair at a time, and on models whose truth is known."""

import re
from dataclasses import replace

import pytest
import torch
from known_truth.models import MODELS

import mtd_lens
import probes
from mtd_lens.claims import NotApplicable
from mtd_lens.contracts import BUT_LAST, EVERY, LAST
from mtd_lens.errors import ArgumentError
from mtd_lens.experiment import Experiment
from mtd_lens.families.mtd import FAMILY
from mtd_lens.families.mtd.chains import STAGES, chain_claims
from mtd_lens.measures import Chain, Interchange, Path
from mtd_lens.measures.pairs import further_source, held_at, pairs_of
from mtd_lens.trial import Memo

GAMMA, MEAN, WEIGHTS = STAGES["one-step"]
SMALL = "mtd-q3-m2-t32"


def trial_of(name, n_sequences=128):
    """Of a model of known truth, of two lags."""
    known = next(k for k in MODELS if k.name == f"{name}, q3-m2")
    return Experiment.of(known.build(known.task), known.task, 0).drawn(n_sequences).trial()


@pytest.fixture(scope="module")
def split():
    return trial_of("60/40")


@pytest.fixture(scope="module")
def whole():
    return trial_of("whole, absolute")


def score(numerator, denominator):
    return 1 - float(numerator.mean() / denominator.mean())


def ran(trial, tokens, swaps, read=None):
    """The last distribution, or one activation, of one sequence with values put in by hooks."""
    model, kept = trial.model, {}

    def put(positions, value):
        def swap(activation, hook):
            activation = activation.clone()
            axis = 2 if "pattern" in hook.name else 1
            activation.index_copy_(axis, torch.tensor(positions), value)
            return activation

        return swap

    def keep(activation, hook):
        kept["read"] = activation.clone()

    hooks = [(hook, put(positions, value)) for hook, positions, value in swaps]
    with torch.no_grad():
        output = model.run_with_hooks(tokens, fwd_hooks=hooks + ([(read, keep)] if read else []))
    return kept["read"] if read else output[0, -1].softmax(-1)


def divergence(p, q):
    return float((p * (p / q).log()).sum())


def test_paths_beside_hooks_one_pair_at_a_time(split):
    """Layer 1 holds 0.6 of the mean; what arrives there is put into the base's own run."""
    [found] = Path(GAMMA, MEAN)(split)
    early, late = "blocks.0.hook_attn_out", "blocks.1.hook_attn_out"
    assert (found.layer, found.site.split()[0], late in found.site) == (1, early, True)
    evidence, last = list(split.positions[:-1]), [split.positions[-1]]
    pairs = pairs_of(split, split.tokens, "responsibilities", BUT_LAST)
    for n in range(0, len(pairs), 19):
        base, source = pairs.base.sequences[n : n + 1], pairs.source.sequences[n : n + 1]
        swap = (early, evidence, ran(split, source, [], early)[:, evidence])
        arriving = ran(split, base, [swap], late)[:, last]
        own = ran(split, base, [], late)[:, last]
        through = ran(split, base, [(late, last, arriving)])
        around = ran(split, base, [swap, (late, last, own)])
        natural, expected = ran(split, base, []), pairs.counterfactual[n]
        total = divergence(expected, through) + divergence(natural, around)
        assert float(found.numerator[n]) == pytest.approx(total, abs=1e-8)
        assert float(found.denominator[n]) == pytest.approx(
            divergence(expected, pairs.blind[n]), abs=1e-9
        )


@pytest.mark.parametrize("given_query", [False, True])
def test_joint_swaps_beside_hooks_one_pair_at_a_time(whole, given_query):
    """Three stages, each from a sequence of its own."""
    stages = [replace(stage, given_query=given_query) for stage in (GAMMA, MEAN, WEIGHTS)]
    [found] = Chain(tuple(stages))(whole)
    hooks = ["blocks.0.hook_attn_out", "blocks.1.hook_attn_out", "blocks.2.attn.hook_pattern"]
    evidence, last = list(whole.positions[:-1]), [whole.positions[-1]]
    pairs = stages[-1].pairs(whole, whole.tokens)
    third = further_source(whole, whole.tokens, pairs, given_query=given_query)
    drawn = [third.sequences, pairs.wrong.sequences, pairs.source.sequences]
    everyone = torch.stack([*drawn, pairs.base.sequences])
    for n in range(0, len(pairs), 19):
        assert len(everyone[:, n].unique(dim=0)) == 4  # sources of their own, and none the base
        if given_query:
            assert len(everyone[:, n, -2:].unique(dim=0)) == 1
        base, swaps = pairs.base.sequences[n : n + 1], []
        for hook, source, positions in zip(hooks, drawn, (evidence, last, last), strict=True):
            value = ran(whole, source[n : n + 1], [], hook)
            value = value[:, :, positions] if "pattern" in hook else value[:, positions]
            swaps.append((hook, positions, value))
        patched = ran(whole, base, swaps)
        weights = whole.causal_model.run(pairs.source.sequences[n : n + 1])["mixture_weights"]
        expected = mtd_lens.predict(whole.task, base, weights[:, -1])[0]
        assert float(found.numerator[n]) == pytest.approx(divergence(expected, patched), abs=1e-8)


def test_what_goes_around_is_the_part_that_no_stage_holds(split):
    """40% of the mean stands in another layer: the dose through the stage is 0.6.

    The share of the effect that is held back, quadratic in what goes around, passes all the same.
    """
    [found] = Path(GAMMA, MEAN)(split)
    assert (found.dose.low, found.dose.high) == pytest.approx((0.6, 0.6), abs=0.02)
    assert found.details["alone"] == pytest.approx(1, abs=1e-6)
    assert found.details["held"] > 0.8
    assert score(found.numerator, found.denominator) < 0.5


def test_joint_swaps_show_the_part_of_the_earlier_source(split):
    [found] = Chain((GAMMA, MEAN))(split)
    assert (found.dose.low, found.dose.high) == pytest.approx((0.6, 0.6), abs=0.02)
    assert score(found.numerator, found.denominator) < 0.8
    [settled] = Chain((GAMMA, MEAN, WEIGHTS))(split)  # the pattern holds all weights
    assert score(settled.numerator, settled.denominator) == pytest.approx(1, abs=1e-6)
    assert score(*settled.controls["the earlier sources"]) < -0.5


def test_a_path_that_leads_everywhere_and_carries_nothing_does_not_pass(whole):
    """All that two layers do, they do through the last one; nothing of it is the algorithm."""
    task = whole.task
    random = mtd_lens.load_model(f"{SMALL}/random-absolute", dtype=torch.float64)
    trial = replace(whole, model=random, memo=Memo())
    for claim in chain_claims(task):
        try:
            found = claim.measure(trial)
        except NotApplicable:
            continue
        assert all(score(m.numerator, m.denominator) < 0.2 for m in found), claim.id


def test_stages_out_of_order_are_no_chain(whole):
    with pytest.raises(NotApplicable, match="responsibilities does not settle"):
        Chain((MEAN, GAMMA))(whole)
    backwards = Path(MEAN, GAMMA)(whole)[0]  # nothing arrives
    assert score(backwards.numerator, backwards.denominator) < 0


def test_joint_swaps_take_the_best_layers_that_follow_each_other(whole, monkeypatch):
    scores = {GAMMA.variable: {0: 0.9, 1: 0.1, 2: 0.1}, MEAN.variable: {0: 0.5, 1: 0.4, 2: 0.2}}
    monkeypatch.setattr(Interchange, "selection", lambda self, trial: scores[self.variable])
    [found] = Chain((GAMMA, MEAN))(whole)
    assert re.findall(r"blocks\.(\d)", found.site) == ["0", "1"]
    assert found.selection == 0.4
    for variable in scores:
        scores[variable] = {0: 0.9}
    with pytest.raises(NotApplicable, match=r"2 stages take as many layers.*the model has 1"):
        Chain((GAMMA, MEAN))(whole)


def test_a_last_stage_that_settles_nothing_is_no_chain(whole, monkeypatch):
    """Whatever γ is, the mean that is held settles the prediction."""
    order = [MEAN.variable, GAMMA.variable]
    monkeypatch.setattr(
        Interchange,
        "selection",
        lambda self, trial: {layer: float(order[layer] == self.variable) for layer in (0, 1)},
    )
    with pytest.raises(NotApplicable, match="responsibilities does not settle what is predicted"):
        Chain((MEAN, GAMMA))(whole)


def test_a_variable_that_does_not_vary_has_no_chain():
    task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=1, seq_len=8)
    trial = Experiment.of(mtd_lens.construct(task), task, 0).drawn(64).trial()
    for claim in chain_claims(task):
        assert claim.measure(trial) == []


def test_held_values_leave_other_queries_to_their_cause():
    values = torch.arange(12.0).double().reshape(2, 3, 2)
    assert held_at(values, LAST)[:, :2].isnan().all()
    assert torch.equal(held_at(values, EVERY), values)
    assert torch.equal(held_at(values, BUT_LAST)[:, :2], values[:, :2])


def test_a_null_is_measured_on_few_pairs_with_no_controls(whole):
    few = replace(whole, complete=False)
    for test in (Path(GAMMA, MEAN), Chain((GAMMA, MEAN))):
        [found] = test(few)
        assert (found.controls, found.dose) == ({}, None)
        assert found.selection == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain((GAMMA,)), "2 to 3 stages, all given the query or none; got 1"),
        (lambda: Chain((GAMMA, replace(MEAN, given_query=True))), r"given_query \[False, True\]"),
        (lambda: Chain((GAMMA, "mean")), "stages"),
        (lambda: Path(GAMMA, "mean"), "late must be"),
        (lambda: chain_claims("x"), "MTDTask"),
        (lambda: chain_claims(mtd_lens.load_task(SMALL), "bayes"), "unknown algorithm with chains"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("halves", [False, True], ids=["whole", "in halves"])
def test_the_posteriors_chain_is_lost_where_half_of_each_stage_goes_around(halves):
    task = mtd_lens.load_task(SMALL)
    own = chain_claims(task, "posterior")
    listed = {claim.id for claim in FAMILY.algorithm("posterior").claims(task)}
    assert {claim.id for claim in own} <= listed
    known = next(k for k in MODELS if k.name.startswith("exact Bayes in halves"))
    model = known.build(task) if halves else mtd_lens.construct(task, algorithm="posterior")
    trial = Experiment.of(model, task, 0, algorithm="posterior").drawn(64).trial()
    for claim in own[::2] if halves else own:
        try:
            [found] = claim.measure(trial)
        except NotApplicable:
            assert halves
            continue
        interval = probes.one_minus_ratio(found.numerator, found.denominator, seed=0)
        assert (interval.low > 0.8) != halves, (claim.id, interval)
