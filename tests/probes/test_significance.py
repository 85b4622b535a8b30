"""Many sites at once: intervals, sign-flip tests and their corrections, against slow loops."""

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

import probes
from probes.statistics import intervals as statistics, significance


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# Intervals


@pytest.mark.parametrize("seed", range(3))
def test_intervals_of_many_sites_equal_a_loop_over_them(seed):
    below = normal(3, 4, 40, seed=seed).square() + 0.1
    above = 0.4 * below + normal(3, 4, 40, seed=seed + 100).square()
    found = probes.ratio_intervals(above, below, seed)
    means = probes.mean_intervals(above, seed)
    for site in np.ndindex(3, 4):
        slow = probes.one_minus_ratio(above[site], below[site], seed)
        assert [float(x[site]) for x in found] == pytest.approx([slow.score, slow.low, slow.high])
        slow = probes.mean_interval(above[site], seed)
        assert [float(x[site]) for x in means] == pytest.approx([slow.score, slow.low, slow.high])


def test_intervals_equal_a_loop_over_the_same_resamples():
    above, below = normal(5, 20, seed=1), normal(20, seed=2).square()
    rng = np.random.default_rng(7)
    chosen = [rng.integers(0, 20, 20) for _ in range(statistics.N_RESAMPLES)]
    _, low, high = probes.ratio_intervals(above, below, seed=7, confidence=0.8)
    for site in range(5):
        scores = [1 - float(above[site][i].mean() / below[i].mean()) for i in chosen]
        expected = np.quantile(scores, [0.1, 0.9])
        assert [float(low[site]), float(high[site])] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_intervals_equal_scipy_with_the_same_seed(seed):
    n = 16 + 40 * seed
    above, below = normal(n, seed=seed).square(), normal(n, seed=seed + 100).square() + 0.1

    def scipy_limits(statistic, *samples):
        found = stats.bootstrap(
            [sample.numpy() for sample in samples],
            statistic,
            paired=True,
            n_resamples=statistics.N_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        return list(found.confidence_interval)

    def score(a, b, axis):
        return 1 - a.mean(axis) / b.mean(axis)

    ratio, mean = probes.one_minus_ratio(above, below, seed), probes.mean_interval(above, seed)
    limits = scipy_limits(score, above, below)
    assert [ratio.low, ratio.high] == pytest.approx(limits, abs=1e-12, rel=0)
    limits = scipy_limits(np.mean, above)
    assert [mean.low, mean.high] == pytest.approx(limits, abs=1e-12, rel=0)


def test_intervals_agree_with_scipy_on_other_resamples():
    above, below = normal(100, seed=3).square().numpy(), normal(100, seed=4).square().numpy() + 1
    result = stats.bootstrap(
        (above, below),
        lambda a, b, axis: 1 - a.mean(axis) / b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    limits = [
        probes.ratio_intervals(torch.from_numpy(above), torch.from_numpy(below), seed)[1:]
        for seed in range(20)
    ]
    for mine, theirs in zip(np.array(limits).T, result.confidence_interval, strict=True):
        assert abs(mine.mean() - theirs) < 4 * mine.std() / 20**0.5


def test_sites_in_chunks_and_without_axes(monkeypatch):
    above, below = normal(7, 30), normal(7, 30, seed=1).square()
    whole = probes.ratio_intervals(above, below)
    monkeypatch.setattr(statistics, "_MAX_ELEMENTS", 2 * statistics.N_RESAMPLES)
    for one, other in zip(whole, probes.ratio_intervals(above, below), strict=True):
        assert (one - other).abs().max() < 1e-12
    for found in (probes.ratio_intervals(above[0], below[0]), probes.mean_intervals(above[0])):
        assert all(x.shape == () for x in found)


def test_a_negligible_denominator_leaves_only_that_site_undefined():
    above, below = torch.ones(2, 20), torch.stack([torch.zeros(20), torch.full((20,), 2.0)])
    for figure in probes.ratio_intervals(above, below):
        assert figure[0].isnan()
        assert float(figure[1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probes.ratio_intervals(torch.ones(3, 5), torch.ones(5)), "at least 16 seq.*got 5"),
        (lambda: probes.ratio_intervals(torch.ones(3, 20), torch.ones(2, 20)), r"\(2, 20\) and"),
        (lambda: probes.ratio_intervals(normal(20) / 0, torch.ones(20)), "finite"),
        (lambda: probes.mean_intervals(normal(2, 20), confidence=2.0), "confidence.*got 2"),
        (lambda: probes.mean_intervals(normal(2, 20), seed=-1), "seed.*got -1"),
    ],
)
def test_intervals_that_are_undefined(call, message):
    with pytest.raises(probes.DataError, match=message):
        call()


# Sign flips


@pytest.mark.parametrize("alternative", significance.ALTERNATIVES)
@pytest.mark.parametrize("n_sequences", [2, 5, 9])
def test_enumerated_sign_flips_equal_scipy(alternative, n_sequences):
    values = normal(2, 3, n_sequences, seed=n_sequences) + 0.4
    values[0, 0] = values[0, 0].round()  # ties
    p = probes.sign_flip_p_values(values, alternative=alternative)
    for site in np.ndindex(2, 3):
        theirs = stats.permutation_test(
            (values[site].numpy(),), np.mean, permutation_type="samples", alternative=alternative
        )
        assert float(p[site]) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_sign_flips_equal_a_slow_loop(monkeypatch):
    monkeypatch.setattr(significance, "_MAX_FLIPS", 32)
    monkeypatch.setattr(significance, "_MAX_SITES", 2)
    values, n_flips = normal(3, 20, seed=1) + 0.3, 100
    p = probes.sign_flip_p_values(values, n_flips, seed=5)
    rng = np.random.default_rng(5)
    n_far = np.zeros(3)
    for size in (32, 32, 32, 4):
        for signs in 1 - 2 * rng.integers(0, 2, (size, 20)):
            for site in range(3):
                flipped = abs(np.mean(signs * values[site].numpy()))
                n_far[site] += flipped >= abs(float(values[site].mean()))
    assert p.tolist() == pytest.approx(((1 + n_far) / (1 + n_flips)).tolist())


def test_random_sign_flips_approach_the_exact_p():
    values = normal(4, 12, seed=2) + 0.5
    exact = probes.sign_flip_p_values(values)
    drawn = probes.sign_flip_p_values(values, n_flips=4000)
    errors = (exact * (1 - exact) / 4000).sqrt()
    assert 2**12 > 4000
    assert ((drawn - exact).abs() < 4 * errors + 1 / 4000).all()


def test_p_is_uniform_without_an_effect_and_small_with_one():
    null = normal(2000, 20, seed=3)
    p = probes.sign_flip_p_values(null, n_flips=999)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.2):
        error = (level * (1 - level) / 2000) ** 0.5
        assert abs(float((p <= level).double().mean()) - level) < 4 * error
    assert (probes.sign_flip_p_values(null + 1.5, n_flips=999) <= 0.01).double().mean() > 0.98
    assert (probes.sign_flip_p_values(null - 1.5, 999, alternative="greater") > 0.9).all()


def test_flips_depend_on_the_seed_alone():
    values = normal(5, 30) + 0.2
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (probes.sign_flip_p_values(values, 500, seed) for seed in (0, 0))
    assert torch.equal(first, second)
    assert not torch.equal(first, probes.sign_flip_p_values(values, 500, 1))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("n_sequences", [3, 40])
def test_no_difference_anywhere_has_p_1(n_sequences):
    assert probes.sign_flip_p_values(torch.zeros(2, n_sequences)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probes.sign_flip_p_values(torch.zeros(3, 0)), r"at least one.*\(3, 0\)"),
        (lambda: probes.sign_flip_p_values(normal(4) / 0), "NaN or infinity"),
        (lambda: probes.sign_flip_p_values(normal(4), n_flips=0), "n_flips.*got 0"),
        (lambda: probes.sign_flip_p_values(normal(4), alternative="les"), "'les'.*greater"),
        (lambda: probes.adjust_p_values(torch.tensor([0.5]), "holms"), "'holms'.*holm"),
        (lambda: probes.adjust_p_values(torch.tensor([0.5, 1.5])), r"0 … 1; got 0\.5 … 1\.5"),
    ],
)
def test_tests_that_cannot_be(call, message):
    with pytest.raises(probes.DataError, match=message):
        call()


# Corrections


@pytest.mark.parametrize("method", significance.METHODS)
def test_corrections_are_those_of_statsmodels_in_any_shape(method):
    p = torch.from_numpy(np.random.default_rng(0).uniform(size=(3, 4)) ** 3)
    adjusted = probes.adjust_p_values(p, method)
    assert adjusted.shape == p.shape
    expected = multipletests(p.flatten().numpy(), method=method)[1]
    assert adjusted.flatten().tolist() == pytest.approx(expected.tolist())


def test_holm_by_hand_and_unknown_p():
    p = torch.tensor([[0.01, torch.nan], [0.04, 0.03]], dtype=torch.float64)
    adjusted = probes.adjust_p_values(p)
    assert adjusted[0, 1].isnan()
    assert adjusted[p.isfinite()].tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert probes.adjust_p_values(torch.full((2,), torch.nan)).isnan().all()
