"""Additive evidence: its stages, its special cases, and tables that are found again."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from conftest import transition

import mtd_lens
from mtd_lens import AdditiveCausalModel, MTDCausalModel, PosteriorCausalModel
from mtd_lens.errors import ArgumentError, TokensError
from mtd_lens.families.mtd import additive_claims, additive_model
from mtd_lens.families.mtd.additive_model import FORMS, PAIRS, WINDOWS, fit_additive
from probes import kl_divergence

Q, M, LENGTH = 3, 2, 12
N_EVIDENCE = LENGTH - M
LARGE = "mtd-q10-m5-t192"


def made(zeros=0.0, m=M):
    return mtd_lens.MTDTask(transition(Q, 7, 1.0, zeros), m, LENGTH, name="made")


@pytest.fixture(scope="module")
def small():
    return made()


def drawn(task, form, seed=0):
    """Additive evidence with a random table and uneven weights."""
    generator = torch.Generator().manual_seed(seed)
    size = additive_model.shape(task, form)
    table = 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
    weights = torch.rand(N_EVIDENCE, generator=generator, dtype=torch.float64) + 0.5
    return AdditiveCausalModel(task, table, weights / weights.mean())


@pytest.fixture(params=(WINDOWS, PAIRS))
def causal(request, small):
    return drawn(small, request.param)


def centred(values):
    return values - values.mean(-1, keepdim=True)


def evidence_for(causal, window):
    """One window's evidence, entry by entry: the oldest token first."""
    table = causal.table.numpy()
    if causal.form == WINDOWS:
        number = 0
        for token in window:
            number = number * Q + token
        return table[0, number]
    found = np.zeros(M)
    for lag in range(1, M + 1):
        found += table[lag - 1, window[-1 - lag] * Q + window[-1]]
    return found


def test_stages_equal_oracles_at_every_query(causal, small):
    tokens = small.sample(6, seed=1).tokens
    values, weights = causal.run(tokens), causal.position_weights.tolist()
    assert tuple(values) == causal.variables
    for i, row in enumerate(tokens.tolist()):
        for index, t in enumerate(causal.query_positions(len(row))):
            total = np.zeros(M)
            for k in range(M, t + 1):
                total += weights[t - k] * evidence_for(causal, row[k - M : k + 1])
            mixed = np.exp(total) / np.exp(total).sum()
            expected = (
                *(evidence_for(causal, row[t - M : t + 1]), total, mixed),
                oracles.predict(small, row[: t + 1], mixed),
            )
            for name, value in zip(values, expected, strict=True):
                assert values[name][i, index].numpy() == pytest.approx(value, abs=1e-12), name
    assert torch.allclose(causal.last_prediction(tokens), values["prediction"][:, -1])


def test_a_table_can_be_read_by_its_tokens(small):
    causal = drawn(small, WINDOWS)
    tokens = small.sample(1, seed=3).tokens
    window = tuple(tokens[0, -M - 1 :].tolist())
    entry = causal.table.view(*[Q] * (M + 1), M)[window]
    assert torch.equal(causal.run(tokens)["evidence"][0, -1], entry)


def test_shorter_contexts_have_the_weights_of_what_is_near(causal, small):
    tokens = small.sample(4, seed=1).tokens
    short = causal.run(tokens[:, :7])
    assert torch.allclose(short["prediction"], causal.run(tokens)["prediction"][:, : 7 - M])
    assert torch.allclose(causal.last_prediction(tokens[:, :7]), short["prediction"][:, -1])


@pytest.mark.parametrize("form", [WINDOWS, PAIRS])
def test_an_intervention_reaches_what_follows_and_nothing_else(small, form):
    causal = drawn(small, form)
    base, source = (small.sample(8, seed=seed).tokens for seed in (1, 2))
    natural, other = causal.run(base), causal.run(source)
    for index, name in enumerate(causal.variables[:-1]):
        held = causal.do(**{name: other[name]})
        found = held.run(base)
        for before in causal.variables[:index]:
            assert torch.equal(found[before], natural[before])
        for after in causal.variables[index:-1]:
            assert torch.allclose(found[after], other[after])
        expected = mtd_lens.predict(small, base, other["mixture_weights"])
        assert torch.allclose(found["prediction"], expected)
        assert torch.allclose(held.last_prediction(base), expected[:, -1])


def window_tokens(task):
    """Every window once, in the order of a table's entries."""
    return torch.cartesian_prod(*[torch.arange(task.n_tokens)] * (task.order + 1))


def known_table(task, values_of):
    """The table of windows of a function ``tokens -> [sequence, evidence, lag]``."""
    return values_of(task, window_tokens(task)).transpose(0, 1)


def one_step_table(task, beta):
    gamma = known_table(task, mtd_lens.responsibilities)
    return beta * gamma / (task.seq_len - task.order)


def test_one_step_is_a_table_of_responsibilities(small):
    beta, tokens = 5.0, small.sample(32, seed=0).tokens
    flat = torch.ones(N_EVIDENCE).double()
    causal = AdditiveCausalModel(small, one_step_table(small, beta), flat)
    expected = MTDCausalModel(small, beta).last_prediction(tokens)
    assert (causal.last_prediction(tokens) - expected).abs().max() < 1e-14


def test_the_product_of_likelihoods_is_a_table_of_logs(small):
    tau, tokens = 0.7, small.sample(32, seed=0).tokens
    table = tau * known_table(small, mtd_lens.lag_likelihoods).log()
    causal = AdditiveCausalModel(small, table, torch.ones(N_EVIDENCE))
    expected = PosteriorCausalModel(small, tau, "vertices").run(tokens)["prediction"]
    assert (causal.run(tokens)["prediction"] - expected).abs().max() < 1e-12


TRUTHS = {
    "one step": lambda task: (
        MTDCausalModel(task, 5.0),
        one_step_table(task, 5.0),
    ),
    "product of likelihoods": lambda task: (
        PosteriorCausalModel(task, 0.7, "vertices"),
        0.7 * known_table(task, mtd_lens.lag_likelihoods).log(),
    ),
}


def seen_in(task, tokens):
    """Which windows occur."""
    found = additive_model.entries(task, WINDOWS, tokens).unique()
    return torch.zeros(task.n_tokens ** (task.order + 1), dtype=torch.bool).index_fill(0, found, 1)


@pytest.mark.parametrize("name", TRUTHS)
def test_a_known_table_is_found_again_up_to_a_constant(small, name):
    truth, table = TRUTHS[name](small)
    tokens = small.sample(2048, seed=0).tokens
    fitted = fit_additive(small, WINDOWS, tokens, truth.run(tokens)["prediction"][:, -1])
    seen = seen_in(small, tokens)
    assert seen.sum() > 20
    assert (fitted.table - centred(table))[:, seen].abs().max() < 1e-4 * table.abs().max()
    assert (fitted.position_weights - 1).abs().max() < 1e-4
    assert fitted.table.sum(-1).abs().max() < 1e-12


def test_weights_of_positions_are_found_again(small):
    truth = drawn(small, WINDOWS)
    tokens = small.sample(2048, seed=0).tokens
    fitted = fit_additive(small, WINDOWS, tokens, truth.last_prediction(tokens))
    assert (fitted.position_weights - truth.position_weights).abs().max() < 1e-3
    assert fitted.position_weights.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("form", [PAIRS, "own pairs"])
def test_smaller_tables_follow_what_is_one_of_them_and_no_more(small, form):
    whole, pairs = drawn(small, WINDOWS), drawn(small, PAIRS)
    if form == "own pairs":  # evidence of the lag's own pair alone
        pairs = replace(pairs, table=pairs.table * torch.eye(M).double()[:, None])
    tokens, held_out = (small.sample(n, seed=n).tokens for n in (2048, 512))
    distances = []
    for truth in (pairs, whole):
        fitted = fit_additive(small, form, tokens, truth.last_prediction(tokens))
        assert fitted.form == PAIRS
        predictions = truth.last_prediction(held_out), fitted.last_prediction(held_out)
        distances.append(float(kl_divergence(*predictions).mean()))
    assert distances[0] < 1e-8
    assert distances[1] > 1e-3


def test_own_pairs_say_nothing_of_other_lags(small):
    tokens = small.sample(512, seed=0).tokens
    target = drawn(small, PAIRS).last_prediction(tokens)
    fitted = fit_additive(made(m=2), "own pairs", tokens, target)
    for lag, block in enumerate(fitted.table):  # centring spreads minus the mean to the others
        assert torch.allclose(block[:, lag], -block[:, 1 - lag])


def test_a_fit_stops_before_it_follows_noise(small):
    """Targets that no context explains: held out, no table is better than none."""
    generator = torch.Generator().manual_seed(0)
    tokens, held_out = (small.sample(n, seed=n).tokens for n in (128, 1024))
    noise = torch.rand(len(tokens) + len(held_out), Q, generator=generator, dtype=torch.float64)
    noise = noise / noise.sum(-1, keepdim=True)
    fitted = fit_additive(small, WINDOWS, tokens, noise[: len(tokens)])
    nothing = replace(fitted, table=torch.zeros_like(fitted.table))
    losses = [
        float(kl_divergence(noise[len(tokens) :], each.last_prediction(held_out)).mean())
        for each in (fitted, nothing)
    ]
    assert losses[0] < losses[1] + 0.01


def test_the_same_data_give_the_same_table(small):
    tokens = small.sample(256, seed=0).tokens
    target = MTDCausalModel(small, 5.0).last_prediction(tokens)
    one, two = (fit_additive(small, WINDOWS, tokens, target) for _ in range(2))
    assert torch.equal(one.table, two.table)
    with torch.no_grad():  # of callers who only look at models
        assert torch.equal(fit_additive(small, WINDOWS, tokens, target).table, one.table)


def test_transitions_with_zeros_are_taken():
    task = made(zeros=0.4)
    tokens = task.sample(512, seed=0).tokens
    target = PosteriorCausalModel(task).run(tokens)["prediction"][:, -1]
    fitted = fit_additive(task, WINDOWS, tokens, target)
    assert all(each.isfinite().all() for each in fitted.run(tokens).values())
    assert all(each.isfinite().all() for each in additive_claims.rules(task, tokens).values())


def test_the_analytic_pattern_is_what_adds_up(small):
    causal, tokens = drawn(small, WINDOWS), small.sample(3, seed=0).tokens
    (pattern,) = additive_claims.additive_patterns(causal, tokens)
    found = causal.run(tokens)
    assert torch.allclose(pattern.values[:, M:].sum(-1), torch.ones(()).double())
    for index, t in enumerate(causal.query_positions(LENGTH)):
        mean = pattern.values[:, t, M:, None] * found["evidence"]
        total = mean.sum(1) * causal.position_weights[: index + 1].sum()
        assert torch.allclose(total, found["total_evidence"][:, index])
    negative = replace(causal, position_weights=-causal.position_weights)
    assert additive_claims.additive_patterns(negative, tokens) == ()


def test_control_tasks_are_functions_of_windows_of_the_same_shape(small):
    causal, tokens = drawn(small, WINDOWS), small.sample(20, seed=0).tokens
    natural = causal.run(tokens)
    for name in causal.variables[:2]:
        decoy = additive_claims.additive_control(causal, tokens, name, seed=1)
        assert decoy.shape == natural[name].shape
        assert not torch.allclose(decoy, natural[name])


def test_sizes_name_every_form_the_largest_first(small):
    assert additive_model.sizes(small) == {"windows": 54, "pairs": 36, "own pairs": 18}
    large = additive_model.sizes(mtd_lens.load_task(LARGE))
    assert large == {"windows": 5_000_000, "pairs": 2_500, "own pairs": 500}
    assert tuple(large) == FORMS


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: replace(c, task="x"), "MTDTask"),
        (lambda c: replace(c, table=c.table[:, 1:]), r"shape \(2, 9, 2\) for pairs or \(1, "),
        (lambda c: replace(c, table=c.table.long()), "table must be a floating-point tensor"),
        (lambda c: replace(c, table=c.table * math.inf), "table must be finite"),
        (lambda c: replace(c, position_weights=torch.ones(3)), r"shape \(10,\), one for each"),
        (lambda c: c.do(evidence=torch.ones(3, 3, 3)).run(tokens_of(c)), "shape"),
        (lambda c: c.do(window=torch.ones(1)), "unknown variable 'window'"),
        (lambda c: fit_additive(c.task, "triples", None, None), "unknown form of a table 'tripl"),
        (
            lambda c: fit_additive(mtd_lens.load_task(LARGE), WINDOWS, None, None),
            r"of 10 tokens and 5 lags has 5,000,000 numbers; at most 4,194,304.*'pairs' \(2,500\)",
        ),
        (
            lambda c: additive_claims.additive_algorithm(c).fit(made(0.3), None, None),
            r"was fitted on .*Use fit_algorithm\(model, task\)",
        ),
    ],
)  # fmt: skip
def test_errors(small, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(drawn(small, WINDOWS))


def tokens_of(causal):
    return causal.task.sample(4, seed=0).tokens


def test_longer_contexts_are_refused(causal, small):
    longer = small.sample(2, seed=0).tokens.repeat(1, 2)
    with pytest.raises(TokensError, match="12"):
        causal.run(longer)
