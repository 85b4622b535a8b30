"""The posterior over nodes: its rule, its stages, and its weights, all beside exact Bayes."""

import itertools
import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from conftest import transition
from verdict_sets import supported

import mtd_lens
from mtd_lens import PosteriorCausalModel
from mtd_lens.architectures.writing import MARGIN, leak_bound
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.family import FAMILY
from mtd_lens.families.mtd.posterior_model import RULES, fit_posterior
from mtd_lens.families.mtd.posterior_weights import MAX_WINDOWS, n_windows
from mtd_lens.hooked import probabilities
from probes import kl_divergence

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
SMALL = "mtd-q3-m2-t32"


def made(q, m, length, zeros=0.0, concentration=1.0):
    rows = transition(q, 10 * q + m, 1.0, zeros)
    return mtd_lens.MTDTask(rows, m, length, concentration, name="made")


@pytest.fixture(scope="module")
def two_lags():
    return made(4, 2, 14, 0.3)


@pytest.fixture(scope="module")
def causal(two_lags):
    return PosteriorCausalModel(two_lags)


def dirichlet_moment(exponents, concentration):
    """E[Π λ_g^e_g], from the Dirichlet's normalising constants."""
    total = sum(math.lgamma(concentration + e) - math.lgamma(concentration) for e in exponents)
    size = concentration * len(exponents)
    return math.exp(total + math.lgamma(size) - math.lgamma(size + sum(exponents)))


@pytest.mark.parametrize("concentration", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("m", "length"), [(1, 6), (2, 14), (3, 32), (4, 60)])
def test_nodes_integrate_polynomials(m, length, concentration):
    task = made(3, m, length, concentration=concentration)
    nodes, log_masses = PosteriorCausalModel(task).rule_nodes
    each = round(len(nodes) ** (1 / max(m - 1, 1)))
    assert torch.allclose(nodes.sum(1), torch.ones(()).double())
    assert (nodes > 0).all()
    assert len(nodes) <= (length - m + 3) // 2 + (m == 1)
    for exponents in itertools.product(range(4), repeat=m):
        if sum(exponents) <= 2 * each - 1 or m == 1:
            found = (log_masses.exp() * (nodes ** torch.tensor(exponents)).prod(1)).sum()
            expected = dirichlet_moment(exponents, concentration)
            assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_stages_equal_oracles_at_every_query(two_lags, rule):
    task, tau = two_lags, 0.7
    model = PosteriorCausalModel(task, tau, rule)
    nodes, log_masses = (x.numpy() for x in model.rule_nodes)
    tokens = task.sample(6, seed=1).tokens
    values = model.run(tokens)
    assert tuple(values) == model.variables
    transition_ = task.transition.numpy()
    for i, row in enumerate(tokens.tolist()):
        total = np.zeros(len(nodes))
        for index, k in enumerate(model.query_positions(len(row))):
            p = np.array([transition_[row[k - g], row[k]] for g in (1, 2)])
            each = np.empty(len(nodes))
            for n, node in enumerate(nodes):
                ratio = sum(node * p) / max(p)
                each[n] = max(math.log(ratio), model.floor) if ratio > 0 else model.floor
            total += each
            posterior = np.exp(log_masses + tau * (total - total.max()))
            posterior /= posterior.sum()
            weights = posterior @ nodes
            prediction = oracles.predict(task, row[: k + 1], weights)
            expected = (each, total, posterior, weights, prediction)
            for name, value in zip(values, expected, strict=True):
                assert values[name][i, index].numpy() == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("concentration", [0.5, 1.0, 2.0])
def test_with_two_lags_it_is_exact_bayes_at_every_query(concentration):
    task = made(3, 2, 20, 0.3, concentration)
    tokens = task.sample(32, seed=0).tokens
    values = PosteriorCausalModel(task).run(tokens)["mixture_weights"]
    for index, t in enumerate(range(2, 20)):
        exact = mtd_lens.posterior_mean(task, tokens[:, : t + 1])
        assert (values[:, index] - exact).abs().max() < 1e-12


@pytest.mark.parametrize(("name", "most"), [("mtd-q5-m3-t32", 5e-6), ("mtd-q5-m3-t64", 1e-5)])
def test_with_three_lags_it_is_near_exact_bayes(name, most):
    task = mtd_lens.load_task(name)
    tokens = task.sample(256, seed=9).tokens
    exact = mtd_lens.predict(task, tokens, mtd_lens.posterior_mean(task, tokens))
    model = PosteriorCausalModel(task)
    assert len(model.rule_nodes[0]) <= task.seq_len // 2
    found = model.run(tokens)["prediction"][:, -1]
    one_step = mtd_lens.MTDCausalModel(task, mtd_lens.best_beta(task)).run(tokens)
    away = kl_divergence(exact, one_step["prediction"][:, -1])
    assert kl_divergence(exact, found).mean() < most < away.mean() / 40


def test_vertices_are_the_product_of_likelihoods(task, tokens):
    likelihoods = mtd_lens.lag_likelihoods(task, tokens)
    expected = likelihoods.log().cumsum(1).softmax(-1)
    found = PosteriorCausalModel(task, rule="vertices").run(tokens)["mixture_weights"]
    assert (found - expected).abs().max() < 1e-12


def test_a_vertex_that_excludes_evidence_is_out():
    task = made(3, 2, 20, 0.4)
    tokens = task.sample(200, seed=0).tokens
    excluded = (mtd_lens.lag_likelihoods(task, tokens) == 0).any(1)
    one = excluded.any(1) & ~excluded.all(1)
    assert one.sum() > 20
    found = PosteriorCausalModel(task, rule="vertices").run(tokens)["mixture_weights"][:, -1]
    assert found[one][excluded[one]].max() <= math.exp(-MARGIN)


@pytest.mark.parametrize("zeros", [0.0, 0.4])
@pytest.mark.parametrize("rule", RULES)
def test_no_possible_log_likelihood_is_below_the_bound(rule, zeros):
    task = made(5, 3, 20, zeros)
    model = PosteriorCausalModel(task, rule=rule)
    found = model.run(task.sample(500, seed=0).tokens)["node_log_likelihoods"]
    assert found.max() <= 0
    assert found[found > model.floor].min() >= model.least
    assert ((found == model.floor).any() == (zeros > 0 and rule == "vertices")).all()


def test_temperature(causal, two_lags):
    tokens = two_lags.sample(8, seed=0).tokens
    prior = PosteriorCausalModel(two_lags, 0).run(tokens)["mixture_weights"]
    assert (prior - 0.5).abs().max() < 1e-12
    cold = PosteriorCausalModel(two_lags, 1000).run(tokens)
    likeliest = causal.run(tokens)["total_log_likelihoods"].argmax(-1)
    apart = cold["node_posterior"].amax(-1) > 0.99
    assert apart.any()
    assert torch.equal(cold["node_posterior"].argmax(-1)[apart], likeliest[apart])


def test_the_temperature_is_found_again_from_its_own_predictions(two_lags):
    tokens = two_lags.sample(400, seed=0).tokens
    for rule, value in itertools.product(RULES, (0.4, 1.0, 3.0)):
        model = PosteriorCausalModel(two_lags, value, rule)
        fitted = fit_posterior(two_lags, tokens, model.run(tokens)["prediction"][:, -1], rule=rule)
        assert fitted.rule == rule
        assert fitted.parameters == {"inverse_temperature": pytest.approx(value, rel=1e-5)}
    prior = PosteriorCausalModel(two_lags, 0).run(tokens)["prediction"][:, -1]
    assert fit_posterior(two_lags, tokens, prior).parameters["inverse_temperature_at_bound"] == 1


@pytest.mark.parametrize("index", range(5))
def test_an_intervention_reaches_what_follows_and_nothing_else(causal, two_lags, index):
    base, source = (two_lags.sample(8, seed=seed).tokens for seed in (1, 2))
    natural, other = causal.run(base), causal.run(source)
    name = causal.variables[index]
    held = causal.do(**{name: other[name]}).run(base)
    for before in causal.variables[:index]:
        assert torch.equal(held[before], natural[before])
    assert torch.equal(held[name], other[name])
    for after in causal.variables[index + 1 : -1]:
        assert torch.allclose(held[after], other[after])
    if name != "prediction":  # the base keeps its own parents
        expected = mtd_lens.predict(two_lags, base, other["mixture_weights"])
        assert torch.allclose(held["prediction"], expected)


def largest_error(causal, tokens, expected, dtype):
    """Of the predicted probabilities at every query that all nodes precede."""
    model = mtd_lens.construct_posterior(causal, dtype=dtype)
    first = max(len(causal.rule_nodes[0]) - 1, causal.task.order)
    with torch.no_grad():
        found = probabilities(model, model(tokens))[:, first:]
    return float((found - expected[:, first - causal.task.order :]).abs().max())


CASES = [
    *itertools.product([2, 3, 6], [1, 2], [8, 32], [0.0, 0.4]),
    *[(3, 2, 192, 0.0), (3, 2, 192, 0.4), (4, 3, 24, 0.4), (2, 4, 40, 0.0)],
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("q", "m", "length", "zeros"), CASES)
def test_the_weights_compute_the_algorithm(q, m, length, zeros, dtype):
    task = made(q, m, length, zeros)
    tokens = task.sample(16, seed=3).tokens
    for rule, tau in (("quadrature", 1.0), ("vertices", 1.0), ("quadrature", 2.5)):
        causal = PosteriorCausalModel(task, tau, rule)
        values = causal.run(tokens)
        bound = TOLERANCE[dtype]
        if rule == "vertices":  # where all lags are excluded, large floors are compared
            scores = float(values["total_log_likelihoods"].abs().max())
            bound = max(bound, scores * torch.finfo(dtype).eps)
        assert largest_error(causal, tokens, values["prediction"], dtype) <= bound, rule


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_with_two_lags_the_weights_compute_exact_bayes(seed, dtype):
    task = mtd_lens.MTDTask(transition(4, seed, 0.5, 0.2), 2, 24)
    tokens = task.sample(32, seed=seed).tokens
    prefixes = [tokens[:, : t + 1] for t in range(2, 24)]
    means = torch.stack([mtd_lens.posterior_mean(task, prefix) for prefix in prefixes], 1)
    exact = mtd_lens.predict(task, tokens, means)
    error = largest_error(PosteriorCausalModel(task), tokens, exact, dtype)
    assert error <= TOLERANCE[dtype]


def test_every_stage_stands_where_the_algorithm_puts_it(causal, two_lags):
    tokens = two_lags.sample(12, seed=1).tokens
    model = mtd_lens.construct(two_lags, algorithm="posterior", dtype=torch.float64)
    values, (_, cache) = causal.run(tokens), model.run_with_cache(tokens)
    n = len(causal.rule_nodes[0])
    start = two_lags.seq_len + 3 * two_lags.n_tokens  # position, and a token at lags 0 to 2
    for hook, name, at in (
        ("blocks.0.hook_mlp_out", "node_log_likelihoods", start),
        ("blocks.1.hook_attn_out", "total_log_likelihoods", start + n),
    ):
        written = cache[hook][:, 2:]
        held = written[..., at : at + n]
        assert (held - values[name]).abs().max() < 1e-11
        assert (written.abs().sum(-1) - held.abs().sum(-1)).abs().max() < 1e-11
    posterior = cache["blocks.2.attn.hook_pattern"][:, 0, n - 1 :]
    assert (posterior[..., :n] - values["node_posterior"][:, n - 3 :]).abs().max() < 1e-12
    assert posterior[..., n:].max() <= leak_bound(two_lags.seq_len)
    weights = cache["blocks.2.hook_attn_out"][:, n - 1 :, start + 2 * n : start + 2 * n + 2]
    assert (weights - values["mixture_weights"][:, n - 3 :]).abs().max() < 1e-12


def test_the_product_of_likelihoods_is_built_by_name(two_lags):
    tokens = two_lags.sample(16, seed=1).tokens
    model = mtd_lens.construct(two_lags, algorithm="product-of-likelihoods", dtype=torch.float64)
    assert model.mtd_lens_info.name == "made/constructed-product-of-likelihoods"
    weights = mtd_lens.lag_likelihoods(two_lags, tokens).prod(1)
    weights = weights / weights.sum(-1, keepdim=True)
    told = weights.isfinite().all(-1)  # where not all lags are excluded
    assert told.sum() > 4
    expected = mtd_lens.predict(two_lags, tokens[told], weights[told])
    found = probabilities(model, model(tokens))[told, -1]
    assert (found - expected).abs().max() < 1e-9


def test_both_read_outs_say_the_same(causal, two_lags):
    tokens = two_lags.sample(4, seed=1).tokens
    found = [
        probabilities(model, model(tokens))
        for read_out in ("log_probs", "probs")
        for model in [mtd_lens.construct_posterior(causal, read_out, torch.float64)]
    ]
    assert (found[0] - found[1]).abs().max() < 1e-12


LARGE = "mtd-q10-m5-t192"


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: PosteriorCausalModel(t, -1), r"inverse_temperature must be .* got -1"),
        (lambda t: PosteriorCausalModel(t, rule="grid"), r"unknown rule 'grid'.*quadrature"),
        (lambda t: PosteriorCausalModel(t, n_nodes=15), r"makes 15 nodes.*n_nodes=14 or less"),
        (lambda t: PosteriorCausalModel(made(3, 3, 20), n_nodes=5), r"25 nodes.*n_nodes=4"),
        (lambda t: PosteriorCausalModel(t, rule="vertices", n_nodes=2), r"one a lag"),
        (lambda t: PosteriorCausalModel("x"), r"MTDTask"),
        (lambda t: mtd_lens.construct_posterior(t), r"Use PosteriorCausalModel\(task\)"),
        (lambda t: mtd_lens.construct(t, algorithm="bayes"), r"unknown algorithm 'bayes'"),
        (lambda t: mtd_lens.construct(t, 2.0, algorithm="posterior"), r"'posterior' has stock"),
        (lambda t: mtd_lens.construct(t, form="relative", algorithm="posterior"), r"Leave both"),
        (
            lambda t: mtd_lens.construct(mtd_lens.load_task(LARGE), algorithm="posterior"),
            r"need 1,000,000 units.*may have 16,384\. With order 5 up to 5 tokens fit",
        ),
    ],
)  # fmt: skip
def test_errors(two_lags, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(two_lags)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: mtd_lens.score(m, algorithm="one step"),
            r"'one step'\. Nearest.*: one-step",
        ),
        (lambda m: mtd_lens.score(m, algorithm=1), r"unknown mtd algorithm 1\."),
        (lambda m: replace(FAMILY, algorithms=FAMILY.algorithms[:1] * 2), "differ in their ids"),
        (lambda m: FAMILY.variants_of(mtd_lens.load_task("ar-d3-t16")), "of the family 'mtd'; got"),
    ],
)
def test_algorithms_and_variants_that_a_family_does_not_have(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(mtd_lens.load_model(f"{SMALL}/constructed-posterior"))


def test_only_one_step_can_be_ablated_by_part(two_lags):
    model = mtd_lens.construct(two_lags, algorithm="posterior")
    with pytest.raises(mtd_lens.ModelError, match="construction of one step"):
        mtd_lens.ablate_construction(model, "beta")


def test_variants_are_those_that_fit():
    for name in FAMILY.presets:
        fits = n_windows(mtd_lens.load_task(name)) <= MAX_WINDOWS
        for variant in ("posterior", "product-of-likelihoods"):
            assert (f"{name}/constructed-{variant}" in mtd_lens.list_models()) == fits
    with pytest.raises(mtd_lens.UnknownNameError, match="no model is named"):
        mtd_lens.load_model(f"{LARGE}/constructed-posterior")


NOT_POSTERIOR = {"node_posterior.attention", "prediction.algorithm"}
"""What falls of the posterior's claims for a model of one step: no position stands for a node, and
one step is nearer than exact Bayes. Of two lags, responsibilities say all that log-likelihoods do,
and swaps act alike where predictions are."""

NOT_ONE_STEP = {
    "responsibilities.interchange",
    "responsibilities.injection",
    "responsibilities.attention",
    "responsibilities.weights",
    "mixture_weights.attention",
    "prediction.algorithm",
}
"""What falls of one step's claims for the posterior: layer 0 attends to fixed lags, by no content,
and no pattern lies on the parents that are mixed."""

NOT_A_SINGLE_LAG: set[str] = {"node_posterior.attention", "prediction.algorithm"}
"""What falls of the product of likelihoods' claims for exact Bayes: its nodes are others, and so
are its predictions."""


@pytest.mark.parametrize(
    ("variant", "algorithm", "false"),
    [
        ("constructed-posterior", "posterior", set()),
        ("constructed-posterior", "one-step", NOT_ONE_STEP),
        ("constructed-absolute", "posterior", NOT_POSTERIOR),
        ("constructed-product-of-likelihoods", "product-of-likelihoods", set()),
        ("constructed-posterior", "product-of-likelihoods", NOT_A_SINGLE_LAG),
    ],
)
def test_scorecards_tell_the_algorithms_apart(variant, algorithm, false):
    model = mtd_lens.load_model(f"{SMALL}/{variant}", dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=192, algorithm=algorithm)
    assert card.algorithm == FAMILY.algorithm(algorithm).name
    assert not supported(card) & false
    assert {claim.id for claim in card if claim.verdict == "refuted"} >= false - {
        "responsibilities.interchange"
    }
    if not false:
        assert all(claim.verdict == "supported" for claim in card), card
