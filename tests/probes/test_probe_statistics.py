"""Ridge probes, intervals and divergences against closed forms and slow loops."""

import numpy as np
import pytest
import torch

import probes

# Ridge probes


def test_ridge_equals_the_normal_equations():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(30, 4, 6)) * rng.uniform(0.1, 10, 6) + 3)
    y = torch.from_numpy(rng.normal(size=(30, 4, 2))) + x[..., :2]
    probe = probes.fit_ridge(x, y, penalties=(0.3,))
    flat, target = x.flatten(0, 1), y.flatten(0, 1)
    centred = flat - flat.mean(0)
    penalty = 0.3 * centred.var(0, unbiased=False).mean() * len(flat)
    gram = centred.T @ centred + penalty * torch.eye(6, dtype=torch.float64)
    weights = torch.linalg.solve(gram, centred.T @ (target - target.mean(0)))
    assert (probe.weights - weights).abs().max() < 1e-10
    assert (probe.predict(flat.mean(0)[None, None])[0, 0] - target.mean(0)).abs().max() < 1e-10


def test_cross_validation_equals_a_loop_over_folds():
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.normal(size=(20, 3, d))) for d in (4, 2))
    y = y + x[..., :2]
    penalties = (1e-3, 0.1, 10.0)
    probe = probes.fit_ridge(x, y, penalties)
    centre_x, centre_y = x.mean((0, 1)), y.mean((0, 1))
    a, b = x - centre_x, y - centre_y
    unit = a.square().mean()
    losses = []
    for penalty in penalties:
        loss = 0.0
        for fold in range(5):
            held = torch.arange(20) % 5 == fold
            train, target = a[~held].flatten(0, 1), b[~held].flatten(0, 1)
            gram = train.T @ train + penalty * unit * 60 * torch.eye(4, dtype=torch.float64)
            weights = torch.linalg.solve(gram, train.T @ target)
            loss += float((b[held] - a[held] @ weights).square().sum())
        losses.append(loss)
    assert probe.penalty == penalties[int(np.argmin(losses))]
    expected = 1 - min(losses) / float(b.square().sum())
    assert probe.cross_validated == pytest.approx(expected, abs=1e-10)


def test_a_probe_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(200, 5, 10))).float()
    y = (x[..., :3] @ torch.from_numpy(rng.normal(size=(3, 2))).float()).double() + 7
    noise = torch.from_numpy(rng.normal(size=(200, 5, 2)))
    for target, low, high in ((y, 0.999999, 1.0), (noise, -0.2, 0.02)):
        probe = probes.fit_ridge(x[:100], target[:100])
        residual, deviation = probe.errors(x[100:], target[100:])
        assert low <= 1 - residual.mean() / deviation.mean() <= high


def test_ridge_refuses_what_it_cannot_use():
    with pytest.raises(probes.DataError, match="at least 5 sequences"):
        probes.fit_ridge(torch.zeros(3, 2, 2), torch.zeros(3, 2, 1))
    with pytest.raises(probes.DataError, match="finite"):
        probes.fit_ridge(torch.full((9, 2, 2), torch.nan), torch.zeros(9, 2, 1))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(9, 2), torch.zeros(9, 2, 1), "takes two tensors"),
        (np.zeros((9, 2, 3)), torch.zeros(9, 2, 1), "takes two tensors"),
        (torch.zeros(9, 2, 3), torch.zeros(8, 2, 1), "agree"),
        (torch.zeros(9, 2, 3), torch.zeros(9, 3, 1), "agree"),
    ],
)
def test_ridge_names_the_shapes_that_do_not_fit(x, y, message):
    with pytest.raises(probes.DataError, match=message):
        probes.fit_ridge(x, y)


def test_constant_features_give_r2_of_zero():
    target = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2, 1)))
    probe = probes.fit_ridge(torch.ones(20, 2, 3), target)
    residual, deviation = probe.errors(torch.ones(20, 2, 3), target)
    assert 1 - residual.mean() / deviation.mean() == pytest.approx(0, abs=1e-9)


# Statistics


def test_bootstrap_intervals_cover_at_their_rate():
    """Of 300 intervals around a known ratio, 95% should cover: 4 standard errors are 5%."""
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        below = rng.gamma(2, size=150)
        above = 0.25 * below + rng.gamma(1, 0.25, size=150)  # ratio of means 0.375
        found = probes.one_minus_ratio(torch.from_numpy(above), torch.from_numpy(below), seed=seed)
        assert found.low <= found.score <= found.high
        covered += found.low <= 1 - 0.375 <= found.high
    assert 0.90 <= covered / 300 <= 0.99


def test_scores_of_perfect_and_useless_models():
    reference = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.1
    assert probes.one_minus_ratio(torch.zeros(50), reference) == probes.Interval(1.0, 1.0, 1.0)
    found = probes.one_minus_ratio(reference, reference)
    assert (found.score, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert str(found).startswith("0.000") or str(found).startswith("-0.000")


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("numerator", "denominator", "message"),
    [
        (torch.ones(5), torch.ones(5), "at least 16 sequences"),
        (torch.ones(20), torch.zeros(20), "does not vary"),
        (torch.full((20,), torch.nan), torch.ones(20), "finite"),
        (torch.ones(2, 20), torch.ones(2, 20), r"\[sequence\] each; got \(2, 20\)"),
    ],
)
def test_scores_that_are_undefined(numerator, denominator, message):
    with pytest.raises(probes.DataError, match=message):
        probes.one_minus_ratio(numerator, denominator)


def test_mean_interval_equals_the_normal_approximation():
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 2, 2000))
    found = probes.mean_interval(values)
    half = 1.96 * float(values.std()) / 2000**0.5
    assert found.score == pytest.approx(float(values.mean()))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_divergences():
    first = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    second = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]], dtype=torch.float64)
    assert probes.kl_divergence(first, second).tolist() == pytest.approx([0.5 * np.log(2), 0.0])
    assert probes.total_variation(first, second).tolist() == pytest.approx([0.25, 0.0])
    assert probes.kl_divergence(second, first)[0].isfinite()
    assert probes.kl_divergence(second, first)[0] > 100


def test_divergences_of_two_dtypes():
    """The smallest number of float64 is none of float32: 0 log 0 was not a number."""
    certain, other = torch.tensor([1.0, 0.0]), torch.tensor([0.7, 0.3], dtype=torch.float64)
    for target, prediction in ((certain, other), (certain.double(), other.float())):
        found = probes.kl_divergence(target, prediction)
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(-np.log(0.7))
    assert float(probes.kl_divergence(other, certain)) > 20
    assert float(probes.total_variation(certain, other)) == pytest.approx(0.3)
    assert float(probes.squared_error(certain, other)) == pytest.approx(0.18)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("divergence", [probes.kl_divergence, probes.total_variation])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0.5, 0.5], torch.tensor([0.5, 0.5]), r"got list and torch.float32 \(2,\)"),
        (torch.tensor(1.0), torch.tensor(1.0), r"entries of a row on the last axis"),
        (torch.zeros(2, 0), torch.zeros(2, 0), r"entries of a row on the last axis"),
        (torch.ones(2).to(torch.float8_e5m2), torch.ones(2), "float8_e5m2"),
        (torch.full((2, 2), 0.5), torch.full((2,), 0.5), r"of one shape.*\(2, 2\) and .*\(2,\)"),
        (torch.full((2,), 0.5), torch.full((3,), 1 / 3), "of one shape"),
        (torch.tensor([1, 0], dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.uint8), "uint8"),
        (torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), r"Convert them with \.double"),
    ],
)
def test_divergences_of_what_is_no_pair(divergence, first, second, message):
    for function in (divergence, probes.squared_error):
        with pytest.raises(probes.DataError, match=message):
            function(first, second)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, 0.5], [2.0, -1.0]], r"row \[1\] sums to 1, with a smallest entry of -1"),
        ([[0.5, 0.5], [7.0, 3.0]], r"row \[1\] sums to 10, .*divide counts by their sum"),
        ([[torch.nan, 1.0], [0.5, 0.5]], r"row \[0\] sums to nan"),
        ([[0.4999, 0.4996], [0.5, 0.5]], r"row \[0\] sums to 0\.9995"),
    ],
)
def test_divergences_of_what_is_no_distribution(rows, message):
    rows, fine = torch.tensor(rows), torch.full((2, 2), 0.5)
    with pytest.raises(probes.DataError, match=f"target must hold probability.*{message}"):
        probes.kl_divergence(rows, fine)
    with pytest.raises(probes.DataError, match=f"prediction must hold probability.*{message}"):
        probes.kl_divergence(fine, rows)
    with pytest.raises(probes.DataError, match="target must hold probability"):
        probes.key_softmax_divergence(fine, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_softmax_gives_is_a_distribution(dtype):
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (3, 2, 20_000)))
    first, second = (x.to(dtype).softmax(-1) for x in (logits, logits.flip(-1)))
    assert probes.kl_divergence(first, second).shape == (3, 2)
    assert probes.kl_divergence(first, logits.flip(-1).softmax(-1)).min() > 0


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "call",
    [
        lambda x: probes.one_minus_ratio(x, torch.ones(20)),
        lambda x: probes.one_minus_ratio(torch.ones(20), x),
        lambda x: probes.ratio_intervals(x, torch.ones(20)),
        lambda x: probes.ratio_intervals(torch.ones(20), x),
        probes.mean_interval,
        probes.mean_intervals,
        probes.sign_flip_p_values,
        probes.adjust_p_values,
    ],
)
def test_statistics_of_what_is_no_tensor(call):
    for values in ([0.5] * 20, np.full(20, 0.5), torch.full((20,), 0.5j)):
        with pytest.raises(probes.DataError, match=r"must be a floating-point tensor, .*; got"):
            call(values)


def test_errors_of_integer_targets_are_those_of_the_same_numbers():
    features = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(0))
    targets = (features[..., :2] * 3).round()
    probe = probes.fit_ridge(features, targets.long())
    for integer, real in zip(
        probe.errors(features, targets.long()),
        probe.errors(features, targets.double()),
        strict=True,
    ):
        torch.testing.assert_close(integer, real)
