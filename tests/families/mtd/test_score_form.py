"""What scores are made of: features against loops, and forms that are known."""

import itertools

import pytest
import torch
from conftest import transition

import mtd_lens
from mtd_lens.claims import NotApplicable
from mtd_lens.experiment import Experiment
from mtd_lens.families.mtd.score_claims import ANY, COMPETING, FORMS, ONE_CODE, ScoreForm
from mtd_lens.families.mtd.score_form import (
    OF_GAMMA,
    OF_LAST,
    OWN,
    PAIRS,
    Products,
    Squares,
    agreement,
    follows_transition,
    main_codes,
    rank_one_shares,
)
from mtd_lens.measures import MeanPattern


@pytest.fixture(scope="module")
def made():
    return mtd_lens.MTDTask(transition(3, 4), 2, 16, name="made")


@pytest.fixture(scope="module")
def products(made):
    return Products(made)


@pytest.fixture(scope="module")
def squares(made, products):
    return Squares(products, made.sample(300, seed=0).tokens)


def centred(values):
    return values - values.mean(1, keepdim=True)


def bilinear(made, tokens, f, u, *, competing):
    """``Σ_g f_g(pair) (u[parent_g] - mean over lags)``, with loops."""
    m, q, length = made.order, made.n_tokens, made.seq_len
    keys = range(m, length - m)
    found = torch.zeros(len(tokens), len(keys)).double()
    for n, row in enumerate(tokens.tolist()):
        codes = [float(u[row[length - g]]) for g in range(1, m + 1)]
        for i, k in enumerate(keys):
            for g in range(1, m + 1):
                code = codes[g - 1] - (sum(codes) / m if competing else 0.0)
                found[n, i] += f[g - 1, row[k] * q + row[k - g]] * code
    return found


def explained(products, squares, scores, fitted, tokens):
    left = centred(scores)[..., None] - products.of(tokens) @ fitted
    return 1 - float(left.square().sum() / centred(scores).square().sum())


def test_features_equal_loops(made, products):
    m, q, length = made.order, made.n_tokens, made.seq_len
    tokens = made.sample(3, seed=1).tokens
    gamma = mtd_lens.responsibilities(made, tokens)
    expected = []
    for n, row in enumerate(tokens.tolist()):
        parents = [(g, a, row[length - g] == a) for g in range(1, m + 1) for a in range(q)]
        rows = []
        for k in products.keys:
            position = [float(k == other) for other in products.keys]
            by_gamma = [float(gamma[n, k - m, g]) * hit for g in range(m) for *_, hit in parents]
            pairs = [
                (row[k] == b and row[k - g] == a)
                for g, b, a in itertools.product(range(1, m + 1), range(q), range(q))
            ]
            rows.append(
                [*position, *by_gamma, *[float(p and h) for p in pairs for *_, h in parents]]
            )
        expected.append(rows)
    assert torch.allclose(products.of(tokens), centred(torch.tensor(expected).double()))


@pytest.mark.parametrize("competing", [True, False])
def test_a_bilinear_form_is_found_again_and_nothing_simpler_explains_it(
    made, products, squares, competing
):
    generator = torch.Generator().manual_seed(3)
    f = torch.randn(2, 9, generator=generator).double()
    u = torch.randn(3, generator=generator).double()
    tokens = made.sample(60, seed=5).tokens
    scores, held_out = (
        bilinear(made, t, f, u, competing=competing) for t in (squares.tokens, tokens)
    )
    moments = squares.with_scores(centred(scores)[..., None])

    def share(fitted):
        return explained(products, squares, held_out, fitted, tokens)

    def of(*names):
        design = products.design(*names)
        return share(design @ squares.fit(design, moments))

    own = share(squares.fit_bilinear(moments, PAIRS, OF_LAST, competing=competing))
    assert own > 0.999
    assert of(ANY) > 0.999
    for names in ((PAIRS, OF_LAST), (OF_GAMMA,)):
        assert of(*names) < 0.8
    assert (of(OWN) > 0.999) == (not competing)
    found = squares.own_coefficients(moments)
    if not competing:
        assert rank_one_shares(found).min() > 0.99
        assert agreement(found).min() > 0.99
        code = u - u.mean()
        assert abs(float(main_codes(found)[0] @ (code / code.norm()))) > 0.99


def test_codes_that_are_rows_of_the_transition_follow_it(made):
    rows = torch.as_tensor(made.transition)
    own = rows.T[None, None]  # [head, lag, pair, token]
    assert follows_transition(own, rows) == (pytest.approx(1), pytest.approx(1 / 6))
    turned = rows[[1, 2, 0]].T[None, None]
    correlation, share = follows_transition(turned, rows)
    assert correlation < 0.99
    assert share > 1 / 6


def test_more_products_than_can_be_fitted():
    with pytest.raises(NotApplicable, match="25,000 products"):
        Products(mtd_lens.load_task("mtd-q10-m5-t192"))
    with pytest.raises(NotApplicable, match="no two keys"):
        Products(mtd_lens.MTDTask(transition(3, 4), 2, 5))


SMALL = "mtd-q3-m2-t32"


def measured(variant, *tests):
    model = mtd_lens.load_model(f"{SMALL}/{variant}", dtype=torch.float64)
    trial = Experiment.of(model, None, 0, algorithm="fused").drawn(384).trial()
    return [
        {m.layer: 1 - float(m.numerator.mean() / m.denominator.mean()) for m in test(trial)}
        for test in tests
    ]


def test_forms_tell_how_scores_are_made():
    fused, absolute, random = (
        measured(f"{kind}", ScoreForm(ANY), ScoreForm(COMPETING))
        for kind in ("constructed-fused", "constructed-absolute", "random-absolute")
    )
    for by_layer in fused:
        assert list(by_layer) == [1]  # of the layer whose pattern brings the effect in
        assert by_layer[1] > 0.99  # of two lags, γ is nearly a sum of functions of pairs
    for by_layer in absolute:
        assert list(by_layer) == [2]
        assert abs(by_layer[2]) < 0.1
    for by_layer in random:
        assert all(abs(share) < 0.2 for share in by_layer.values())


def test_the_mean_pattern_loses_what_the_pattern_brings_in():
    ((fused,), (absolute,), (random,)) = (
        measured(kind, MeanPattern())
        for kind in ("constructed-fused", "constructed-absolute", "random-absolute")
    )
    assert fused == {0: pytest.approx(0, abs=0.05), 1: pytest.approx(1, abs=0.02)}
    assert absolute[2] > 0.9
    assert absolute[0] == pytest.approx(0, abs=0.05)
    assert absolute[1] == pytest.approx(0, abs=1e-6)
    assert all(abs(share) < 0.1 for share in random.values())


def test_what_remains_with_mean_values(made):
    """Values of the fused construction are constants: all remains; and of the pattern nothing."""
    model = mtd_lens.load_model(f"{SMALL}/constructed-fused", dtype=torch.float64)
    trial = Experiment.of(model, None, 0, algorithm="fused").drawn(384).trial()
    details = MeanPattern()(trial)[1].details
    assert details["remains"] == pytest.approx(0, abs=0.02)
    assert details["remains with mean values"] == pytest.approx(1, abs=0.01)
    assert details["whole effect"] == pytest.approx(1, abs=0.01)


@pytest.mark.usefixtures("_no_type_checker")
def test_forms_have_names():
    assert FORMS == (ANY, COMPETING, ONE_CODE)
    with pytest.raises(mtd_lens.ArgumentError, match="unknown form 'x'"):
        ScoreForm("x")
