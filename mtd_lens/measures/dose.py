"""Dose: how much of the source's value does a patched model act on?"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.measures.pairs import Pairs, prediction_with
from mtd_lens.trial import Trial
from probes.statistics.intervals import CONFIDENCE, Interval, resample_weights

KNOTS = torch.linspace(-1, 3, 17, dtype=torch.float64)
"""Doses at which the algorithm is run; between them, mean divergences are interpolated."""

_STEP = 0.01


def dose(
    trial: Trial,
    pairs: Pairs,
    variable: str,
    queries: slice,
    patched: Float[Tensor, "pair outcome"],
) -> Interval | None:
    """The dose at which the algorithm is nearest to the patched predictions, over all pairs.

    At dose a the algorithm's variable is ``(1 - a) · base + a · source``. The interval is a
    bootstrap over pairs.

    Args:
        trial: Of the experiment.
        pairs: Of bases and sources.
        variable: That was swapped; its values are points of a linear space.
        queries: At which query positions.
        patched: ``[pair, outcome]``: what the model predicts with its own value swapped.

    Returns:
        The dose; None where no dose is nearer than a dose of 0 by more than noise.
    """
    divergence = trial.task.outputs.divergence
    predictions = trial.memo(
        "doses", trial.causal_model, pairs,
        compute=lambda: [_at_dose(trial, pairs, variable, queries, float(a)) for a in KNOTS],
    )  # fmt: skip
    curves = torch.stack([divergence(prediction, patched) for prediction in predictions])
    fine, matrix = _interpolation()
    weights = resample_weights(len(pairs), trial.seed)
    means = np.vstack([curves.mean(1).numpy()[None], weights @ curves.T.cpu().numpy()])
    nearest = fine[(means @ matrix.T).argmin(1)]
    gain = curves[_index(0.0)] - torch.from_numpy(matrix[_fine_index(nearest[0])]) @ curves
    if probes.mean_interval(gain, seed=trial.seed).low <= 0:
        return None
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(nearest[1:], tails)
    return Interval(float(nearest[0]), float(low), float(high))


def _at_dose(trial: Trial, pairs: Pairs, variable: str, queries: slice, a: float) -> Tensor:
    values = (1 - a) * pairs.natural + a * pairs.swapped
    return prediction_with(trial.causal_model, pairs.base.sequences, variable, values, queries)


@cache
def _interpolation() -> tuple[np.ndarray, np.ndarray]:
    """Finely spaced doses, and the matrix that takes values at knots to theirs."""
    from scipy.interpolate import CubicSpline

    knots = KNOTS.numpy()
    fine = np.arange(round((knots[-1] - knots[0]) / _STEP) + 1) * _STEP + knots[0]
    return fine, CubicSpline(knots, np.eye(len(knots)))(fine)


def _index(a: float) -> int:
    return int((KNOTS - a).abs().argmin())


def _fine_index(a: float) -> int:
    return round((a - float(KNOTS[0])) / _STEP)
