"""How estimators of the mixture weights expand around no evidence, to second order.

Let ``p_k(g) = 1 + ε z_k(g)``, with ``Σ_g z_k(g) = 0``, and ``u = Σ_k z_k``. What depends on the
evidence through the sequence's windows alone, in any order, is by symmetry

    λ_g = 1/m + ε c u_g + ε² [a (u_g² - mean) + b (Σ_k z_k(g)² - mean)] + O(ε³),

where means are over lags. For the posterior mean under a uniform prior ``c = 1/(m(m+1))`` and
``a = -b = 1/(m(m+1)(m+2))``. Any number of mirror descent's steps of sizes that add up to η have
``c = η/m``, ``a = η²/(2m)`` and ``b = 0``: at the weights of the first step every mixture
``λ · p_k`` is 1 up to ε², so a second step adds the same to every lag. So no second step gives
the second-order term of the posterior mean. With two lags the second order vanishes for all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtd_lens.errors import ArgumentError
from mtd_lens.shapes import Likelihoods, Weights
from probes import checks

STEP = 2e-2
"""Of ε, for derivatives by central differences of fourth order."""

N_SEQUENCES, N_EVIDENCE = 32, 7
"""Random evidence on which coefficients are fitted."""


@dataclass(frozen=True)
class Expansion:
    """Coefficients of an estimator's expansion, and how well they describe it.

    Attributes:
        first: c, of the sum of the evidence.
        squared_sum: a, of its square.
        sum_of_squares: b, of the sum of the squares.
        unexplained: Largest share of the first and the second derivative's squares that these
            leave, 0 up to rounding for an estimator in which the order of the evidence plays no
            part.
    """

    first: float
    squared_sum: float
    sum_of_squares: float
    unexplained: float


def expand(estimator: Callable[[Likelihoods], Weights], n_lags: int, seed: int = 0) -> Expansion:
    """The expansion of an estimator around no evidence.

    Args:
        estimator: From likelihoods ``[sequence, evidence, lag]`` to weights ``[sequence, lag]``.
        n_lags: At least 3: with two the second order vanishes.
        seed: Of the random evidence.

    Raises:
        ArgumentError: Fewer lags.
    """
    n_lags = checks.integer(n_lags, "n_lags", 3, ArgumentError)
    generator = torch.Generator().manual_seed(checks.seed(seed, ArgumentError))
    shape = (N_SEQUENCES, N_EVIDENCE, n_lags)
    z = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
    z = z - z.mean(-1, keepdim=True)

    def at(steps: int) -> Tensor:
        return estimator(1 + steps * STEP * z)

    one, two = (at(1), at(-1)), (at(2), at(-2))
    slope = (8 * (one[0] - one[1]) - (two[0] - two[1])) / (12 * STEP)
    bend = (16 * (one[0] + one[1]) - (two[0] + two[1]) - 30 * at(0)) / (24 * STEP**2)
    u = z.sum(1)
    c, left = _fitted(slope, u)
    (a, b), also = _fitted(bend, u.square(), z.square().sum(1))
    return Expansion(c[0], a, b, max(left, also))


def _fitted(values: Tensor, *terms: Tensor) -> tuple[list[float], float]:
    """Coefficients of terms centred over lags, and the share of squares that they leave."""
    columns = torch.stack([(t - t.mean(-1, keepdim=True)).flatten() for t in terms], -1).numpy()
    wanted = values.flatten().numpy()
    found = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    left, whole = np.square(wanted - columns @ found).sum(), np.square(wanted).sum()
    return found.tolist(), float(left / whole) if whole > 0 else 0.0
