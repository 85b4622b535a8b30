"""Intervals of probes cover R² for infinitely many sequences, on data whose R² is known."""

import numpy as np
import pytest
import torch
from scipy import stats

import probes
from probes.linear import LEAST_PENALTY
from probes.statistics.intervals import expanded_confidence

N_FEATURES, N_OUTPUTS = 32, 2
ATTAINABLE = 0.6


def drawn(rng, n_sequences, n_positions=1):
    """Gaussian features and targets; of the variance of targets, ATTAINABLE is linear in them."""
    x = rng.normal(size=(n_sequences, n_positions, N_FEATURES))
    noise = rng.normal(size=(n_sequences, n_positions, N_OUTPUTS))
    y = ATTAINABLE**0.5 * x[..., :N_OUTPUTS] + (1 - ATTAINABLE) ** 0.5 * noise
    return torch.from_numpy(x), torch.from_numpy(y + 3)


def coverage(n_fit, n_test, n_positions=1, repeats=300):
    """Of the interval, and of one that resamples evaluation rows alone."""
    rng, held = np.random.default_rng(0), np.zeros(2)
    for seed in range(repeats):
        probe = probes.fit_ridge(*drawn(rng, n_fit, n_positions), LEAST_PENALTY)
        test = drawn(rng, n_test, n_positions)
        new = probes.read_interval(*probe.attainable_errors(*test), probe.spread, seed)
        old = probes.one_minus_ratio(*probe.errors(*test), seed=seed)
        held += [found.low <= ATTAINABLE <= found.high for found in (new, old)]
    return held / repeats


@pytest.mark.parametrize(
    ("n_fit", "n_test", "n_positions"), [(512, 32, 1), (512, 384, 1), (64, 64, 8)]
)
def test_intervals_cover_the_r2_of_infinitely_many_sequences(n_fit, n_test, n_positions):
    new, old = coverage(n_fit, n_test, n_positions)
    error = (0.95 * 0.05 / 300) ** 0.5
    assert abs(new - 0.95) < 3 * error, new
    if n_test > 100:
        assert old < 0.9, old


def test_resampling_evaluation_rows_alone_hardly_ever_covers():
    new, old = coverage(n_fit=320, n_test=768, repeats=100)
    assert old < 0.4
    assert new > 0.85  # ten rows a feature: few, and still


def test_what_is_attainable_equals_a_loop_over_folds():
    rng = np.random.default_rng(1)
    x, y = drawn(rng, 50, 2)
    y = y * (1 + x[..., :1].abs())  # residuals of unequal variance
    probe = probes.fit_ridge(x, y, (1e-10,), n_folds=5)
    x, y = (values - values.mean((0, 1)) for values in (x, y))
    own = crossed = 0.0
    solution = np.linalg.lstsq(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), rcond=None)[0]
    for fold in range(5):
        others = [i for i in range(50) if i % 5 != fold]
        left = np.linalg.lstsq(
            x[others].flatten(0, 1).numpy(), y[others].flatten(0, 1).numpy(), rcond=None
        )[0]
        for i in range(fold, 50, 5):
            for position in range(2):
                residual = y[i, position].numpy() - x[i, position].numpy() @ solution
                held_out = y[i, position].numpy() - x[i, position].numpy() @ left
                own += residual @ residual
                crossed += residual @ held_out
    assert probe.attainable == pytest.approx(own / crossed, rel=1e-6)
    assert 0.5 < probe.attainable < 0.85  # 32 features, 100 rows


def test_what_a_refit_loses_is_what_is_corrected_for():
    """The correction against many refits, scored on the population itself."""
    rng, lost, corrected = np.random.default_rng(2), [], []
    for _ in range(200):
        probe = probes.fit_ridge(*drawn(rng, 160), LEAST_PENALTY)
        truth = torch.zeros(N_FEATURES, N_OUTPUTS, dtype=torch.float64)
        truth[:N_OUTPUTS] = ATTAINABLE**0.5 * torch.eye(N_OUTPUTS)
        offset = (probe.bias - 3).square().sum() + (probe.weights - truth).square().sum()
        best = N_OUTPUTS * (1 - ATTAINABLE)
        lost.append(best / float(best + offset))
        corrected.append(probe.attainable)
    difference = np.array(corrected) - lost
    assert probe.spread == pytest.approx(np.std(lost), rel=0.3)
    assert abs(difference.mean()) < 3 * difference.std() / len(lost) ** 0.5 + 0.01
    assert np.mean(lost) < 0.85


def test_deviations_are_corrected_by_what_the_mean_takes():
    x, y = drawn(np.random.default_rng(3), 20)
    probe = probes.fit_ridge(x, y)
    plain, corrected = probe.errors(x, y)[1], probe.attainable_errors(x, y)[1]
    assert torch.allclose(corrected, plain * 20 / 19)
    constant = torch.ones(20, 1, N_OUTPUTS)
    assert probe.attainable_errors(x, constant)[1].abs().max() == 0


def test_expanded_percentiles_are_those_of_a_t_statistic():
    for n in (16, 32, 384):
        tail = stats.norm.cdf((n / (n - 1)) ** 0.5 * stats.t.ppf(0.025, n - 1))
        assert expanded_confidence(n) == pytest.approx(1 - 2 * tail, abs=1e-12)
    assert expanded_confidence(10**6) == pytest.approx(0.95, abs=1e-5)
    rng = np.random.default_rng(4)
    error, deviation = torch.from_numpy(rng.random(32)), torch.ones(32, dtype=torch.float64)
    plain, wide = (probes.one_minus_ratio(error, deviation, expanded=e) for e in (False, True))
    assert wide.low < plain.low < plain.high < wide.high
    with pytest.raises(probes.DataError, match="n_sequences must be an integer of at least 2"):
        expanded_confidence(1)
