"""Where variables are found: in constructions, nulls, broken models and a user's own."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import transition
from test_probes import make
from transformer_lens import HookedTransformer, HookedTransformerConfig

import mtd_lens
import probes
from mtd_lens import cli
from mtd_lens.localization import smallest_set
from mtd_lens.localization_result import Finding, Localization, Place

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
    """On contexts so long that the last query's own share of the mean is below the floor."""
    found = mtd_lens.localize(mtd_lens.construct(task, form=form), seed=seed)
    check_construction(found, task, form)
    significant = {(e.variable, e.place) for e in found.sites if e.significant}
    assert significant == {(f.variable, place) for f in found.findings for place in f.places}


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
    assert max(entry.score for entry in found.sites) < 0.15
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
    model = make()
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
        assert torch.allclose(runs.patched["all"][row], expected[0, -1], atol=1e-5)


def test_a_set_without_sites_or_with_one_outside_the_blocks_is_refused():
    model, tokens = make(), torch.zeros(4, 12, dtype=torch.long)
    with pytest.raises(probes.SiteError, match="'none' holds no site"):
        probes.run_interchange(model, tokens, torch.arange(4), {"none": []})
    sites = [probes.Site("blocks.0.hook_mlp_out"), probes.Site("hook_embed")]
    with pytest.raises(probes.SiteError, match="'hook_embed' is outside"):
        probes.run_interchange(model, tokens, torch.arange(4), {"some": sites})


A, B, C, D = (Place(layer, "z", 0) for layer in range(4))


@pytest.mark.parametrize(
    ("worth", "chosen"),
    [
        ({A: 0.5, C: 0.4}, (A, C)),
        ({A: 0.5, B: 0.009}, (A,)),  # too little is gained
        ({D: 0.2, A: 0.2}, (A, D)),  # in the order of layers
        ({}, (A,)),  # the best of nothing, so that its score can be told
    ],
)
def test_sets_grow_while_they_gain(worth, chosen):
    found, score = smallest_set(
        lambda sets: [sum(worth.get(p, 0.0) for p in group) for group in sets], [A, B, C, D]
    )
    assert found == chosen
    assert score == pytest.approx(sum(worth.get(place, 0.0) for place in chosen))


def test_members_that_others_replace_are_pruned():
    def scores(sets):
        """B alone is best, but A and C together hold all that it does."""
        return [1.0 if {A, C} <= set(g) else 0.6 * (B in g) + 0.3 * (A in g) for g in sets]

    assert smallest_set(scores, [A, B, C, D]) == ((A, C), 1.0)


# The result


def test_the_numbers_of_every_site_are_there(found):
    z = {(v, layer, "z", h) for v in VARIABLES[:2] for layer in range(3) for h in range(3)}
    pattern = {("mixture_weights", layer, "pattern", h) for layer in range(3) for h in range(3)}
    sites = [(e.variable, e.place.layer, e.place.kind, e.place.head) for e in found.sites]
    assert set(sites) == z | pattern
    assert len(sites) == 27
    assert all(e.low <= e.score <= e.high for e in found.sites)
    assert all(0 < e.p_value <= e.adjusted_p_value <= 1 for e in found.sites)
    assert all(e.significant == (e.adjusted_p_value < found.level) for e in found.sites)
    assert len(found.probes) == 3 * 3 * 5  # three heads, attn_out and resid_post in each layer
    best = max((e for e in found.probes if e.variable == "responsibilities"), key=lambda e: e.score)
    assert best.place.kind in ("attn_out", "resid_post")
    assert best.selectivity > 0.8
    finding = found["responsibilities"]
    assert finding.where == "positions 3 to 18"
    assert finding.probed == "positions 3 to 18"
    assert finding.pairs == 64
    assert finding.whole_layers == pytest.approx((1.0, 0.0, 0.0), abs=1e-3)
    with pytest.raises(mtd_lens.UnknownNameError, match=r"'mixture'.*mixture_weights"):
        found["mixture"]


def test_json_round_trip(found, tmp_path):
    text = found.to_json(tmp_path / "l.json")
    assert (tmp_path / "l.json").read_text() == text
    data = json.loads(text)
    assert Localization.from_dict(data) == found
    assert data["order"]["carried_in_order"] is True
    assert data["parameters"]["beta"] > 0
    assert {"p_value", "adjusted_p_value", "low", "high"} <= set(data["sites"][0])
    assert data["floor"] == 0.1
    with pytest.raises(mtd_lens.ArgumentError, match=r"Localization.to_dict returns.*findings"):
        Localization.from_dict({key: data[key] for key in data if key != "findings"})


def test_text_and_html(found):
    text = str(found)
    assert text.startswith("m3/constructed-absolute   beta")
    assert "L0H0 z, L0H1 z, L0H2 z" in text
    assert "1.00*+" in text
    assert "Order of the found sets: causal" in text
    line = repr(found)
    assert "\n" not in line
    assert "mixture_weights in L2H0 pattern" in line
    page = found._repr_html_()
    assert page.count("<table>") == 3
    hostile = Localization(**{**vars(found), "model": "<script>"})
    assert "<script>" not in hostile._repr_html_()


def test_what_is_lost_in_rounding_is_not_read(found):
    """Layer 1's resting heads hold the mean responsibility too, some 33 orders too faintly."""
    served = (TASKS["m3"].seq_len - 1) % 3
    for entry in found.probes:
        place = entry.place
        if entry.variable == "mean_responsibility" and (place.layer, place.kind) == (1, "z"):
            assert (entry.score > 0.9) == (place.head == served)


def _with_places(found, **changed):
    findings = [
        Finding(**{**vars(f), "places": changed.get(f.variable, f.places)}) for f in found.findings
    ]
    return Localization(**{**vars(found), "findings": tuple(findings)})


def test_order_is_that_of_what_can_follow_from_what(found):
    side_by_side = _with_places(found, mean_responsibility=(Place(0, "z", 0),))
    assert side_by_side.carried_in_order is False
    assert "not causal" in str(side_by_side)
    after = _with_places(found, mean_responsibility=(Place(0, "mlp_out"),))
    assert after.carried_in_order is True


def test_the_figure_is_not_blank_and_says_what_was_found(found, tmp_path):
    figure = found.plot(tmp_path / "f.png")
    panels = figure.axes[:6]
    texts = [text.get_text() for axes in panels for text in axes.texts]
    assert sum(text.endswith("*") for text in texts) == sum(e.significant for e in found.sites)
    outlines = [p for axes in panels for p in axes.patches if not p.get_fill()]
    assert len(outlines) == 3 + 1 + 1
    assert "responsibilities: found, F = 1.00" in panels[0].get_title(loc="left")
    assert "L0H0+1+2 z" in panels[0].get_title(loc="left")
    headings = [text.get_text() for text in figure.texts]
    assert any("constructed-absolute" in text and "of m3" in text for text in headings)
    from matplotlib.image import imread

    pixels = imread(tmp_path / "f.png")[..., :3]
    assert pixels.min() < 0.2
    assert pixels.std() > 0.05
    with pytest.raises(mtd_lens.ArgumentError, match=r"written as \.png or \.svg"):
        found.plot(tmp_path / "f.pdf")


def test_scores_far_below_zero_are_said_to_be_below(found):
    low = Localization(
        **{
            **vars(found),
            "sites": tuple(type(e)(**{**vars(e), "score": -7.0}) for e in found.sites),
        }
    )
    texts = [text.get_text() for text in low.plot().axes[0].texts]
    assert sum(text.startswith("< -1") for text in texts) == 9


# Any model


def own_model():
    """Two layers, two heads, normalisation, MLPs, random weights."""
    cfg = HookedTransformerConfig(
        n_layers=2,
        n_heads=2,
        d_model=16,
        d_head=8,
        d_mlp=24,
        act_fn="gelu",
        n_ctx=24,
        d_vocab=3,
        normalization_type="LN",
        device="cpu",
    )
    state = torch.get_rng_state()
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg)
    torch.set_rng_state(state)
    return model


def test_a_users_own_model_is_searched_and_left_alone(tmp_path):
    model = own_model()
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
    assert {e.place.kind for e in found.sites} == {"z", "mlp_out", "pattern"}
    assert {e.place.kind for e in found.probes} == {"z", "attn_out", "mlp_out", "resid_post"}
    assert "NOT FOUND" in found.plot(tmp_path / "f.svg").axes[0].get_title(loc="left")
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
            ["not_applicable", "found", "found"],
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


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_sequences": 63}, mtd_lens.ArgumentError, "n_sequences = 63 is too few"),
        ({"threshold": 1.5}, mtd_lens.ArgumentError, "threshold must be a number above 0"),
        ({"level": 0}, mtd_lens.ArgumentError, "level must be a number above 0"),
        ({"seed": -1}, mtd_lens.ArgumentError, "seed must be an integer"),
        ({"model": "a name"}, mtd_lens.ModelError, "expected a model; got the text"),
        ({"task": "no-such-task"}, mtd_lens.UnknownNameError, "no-such-task"),
        ({"model": make()}, mtd_lens.ModelError, "does not know its task"),
    ],
)
def test_bad_input(changes, error, message):
    given = {"model": mtd_lens.construct(TASKS["m2"], 3.0), **changes}
    with pytest.raises(error, match=message):
        mtd_lens.localize(**given)


def test_a_family_that_says_nothing_of_sites(monkeypatch):
    class Plain:
        name = "plain"

    monkeypatch.setattr("mtd_lens.localization.family_of", lambda task: Plain())
    with pytest.raises(mtd_lens.ModelError, match="'plain' does not say where"):
        mtd_lens.localize(mtd_lens.construct(TASKS["m2"], 3.0))


# The command


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mtd-lens", "localize", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_the_command_prints_and_writes(capsys, monkeypatch, tmp_path):
    files = [tmp_path / "l.json", tmp_path / "l.png"]
    status, out, err = run(
        capsys,
        monkeypatch,
        *("mtd-q3-m2-t32/constructed-relative", "--sequences", "64", "--seed", "2"),
        *("--threshold", "0.9", "--json", str(files[0]), "--figure", str(files[1])),
    )
    assert status == 0
    assert "L1H0 z" in out
    assert all(str(path) in err and path.exists() for path in files)
    data = json.loads(files[0].read_text())
    assert (data["seed"], data["n_sequences"], data["threshold"]) == (2, 64, 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mtd-q3-m2-t32/constructed"], "no model is named"),
        (["no-model", "--figure", "f.docx"], "written as .png or .svg"),
        (["no-model", "--json", "/no/such/l.json"], "there is no folder"),
        (["mtd-q3-m2-t32/random-relative", "--threshold", "2"], "threshold"),
    ],
)
def test_the_command_refuses_at_once(capsys, monkeypatch, arguments, message):
    status, out, err = run(capsys, monkeypatch, *arguments)
    assert (status, out) == (2, "")
    assert message in err
