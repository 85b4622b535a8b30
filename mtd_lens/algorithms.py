"""What causal models share: variables that are held at values, and the fit of one parameter."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from scipy import optimize
from torch import Tensor

from mtd_lens.errors import ArgumentError
from mtd_lens.shapes import Predictions
from probes import checks

SIMPLEX_TOLERANCE = 1e-5
"""By which held probabilities may be negative, and their sum another than 1."""

N_FIT_SEQUENCES, FIT_SEED = 2048, 0
"""Sequences of a task on which the parameter that predicts best on it is fitted."""

PRECISION = 1e-10
"""To which the logarithm of a fitted parameter is sought."""

AT_BOUND = 1e-3
"""A parameter this close to an end of its range, as a share of it, counts as being there."""

LEAST_PROBABILITY = 1e-300
"""To which predicted probabilities are raised, so that their logarithms are finite."""

EVERY, LAST, BUT_LAST = slice(None), slice(-1, None), slice(None, -1)
"""Query positions, as an index into a variable's query axis. At the last one, a later layer holds
what was computed from all of them."""

Causal = TypeVar("Causal", bound="Intervenable")


class Intervenable:
    """A causal model, a frozen dataclass with a field ``interventions``: values by variable."""

    probabilities: ClassVar[tuple[str, ...]] = ()
    """Variables whose rows lie on the simplex."""

    interventions: Mapping[str, Tensor]

    @property
    def variables(self) -> tuple[str, ...]:
        """Names, in causal order."""
        raise NotImplementedError

    def do(self: Causal, **values: Tensor) -> Causal:
        """This model with variables held at values, on top of earlier interventions.

        Args:
            **values: A tensor for each variable, ``[sequence, query, entry]`` as ``run`` gives it,
                or one that broadcasts to it. NaN entries are left to their cause, so that a
                variable can be held at some positions only.

        Returns:
            A new causal model; this one stays as it is.

        Raises:
            ArgumentError: An unknown variable, a value that is no floating-point tensor, or
                probabilities off the simplex.
        """
        new = _checked(values, self.variables, self.probabilities)
        return replace(self, interventions={**self.interventions, **new})  # type: ignore[type-var]

    def held(self, name: str, natural: Tensor, queries: slice = slice(None)) -> Tensor:
        """A variable's value: what it is held at, and ``natural`` where that is NaN, or not held.

        Args:
            name: Of the variable.
            natural: ``[sequence, query, entry]``: what its causes give it.
            queries: Which of all queries those are.

        Raises:
            ArgumentError: An intervention whose shape does not fit.
        """
        if checks.text(name, "name", ArgumentError) not in self.interventions:
            return natural
        value = self.interventions[name].to(natural)
        value = value if value.ndim < 2 else value[..., queries, :]
        try:
            value = value.expand_as(natural)
        except RuntimeError as error:
            raise ArgumentError(
                f"the intervention on {name} has shape {tuple(value.shape)}; expected one that "
                f"broadcasts to {tuple(natural.shape)}."
            ) from error
        return value.where(~value.isnan(), natural)


class Staged(Intervenable):
    """One whose later variables can be computed at some queries alone, for less work."""

    def last_prediction(self, tokens: Tensor) -> Tensor:
        """The prediction at the last query, for the work of one query.

        Args:
            tokens: ``[sequence, position]``; of vectors ``[sequence, position, component]``.

        Returns:
            ``[sequence, outcome]``, float64.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._stages(tokens, LAST)[-1][:, -1]

    def _run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables by name, at every query."""
        return dict(zip(self.variables, self._stages(tokens, EVERY), strict=True))

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        """The variables in order, the later ones at ``EVERY`` query, or the ``LAST`` alone."""
        raise NotImplementedError


def positions_from(first: int, length: int) -> tuple[int, ...]:
    """The positions from the first query on, of sequences of a length.

    Raises:
        ArgumentError: A length that is no number.
    """
    return tuple(range(first, checks.integer(length, "length", 0, ArgumentError)))


def with_flag(name: str, value: float, at_bound: bool) -> dict[str, float]:
    """A fitted parameter, with a flag where it lies at the end of its range: no estimate."""
    return {name: value, **({f"{name}_at_bound": 1.0} if at_bound else {})}


def around(best: float, span: float, most: float = math.inf) -> tuple[float, float]:
    """The range within a factor ``span`` of the best value, in which a model's own is sought.

    A model whose predictions ignore the context follows 0 best, under which no intervention has an
    effect to test; the bound keeps the algorithm that it is held against one that has.
    """
    return best / span, min(best * span, most)


def is_at_bound(value: float, bounds: tuple[float, float], tolerance: float = AT_BOUND) -> bool:
    """Whether a positive value lies at an end of its range, up to a share of it."""
    return min(abs(math.log(value / bound)) for bound in bounds) < tolerance


def search(objective: Callable[[float], float], bounds: tuple[float, float], xatol: float) -> float:
    """Where an objective of one variable is least, by bounded scalar search."""
    result = optimize.minimize_scalar(
        objective, bounds=bounds, method="bounded", options={"xatol": xatol}
    )
    return float(result.x)


def nearest(
    predicted: Callable[[float], Predictions], targets: Predictions, bounds: tuple[float, float]
) -> float:
    """The positive parameter whose predictions are nearest to ``targets``.

    Minimises the mean KL(target ‖ prediction) over the parameter's logarithm.

    Args:
        predicted: ``[sequence, token]``, by the parameter.
        targets: ``[sequence, token]``, the distributions to follow.
        bounds: Of the parameter, above 0.
    """
    low, high = map(math.log, bounds)
    found = search(lambda x: cross_entropy(targets, predicted(math.exp(x))), (low, high), PRECISION)
    return math.exp(found)


def cross_entropy(targets: Predictions, prediction: Predictions) -> float:
    """Of predictions from targets, in nats, the mean over sequences.

    Args:
        targets: ``[sequence, token]``.
        prediction: ``[sequence, token]``.
    """
    likely = prediction.clamp_min(LEAST_PROBABILITY)
    return -float(torch.xlogy(targets.to(prediction), likely).sum(-1).mean())


def check_fit(
    name: str,
    targets: Tensor,
    expected: tuple[int, ...],
    axes: str,
    bounds: tuple[float, float],
    most: float,
    *,
    from_zero: bool = False,
) -> tuple[float, float]:
    """The bounds of a parameter's fit, after checking them and what it is fitted to.

    Args:
        name: Of the parameter.
        targets: What is to be followed.
        expected: Its shape.
        axes: The same in words.
        bounds: Of the parameter.
        most: What they may be at most.
        from_zero: Whether the lower one may be 0.

    Raises:
        ArgumentError: Targets or bounds with which no parameter can be fitted.
    """
    targets = checks.tensor(targets, "targets", axes.strip("[]"), ArgumentError)
    if tuple(targets.shape) != expected or not targets.isfinite().all():
        raise ArgumentError(
            f"targets must be finite, {axes} = {expected}; got shape {tuple(targets.shape)}."
        )
    low, high = checks.bounds(bounds, f"bounds of {name}", ArgumentError)
    if not (low >= 0 if from_zero else low > 0) or not low < high <= most:
        start = "from 0" if from_zero else "above 0"
        raise ArgumentError(
            f"bounds of {name} must be increasing, {start} to {most:g}; got {bounds!r}."
        )
    return low, high


def _checked(
    values: Mapping[str, Tensor], variables: Collection[str], probabilities: Collection[str] = ()
) -> Mapping[str, Tensor]:
    """The values, if they are what variables can be held at.

    Args:
        values: By variable, ``[sequence, query, entry]``; NaN entries are left to their cause.
        variables: Those that there are.
        probabilities: Those whose rows are on the simplex, where they are held as a whole.

    Raises:
        ArgumentError: An unknown variable, a value that is no floating-point tensor, or one off the
            simplex.
    """
    for name, value in values.items():
        checks.choice(name, "variable", variables, ArgumentError)
        checks.tensor(value, f"what {name} is held at", "…, entry", ArgumentError)
        if name in probabilities and value.numel():
            _check_simplex(name, value[~value.isnan().any(-1)])
    return values


def _check_simplex(name: str, rows: Tensor) -> None:
    off = (rows.sum(-1) - 1).abs() > SIMPLEX_TOLERANCE
    off = off | (rows < -SIMPLEX_TOLERANCE).any(-1)
    if off.any():
        first = rows[off][0]
        raise ArgumentError(
            f"{name} must be held on the simplex, not negative and with a sum of 1; a row has a "
            f"sum of {float(first.sum()):.6g} and a least entry of {float(first.min()):.6g}."
        )
