"""Where variables are found: in constructions, nulls, broken models and a user's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import transition
from random_models import two_layers, users_model

import mtd_lens
import probes
from mtd_lens import registry
from mtd_lens.results.localization import Localization
from mtd_lens.results.places import Place

VARIABLES = ("responsibilities", "mean_responsibility", "mixture_weights")
TASKS = {
    "m2": mtd_lens.MTDTask(transition(3, seed=2), order=2, seq_len=21, name="m2"),
    "m3": mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=20, name="m3"),
}
LARGE = {
    "m2": mtd_lens.MTDTask(transition(3, seed=2), order=2, seq_len=33, name="m2"),
    "m3": mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=34, name="m3"),
    "m4": mtd_lens.MTDTask(transition(5, seed=1), order=4, seq_len=40, name="m4"),
}


def own_places(task, form):
    """Where a construction's stages are, by its definition."""
    if form == "relative":
        return [{(0, "z", 0)}, {(1, "z", 0)}, {(2, "pattern", 0)}]
    last_class = (task.seq_len - 1) % task.order
    every_head = {(0, "z", head) for head in range(task.order)}
    return [every_head, {(1, "z", last_class)}, {(2, "pattern", 0)}]


def places(finding):
    return {(place.layer, place.kind, place.head) for place in finding.places}


def check_construction(found, task, form):
    for variable, own in zip(VARIABLES, own_places(task, form), strict=True):
        assert found[variable].verdict == "found"
        assert places(found[variable]) == own
        assert found[variable].score > 0.999
        given = found.given_query(variable)
        assert (given is None) == (variable == "responsibilities")
        if given is not None:
            assert (given.verdict, places(given)) == ("found", own)
            assert given.score > 0.999
            assert given.wrong.high < 0
    assert [entry.carried_given_query for entry in found.order] == [None, 1, 2]
    assert [entry.carried for entry in found.order] == [0, 1, 2]
    assert found.carried_in_order
    # softmax(β · mean) is nearly linear in the mean, so that it is readable a layer before its own
    assert [entry.readable for entry in found.order] == [0, 1, 1]
    assert found.readable_in_order


@pytest.fixture(scope="module")
def found():
    return mtd_lens.localize(mtd_lens.construct(TASKS["m3"]), n_sequences=128)


def test_a_constructions_own_sites_are_named(found):
    check_construction(found, TASKS["m3"], "absolute")


@pytest.mark.parametrize(
    ("task", "form", "options"),
    [
        ("m3", "relative", {}),
        ("m2", "absolute", {"read_out": "probs"}),
        ("m2", "relative", {"dtype": torch.float64, "read_out": "probs"}),
    ],
)
def test_those_of_other_tasks_and_read_outs_too(task, form, options):
    model = mtd_lens.construct(TASKS[task], form=form, **options)
    check_construction(mtd_lens.localize(model, n_sequences=128), TASKS[task], form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["absolute", "relative"])
@pytest.mark.parametrize("task", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_site_of_a_construction_is_significant(task, form, seed):
    """On contexts so long that the last query's own share of the mean is below the floor.

    Given the query, what the last layer writes carries the mean too.
    """
    found = mtd_lens.localize(mtd_lens.construct(task, form=form), seed=seed)
    check_construction(found, task, form)
    significant = {(e.variable, e.place) for e in found.sites if e.significant}
    generic = {(e.variable, e.place) for e in found.sites if e.significant and not e.given_query}
    own = {(f.variable, place) for f in found.findings for place in f.places}
    assert generic <= own  # of four heads together, one alone may move too little to be sure of
    assert {variable for variable, _ in generic} == {variable for variable, _ in own}
    assert significant - own <= {("mean_responsibility", Place(2, "z", 0))}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["absolute", "relative"])
@pytest.mark.parametrize("name", ["mtd-q5-m3-t32", "mtd-q5-m3-t64"])
def test_shipped_constructions(name, form):
    model = mtd_lens.load_model(f"{name}/constructed-{form}")
    check_construction(mtd_lens.localize(model), mtd_lens.load_task(name), form)


def false_findings(model, seed, n_sequences):
    found = mtd_lens.localize(
        mtd_lens.hooked.randomized(model, seed, "null"), n_sequences=n_sequences, seed=seed
    )
    assert all(entry.readable is None for entry in found.order)
    assert max(entry.score for entry in found.sites) < 0
    assert not any(finding.places for finding in found.findings)
    assert all(finding.tried for finding in found.findings if finding.verdict == "not_found")
    n_found = sum(finding.verdict == "found" for finding in found.findings)
    return n_found + sum(entry.significant for entry in found.sites)


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_nothing_is_found_in_random_models(form):
    model = mtd_lens.construct(TASKS["m2"], form=form)
    assert sum(false_findings(model, seed, 128) for seed in range(3)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_nothing_is_found_in_many_random_models(form):
    model = mtd_lens.construct(TASKS["m3"], form=form)
    assert sum(false_findings(model, seed, 512) for seed in range(20)) <= 2


# A broken part stands between every variable and the prediction, so that none is carried as the
# algorithm says; what comes before it can still be read.
READABLE = {
    "transition": (),
    "average": VARIABLES[:1],
    "beta": VARIABLES,  # the weights too, from the mean of which they are a function
    "lag": VARIABLES,
}


@pytest.mark.parametrize("part", READABLE)
@pytest.mark.parametrize("form", ["relative", pytest.param("absolute", marks=pytest.mark.slow)])
def test_a_broken_part_takes_from_its_variable_on(part, form):
    broken = mtd_lens.ablate_construction(mtd_lens.construct(TASKS["m3"], form=form), part)
    found = mtd_lens.localize(broken, n_sequences=256)
    assert {finding.verdict for finding in found.findings} == {"not_found"}
    readable = [entry.variable for entry in found.order if entry.readable is not None]
    assert tuple(readable) == READABLE[part]
    assert found.carried_in_order is None
    assert "not found" in repr(found)


# Sets of sites


def test_joint_interchange_equals_plain_hooks_at_all_sites():
    """Sites of two layers, one of them twice the same hook, against a loop over sequences."""
    model = two_layers(dtype=torch.float64)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # so that each site has an effect
    sequences = torch.from_numpy(np.random.default_rng(0).integers(5, size=(6, 12)))
    source = torch.tensor([3, 1, 0, 2, 5, 4])
    group = [
        probes.Site("blocks.1.attn.hook_pattern", positions=[11], head=2),
        probes.Site("blocks.0.attn.hook_z", positions=[5, 11], head=0),
        probes.Site("blocks.0.attn.hook_z", positions=[3], head=1),
        probes.Site("blocks.0.hook_mlp_out", positions=[11]),
    ]
    fewer = {f"{i}": [s for s in group if s is not left_out] for i, left_out in enumerate(group)}
    runs = probes.run_interchange(model, sequences, source, {"all": group, **fewer}, 4)
    for name in fewer:
        assert (runs.patched[name] - runs.patched["all"]).abs().max() > 1e-3
    for row in range(6):
        _, cache = model.run_with_cache(sequences[source[row]][None])

        def swap_pattern(activation, hook, cache=cache):
            activation[:, 2, 11] = cache[hook.name][:, 2, 11]
            return activation

        def swap_z(activation, hook, cache=cache):
            activation[:, [5, 11], 0] = cache[hook.name][:, [5, 11], 0]
            activation[:, 3, 1] = cache[hook.name][:, 3, 1]
            return activation

        def swap_mlp(activation, hook, cache=cache):
            activation[:, 11] = cache[hook.name][:, 11]
            return activation

        hooks = [
            ("blocks.1.attn.hook_pattern", swap_pattern),
            ("blocks.0.attn.hook_z", swap_z),
            ("blocks.0.hook_mlp_out", swap_mlp),
        ]
        expected = model.run_with_hooks(sequences[row][None], fwd_hooks=hooks)
        assert torch.allclose(runs.patched["all"][row], expected[0, -1], atol=1e-10)


def test_a_set_without_sites_or_with_one_outside_the_blocks_is_refused():
    model, tokens = two_layers(), torch.zeros(4, 12, dtype=torch.long)
    with pytest.raises(probes.SiteError, match="'none' holds no site"):
        probes.run_interchange(model, tokens, torch.arange(4), {"none": []})
    sites = [probes.Site("blocks.0.hook_mlp_out"), probes.Site("hook_embed")]
    with pytest.raises(probes.SiteError, match="'hook_embed' is outside"):
        probes.run_interchange(model, tokens, torch.arange(4), {"some": sites})


# Any model


def test_a_users_own_model_is_searched_and_left_alone(tmp_path):
    model = users_model(n_heads=2, d_model=16, d_mlp=24, n_ctx=24)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    calls = []
    model.add_hook("blocks.0.hook_attn_out", lambda a, hook: calls.append(None))
    found = mtd_lens.localize(model, TASKS["m2"], n_sequences=64, seed=3, name="mine")
    assert calls
    assert sum(len(point.fwd_hooks) for point in model.hook_dict.values()) == 1
    assert model.training
    assert all(torch.equal(weights[n], v) for n, v in model.state_dict().items())
    assert {f.verdict for f in found.findings} == {"not_found"}
    assert len(found.findings) == 5
    assert {e.place.kind for e in found.sites} == {"z", "mlp_out", "pattern"}
    assert {e.place.kind for e in found.probes} == {"z", "attn_out", "mlp_out", "resid_post"}
    assert "NO SET FOUND\nbest tried" in found.plot(tmp_path / "f.svg").axes[0].get_title(
        loc="left"
    )
    again = mtd_lens.localize(model, TASKS["m2"], n_sequences=64, seed=3, name="mine")
    assert again == found
    other = mtd_lens.localize(model, TASKS["m2"], n_sequences=64, seed=4, name="mine")
    assert other.sites != found.sites


@pytest.mark.parametrize(
    ("task", "verdicts"),
    [
        (mtd_lens.MTDTask(transition(4, seed=0), order=1, seq_len=10), 3 * ["not_applicable"]),
        (  # the last query's is the only evidence
            mtd_lens.MTDTask(transition(3, seed=0), order=2, seq_len=3),
            ["not_applicable", *4 * ["found"]],
        ),
    ],
    ids=["one lag", "shortest"],
)
def test_what_does_not_vary_is_not_applicable(task, verdicts, tmp_path):
    model = mtd_lens.construct(task, 3.0, dtype=torch.float64)
    found = mtd_lens.localize(model, n_sequences=128)
    assert [finding.verdict for finding in found.findings] == verdicts
    assert Localization.from_dict(json.loads(found.to_json())) == found
    assert "not_applicable" in str(found)
    found.plot(tmp_path / "f.png")


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_sequences": 63}, mtd_lens.ArgumentError, "n_sequences = 63 is too few"),
        ({"threshold": 1.5}, mtd_lens.ArgumentError, "threshold must be a number above 0"),
        ({"level": 0}, mtd_lens.ArgumentError, "level must be a number above 0"),
        ({"seed": -1}, mtd_lens.ArgumentError, "seed must be an integer"),
        ({"model": "a name"}, mtd_lens.ModelError, "expected a model; got 'a name'"),
        ({"task": "no-such-task"}, mtd_lens.UnknownNameError, "no-such-task"),
        ({"model": two_layers()}, mtd_lens.ModelError, "does not know its task"),
    ],
)
def test_bad_input(changes, error, message):
    given = {"model": mtd_lens.construct(TASKS["m2"], 3.0), **changes}
    with pytest.raises(error, match=message):
        mtd_lens.localize(**given)


def test_an_algorithm_that_says_nothing_of_sites(monkeypatch):
    family = registry.family_of(TASKS["m2"])
    silent = replace(family.algorithms[0], carriers=None)
    plain = replace(family, algorithms=(silent,))
    monkeypatch.setattr("mtd_lens.experiment.family_of", lambda task: plain)
    with pytest.raises(mtd_lens.ModelError, match="'one step' does not say where"):
        mtd_lens.localize(mtd_lens.construct(TASKS["m2"], 3.0))
