"""What stands in for the scores and the values of one attention layer: forms and their fits."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mtd_lens.families.mtd.score_form import ANY, Products, Squares
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.shapes import Tokens

N_FIT, FIT_SEED = 2048, 1
N_ENDINGS = 64

PSEUDO_COUNT = 1.0
"""By which each coefficient of a value's form is drawn to 0, in keys."""

LAST, ADDITIVE, JOINT, SHUFFLED = "y_k alone", "additive", "window", "shuffled windows"

Scores = Float[Tensor, "sequence key head"]
Values = Float[Tensor, "sequence key head feature"]


@dataclass(frozen=True, eq=False)
class Basis(Squares):
    """What forms are fitted on, the same for all models of a task: contexts under some endings.

    Features are products of pairs and parents, of every key with a window, less their mean over
    keys and, key by key, over sequences of the same ending: what the query's tokens and positions
    say has no share in the fits.

    Attributes:
        products: Which forms there are.
        tokens: ``[sequence, position]``: ``N_ENDINGS`` of the same number of sequences, in order.
    """

    @classmethod
    def of(cls, task: MTDTask, n_sequences: int = N_FIT) -> "Basis":
        """Of sequences that are drawn for it.

        Args:
            task: The task.
            n_sequences: A multiple of ``N_ENDINGS``.
        """
        tokens = task.sample(n_sequences, seed=FIT_SEED).tokens.unflatten(0, (N_ENDINGS, -1))
        tokens[:, :, -task.order :] = tokens[:, :1, -task.order :].clone()
        return cls(Products(task), tokens.flatten(0, 1))

    def again(self, seed: int) -> "Basis":
        """With endings drawn from its own, with replacement.

        Args:
            seed: Of the draw.
        """
        drawn = torch.randint(
            N_ENDINGS, (N_ENDINGS,), generator=torch.Generator().manual_seed(seed)
        )
        tokens = self.tokens.unflatten(0, (N_ENDINGS, -1))[drawn.to(self.tokens.device)]
        return Basis(self.products, tokens.flatten(0, 1))

    @property
    def task(self) -> MTDTask:
        """The task."""
        return self.products.task

    @cached_property
    def _pairs(self) -> Float[Tensor, "ending sequence key pair"]:
        return _within(pairs_of(self.task, self.tokens).unflatten(0, (N_ENDINGS, -1)))

    @cached_property
    def _parents(self) -> Float[Tensor, "ending parent"]:
        return parents_of(self.task, self.tokens).unflatten(0, (N_ENDINGS, -1))[:, 0]

    @cached_property
    def of_features(self) -> Float[Tensor, "feature feature"]:
        """Sums over sequences and keys."""
        pairs = self._pairs.flatten(1, 2)
        products = torch.einsum("exi,exj,ep,eq->ipjq", pairs, pairs, self._parents, self._parents)
        n = len(self.products.keys) + len(self.products.forms[ANY])
        found = torch.zeros(n, n).to(pairs)
        found[-self.products.n_products :, -self.products.n_products :] = products.flatten(
            0, 1
        ).flatten(1)
        return found

    def with_scores(self, scores: Scores) -> Float[Tensor, "feature head"]:
        """The same with scores.

        Args:
            scores: Of the keys of ``tokens``.
        """
        scores = _within(scores.unflatten(0, (N_ENDINGS, -1)))
        products = torch.einsum("enki,enkh,ep->iph", self._pairs, scores, self._parents)
        found = torch.zeros(len(self.of_features), scores.shape[-1]).to(products)
        found[-self.products.n_products :] = products.flatten(0, 1)
        return found


def _within(x: Float[Tensor, "ending sequence key feature"]) -> Tensor:
    """Less the mean over keys, and that over sequences of the same ending."""
    x = x - x.mean(2, keepdim=True)
    return x - x.mean(1, keepdim=True)


def pairs_of(task: MTDTask, tokens: Tokens) -> Float[Tensor, "sequence key pair"]:
    """One-hots of ``(y_{k-g}, y_k)`` at each lag; zero for keys before the first window."""
    q, m = task.n_tokens, task.order
    codes = [tokens[:, m:] * q + tokens[:, m - g : -g] for g in range(1, m + 1)]
    found = torch.cat([functional.one_hot(code, q * q) for code in codes], -1).double()
    return functional.pad(found, (0, 0, m, 0))


def parents_of(task: MTDTask, tokens: Tensor) -> Float[Tensor, "sequence parent"]:
    """One-hots of the last query's parent at each lag."""
    return functional.one_hot(tokens[:, -task.order :].flip(-1), task.n_tokens).flatten(1).double()


@dataclass(frozen=True, eq=False)
class ValueForm:
    """What is fitted to the values of keys: of tokens of their windows.

    Attributes:
        order: Of the task: windows hold as many tokens before the key's own.
        n_tokens: Of the task.
        kind: ``LAST``: of ``y_k``; ``ADDITIVE``: of each of ``y_{k-m} … y_k``, summed; ``JOINT``:
            of the window as a whole; ``SHUFFLED``: additive, fitted with another sequence's
            windows.
    """

    order: int
    n_tokens: int
    kind: str

    @property
    def sizes(self) -> list[int]:
        """Of each factor; a token that is not there, before the first, counts as one of its own."""
        n = self.n_tokens + 1
        if self.kind == JOINT:
            return [n ** (self.order + 1)]
        return [n] * (1 if self.kind == LAST else self.order + 1)

    def codes(self, tokens: Tensor) -> Int[Tensor, "sequence position factor"]:
        """Which level each key has of each factor."""
        padded = functional.pad(tokens, (self.order, 0), value=self.n_tokens)
        lags = range(1 if self.kind == LAST else self.order + 1)
        length = tokens.shape[1]
        window = torch.stack(
            [padded[:, self.order - j : self.order - j + length] for j in lags], -1
        )
        if self.kind != JOINT:
            return window
        places = torch.tensor([(self.n_tokens + 1) ** j for j in lags], device=tokens.device)
        return (window * places).sum(-1, keepdim=True)

    def fit(self, tokens: Tensor, values: Values) -> Float[Tensor, "level head feature"]:
        """Coefficients of all factors' levels, beside one of each position.

        Args:
            tokens: ``[sequence, position]``.
            values: Of their keys.
        """
        n, length = tokens.shape
        codes = self.codes(tokens.roll(len(tokens) // 2, 0) if self.kind == SHUFFLED else tokens)
        at_position = torch.arange(length).to(codes).expand(n, -1)[..., None]
        codes = torch.cat([at_position, codes], -1).flatten(0, 1)
        sizes = [length, *self.sizes]
        targets = values.flatten(0, 1).flatten(1).double()
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        squares = torch.zeros(sum(sizes), sum(sizes)).double()
        moments = torch.zeros(sum(sizes), targets.shape[1]).double()
        for i, start in enumerate(starts):
            moments.index_add_(0, start + codes[:, i], targets)
            for j, other in enumerate(starts):
                both = torch.bincount(
                    codes[:, i] * sizes[j] + codes[:, j], minlength=sizes[i] * sizes[j]
                )
                block = squares[start : start + sizes[i], other : other + sizes[j]]
                block += both.reshape(sizes[i], sizes[j])
        squares += PSEUDO_COUNT * torch.eye(len(squares)).double()
        fitted = torch.linalg.solve(squares, moments)[length:]
        return fitted.reshape(len(fitted), *values.shape[2:])

    def of(self, tokens: Tensor, fitted: Float[Tensor, "level head feature"]) -> Values:
        """What the form says, but for positions' own."""
        sizes = self.sizes
        starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
        return fitted[self.codes(tokens) + starts].sum(2)
