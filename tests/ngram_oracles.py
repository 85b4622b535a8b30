"""Slow, obvious versions of the n-gram family's formulas: one sequence, one query, two loops."""

import itertools
import math

import numpy as np


def parents_at(tokens, position, lags):
    return tuple(int(tokens[position - lag]) for lag in lags)


def counts(tokens, query, lags, window, n_tokens):
    """How often each token followed the parents of the token after ``query``."""
    found = np.zeros(n_tokens)
    wanted = parents_at(tokens, query + 1, lags)
    for k in range(window, query + 1):
        if parents_at(tokens, k, lags) == wanted:
            found[int(tokens[k])] += 1
    return found


def kernel(tokens, query, window, n_tokens, sharpness, subsets):
    """Tokens weighted by the exponential of how many weighted subsets of parents agree."""
    total = sum(weight**2 for weight in subsets.values())
    mass = np.zeros(n_tokens)
    for k in range(window, query + 1):
        similarity = 0.0
        for lags, weight in subsets.items():
            if parents_at(tokens, k, lags) == parents_at(tokens, query + 1, lags):
                similarity += weight**2 / total
        mass[int(tokens[k])] += math.exp(sharpness * similarity)
    return mass / mass.sum()


def integrated_bayes(tokens, query, lags, window, concentration):
    """P(next = 0 | context) for two tokens, integrating every row of the table by quadrature.

    The prior of a row (p, 1 - p) is Beta(α, α). All rows are integrated over one grid, though only
    the one in use matters: nothing of conjugacy is used.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes, weights = (nodes + 1) / 2, weights / 2
    prior = (nodes * (1 - nodes)) ** (concentration - 1)
    tuples = list(itertools.product(range(2), repeat=len(lags)))
    n_nodes, in_use = len(nodes), parents_at(tokens, query + 1, lags)
    numerator = denominator = 0.0
    for choice in itertools.product(range(n_nodes), repeat=len(tuples)):
        table = {row: nodes[index] for row, index in zip(tuples, choice, strict=True)}
        density = math.prod(weights[index] * prior[index] for index in choice)
        for k in range(window, query + 1):
            p = table[parents_at(tokens, k, lags)]
            density *= p if tokens[k] == 0 else 1 - p
        numerator += density * table[in_use]
        denominator += density
    return numerator / denominator


def feature(tokens, position, lags, n_tokens):
    """One-hot vector of the parents of the token at ``position``, nearest parent first."""
    found = np.zeros(n_tokens ** len(lags))
    digits = parents_at(tokens, position, sorted(lags))
    found[sum(d * n_tokens ** (len(lags) - 1 - i) for i, d in enumerate(digits))] = 1
    return found
