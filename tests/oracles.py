"""Slow, obvious versions of everything vectorised: plain loops over sequences, k and g."""

import itertools
import math

import numpy as np
from scipy import special


def likelihood(task, sequence, k, g):
    return float(task.transition[sequence[k - g], sequence[k]])


def responsibilities(task, sequence, weights=None):
    m = task.order
    weights = [1 / m] * m if weights is None else weights
    rows = []
    for k in range(m, len(sequence)):
        row = [weights[g - 1] * likelihood(task, sequence, k, g) for g in range(1, m + 1)]
        rows.append([value / sum(row) for value in row])
    return np.array(rows)


def log_likelihood(task, sequence, weights):
    total = 0.0
    for k in range(task.order, len(sequence)):
        mixture = 0.0
        for g in range(1, task.order + 1):
            mixture += weights[g - 1] * likelihood(task, sequence, k, g)
        total += math.log(mixture)
    return total


def gradient(task, sequence, weights):
    result = np.zeros(task.order)
    for k in range(task.order, len(sequence)):
        mixture = sum(
            weights[h - 1] * likelihood(task, sequence, k, h) for h in range(1, task.order + 1)
        )
        for g in range(1, task.order + 1):
            result[g - 1] += likelihood(task, sequence, k, g) / mixture
    return result


def mirror_descent(task, sequence, step_size, n_steps):
    return free_mirror_descent(task, sequence, [step_size] * n_steps)


def free_mirror_descent(task, sequence, step_sizes):
    weights = np.full(task.order, 1 / task.order)
    for step_size in step_sizes:
        raw = weights * np.exp(step_size * gradient(task, sequence, weights))
        weights = raw / raw.sum()
    return weights


def prefix_mirror_descent(task, sequence, step_sizes):
    """From the definition: position k's weights are those of the sequence cut off after k."""
    m = task.order
    if not step_sizes:
        return np.full(m, 1 / m)
    total = np.zeros(m)
    for k in range(m, len(sequence)):
        weights = prefix_mirror_descent(task, sequence[: k + 1], step_sizes[:-1])
        mixture = sum(weights[h - 1] * likelihood(task, sequence, k, h) for h in range(1, m + 1))
        for g in range(1, m + 1):
            total[g - 1] += likelihood(task, sequence, k, g) / mixture
    raw = prefix_mirror_descent(task, sequence, step_sizes[:-1]) * np.exp(step_sizes[-1] * total)
    return raw / raw.sum()


def expectation_maximization(task, sequence, n_steps):
    weights = np.full(task.order, 1 / task.order)
    for _ in range(n_steps):
        weights = responsibilities(task, sequence, weights).mean(0)
    return weights


def predict(task, sequence, weights):
    result = np.zeros(task.n_tokens)
    for g in range(1, task.order + 1):
        for b in range(task.n_tokens):
            parent = sequence[len(sequence) - g]
            result[b] += weights[g - 1] * float(task.transition[parent, b])
    return result


def posterior_mean(task, sequence):
    """Exact, by a dynamic programme over how often each lag was used.

    The likelihood is the polynomial Σ_c a_c Π_g λ_g^{c_g}; ``a`` is built one evidence position at
    a time, and Dirichlet moments of monomials are ratios of Gamma functions.
    """
    m, alpha = task.order, task.concentration
    coefficients = {(0,) * m: 1.0}
    for k in range(m, len(sequence)):
        grown = {}
        for counts, value in coefficients.items():
            for g in range(1, m + 1):
                more = tuple(c + (h == g - 1) for h, c in enumerate(counts))
                extra = value * likelihood(task, sequence, k, g)
                grown[more] = grown.get(more, 0.0) + extra
        scale = max(grown.values())
        coefficients = {counts: value / scale for counts, value in grown.items()}

    counts = np.array(list(coefficients), dtype=float)
    with np.errstate(divide="ignore"):
        logs = np.log(np.array(list(coefficients.values())))
    logs = logs + special.gammaln(counts + alpha).sum(1)  # the total count is the same for all
    masses = np.exp(logs - logs.max())
    n = counts[0].sum()
    return (masses[:, None] * (counts + alpha)).sum(0) / masses.sum() / (n + m * alpha)


def exact_small_posterior(task, sequence):
    """The same by summing over every assignment of lags; for very short sequences only."""
    m, alpha = task.order, task.concentration
    positions = range(m, len(sequence))
    total, weighted = 0.0, np.zeros(m)
    for lags in itertools.product(range(1, m + 1), repeat=len(positions)):
        counts = np.bincount(np.array(lags) - 1, minlength=m)
        mass = math.prod(
            likelihood(task, sequence, k, g) for k, g in zip(positions, lags, strict=True)
        )
        mass *= math.exp(special.gammaln(counts + alpha).sum())
        total += mass
        weighted += mass * (counts + alpha) / (counts + alpha).sum()
    return weighted / total
