"""Effective circuits read from parameters alone, compared up to what softmax ignores.

Direct paths only: what a head does with the embedding itself, or with what one earlier head writes.
A normalisation layer is folded in: applied to the embedding that enters the path. Where it stands
before the unembedding, its gain and its centring are kept and its scale, which depends on the rest
of the stream, is left out. Results are float64, on the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError, SiteError
from probes.passes import alone
from probes.statistics.divergences import kl_divergence
from probes.statistics.intervals import CONFIDENCE, NEGLIGIBLE
from probes.subject import HookedModel, Subject, subject_of
from probes.twins import through

Head = tuple[int, int]
"""A layer and a head, counted from 0."""


@dataclass(frozen=True)
class WeightFinding:
    """A circuit held against what it should be; figures are None where that does not apply.

    Attributes:
        name: What was looked for.
        heads: Layer and head of what was compared, in the order of the path, counted from 0.
        statement: What was found, or why nothing can be, in a sentence.
        value: The figure itself, in ``unit``.
        unit: Of the value.
        score: 1 where the circuit is what it should be, 0 where it is no better than nothing.
        null_value: 95% range of the value over random models of the same architecture.
        null_score: The same of the score.
        details: Further figures.
        matrices: What was compared, by name, as lists of rows.
        axes: What rows and columns of the matrices stand for.
    """

    name: str
    heads: tuple[Head, ...]
    statement: str
    value: float | None = None
    unit: str = ""
    score: float | None = None
    null_value: tuple[float, float] | None = None
    null_score: tuple[float, float] | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    matrices: Mapping[str, list[list[float]]] = field(default_factory=dict)
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for shown in ("name", "statement", "unit"):
            checks.text(getattr(self, shown), f"WeightFinding.{shown}", DataError)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the path, each once."""
        return tuple(dict.fromkeys(layer for layer, _ in self.heads))

    @property
    def place(self) -> str:
        """Layers and heads in words: ``0.0/2 → 1.3`` is layer 0, heads 0 and 2, to layer 1's 3."""
        heads = {n: "/".join(str(h) for layer, h in self.heads if layer == n) for n in self.layers}
        return " → ".join(f"{layer}.{names}" for layer, names in heads.items())

    def beside(self, nulls: "Sequence[WeightFinding]") -> "WeightFinding":
        """The same finding with the ranges of those of random models.

        Args:
            nulls: The same finding of every random model.

        Raises:
            DataError: Something else than findings.
        """
        nulls = checks.listed(nulls, "nulls", "findings", DataError, WeightFinding)

        def span(figures: list[float]) -> tuple[float, float] | None:
            if not figures:
                return None
            low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            return float(low), float(high)

        return replace(
            self,
            null_value=span([null.value for null in nulls if null.value is not None]),
            null_score=span([null.score for null in nulls if null.score is not None]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = dict(vars(self), heads=[list(head) for head in self.heads], axes=list(self.axes))
        for name in ("null_value", "null_score"):
            plain[name] = None if plain[name] is None else list(plain[name])
        return plain | {"details": dict(self.details), "matrices": dict(self.matrices)}


@alone
def token_scores(
    model: HookedModel, layer: int, head: int
) -> Float[Tensor, "query_token key_token"]:
    """The content score of a head between tokens, ``[query_token, key_token]``.

    Entry ``[b, a]`` is the attention score that a query on token ``b`` gives a key on token ``a``,
    positions left out: the direct path, with any normalisation layer applied to the embedding.

    Args:
        model: A hooked model.
        layer: Counted from 0.
        head: Counted from 0.

    Raises:
        SiteError: A layer or head that the model does not have.
    """
    block = block_of(model, layer, head)
    with torch.no_grad():
        embedded = block.ln1(subject_of(model).model.W_E[None])[0]
        query = embedded @ block.attn.W_Q[head] + block.attn.b_Q[head]
        key = embedded @ block.attn.W_K[head] + block.attn.b_K[head]
        return (query @ key.T / block.attn.attn_scale).to(torch.float64)


def key_softmax_divergence(
    scores: Float[Tensor, "query_token key_token"],
    target: Float[Tensor, "query_token key_token"],
) -> Float[Tensor, " query_token"]:
    """The KL(target ‖ softmax of the scores over key tokens) in nats, ``[query_token]``.

    The softmax removes what attention cannot see: a constant added to all keys of a query.

    Args:
        scores: ``[query_token, key_token]``.
        target: ``[query_token, key_token]``, rows sum to 1.

    Raises:
        DataError: Something else, or other shapes.
    """
    scores = checks.tensor(scores, "scores", "query_token, key_token", DataError)
    return kl_divergence(target, scores.softmax(-1))


@alone
def position_scores(
    model: HookedModel, layer: int, head: int, length: int
) -> Float[Tensor, "query_pos key_pos"]:
    """The score of a head between positions, ``[query_pos, key_pos]``, by the direct path.

    Entry ``[t, k]`` is the score of a query at position ``t`` on a key at position ``k``, tokens
    left out; keys after the query are not masked. A normalisation layer is applied to the
    positional embedding alone.

    Args:
        model: A hooked model with a learned or written positional embedding.
        layer: Counted from 0.
        head: Counted from 0.
        length: How many positions, up to the model's context.

    Raises:
        SiteError: A layer, head or length that the model does not have.
    """
    block = block_of(model, layer, head)
    with torch.no_grad():
        embedded = block.ln1(_positions(model, length)[None])[0]
        query = double(embedded) @ double(block.attn.W_Q[head]) + double(block.attn.b_Q[head])
        key = double(embedded) @ double(block.attn.W_K[head]) + double(block.attn.b_K[head])
        return query @ key.T / float(block.attn.attn_scale)


@alone
def direct_patterns(
    model: HookedModel, length: int
) -> Float[Tensor, "layer head query_pos offset"]:
    """``[layer, head, query_pos, offset]``: softmax of ``position_scores`` over the keys so far.

    Args:
        model: A hooked model with a learned or written positional embedding.
        length: How many positions, up to the model's context.

    Raises:
        SiteError: A length that the model does not have, or no positions to read.
    """
    return _by_offset(causal_attention(model, position_scores, length))


def causal_attention(
    model: HookedModel, scores: Callable[[HookedModel, int, int, int], Tensor], length: int
) -> Float[Tensor, "layer head query_pos key"]:
    """Softmax of every head's scores, ``[layer, head, query_pos, key]``.

    Args:
        model: A hooked model.
        scores: ``(model, layer, head, length) -> [query_pos, key]``; a query at ``t`` has the keys
            0 … ``t``, counted from either end.
        length: How many positions.
    """
    subject = subject_of(model)
    layers, heads = range(subject.n_layers), range(subject.n_heads)
    found = [torch.stack([scores(model, at, head, length) for head in heads]) for at in layers]
    ahead = torch.arange(length) > torch.arange(length)[:, None]
    return torch.stack(found).masked_fill(ahead, -torch.inf).softmax(-1)


@alone
def mean_token_patterns(
    model: HookedModel, length: int
) -> Float[Tensor, "layer head query_pos offset"]:
    """The attention of every head by offset, ``[layer, head, query_pos, offset]``.

    The model is run on ``mean(W_E) + W_pos``, which is made of parameters: with no content to tell
    positions apart, what remains is what positions and relative tables favour, on every path
    through earlier layers. (Direct paths miss what copies of the constant in earlier layers
    add to a score.)

    Args:
        model: A hooked model with a positional embedding.
        length: How many positions, up to the model's context.

    Raises:
        SiteError: A length that the model does not have.
    """
    n_layers = subject_of(model).n_layers
    patterns: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        patterns[hook.name] = double(activation[0].clone())

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, keep) for name in names]):
        stream = mean_embeddings(model, length)[None]
        model(stream, start_at_layer=0, stop_at_layer=n_layers)
    return _by_offset(torch.stack([patterns[name] for name in names]))


@alone
def token_outputs(
    model: HookedModel, layer: int, head: int
) -> Float[Tensor, "source_token output_token"]:
    """What a head adds to the output for a token, ``[source_token, output_token]``.

    Entry ``[a, b]`` is ``W_E[a] W_V W_O W_U[:, b]``; the direct path through its OV. Biases, which
    are the same for every source, are left out, and so are later layers.

    Args:
        model: A hooked model.
        layer: Counted from 0.
        head: Counted from 0.

    Raises:
        SiteError: A layer or head that the model does not have.
    """
    block = block_of(model, layer, head)
    with torch.no_grad():
        embedded = double(block.ln1(subject_of(model).model.W_E[None])[0])
        written = embedded @ double(block.attn.W_V[head]) @ double(block.attn.W_O[head])
        return written @ _unembedding(model)


def centred(matrix: Float[Tensor, "row column"], *axes: int) -> Float[Tensor, "row column"]:
    """The matrix, ``[row, column]``, less its mean over each of ``axes``.

    Args:
        matrix: ``[row, column]``.
        *axes: Of the means, in turn; -1 takes away what a softmax ignores.

    Raises:
        DataError: No matrix, or an axis that it does not have.
    """
    matrix = checks.tensor(matrix, "matrix", "row, column", DataError)
    for axis in (checks.integer(axis, "axis", -2, DataError, 1) for axis in axes):
        matrix = matrix - matrix.mean(axis, keepdim=True)
    return matrix


def fit_scale(
    matrix: Float[Tensor, "row column"], reference: Float[Tensor, "row column"]
) -> tuple[float, float]:
    """Least-squares ``matrix ≈ scale · reference``, and its R² = 1 - |residual|² / |matrix|².

    Centre both first by what shall not count. Of a matrix of zeros both are 0, and R² is 0 where
    its norm is below a millionth of the reference's, as of what rounding leaves of zeros. R² is the
    squared cosine between the two, so it does not tell the sign of the scale.

    Args:
        matrix: ``[row, column]``.
        reference: ``[row, column]``.

    Returns:
        The scale, and R².

    Raises:
        DataError: A reference of zeros, or matrices of two shapes.
    """
    matrix = checks.tensor(matrix, "matrix", "row, column", DataError)
    reference = checks.tensor(reference, "reference", "row, column", DataError)
    if matrix.shape != reference.shape:
        raise DataError(
            "a matrix and its reference must have one shape; got "
            f"{tuple(matrix.shape)} and {tuple(reference.shape)}."
        )
    squared, total = float(reference.square().sum()), float(matrix.square().sum())
    if squared == 0:
        raise DataError(
            "no scale of a reference of zeros can be fitted. Give one that varies after centring."
        )
    scale = float((matrix * reference).sum()) / squared
    if total <= NEGLIGIBLE * squared:
        return scale, 0.0
    return scale, 1 - float((matrix - scale * reference).square().sum()) / total


def _by_offset(
    attention: Float[Tensor, "layer head query_pos key_pos"],
) -> Float[Tensor, "layer head query_pos key_pos"]:
    """Entry ``o`` of a query at ``t`` is its attention to the key at ``t - o``, if there is one."""
    length = attention.shape[-1]
    keys = torch.arange(length)[:, None] - torch.arange(length)
    found = attention.gather(-1, keys.clamp_min(0).expand_as(attention))
    return torch.where(keys >= 0, found, 0.0)


def block_of(model: HookedModel, layer: int, head: int) -> Any:
    """A block that has such a head.

    Raises:
        SiteError: The model has no such layer or head, or blocks of another kind.
    """
    subject = _with_weights(model)
    layer, head = checks.integers((layer, head), "(layer, head)", SiteError)
    if not (0 <= layer < subject.n_layers and 0 <= head < subject.n_heads):
        raise SiteError(
            f"the model has {subject.n_layers} layers of {subject.n_heads} heads; layer "
            f"{layer}, head {head} is outside. Count from 0."
        )
    return subject.model.blocks[layer]


def _with_weights(model: HookedModel) -> Subject:
    subject = subject_of(model)
    if not subject.resumes:
        raise SiteError(
            "weights are read from TransformerLens's blocks, and this model is seen through "
            f"{through(model) or 'blocks of another kind'}. Measure its activations instead."
        )
    return subject


def checked_head(head: object, what: str) -> Head:
    """``head`` as a layer and a head.

    Raises:
        SiteError: It is no pair of integers from 0 on.
    """
    pair = checks.integers(head, what, SiteError, 0)
    if len(pair) != 2:
        raise SiteError(f"{what} must be (layer, head); got {head!r}.")
    return pair[0], pair[1]


def mean_embeddings(model: HookedModel, length: int) -> Float[Tensor, "pos d_model"]:
    """The mean token's embedding at each of the first positions.

    Raises:
        SiteError: A length that the model does not have, or no positions to read.
    """
    return _with_weights(model).model.W_E.mean(0) + _positions(model, length)


def _positions(model: HookedModel, length: int) -> Float[Tensor, "pos d_model"]:
    subject = subject_of(model)
    checks.integer(length, "length", 1, SiteError, subject.n_ctx)
    if subject.positional_embedding != "standard":
        raise SiteError(
            "the model has no positional embedding to read (positional_embedding_type is "
            f"{subject.positional_embedding!r}, not 'standard')."
        )
    return subject.model.W_pos[:length]


def _unembedding(model: HookedModel) -> Float[Tensor, "d_model output_token"]:
    """W_U with the gain and the centring of the last normalisation layer folded in."""
    subject = subject_of(model)
    W_U, kind = double(subject.model.W_U), subject.normalization
    if kind in ("LN", "RMS"):
        W_U = double(subject.model.ln_final.w)[:, None] * W_U
    return W_U - W_U.mean(0) if kind in ("LN", "LNPre") else W_U


def double(tensor: Tensor) -> Tensor:
    """As float64 on the CPU, without a gradient."""
    return tensor.detach().to("cpu", torch.float64)
