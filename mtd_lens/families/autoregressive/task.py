"""In-context autoregression (Sander et al. 2024, arXiv 2402.05787): the task and its sampler."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError, TaskError
from mtd_lens.spaces import Vectors as VectorSpace
from mtd_lens.tasks import PlainData, check_name
from probes import checks

ENSEMBLES = ("orthogonal", "unitary")

MAX_NOISE = 1e3

MAX_ENTRIES = 2**20
"""Numbers in one sequence's vectors, or in its matrix: 8 megabytes in float64."""

Vectors = Float[Tensor, "sequence position component"]
Matrices = Float[Tensor, "sequence component component"]


@dataclass(frozen=True)
class AutoregressiveBatch:
    """Sequences of vectors with the matrices that made them.

    Attributes:
        tokens: ``[sequence, position, component]``, float64: the vectors s_0 … s_{T-1}.
        matrices: ``[sequence, component, component]``, float64: each sequence's W.
    """

    tokens: Vectors
    matrices: Matrices

    @property
    def truth(self) -> Float[Tensor, "sequence component"]:
        """``W s_{T-1}``, ``[sequence, component]``: the mean of the vector after the last one."""
        return torch.einsum("nij,nj->ni", self.matrices, self.tokens[:, -1])


@dataclass(frozen=True)
class AutoregressiveTask(PlainData):
    """Vectors that follow a hidden matrix: ``s_{t+1} = W s_t``, with a fresh W for each sequence.

    Args:
        dim: Components of a vector; even for the unitary ensemble.
        seq_len: Vectors a sequence, at least 2.
        ensemble: ``"orthogonal"``: W is Haar-distributed on the orthogonal group, s_0 uniform on
            the unit sphere. ``"unitary"``: W is a diagonal unitary matrix of ``dim / 2`` uniform
            phases, written as rotations of pairs of components, so that all W commute; s_0 is the
            complex vector of ones, (1, 0) in each pair.
        noise: Standard deviation of what is added to each component at each step, at least 0.
        name: Registry name, if it has one.

    Raises:
        TaskError: Any of these out of its range, or sequences too large for memory.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.AutoregressiveTask(dim=3, seq_len=8)
        >>> batch = task.sample(4, seed=0)
        >>> batch.tokens.shape, batch.matrices.shape
        (torch.Size([4, 8, 3]), torch.Size([4, 3, 3]))
    """

    dim: Any
    seq_len: Any
    ensemble: Any = "orthogonal"
    noise: Any = 0.0
    name: str | None = None

    family = "autoregressive"
    required = ("dim", "seq_len")

    def __post_init__(self) -> None:
        checks.choice(self.ensemble, "ensemble", ENSEMBLES, TaskError)
        dim = checks.integer(self.dim, "dim", 1, TaskError)
        if self.ensemble == "unitary" and dim % 2:
            raise TaskError(
                f"dim must be even for the unitary ensemble, which rotates pairs of components; "
                f"got {dim}. Use {dim + 1}, or the orthogonal ensemble."
            )
        seq_len = checks.integer(self.seq_len, "seq_len", 2, TaskError)
        if dim * max(dim, seq_len) > MAX_ENTRIES:
            raise TaskError(
                f"a sequence of {seq_len} vectors of {dim} components, with its {dim} x {dim} "
                f"matrix, is too large for memory; neither may have more than {MAX_ENTRIES} "
                "entries. Use a smaller dim or seq_len."
            )
        advice = "It is a standard deviation; 0 makes the sequences exact."
        noise = checks.number(
            self.noise, "noise", 0, MAX_NOISE, TaskError, advice, low_included=True
        )
        for field, value in (("dim", dim), ("seq_len", seq_len), ("noise", noise)):
            object.__setattr__(self, field, value)
        check_name(self.name)

    @property
    def n_tokens(self) -> int:
        """Components of a vector, ``dim``."""
        return self.dim

    @property
    def inputs(self) -> VectorSpace:
        """Vectors of ``dim`` components."""
        return VectorSpace(self.dim)

    outputs = inputs

    @property
    def description(self) -> str:
        """What it is, in words."""
        article = "an" if self.ensemble == "orthogonal" else "a"
        noise = f", noise {self.noise:g}" if self.noise else ""
        return (
            f"vectors of {self.dim} components, context {self.seq_len}; {article} {self.ensemble} "
            f"matrix drawn for each sequence{noise}"
        )

    def sample(self, n: int, seed: int = 0) -> AutoregressiveBatch:
        """Draw ``n`` sequences, vectorised over sequences; the same seed draws the same ones.

        Args:
            n: How many.
            seed: At least 0.

        Returns:
            Vectors ``[sequence, position, component]``, and their matrices.

        Raises:
            ArgumentError: ``n`` is not a positive integer, or ``seed`` is negative.
        """
        n = checks.integer(n, "the number of sequences", 1, ArgumentError)
        rng = np.random.default_rng(checks.seed(seed, ArgumentError))
        if self.ensemble == "orthogonal":
            matrices = _haar(rng, n, self.dim)
            first = rng.normal(size=(n, self.dim))
            first /= np.linalg.norm(first, axis=1, keepdims=True)
        else:
            matrices = _rotations(rng.uniform(0, 2 * np.pi, (n, self.dim // 2)))
            first = np.tile([1.0, 0.0], (n, self.dim // 2))
        tokens = np.empty((n, self.seq_len, self.dim))
        tokens[:, 0] = first
        for t in range(1, self.seq_len):
            tokens[:, t] = np.einsum("nij,nj->ni", matrices, tokens[:, t - 1])
            if self.noise:
                tokens[:, t] += self.noise * rng.normal(size=(n, self.dim))
        return AutoregressiveBatch(torch.from_numpy(tokens), torch.from_numpy(matrices))


def _haar(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Haar-distributed orthogonal matrices: QR of Gaussian ones, with R's diagonal positive."""
    q, r = np.linalg.qr(rng.normal(size=(n, dim, dim)))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Block-diagonal rotations of pairs of components, ``[sequence, component, component]``."""
    n, n_pairs = angles.shape
    matrices = np.zeros((n, 2 * n_pairs, 2 * n_pairs))
    for pair in range(n_pairs):
        real, imaginary = 2 * pair, 2 * pair + 1
        cosine, sine = np.cos(angles[:, pair]), np.sin(angles[:, pair])
        matrices[:, real, real] = matrices[:, imaginary, imaginary] = cosine
        matrices[:, imaginary, real], matrices[:, real, imaginary] = sine, -sine
    return matrices


def check_task(task: object) -> AutoregressiveTask:
    """``task``, if it is one of this family.

    Raises:
        ArgumentError: It is not.
    """
    if not isinstance(task, AutoregressiveTask):
        raise ArgumentError(
            f"expected an AutoregressiveTask; got {task!r}. Use load_task(name) or "
            "AutoregressiveTask(dim, seq_len)."
        )
    return task


def check_tokens(
    task: AutoregressiveTask, tokens: Tensor, max_length: int | None = None
) -> Vectors:
    """``tokens`` as float64, after every check that concerns a single sequence's form.

    Args:
        task: Whose vectors they must be.
        tokens: ``[sequence, position, component]``, floating-point.
        max_length: A model's context, if one is involved.

    Raises:
        ArgumentError: The task is none.
        TokensError: Not a floating-point tensor of rank 3, of another size, too short or too long,
            or not finite.
    """
    return check_task(task).inputs.check(tokens, ("two vectors", 2), max_length)


def resized(task: AutoregressiveTask, length: int) -> AutoregressiveTask:
    """The same task with sequences of another length."""
    return replace(task, seq_len=length, name=None)
