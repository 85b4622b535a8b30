"""Score and value of one layer: forms against loops, and models whose circuit is known."""

import itertools

import pytest
import torch
from conftest import transition

import mtd_lens
from mtd_lens.experiment import Experiment
from mtd_lens.families.mtd.circuit import COVARIANCE, FIRST, Circuit
from mtd_lens.families.mtd.circuit_codes import pair_figures, product_figures, with_errors
from mtd_lens.families.mtd.circuit_forms import (
    ADDITIVE,
    JOINT,
    LAST,
    N_ENDINGS,
    SHUFFLED,
    Basis,
    ValueForm,
    pairs_of,
    parents_of,
)
from mtd_lens.families.mtd.circuit_study import joint_figures, mlp_figures
from mtd_lens.families.mtd.score_claims import COMPETING
from mtd_lens.families.mtd.score_form import ANY

SMALL = "mtd-q3-m2-t32"


@pytest.fixture(scope="module")
def made():
    return mtd_lens.MTDTask(transition(3, 4), 2, 12, name="made")


@pytest.fixture(scope="module")
def basis(made):
    return Basis.of(made, 4 * N_ENDINGS)


def circuit_of(name, n_sequences=384):
    model = mtd_lens.load_model(f"{SMALL}/{name}", dtype=torch.float64)
    trial = Experiment.of(model, None, 0, algorithm="fused").drawn(n_sequences).trial()
    return Circuit.of(trial, Basis.of(trial.task, 8 * N_ENDINGS))


@pytest.fixture(scope="module")
def fused():
    return circuit_of("constructed-fused")


def test_pairs_and_parents_equal_loops(made):
    tokens = made.sample(3, seed=1).tokens
    m, q, length = made.order, made.n_tokens, made.seq_len
    pairs, parents = pairs_of(made, tokens), parents_of(made, tokens)
    for n, row in enumerate(tokens.tolist()):
        for k in range(length):
            expected = [
                k >= m and row[k] == b and row[k - g] == a
                for g, b, a in itertools.product(range(1, m + 1), range(q), range(q))
            ]
            assert pairs[n, k].tolist() == expected
        expected = [row[length - g] == a for g in range(1, m + 1) for a in range(q)]
        assert parents[n].tolist() == expected


def test_squares_are_those_of_products_within_endings(made, basis):
    groups = basis.tokens.unflatten(0, (N_ENDINGS, -1))
    scores = torch.randn(*basis.tokens.shape, 2, generator=torch.Generator().manual_seed(0))
    squares, moments = 0.0, 0.0
    for tokens, own in zip(groups, scores.double().unflatten(0, (N_ENDINGS, -1)), strict=True):
        assert (tokens[:, -made.order :] == tokens[0, -made.order :]).all()
        x = pairs_of(made, tokens)[..., None] * parents_of(made, tokens)[:, None, None]
        x, y = x.flatten(2), own
        x, y = (z - z.mean(1, keepdim=True) for z in (x, y))
        x, y = (z - z.mean(0, keepdim=True) for z in (x, y))
        squares = squares + torch.einsum("nki,nkj->ij", x, x)
        moments = moments + torch.einsum("nki,nkh->ih", x, y)
    n = basis.products.n_products
    assert torch.allclose(basis.of_features[-n:, -n:], squares)
    assert torch.allclose(basis.with_scores(scores.double())[-n:], moments)
    assert not basis.of_features[:-n].any()


@pytest.mark.parametrize("kind", [LAST, ADDITIVE, JOINT, SHUFFLED])
def test_forms_of_values_explain_what_they_are_made_of_and_no_more(made, kind):
    generator = torch.Generator().manual_seed(5)
    tables = [torch.randn(4, 2, 3, generator=generator).double() for _ in range(3)]
    joint = torch.randn(4**3, 2, 3, generator=generator).double()
    at_position = torch.randn(made.seq_len, 2, 3, generator=generator).double()
    tokens, held_out = made.sample(1500, seed=2).tokens, made.sample(200, seed=3).tokens

    def values(tokens, source):
        found = at_position.expand(len(tokens), -1, -1, -1).clone()
        for n, row in enumerate(tokens.tolist()):
            padded = [3, 3, *row]
            for k in range(len(row)):
                window = [padded[k + 2 - j] for j in range(3)]
                if source == JOINT:
                    found[n, k] += joint[sum(t * 4**j for j, t in enumerate(window))]
                for j, token in enumerate(window[: 1 if source == LAST else 3]):
                    found[n, k] += tables[j][token] * (source != JOINT)
        return found

    form = ValueForm(2, 3, kind)
    explained = {}
    for source in (LAST, ADDITIVE, JOINT):
        fitted = form.fit(tokens, values(tokens, source))
        own = values(held_out, source)
        own, said = (x - x.mean(0) for x in (own, form.of(held_out, fitted)))
        explained[source] = 1 - float((own - said).square().sum() / own.square().sum())
    known = {LAST: {LAST}, ADDITIVE: {LAST, ADDITIVE}, JOINT: {LAST, ADDITIVE, JOINT}}
    for source, share in explained.items():
        if source in known.get(kind, set()):
            assert share > 0.99
        else:
            assert share < (0.05 if kind == SHUFFLED else 0.9)


def test_the_first_order_of_the_softmax_is_its_derivative(fused):
    def error(size):
        scores = fused.mean_scores + size * torch.randn(
            fused.scores.shape, generator=torch.Generator().manual_seed(1)
        )
        softmax, first = (fused.output(scores, fused.values, order) for order in ("softmax", FIRST))
        return float((softmax - first).norm())

    assert error(0.01) < 0.02 * error(0.1)  # quadratic
    mean = fused.output(fused.mean_scores, fused.values)
    rest = fused.output(fused.scores, fused.values, FIRST)
    covariance = fused.output(fused.scores, fused.values, COVARIANCE)
    assert torch.allclose(mean + covariance, rest)


def test_the_fused_construction_is_score_times_value(fused):
    found = joint_figures(fused, other=-fused.score_table(COMPETING))
    for name in (
        "first order, own parts",
        "covariance, own parts",
        "mean values",
        "scores competing",
        "scores any",
        "both",
        "both, covariance",
    ):
        score, low, _, of_effect = found[name]
        assert score >= low > 0.99
        assert of_effect == pytest.approx(1, abs=0.05)
    assert abs(found["mean scores"][0]) < 0.05
    for name in ("parents relabelled", "another head's table", "another model's table"):
        assert found[name][2] < 0  # its upper end


def test_its_product_is_evidence_times_the_transition(fused):
    for form in (COMPETING, ANY):
        found = product_figures(fused, form)
        assert found["γ × π"]["value"] > 0.99
        assert found["γ × π"]["as high"] == pytest.approx(1 / 6)
        rivals = {name: x for name, x in found.items() if name != "γ × π"}
        assert max(rivals.values()) < found["γ × π"]["value"] - 0.005
        assert max(x for name, x in rivals.items() if "competing" not in name) < 0.9
        assert found["γ × π, lags turned"] < 0


def test_a_layer_whose_scores_hold_the_mean_has_no_such_form():
    staged = circuit_of("constructed-absolute")
    fitted = staged.fitted_scores(staged.score_table(ANY))
    assert staged.share(staged.scores, staged.values)[0] == pytest.approx(1)
    assert staged.share(fitted, staged.values)[0] < 0.3


def test_codes_that_are_evidence_times_signs_and_codes_that_are_not():
    pi = torch.as_tensor(transition(4, 1)).double()
    evidence = pi / pi.sum(0)
    evidence = evidence - evidence.mean(0)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    f = (evidence * signs).expand(2, 3, 4, 4)
    u = pi[:, :2].T
    found = pair_figures(f, u, pi)
    assert found["evidence × sign"]["value"] == pytest.approx(1)
    assert found["evidence × sign, of the pair"]["value"] == pytest.approx(1)
    assert found["evidence × sign"]["as high"] == pytest.approx(1 / 24)
    additive = u[:, None, :, None].expand(2, 3, 4, 4)
    found = pair_figures(additive, u, pi)
    assert found["y_{k-g} alone"] == pytest.approx(1)
    assert found["of the pair"] == pytest.approx(0)
    assert found["y_{k-g} as the parent"]["value"] == pytest.approx(1)
    assert found["evidence × sign"]["value"] < 0.95


def test_errors_are_the_spread_of_figures_drawn_again():
    drawn = [{"a": 1.0, "b": {"value": x}} for x in (5.0, 1.0, 3.0)]
    assert with_errors(drawn) == {
        "a": {"value": 1.0, "error": 0.0},
        "b": {"value": 5.0, "error": pytest.approx(2**0.5)},
    }


def test_without_an_mlp_there_are_distances_alone(fused):
    found = mlp_figures(fused)
    assert list(found) == ["natural"]
    natural = found["natural"]
    assert natural["kept"][0] == 1
    assert natural["KL to first order"] < 0.01 * natural["KL to one step"]
