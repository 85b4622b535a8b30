"""What a probe's score must be held against.

A control task (Hewitt & Liang 2019) keeps the inputs and replaces the variable by an arbitrary one
of the same shape: what a probe reads there, it reads by its own capacity. The token-window baseline
asks how much of the variable is linear in the raw tokens already.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from probes import checks
from probes.errors import DataError

WAVES = 4.0
"""Radians by which the phase of a control's cosine varies over windows, as standard deviation."""


def token_windows(
    tokens: Shaped[Tensor, "sequence position *component"],
    positions: tuple[int, ...],
    length: int,
) -> Shaped[Tensor, "sequence window length *component"]:
    """The last ``length`` tokens up to and including each position, oldest first.

    Args:
        tokens: ``[sequence, position]``, or ``[sequence, position, component]`` of vectors.
        positions: Where windows end.
        length: Tokens a window.

    Returns:
        ``[sequence, window, length]``, with the components of vectors behind.

    Raises:
        DataError: A window that would start before the sequence.

    Examples:
        >>> import probes, torch
        >>> probes.token_windows(torch.tensor([[0, 1, 2, 3]]), positions=(2, 3), length=2)
        tensor([[[1, 2],
                 [2, 3]]])
    """
    checks.tensor(tokens, "tokens", "sequence, position, …", DataError, "real")
    length = checks.integer(length, "length", 1, DataError)
    positions = tuple(checks.integers(positions, "positions", DataError, 0, tokens.shape[1] - 1))
    if not positions or min(positions) < length - 1:
        raise DataError(
            f"a window of {length} tokens does not fit before position "
            f"{min(positions, default=0)}. Use later positions or shorter windows."
        )
    ends = torch.tensor(positions, device=tokens.device)[:, None]
    return tokens[:, ends + torch.arange(1 - length, 1, device=tokens.device)]


def one_hot_windows(
    windows: Int[Tensor, "sequence window length"], n_tokens: int
) -> Float[Tensor, "sequence window feature"]:
    """The raw-token features of a window, ``length * n_tokens`` of them.

    Args:
        windows: ``[sequence, window, length]``.
        n_tokens: Size of the vocabulary.

    Returns:
        ``[sequence, window, length * n_tokens]``, float64.

    Raises:
        DataError: No tokens of the vocabulary.
    """
    checks.tensor(windows, "windows", "sequence, window, length", DataError, "integer")
    n_tokens = checks.integer(n_tokens, "n_tokens", 1, DataError)
    if windows.numel() and not 0 <= int(windows.min()) <= int(windows.max()) < n_tokens:
        raise DataError(
            f"windows must hold tokens from 0 to {n_tokens - 1}; got {int(windows.min())} … "
            f"{int(windows.max())}."
        )
    windows = windows.long()
    return functional.one_hot(windows, n_tokens).flatten(2).to(torch.float64)


def raw_features(
    tokens: Shaped[Tensor, "sequence position *component"],
    positions: tuple[int, ...],
    length: int,
    n_tokens: int,
) -> Float[Tensor, "sequence window feature"]:
    """What is linear in the raw input: one-hot windows of tokens, or windows of vectors.

    Args:
        tokens: ``[sequence, position]``, or ``[sequence, position, component]`` of vectors.
        positions: Where windows end.
        length: Tokens a window.
        n_tokens: Size of the vocabulary; vectors need none.

    Returns:
        ``[sequence, window, feature]``, float64.

    Raises:
        DataError: A window that would start before the sequence, or tokens outside the vocabulary.
    """
    windows = token_windows(tokens, positions, length)
    if windows.is_floating_point():
        return windows.flatten(2).to(torch.float64)
    return one_hot_windows(windows, n_tokens)


def random_wave_map(
    windows: Float[Tensor, "sequence window *component"],
    n_outputs: int,
    seed: int,
    size: float | int,
) -> Float[Tensor, "sequence window output"]:
    """A control variable of windows of vectors: cosines along random directions.

    A fixed function of the window that a linear probe cannot read from it (random Fourier
    features, Rahimi & Recht 2007), with mean 0 and variance 1 over phases: the control task of
    Hewitt & Liang (2019) for a vector-valued variable.

    Args:
        windows: ``[sequence, window, …]``.
        n_outputs: Entries of the variable.
        seed: Of directions and phases.
        size: Typical norm of a window, such as the root mean square, above 0: the unit in which
            windows are measured. It is an argument and not taken from the windows, so that equal
            windows get equal values in every call.

    Returns:
        ``[sequence, window, output]``, float64.

    Raises:
        DataError: No windows of vectors, a number or seed that cannot be used, or a size that is
            not positive and finite.

    Examples:
        >>> import probes, torch
        >>> windows = torch.zeros(1, 4, 2, 3)  # 4 windows of 2 vectors of 3 components
        >>> probes.random_wave_map(windows, n_outputs=6, seed=0, size=2**0.5).shape
        torch.Size([1, 4, 6])
    """
    size = checks.number(size, "size", 0, math.inf, DataError)
    checks.tensor(windows, "windows", "sequence, window, component, …", DataError)
    n_outputs = checks.integer(n_outputs, "n_outputs", 1, DataError)
    rng = np.random.default_rng(checks.seed(seed, DataError))
    flat = windows.flatten(2).to(torch.float64)
    directions = torch.from_numpy(rng.normal(size=(flat.shape[-1], n_outputs))).to(flat)
    phases = torch.from_numpy(rng.uniform(0, 2 * np.pi, n_outputs)).to(flat)
    return math.sqrt(2) * torch.cos(WAVES / size * flat @ directions + phases)


def random_simplex_map(
    windows: Int[Tensor, "sequence window length"], n_outputs: int, seed: int
) -> Float[Tensor, "sequence window output"]:
    """A control variable: an arbitrary point of the simplex for each distinct window.

    Points are uniform on the simplex. Within one call equal windows get equal points. This is the
    control task of Hewitt & Liang (2019) for a variable on the simplex.

    Args:
        windows: ``[sequence, window, length]``.
        n_outputs: Entries of the variable.
        seed: Of the points.

    Returns:
        ``[sequence, window, output]``, float64, sums to 1 over outputs.

    Raises:
        DataError: No windows of tokens, or a number or seed that cannot be used.
    """
    checks.tensor(windows, "windows", "sequence, window, length", DataError, "integer")
    n_outputs = checks.integer(n_outputs, "n_outputs", 1, DataError)
    seed = checks.seed(seed, DataError)
    distinct, inverse = torch.unique(windows.flatten(0, 1), dim=0, return_inverse=True)
    points = np.random.default_rng(seed).dirichlet(np.ones(n_outputs), len(distinct))
    table = torch.from_numpy(points).to(windows.device)
    return table[inverse].unflatten(0, windows.shape[:2])
