"""What attention scores are made of at the last query: windows of keys times the query's parents.

Every form of a score here is linear in products of two one-hots: of the pair ``(y_{k-g}, y_k)`` of
key k at lag g, and of a parent ``y_{t+1-g'}`` of the query; forms differ in which products share a
coefficient. Positions of keys have coefficients of their own. What is the same for all keys, a
softmax ignores, and so do all fits.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mtd_lens.architectures.writing import eye, zeros
from mtd_lens.claims import NotApplicable
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.shapes import Tokens, Transition

MAX_PRODUCTS = 2048
"""Of pairs and parents; the fit takes their number squared for each key."""

RIDGE = 1e-6
"""Share of a feature's mean square, for those that depend on each other."""

N_ROUNDS = 5
"""Of alternating least squares."""

CHUNK = 128

MAX_RELABELLINGS = 720
"""Of tokens, beside which codes are held."""

Design = Float[Tensor, "feature coefficient"]
Coefficients = Float[Tensor, "feature head"]

PAIRS, OWN, ANY = "pairs", "pairs × own parent", "pairs × any parent"
OF_LAST, OF_GAMMA = "last token × parents", "γ × parents"


@dataclass(frozen=True)
class Products:
    """Features of the keys whose windows end before the query's own tokens.

    In order: the key's position, γ times any parent, pairs times any parent.

    Attributes:
        task: The task.

    Raises:
        NotApplicable: More products than can be fitted.
    """

    task: MTDTask

    def __post_init__(self) -> None:
        if self.n_products > MAX_PRODUCTS:
            raise NotApplicable(
                f"there are {self.n_products:,} products of pairs of tokens and parents, and the "
                f"fit may have {MAX_PRODUCTS:,}"
            )
        if len(self.keys) < 2:
            raise NotApplicable("no two keys lie before the query's own tokens")

    @property
    def keys(self) -> range:
        """Positions of the keys."""
        return range(self.task.order, self.task.seq_len - self.task.order)

    @property
    def n_parents(self) -> int:
        """Of a query: one-hots of a token at each lag."""
        return self.task.order * self.task.n_tokens

    @property
    def n_products(self) -> int:
        """Of a pair at any lag, and a parent at any lag."""
        return self.task.order * self.task.n_tokens**2 * self.n_parents

    def of(
        self, tokens: Tokens, queries: Tokens | None = None
    ) -> Float[Tensor, "sequence key feature"]:
        """Features, less their mean over keys.

        Args:
            tokens: ``[sequence, position]``.
            queries: Sequences whose queries' parents are taken; by default their own.
        """
        m, q = self.task.order, self.task.n_tokens
        keys = torch.tensor(self.keys, device=tokens.device)
        at_query = (tokens if queries is None else queries)[:, -m:].flip(-1)
        parents = functional.one_hot(at_query, q).flatten(1).double()
        gamma = estimators.responsibilities(self.task, tokens)[:, keys - m]
        lags = range(1, m + 1)
        pairs = [functional.one_hot(tokens[:, keys] * q + tokens[:, keys - g], q * q) for g in lags]
        products = [
            torch.einsum("nkx,np->nkxp", x, parents).flatten(2)
            for x in (gamma, torch.cat(pairs, -1).double())
        ]
        position = torch.eye(len(keys)).to(gamma).expand(len(tokens), -1, -1)
        found = torch.cat([position, *products], -1)
        return found - found.mean(1, keepdim=True)

    @cached_property
    def forms(self) -> dict[str, Design]:
        """By name of a form, which features share its coefficients."""
        m, q = self.task.order, self.task.n_tokens
        every = torch.ones(self.n_parents, 1).double()
        last = torch.kron(eye(q), torch.ones(q, 1).double())  # of a pair, whatever came before it
        of_last = torch.cat([last, zeros((m - 1) * q * q, q)])
        own = [torch.kron(eye(q * q), torch.kron(eye(m)[:, g, None], eye(q))) for g in range(m)]
        products = {
            PAIRS: torch.kron(eye(m * q * q), every),
            OF_LAST: torch.kron(of_last, eye(self.n_parents)),
            OWN: torch.block_diag(*own),
            ANY: eye(self.n_products),
        }
        found = {
            name: torch.cat([zeros(self._n_gamma, x.shape[1]), x]) for name, x in products.items()
        }
        return found | {
            OF_GAMMA: torch.eye(self._n_gamma + self.n_products, self._n_gamma).double()
        }

    def design(self, *forms: str | Tensor) -> Tensor:
        """Positions, and then forms side by side.

        Args:
            *forms: Names, or designs of features but positions.

        Returns:
            ``[feature, coefficient]``.
        """
        parts = [self.forms[form] if isinstance(form, str) else form for form in forms]
        return torch.block_diag(eye(len(self.keys)), torch.cat(parts, 1))

    def bilinear(
        self, competing: bool
    ) -> tuple[Callable[[Tensor], Design], Callable[[Tensor], Design]]:
        """The form ``Σ_g f_g(pair) u[parent_g]``: what shares coefficients given u, and given f.

        Args:
            competing: Whether the mean of u over all the query's parents is taken off.
        """
        m, q = self.task.order, self.task.n_tokens
        lags = eye(m) - (1 / m if competing else 0.0)  # [lag of the parent, lag of the pair]

        def given_u(u: Float[Tensor, " token"]) -> Design:
            columns = [torch.kron(lags[:, g], u)[:, None] for g in range(m)]
            own = torch.block_diag(*[torch.kron(eye(q * q), c) for c in columns])
            return torch.cat([zeros(self._n_gamma, own.shape[1]), own])

        def given_f(f: Float[Tensor, "lag pair"]) -> Design:
            by_lag = [torch.kron(lags[:, g, None], eye(q)) for g in range(m)]
            own = [torch.kron(f[g, :, None], by_lag[g]) for g in range(m)]
            return torch.cat([zeros(self._n_gamma, q), *own])

        return given_u, given_f

    @property
    def _n_gamma(self) -> int:
        """Features of γ, which come before those of pairs."""
        return self.task.order * self.n_parents


@dataclass(frozen=True, eq=False)
class Squares:
    """Inner products of all features, from which every form is fitted.

    Attributes:
        products: Whose features.
        tokens: ``[sequence, position]``: what they are of.
    """

    products: Products
    tokens: Tokens

    @cached_property
    def of_features(self) -> Float[Tensor, "feature feature"]:
        """Sums over sequences and keys."""
        total = torch.zeros(())
        for part in self.tokens.split(CHUNK):
            each = self.products.of(part).flatten(0, 1)
            total = total + each.T @ each
        return total

    def with_scores(self, scores: Float[Tensor, "sequence key head"]) -> Coefficients:
        """The same with scores.

        Args:
            scores: Of each head, less their mean over keys.
        """
        parts = zip(self.tokens.split(CHUNK), scores.split(CHUNK), strict=True)
        each = [torch.einsum("nkf,nkh->fh", self.products.of(t), s) for t, s in parts]
        return torch.stack(each).sum(0)

    def fit(self, design: Design, moments: Coefficients) -> Float[Tensor, "coefficient head"]:
        """The least-squares coefficients of a form.

        Args:
            design: Of the form.
            moments: What ``with_scores`` gives.
        """
        squares = design.T @ self.of_features @ design
        ridge = RIDGE * squares.diagonal().clamp_min(squares.diagonal().mean() * RIDGE)
        return torch.linalg.solve(squares + ridge.diag(), design.T @ moments)

    def fit_bilinear(
        self, moments: Coefficients, *beside: str, competing: bool = False
    ) -> Coefficients:
        """What ``Σ_g f_g(pair) u[parent_g]`` gives each feature, fitted head by head.

        From the first singular vector of what pairs × own parent are fitted with, f and u are
        fitted in turn.

        Args:
            moments: What ``with_scores`` gives.
            *beside: Names of forms that stand beside it, fitted together with it.
            competing: As in ``Products.bilinear``.
        """
        given_u, given_f = self.products.bilinear(competing)
        task, n_keys = self.products.task, len(self.products.keys)
        m, q = task.order, task.n_tokens
        found = []
        for head, code in enumerate(main_codes(self.own_coefficients(moments))):
            column, u = moments[:, head, None], code
            for _ in range(N_ROUNDS):
                fitted = self.fit(self.products.design(given_u(u), *beside), column)
                f = fitted[n_keys : n_keys + m * q * q, 0].reshape(m, q * q)
                fitted = self.fit(self.products.design(given_f(f), *beside), column)
                u = fitted[n_keys : n_keys + q, 0]
                u = u / u.norm().clamp_min(torch.finfo(u.dtype).tiny)
            last = self.products.design(given_u(u), *beside)
            found.append(last @ self.fit(last, column))
        return torch.cat(found, 1)

    def own_coefficients(self, moments: Coefficients) -> Float[Tensor, "head lag pair token"]:
        """Coefficients of pairs × own parent, centred over parents and over pairs."""
        m, q = self.products.task.order, self.products.task.n_tokens
        fitted = self.fit(self.products.design(OWN), moments)[len(self.products.keys) :]
        found = fitted.T.reshape(-1, m, q * q, q)
        found = found - found.mean(-1, keepdim=True)
        return found - found.mean(-2, keepdim=True)


def main_codes(own: Float[Tensor, "head lag pair token"]) -> Float[Tensor, "head token"]:
    """The code of a parent that serves all lags best: the first right singular vector."""
    return torch.linalg.svd(own.flatten(1, 2), full_matrices=False).Vh[:, 0]


def rank_one_shares(own: Float[Tensor, "head lag pair token"]) -> Float[Tensor, "head lag"]:
    """The first singular value's share of all squares, between pairs and parents, lag by lag."""
    squares = torch.linalg.svdvals(own).square()
    return squares[..., 0] / squares.sum(-1).clamp_min(torch.finfo(squares.dtype).tiny)


def agreement(own: Float[Tensor, "head lag pair token"]) -> Float[Tensor, " head"]:
    """The least correlation, up to sign, of two lags' own codes of a parent."""
    codes = torch.linalg.svd(own, full_matrices=False).Vh[..., 0, :]
    return (codes @ codes.mT).abs().flatten(1).amin(1)


def follows_transition(
    own: Float[Tensor, "head lag pair token"], transition: Transition
) -> tuple[float, float]:
    """Whether codes of parents are as far from each other as rows of the transition are.

    Args:
        own: What pairs do by their own parent.
        transition: Of the task.

    Returns:
        The correlation of distances between codes and between rows, and the share of relabellings
        of the tokens that have no lower one: of all of up to ``MAX_RELABELLINGS``, or as many
        random ones.
    """
    q = len(transition)
    codes = own.flatten(0, 2).T
    apart = torch.triu_indices(q, q, 1)
    of_rows = torch.cdist(transition, transition)
    of_codes = torch.cdist(codes, codes)[*apart]
    if math.factorial(q) <= MAX_RELABELLINGS:
        orders = [torch.tensor(order) for order in itertools.permutations(range(q))]
    else:
        drawn = torch.Generator().manual_seed(0)
        others = [torch.randperm(q, generator=drawn) for _ in range(MAX_RELABELLINGS)]
        orders = [torch.arange(q), *others]
    found = torch.stack(
        [torch.corrcoef(torch.stack([of_codes, of_rows[o][:, o][*apart]]))[0, 1] for o in orders]
    )
    return float(found[0]), float((found >= found[0] - 1e-12).double().mean())
