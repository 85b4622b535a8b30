"""Variables of a causal model that are held at values."""

from collections.abc import Collection, Mapping

from torch import Tensor

from mtd_lens.errors import ArgumentError
from probes import checks

SIMPLEX_TOLERANCE = 1e-5
"""By which held probabilities may be negative, and their sum another than 1."""


def checked(
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
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ArgumentError(f"{name} must be held at a floating-point tensor.")
        if name in probabilities:
            _check_simplex(name, value[~value.isnan().any(-1)])
    return values


def held(interventions: Mapping[str, Tensor], name: str, natural: Tensor) -> Tensor:
    """A variable's value: what it is held at, and ``natural`` where that is NaN, or not held.

    Raises:
        ArgumentError: An intervention whose shape does not fit.
    """
    if name not in interventions:
        return natural
    value = interventions[name].to(natural)
    try:
        value = value.expand_as(natural)
    except RuntimeError as error:
        raise ArgumentError(
            f"the intervention on {name} has shape {tuple(value.shape)}; expected one that "
            f"broadcasts to {tuple(natural.shape)}."
        ) from error
    return value.where(~value.isnan(), natural)


def _check_simplex(name: str, rows: Tensor) -> None:
    off = (rows.sum(-1) - 1).abs() > SIMPLEX_TOLERANCE
    off = off | (rows < -SIMPLEX_TOLERANCE).any(-1)
    if off.any():
        first = rows[off][0]
        raise ArgumentError(
            f"{name} must be held on the simplex, not negative and with a sum of 1; a row has a "
            f"sum of {float(first.sum()):.6g} and a least entry of {float(first.min()):.6g}."
        )
