"""Distributed alignment search: what it finds where something is known to be, and what it leaves.

Models: constructions, whose subspaces have names, the same turned by a random rotation, one that
stores a variable and never uses it, and models with random weights, in which there is nothing to
find.
"""

import json

import pytest
import torch
from alignments import (
    LAST,
    ORDER,
    predict,
    prepare,
    same,
    split_in_two,
    state,
    stored_and_unused,
)
from conftest import stock

import mtd_lens
import probes
from mtd_lens.families.mtd.plan import Plan
from mtd_lens.families.mtd.relative import lay_out
from mtd_lens.measures.pairs import prediction_with
from probes.capture import NaturalRuns
from probes.subspaces import Variation, held_at


def score(model, pairs, site):
    tokens, source, target = pairs
    runs = probes.run_interchange(model, tokens, source, {"it": site})
    base, patched = (
        probes.kl_divergence(target, predict(output)).mean()
        for output in (runs.base, runs.patched["it"])
    )
    return float(1 - patched / base)


def overlap(basis, directions):
    """Cosines of the principal angles between a basis and the plane of centred directions."""
    centred = directions - directions.mean(-1, keepdim=True)
    plane = torch.linalg.svd(centred, full_matrices=False)
    rank = int((plane.S > 1e-8).sum())
    return torch.linalg.svdvals(basis.double().T @ plane.U[:, :rank])


def turned(model, seed):
    """The same function with its residual stream turned, and the rotation."""
    rotation = probes.random_subspace(model.cfg.d_model, model.cfg.d_model, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind in ("W_E", "W_pos", "W_O", "b_O"):
                weight.copy_(weight @ rotation.to(weight))
            elif kind in ("W_Q", "W_K", "W_V", "W_U"):
                weight.copy_(rotation.T.to(weight) @ weight)
    return model, rotation


@pytest.fixture(scope="module")
def causal_model(task):
    return mtd_lens.MTDCausalModel(task, beta=6.0)


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, 6.0, form="relative", dtype=torch.float64)


@pytest.fixture(scope="module")
def pairs(task, causal_model):
    return prepare(task, causal_model)


@pytest.fixture(scope="module")
def held_out(task, causal_model):
    return prepare(task, causal_model, seed=1)


def fit(model, pairs, site=None, width=ORDER - 1, **options):
    site = probes.Site("blocks.1.hook_resid_post", [-1]) if site is None else site
    settings = {"predict": predict, "divergence": probes.kl_divergence, **options}
    return probes.fit_alignment(model, *pairs, site, width, **settings)


# What it finds.


def test_the_named_subspace_of_a_construction_is_found(task, model, causal_model, pairs, held_out):
    found = fit(model, pairs)
    layout = lay_out(Plan(task, 6.0))
    named = torch.eye(model.cfg.d_model, dtype=torch.float64)[:, layout["mean"]]
    assert score(model, held_out, found.site) > 0.999
    assert overlap(found.basis, named).min() > 0.99  # the simplex's plane, not its constant
    assert found.losses[-1] < 0.01 * found.losses[0]
    random = probes.random_subspace(found.span.shape[1], found.width, 0)
    control = probes.Site(found.site.hook, [-1], subspace=found.span @ random)
    assert score(model, held_out, control) < 0.5


def test_it_is_found_after_any_rotation_of_the_residual_stream(task, pairs, held_out):
    straight = mtd_lens.construct(task, 6.0, form="relative", dtype=torch.float64)
    straight_output = straight(pairs[0])
    model, rotation = turned(straight, seed=3)
    assert torch.allclose(model(pairs[0]), straight_output, atol=1e-8)
    found = fit(model, pairs)
    named = rotation.T[:, lay_out(Plan(task, 6.0))["mean"]]
    assert score(model, held_out, found.site) > 0.999
    assert overlap(found.basis, named).min() > 0.99
    # where it stood before the rotation there is nothing any more
    assert overlap(found.basis, torch.eye(len(named)).double()[:, :ORDER]).min() < 0.9


def test_responsibilities_are_found_at_all_evidence_positions(task, model, causal_model):
    evidence = slice(None, -1)
    both = [prepare(task, causal_model, "responsibilities", evidence, seed=s) for s in (0, 1)]
    positions = causal_model.query_positions(task.seq_len)[evidence]
    found = fit(model, both[0], probes.Site("blocks.0.hook_resid_post", positions))
    assert score(model, both[1], found.site) > 0.999


def test_one_head_is_searched_by_its_components(model, pairs, held_out):
    found = fit(model, pairs, probes.Site("blocks.1.attn.hook_z", [-1], head=0))
    assert len(found.basis) == model.cfg.d_head
    assert score(model, held_out, found.site) > 0.999


def test_the_whole_span_is_the_whole_site(model, pairs, held_out):
    rank = fit(model, pairs, steps=1).span.shape[1]
    # tokens (q-1), responsibilities and their mean (m-1 each): constants never differ
    assert rank == 3 + 2 * (ORDER - 1)
    found = fit(model, pairs, width=rank, steps=2)
    whole = probes.Site("blocks.1.hook_resid_post", [-1])
    assert score(model, held_out, found.site) == pytest.approx(score(model, held_out, whole))


def test_a_subspace_of_two_layers_together_carries_what_each_has_a_share_of(
    task, causal_model, pairs, held_out
):
    model = split_in_two(task, 6.0, 0.6)
    sites = [probes.Site(f"blocks.{layer}.hook_attn_out", [-1]) for layer in (1, 2)]
    first, second, both = (fit(model, pairs, site) for site in (sites[0], sites[1], sites))
    assert len(both.basis) == 2 * model.cfg.d_model
    shares = [size.norm() for size in both.basis.split(model.cfg.d_model)]
    assert shares[0] / shares[1] == pytest.approx(0.6 / 0.4, rel=1e-3)
    with pytest.raises(probes.SiteError, match="one of 2 sites together"):
        _ = both.site
    assert swapped(model, held_out, both) > 0.999
    assert swapped(model, held_out, first) == pytest.approx(score(model, held_out, first.site))
    assert max(score(model, held_out, found.site) for found in (first, second)) < 0.9


def test_positions_one_after_another_are_one_space(model, pairs, held_out):
    hook = "blocks.1.hook_attn_out"
    found = fit(model, pairs, [probes.Site(hook, [-2]), probes.Site(hook, [-1])])
    before, last = found.basis.split(model.cfg.d_model)
    assert before.norm() < 0.01 * last.norm()  # the mean is read at the last one alone
    assert swapped(model, held_out, found) > 0.999


def test_two_variables_have_columns_of_their_own_in_one_basis(task, model, causal_model):
    """The mean, and the last token: swapping either does not act as the other."""
    fitting, scoring = (both_variables(task, causal_model, seed) for seed in (0, 1))
    tokens, source, targets = fitting
    found = fit(model, (tokens, source, targets), width=[ORDER - 1, task.n_tokens - 1])
    gram = found.basis.T @ found.basis
    assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-9)
    tokens, source, targets = scoring
    for own, target in enumerate(targets):
        for other, part in enumerate(found.parts):
            site = probes.Site("blocks.1.hook_resid_post", [-1], subspace=part)
            found_score = score(model, (tokens, source, target), site)
            assert found_score > 0.999 if own == other else found_score < 0.3


def both_variables(task, causal_model, seed):
    """Pairs, and the predictions with the mean, and with the last token, of the source."""
    tokens, source, of_mean = prepare(task, causal_model, seed=seed)
    other = tokens.clone()
    other[:, -1] = tokens[source, -1]
    mean = causal_model.run(tokens)["mean_responsibility"]
    of_token = prediction_with(causal_model, other, "mean_responsibility", mean, LAST)
    return tokens, source, [of_mean, of_token]


def swapped(model, pairs, found):
    """The score of a subspace of any number of sites."""
    tokens, source, target = pairs
    runs = NaturalRuns(model, tokens)
    held = held_at(runs, found.sites)
    shift = (held.values[source] - held.values) @ found.basis @ found.basis.T
    writes = {"it": held.writes(held.values + shift)}
    patched = probes.run_written(model, runs, torch.arange(len(tokens)), writes)["it"]
    errors = [probes.kl_divergence(target, predict(out)) for out in (patched, runs.outputs)]
    return float(1 - errors[0].mean() / errors[1].mean())


# Directions that natural runs do not use.


def test_a_search_without_tolerance_finds_what_is_stored_and_never_used(
    task, causal_model, pairs, held_out
):
    model = stored_and_unused(task, 6.0)
    site = probes.Site("blocks.1.hook_attn_out", [-1])
    loose, strict = (fit(model, pairs, site, tolerance=share) for share in (1e-6, 1e-2))
    assert score(model, held_out, site) < 0.01  # the whole site does nothing
    assert score(model, held_out, loose.site) > 0.999
    assert score(model, held_out, strict.site) < 0.01
    assert (loose.left_out, loose.span.shape[1]) == (0, ORDER - 1 + ORDER)
    assert (strict.left_out, strict.span.shape[1]) == (ORDER, ORDER - 1)
    # along its own directions the swap looks natural; along the site's principal ones it does not
    values = held_at(NaturalRuns(model, pairs[0]), site).values
    shift = (values[pairs[1]] - values) @ loose.basis @ loose.basis.T
    variation = Variation.of(values)
    along = (shift @ loose.basis).square().mean((0, 1)).sqrt() / loose.deviations
    assert along.max() < 2
    assert variation.in_deviations(shift).max() > 100
    moved = (values[pairs[1]] - values) @ strict.basis @ strict.basis.T
    assert variation.in_deviations(moved).max() < 2


def test_directions_come_with_the_deviation_of_natural_runs(model, pairs):
    found = fit(model, pairs, steps=5, width=3)
    along = model.run_with_cache(pairs[0])[1]["blocks.1.hook_resid_post"][:, -1] @ found.basis
    assert torch.allclose(found.deviations, along.std(0, correction=0))
    assert (found.deviations.diff() <= 0).all()
    correlation = torch.corrcoef(along.T.detach())
    assert torch.allclose(correlation, torch.eye(3).double(), atol=1e-6)


def test_deviations_are_taken_about_each_position_s_own_mean():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(500, 2, 3, generator=generator).double() * torch.tensor([3.0, 1.0, 0.01])
    values[:, 1] += 100.0
    variation = Variation.of(values)
    assert torch.allclose(variation.deviations, torch.tensor([3, 1, 0.01]).double(), rtol=0.1)
    assert (variation.kept(0.01), variation.left_out(0.01)) == (2, 1)
    assert (variation.kept(0.0), variation.left_out(1e-3)) == (3, 0)
    apart = values[:250] - values[250:]
    assert torch.allclose(
        variation.in_deviations(apart), torch.full((3,), 2**0.5).double(), rtol=0.1
    )


# What it leaves, and what it depends on.


@pytest.mark.parametrize("caller_hook", [None, "blocks.0.hook_attn_out", "blocks.1.hook_resid_pre"])
@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was_found(task, pairs, caller_hook, broken):
    model = stock(task, "gpt", n_heads=2, d_model=16)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    if caller_hook:
        model.add_hook(caller_hook, lambda activation, hook: activation * 0.9)
    model.train()
    before = state(model)
    calls = []

    def divergence(target, prediction):
        calls.append(len(target))
        if broken and len(calls) > 5:
            raise RuntimeError("no more")
        return probes.kl_divergence(target, prediction)

    if broken:
        with pytest.raises(RuntimeError, match="no more"):
            fit(model, pairs, divergence=divergence)
    else:
        with torch.no_grad():  # the caller's mode does not matter
            fit(model, pairs, divergence=divergence, steps=5)
    assert same(before, state(model))


@pytest.mark.parametrize("caller_hook", [None, "blocks.0.hook_attn_out", "blocks.1.hook_resid_pre"])
def test_a_fit_runs_the_model_that_run_interchange_does(task, pairs, caller_hook):
    model = stock(task, "gpt", n_heads=2, d_model=16)
    if caller_hook:
        model.add_hook(caller_hook, lambda activation, hook: activation * 0.9)
    seen = []

    def record(output):
        seen.append(output.detach())
        return predict(output)

    tokens, source, _ = pairs
    found = fit(model, pairs, predict=record, steps=1, batch_size=len(tokens), learning_rate=1e-9)
    runs = probes.run_interchange(model, tokens, source, {"it": found.site})
    first, last = seen[0], seen[-1]
    assert torch.allclose(first, runs.base, atol=1e-6)
    in_order = torch.cdist(last, runs.patched["it"]).min(-1)
    assert in_order.values.max() < 1e-5
    assert sorted(in_order.indices.tolist()) == list(range(len(tokens)))


def test_a_seed_gives_one_result(model, pairs):
    first, again, other = (fit(model, pairs, seed=seed, steps=10, width=3) for seed in (0, 0, 1))
    assert torch.equal(first.basis, again.basis)
    assert first.losses == again.losses
    assert first.losses != other.losses


def test_a_result_says_what_it_is(model, pairs, tmp_path):
    found = fit(model, pairs, steps=3)
    assert repr(found).startswith("Alignment('blocks.1.hook_resid_post', width=2, loss 0.")
    assert "\n" not in repr(found)
    plain = json.loads(found.to_json(tmp_path / "it.json"))
    assert json.loads((tmp_path / "it.json").read_text()) == plain
    assert (plain["hook"], plain["positions"]) == ("blocks.1.hook_resid_post", [-1])
    assert torch.equal(torch.tensor(plain["basis"]).double().float(), found.basis.float())
    assert len(plain["losses"]) == 3
    again = probes.Alignment.from_dict(plain)
    assert again.to_dict() == plain
    assert (again.tolerance, again.left_out, again.parts[0].shape) == (0.01, 0, found.basis.shape)
    eye = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(found.basis.T @ found.basis, eye, atol=1e-10)


def test_random_subspaces_are_orthonormal_and_seeded():
    first, again, other = (probes.random_subspace(7, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(first.T @ first, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"width": 0}, "DataError", "width must be an integer from 1 to 16; got 0"),
        ({"width": 17}, "DataError", "width must be an integer from 1 to 16; got 17"),
        ({"width": 9}, "DataError", "in 7 directions only, so there is no subspace of width 9"),
        ({"tokens": torch.zeros(4, 3)}, "DataError", "tokens must be an integer tensor"),
        ({"source": torch.zeros(193).long()}, "DataError", "source must hold one row number"),
        ({"source": torch.tensor([0, 1])}, "DataError", "one row for each of the 2 bases"),
        ({"source": torch.full((192,), 192)}, "DataError", "0 … 191, for each base"),
        ({"targets": torch.ones(3, 4)}, "DataError", "with one row for each of the 192"),
        ({"targets": torch.full((192, 4), torch.nan)}, "DataError", "those of sequence 0 are not"),
        ({"steps": 0}, "DataError", "steps must be an integer of at least 1; got 0"),
        ({"learning_rate": 0}, "DataError", "learning_rate must be a number above 0"),
        ({"batch_size": 0}, "DataError", "batch_size must be an integer of at least 1"),
        ({"seed": -1}, "DataError", "seed must be an integer"),
        ({"tolerance": -0.1}, "DataError", "tolerance must be a number of at least 0"),
        ({"tolerance": 1.0, "width": 1}, "DataError", "7 more vary by less than 1 of the largest"),
        ({"width": [1, 1]}, "DataError", "got 1 of targets and 2 of widths"),
        ({"site": []}, "SiteError", "at one site or more; got none"),
        (
            {
                "site": [
                    probes.Site("blocks.1.hook_resid_post", [-1]),
                    probes.Site("blocks.1.hook_resid_post", [-2, -3]),
                ]
            },
            "SiteError",
            "need as many positions each",
        ),
        ({"site": probes.Site("blocks.1.attn.hook_z", [-1])}, "SiteError", "Name it: Site(hook"),
        ({"site": probes.Site("hook_embed")}, "SiteError", "'hook_embed' is outside"),
        ({"site": probes.Site("blocks.7.hook_resid_post")}, "SiteError", "no hook"),
        ({"predict": lambda output: predict(output).detach()}, "DataError", "does not depend"),
        ({"predict": lambda output: output * torch.nan}, "DataError", "hold probability vectors"),
        (
            {"divergence": lambda target, prediction: (prediction - torch.nan).sum(-1)},
            "DataError",
            "must be finite; its mean",
        ),
        (
            {"site": probes.Site("blocks.2.hook_resid_post", [-2])},
            "DataError",
            "nothing leads from it to the prediction at the last position",
        ),
        (
            {
                "site": probes.Site(
                    "blocks.1.hook_resid_post", subspace=probes.random_subspace(16, 1, 0)
                )
            },
            "SiteError",
            "has a subspace already",
        ),
    ],
)
def test_errors_say_what_came(model, pairs, changes, error, message):
    given = dict(zip(("tokens", "source", "targets"), pairs, strict=True)) | changes
    pairs = [given.pop(name) for name in ("tokens", "source", "targets")]
    with pytest.raises(getattr(mtd_lens, error), match=message.replace("(", r"\(")):
        fit(model, pairs, **given)
