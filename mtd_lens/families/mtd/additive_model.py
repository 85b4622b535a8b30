"""Additive evidence as a causal model: any table of evidence, summed, and a softmax over lags.

``evidence -> total_evidence -> mixture_weights -> prediction``: what a table holds for each window
of tokens, its sum over evidence so far with a weight for each position, the softmax, and the
mixture of transition rows, at every query position ``order … T-1``. One step of mirror descent
(the table ``β γ / n``) and the product of likelihoods (``τ log p``) are of this form.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import optimize
from torch import Tensor

from mtd_lens.algorithms import Staged
from mtd_lens.contracts import EVERY
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import OnMixtures
from mtd_lens.families.mtd.task import MTDTask, check_task, check_tokens
from mtd_lens.shapes import Tokens
from probes import checks
from probes.statistics.divergences import kl_of_distributions
from probes.statistics.intervals import NEGLIGIBLE

WINDOWS, PAIRS, OWN_PAIRS = "windows", "pairs", "own pairs"
FORMS = (WINDOWS, PAIRS, OWN_PAIRS)

MAX_ENTRIES = 2**22
"""Numbers of a table; each is a parameter of the fit, with gradients and their history."""

VALIDATION_SHARE = 8
"""One in so many sequences of a fit says when to stop, and is not followed."""

PATIENCE = 30
"""Iterations without a better validation loss after which a fit stops."""

EXACT = 1e-11
"""A loss of at most this share of that without evidence is rounding's and the last digits'."""

SCALE = 0.3
"""Of the parameters that are searched, so that steps of size 1 are small ones in evidence."""

_STOPPING = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-10}
"""Of the loss as a share of that without evidence; what stops most fits is their validation."""

Table = Float[Tensor, "block entry lag"]


@dataclass(frozen=True, eq=False)
class AdditiveCausalModel(OnMixtures, Staged):
    """Evidence from a table, its weighted sum, and what follows, stage by stage.

    A table of windows is one block of ``q^(m+1)`` entries, that of the window
    ``y_{k-m}, …, y_k`` at its number in base q: ``table.view(q, …, q, m)[y_{k-m}, …, y_k]`` is what
    it says for each lag. A table of pairs has a block of ``q²`` entries for each lag g, that of
    ``(y_{k-g}, y_k)`` at ``q y_{k-g} + y_k``, and the evidence is the sum over blocks.

    Attributes:
        task: The task.
        table: ``[block, entry, lag]``: evidence for each lag, to which a constant over lags adds
            nothing.
        position_weights: ``[position]``: of the evidence so many positions before a query, first
            that of the query itself; as many as a sequence of the task has evidence.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.

    Raises:
        ArgumentError: A table or weights of another shape, or not finite.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> nothing = torch.zeros(1, 2**3, 2, dtype=torch.float64)
        >>> model = mtd_lens.AdditiveCausalModel(task, nothing, torch.ones(6))
        >>> model.run(task.sample(4, seed=0).tokens)["mixture_weights"][0, -1]
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    task: MTDTask
    table: Tensor
    position_weights: Tensor
    interventions: Mapping[str, Tensor] = field(default_factory=dict)

    name = "additive evidence"
    variables = ("evidence", "total_evidence", "mixture_weights", "prediction")
    probabilities = ("mixture_weights", "prediction")

    def __post_init__(self) -> None:
        task = check_task(self.task)
        table = checks.tensor(self.table, "table", "block, entry, lag", ArgumentError)
        weights = checks.tensor(
            self.position_weights, "position_weights", "position", ArgumentError
        )
        shapes = {shape(task, form): form for form in (PAIRS, WINDOWS)}
        if tuple(table.shape) not in shapes:
            known = " or ".join(f"{size} for {form}" for size, form in shapes.items())
            raise ArgumentError(
                f"table must have shape {known}, [block, entry, lag]; got {tuple(table.shape)}."
            )
        n_evidence = task.seq_len - task.order
        if tuple(weights.shape) != (n_evidence,):
            raise ArgumentError(
                f"position_weights must have shape {(n_evidence,)}, one for each piece of evidence "
                f"of a sequence; got {tuple(weights.shape)}."
            )
        for name, values in (("table", table), ("position_weights", weights)):
            if not values.isfinite().all():
                raise ArgumentError(f"{name} must be finite; got NaN or infinity.")

    @property
    def form(self) -> str:
        """``"windows"`` or ``"pairs"``: what the table is of."""
        return (
            WINDOWS if self.table.shape[1] == self.task.n_tokens ** (self.task.order + 1) else PAIRS
        )

    @property
    def parameters(self) -> dict[str, float]:
        """How many numbers the table has, and the root mean square of the evidence in it."""
        centred = self.table - self.table.mean(-1, keepdim=True)
        return {
            "entries": float(self.table.numel()),
            "scale": float(centred.square().mean().sqrt()),
        }

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``evidence`` of the last token's window, ``total_evidence`` so far and
            ``mixture_weights`` as ``[sequence, query, lag]``, ``prediction`` as ``[sequence, query,
            token]``.

        Raises:
            TokensError: Tokens that do not fit the task, or more than it has positions.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        evidence = self._evidence(tokens)
        n = evidence.shape[1]
        if queries == EVERY:
            ages = torch.arange(n)[:, None] - torch.arange(n)
            weights = self.position_weights.to(evidence)[ages.clamp_min(0).to(evidence.device)]
            total = torch.einsum("qk,nkl->nql", weights.tril(), evidence)
        else:
            weights = self.position_weights[:n].flip(0).to(evidence)
            total = torch.einsum("k,nkl->nl", weights, evidence)[:, None]
        return evidence, *self._from_total(total, self._rows(tokens, queries), queries)

    def _evidence(self, tokens: Tensor) -> Float[Tensor, "sequence evidence lag"]:
        tokens = check_tokens(self.task, tokens, self.task.seq_len)
        table = self.table.to(tokens.device, torch.float64)
        found = entries(self.task, self.form, tokens)
        return self.held("evidence", looked_up(table, found))

    def _from_total(
        self, total: Tensor, rows: Float[Tensor, "sequence query lag token"], queries: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The variables from the sum on, at some queries, from what their parents predict."""
        total = self.held("total_evidence", total, queries)
        weights = self.held("mixture_weights", total.softmax(-1), queries)
        prediction = torch.einsum("nql,nqlb->nqb", weights, rows)
        return total, weights, self.held("prediction", prediction, queries)


def shape(task: MTDTask, form: str) -> tuple[int, int, int]:
    """Of a table: ``(blocks, entries of each, lags)``.

    Args:
        task: The task.
        form: One of ``FORMS``.
    """
    q, m = task.n_tokens, task.order
    return (1, q ** (m + 1), m) if form == WINDOWS else (m, q * q, m)


def sizes(task: MTDTask) -> dict[str, int]:
    """By form, how many numbers a table has to be fitted: the largest table first.

    Args:
        task: The task.
    """
    own = task.order * task.n_tokens**2
    return {form: math.prod(shape(task, form)) for form in (WINDOWS, PAIRS)} | {OWN_PAIRS: own}


def check_size(task: MTDTask, form: str) -> str:
    """``form``, if a table of it can be fitted.

    Raises:
        ArgumentError: No such form, or too large a table.
    """
    checks.choice(form, "form of a table", FORMS, ArgumentError)
    found = sizes(task)
    if found[form] <= MAX_ENTRIES:
        return form
    q, m = task.n_tokens, task.order
    fits = [f"form={other!r} ({size:,})" for other, size in found.items() if size <= MAX_ENTRIES]
    raise ArgumentError(
        f"a table of {form} of {q:,} tokens and {m} lags has {found[form]:,} numbers; at most "
        f"{MAX_ENTRIES:,} are fitted. Use {' or '.join(fits) or 'a task of fewer tokens'}."
    )


def entries(task: MTDTask, form: str, tokens: Tokens) -> Int[Tensor, "sequence evidence block"]:
    """Where in each block of a table every piece of evidence stands.

    Args:
        task: The task.
        form: One of ``FORMS``.
        tokens: ``[sequence, position]``.
    """
    q, m = task.n_tokens, task.order
    windows = tokens.unfold(1, m + 1, 1)
    if form == WINDOWS:
        places = q ** torch.arange(m, -1, -1, device=tokens.device)
        return (windows * places).sum(-1, keepdim=True)
    return q * windows[..., :-1].flip(-1) + windows[..., -1:]


def looked_up(
    table: Table, found: Int[Tensor, "sequence evidence block"]
) -> Float[Tensor, "sequence evidence lag"]:
    """The sum over blocks of what a table holds, differentiable in it.

    Args:
        table: ``[block, entry, lag]``.
        found: What ``entries`` found.
    """
    first, *others = (
        block[at.flatten()] for block, at in zip(table, found.unbind(-1), strict=True)
    )
    return sum(others, first).unflatten(0, found.shape[:2])


def fit_additive(
    task: MTDTask, form: str, tokens: Tensor, predictions: Tensor
) -> AdditiveCausalModel:
    """The table and the weights of positions that a model's predictions follow best.

    Minimises the mean KL(model ‖ additive evidence) at the last query, from no evidence at all, by
    L-BFGS on the larger part of the sequences, and stops where the rest of them, the last ones, is
    followed best. Weights have a mean of 1, and evidence one of 0 over lags.

    Args:
        task: The task.
        form: Of the table: ``"windows"``, ``"pairs"``, or ``"own pairs"``, where only
            ``(y_{k-g}, y_k)`` is evidence for lag g.
        tokens: ``[sequence, position]``, of the task's length.
        predictions: ``[sequence, token]``: the model's, after the last position.

    Raises:
        ArgumentError: An unknown form, or a table that is too large.
    """
    check_size(task, form)
    n_evidence, size = task.seq_len - task.order, shape(task, form)
    found = entries(task, form, tokens)
    rows = estimators.parent_rows(task, tokens[:, -task.order - 1 :])[:, -1]
    allowed = torch.eye(task.order).double()[:, None] if form == OWN_PAIRS else torch.ones(())
    targets = predictions.to(torch.float64)
    n_followed = len(tokens) - len(tokens) // VALIDATION_SHARE
    followed, rest = slice(n_followed), slice(n_followed, None)

    def parts(point: Tensor) -> tuple[Tensor, Tensor]:
        """The table, and the weights from the first piece of evidence to the last."""
        table, weights = (SCALE * point).split([math.prod(size), n_evidence])
        return table.view(size) * allowed, 1 + weights - weights.mean()

    def loss(point: Tensor, part: slice) -> Float[Tensor, ""]:
        table, weights = parts(point)
        evidence = looked_up(table, found[part])
        total = torch.einsum("k,nkl->nl", weights, evidence)
        prediction = torch.einsum("nl,nlb->nb", total.softmax(-1), rows[part])
        return kl_of_distributions(targets[part], prediction).mean()

    point = _minimised(loss, followed, rest, math.prod(size) + n_evidence)
    table, weights = parts(point)
    return AdditiveCausalModel(task, table - table.mean(-1, keepdim=True), weights.flip(0))


class _StoppedError(Exception):
    """Further iterations follow the validation part no better."""


def _minimised(
    loss: Callable[[Tensor, slice], Tensor], followed: slice, rest: slice, n_parameters: int
) -> Float[Tensor, " parameter"]:
    """The point on an L-BFGS path from 0 at which the loss of ``rest`` is least."""
    best = torch.zeros(n_parameters, dtype=torch.float64)
    scale = max(float(loss(best, followed)), NEGLIGIBLE)
    least, age = float(loss(best, rest)), 0

    @torch.enable_grad()
    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(values).requires_grad_()
        value = loss(point, followed) / scale
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    def look(values: np.ndarray) -> None:
        nonlocal best, least, age
        point = torch.from_numpy(values)
        value, age = float(loss(point, rest)), age + 1
        if value < least:
            best, least, age = point.clone(), value, 0
        if age >= PATIENCE or value <= EXACT * scale:
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        optimize.minimize(
            objective, best.numpy().copy(), jac=True, method="L-BFGS-B", callback=look,
            options=_STOPPING,
        )  # fmt: skip
    return best
