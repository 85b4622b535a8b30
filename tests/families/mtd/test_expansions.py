"""Expansions around no evidence, beside what they are on paper."""

import pytest
import torch

import mtd_lens
from mtd_lens.families.mtd import iterative
from mtd_lens.families.mtd.expansions import expand
from mtd_lens.families.mtd.posterior import exact_nodes, simplex_rule

N_EVIDENCE = 7


def posterior(n_lags):
    nodes, log_masses = simplex_rule(n_lags, 1.0, exact_nodes(N_EVIDENCE))
    return lambda p: ((p @ nodes.T).log().sum(1) + log_masses).softmax(-1) @ nodes


def steps(*sizes, prefix=False):
    take = iterative.prefix_steps if prefix else iterative.mirror_steps
    return lambda p: take(p, [torch.tensor(size, dtype=torch.float64) for size in sizes])[:, -1]


def near(*wanted):
    return pytest.approx(wanted, abs=2e-6)


def coefficients(found):
    return found.first, found.squared_sum, found.sum_of_squares


@pytest.mark.parametrize("m", [3, 4])
def test_the_posterior_mean(m):
    found, third = expand(posterior(m), m), 1 / (m * (m + 1) * (m + 2))
    assert coefficients(found) == near(1 / (m * (m + 1)), third, -third)
    assert found.unexplained < 1e-8


@pytest.mark.parametrize("m", [3, 4])
@pytest.mark.parametrize(
    ("sizes", "prefix"),
    [
        ((0.2,), False),
        *(
            (sizes, prefix)
            for sizes in ((0.15, 0.05), (0.02, 0.18), (0.1, 0.05, 0.05))
            for prefix in (False, True)
        ),
    ],
)
def test_further_steps_add_nothing_of_second_order(m, sizes, prefix):
    found, size = expand(steps(*sizes, prefix=prefix), m), sum(sizes)
    assert coefficients(found) == near(size / m, size**2 / (2 * m), 0.0)


def test_the_product_of_likelihoods_and_em():
    m, exponent = 3, 0.25
    product = expand(lambda p: (exponent * p.log().sum(1)).softmax(-1), m)
    assert coefficients(product) == near(exponent / m, exponent**2 / (2 * m), -exponent / (2 * m))
    em = expand(lambda p: iterative.em_path(p, 1)[0], m)
    assert coefficients(em) == near(1 / (m * N_EVIDENCE), 0.0, 0.0)


def test_the_order_of_evidence_is_noticed():
    def recent(p):
        weights = torch.arange(1, p.shape[1] + 1, dtype=torch.float64)[:, None]
        return (0.1 * weights * p).sum(1).softmax(-1)

    assert expand(recent, 3).unexplained > 0.05


def test_with_two_lags_there_is_no_second_order():
    with pytest.raises(mtd_lens.ArgumentError, match="n_lags"):
        expand(steps(0.2), 2)
