"""The result of ``inspect``: what a model does on a few sequences, beside the algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.errors import ArgumentError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import Table, figure
from mtd_lens.results.plain import check
from probes import checks

if TYPE_CHECKING:
    import pandas

MAX_OUTCOMES = 24
"""Of more outcomes, the likeliest are shown."""


@dataclass(frozen=True, eq=False)
class GivenQuery:
    """Contexts of other sequences, put under the last tokens of each one that is shown.

    Attributes:
        statistic: The variable, in words, that alone differs in its bearing on the prediction.
        n_own: How many last tokens belong to the query itself.
        sources: ``[sequence, position]``: the next sequence's context under each one's own query.
        predictions: By what they are of, in words, ``[sequence, outcome]``: the model's of the
            sequence and of the source, the algorithm's with the source's statistic, and the model's
            with one layer's attention output at the last query from the source.
    """

    statistic: str
    n_own: int
    sources: Int[Tensor, "sequence position"]
    predictions: Mapping[str, Float[Tensor, "sequence outcome"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection(Result):
    """A model's attention and predictions on a few sequences, beside the algorithm's.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences.
        n_sequences: How many are shown.
        parameters: Of the algorithm, fitted to the model's predictions.
        divergence: The family's name for its own, and its unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        tokens: ``[sequence, position]``, or ``[sequence, position, component]`` of vectors.
        token_names: What each token of the vocabulary, or component of a vector, is called.
        attention: ``[layer, head, sequence, query, key]``; without a softmax, as shares of its
            magnitude at each query, with their signs.
        analysis: What the algorithm and the estimators say of the sequences; None where the task's
            family does not tell.
        nearest_heads: By name of the analytic pattern, the head of each layer that is nearest to it
            at each query, ``[layer, query]``, chosen on other sequences.
        n_cut: Positions at the end of the sequences that were left out.
        algorithm: Name of the source that is the algorithm itself.
        drawn: Names of the estimators that figures of comparisons show, so that a source looks the
            same in all figures.
        n_before: Positions that the model's vocabulary puts before each sequence. Attention to them
            is not shown: at a query it is what ``attention`` leaves of 1.
        given_query: What follows if a layer's output comes from another context under the same
            query; None where the algorithm does not say what belongs to a query.
    """

    FIGURE: ClassVar[str] = "plot_scatter"

    tokens: Shaped[Tensor, "sequence position *component"]
    token_names: tuple[str, ...]
    attention: Float[Tensor, "layer head sequence query key"]
    analysis: Analysis | None
    nearest_heads: Mapping[str, Int[Tensor, "layer query"]]
    n_cut: int
    algorithm: str
    drawn: tuple[str, ...]
    n_before: int = 0
    given_query: GivenQuery | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it; tensors are packed: dtype, shape and bytes.

        Latents are null where what is inferred is the prediction itself.
        """
        plain = super().to_dict()
        if self.analysis is not None and self.analysis.predicts_latent:
            plain["analysis"]["latents"] = None
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Inspection":
        """The inspection that ``to_dict`` described.

        Args:
            data: What ``to_dict`` or a JSON file holds.

        Raises:
            ArgumentError: A field is missing, unknown or of another form.
        """
        analysis = data.get("analysis") if isinstance(data, Mapping) else None
        if not isinstance(analysis, Mapping) or analysis.get("latents", ()) is not None:
            return super().from_dict(data)
        found = super().from_dict({**data, "analysis": {**analysis, "latents": {}}})
        assert found.analysis is not None
        return replace(found, analysis=replace(found.analysis, latents=found.analysis.predictions))

    def _check_fields(self) -> None:
        for pattern in self.analysis.patterns if self.analysis else ():
            known, where = list(self.nearest_heads), "a name of analysis.patterns"
            check(pattern.name in known, f"one of nearest_heads, {known}", pattern.name, where)

    def __repr__(self) -> str:
        n_layers, n_heads, n_sequences, length = self.attention.shape[:4]
        return (
            f"Inspection({self.model!r}: {n_layers} layers, {n_heads} heads, {n_sequences} "
            f"sequences of {length} tokens)"
        )

    def distances(self, pattern: AnalyticPattern) -> Float[Tensor, "layer head query"]:
        """Total variation of every head from an analytic pattern, mean over the sequences.

        Half the sum of absolute differences over the keys, with what lies before the sequence, if
        anything, as one more. Since the magnitudes of both sum to 1 at each query, or to 0, it is 0
        where a head's attention is the pattern, and 1 where they share no key, or only keys to
        which they give opposite signs; NaN at queries where the algorithm says nothing.

        Args:
            pattern: One of ``analysis.patterns``.

        Returns:
            ``[layer, head, query]``, from 0 to 1.

        Raises:
            ArgumentError: Something else than an analytic pattern.
        """
        if not isinstance(pattern, AnalyticPattern):
            known = [each.name for each in self.analysis.patterns] if self.analysis else []
            listed = ", ".join(f"{index}: {name!r}" for index, name in enumerate(known))
            raise ArgumentError(
                f"distances takes an analytic pattern; got {pattern!r}. Give one of "
                f"inspection.analysis.patterns ({listed or 'here there are none'})."
            )
        return distances(self.attention, pattern, self.n_before)

    def nearest_distances(self, pattern: AnalyticPattern) -> Float[Tensor, " layer"]:
        """Total variation of each layer's nearest heads from a pattern, mean over the queries.

        Args:
            pattern: One of ``analysis.patterns``.

        Returns:
            ``[layer]``, from 0 to 1; NaN where the algorithm says nothing at any query.

        Raises:
            ArgumentError: Something else than one of them.
        """
        away = self.distances(pattern).cpu()
        known, name = (
            self.nearest_heads,
            checks.text(pattern.name, "a pattern's name", ArgumentError),
        )
        heads = known[checks.choice(name, "pattern", known, ArgumentError)].cpu()[:, None]
        return away.gather(1, heads)[:, 0].nanmean(-1)

    def to_dataframe(self) -> "pandas.DataFrame":
        """The attention on and below the diagonal; rows: layer, head, sequence, query, key."""
        import pandas as pd

        names = ("layer", "head", "sequence", "query", "key")
        index = torch.ones(self.attention.shape).tril().nonzero(as_tuple=True)
        places = {name: values.numpy() for name, values in zip(names, index, strict=True)}
        return pd.DataFrame(self.provenance | places | {"attention": self.attention[index].numpy()})

    def _title(self) -> str:
        return f"{super()._title()} of {self.tokens.shape[1]} tokens"

    def _tables(self) -> list[Table]:
        layers = [f"layer {layer}" for layer in range(len(self.attention))]
        rows = [
            [pattern.name, *(figure(value) for value in self.nearest_distances(pattern).tolist())]
            for pattern in (self.analysis.patterns if self.analysis else ())
        ]
        title = "Total variation of each layer's nearest heads from the algorithm's attention"
        return [Table(["pattern", *layers], rows, title=title)]


def distances(
    attention: Float[Tensor, "layer head sequence query key"],
    pattern: AnalyticPattern,
    n_before: int,
) -> Float[Tensor, "layer head query"]:
    """Total variation of every head from an analytic pattern, as ``Inspection.distances``."""
    values = pattern.values.cpu().to(attention)
    away = torch.stack([(layer - values).abs().sum(-1).mean(1) / 2 for layer in attention])
    if not n_before:
        return away
    return away + (1 - attention.abs().sum(-1)).clamp_min(0).mean(2) / 2


def likeliest(predictions: Mapping[str, Tensor]) -> list[int]:
    """Outcomes to show, in order: of more than ``MAX_OUTCOMES``, those that any source gives most.

    Args:
        predictions: By source, ``[…, outcome]``; NaN where there is none.
    """
    if not predictions:
        return []
    every = torch.stack(list(predictions.values())).nan_to_num()
    peak = every.reshape(-1, every.shape[-1]).amax(0)
    return sorted(peak.topk(min(MAX_OUTCOMES, len(peak))).indices.tolist())
