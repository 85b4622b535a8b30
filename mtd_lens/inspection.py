"""Single sequences under the lens: a model's attention beside the algorithm's, query by query."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mtd_lens.contracts import Analysis


@dataclass(frozen=True)
class Inspection:
    """A model's attention and predictions on a few sequences, beside the algorithm's.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences.
        parameters: Of the algorithm, fitted to the model's predictions.
        tokens: ``[sequence, position]``.
        token_names: What each token of the vocabulary is called.
        attention: ``[layer, head, sequence, query, key]``.
        analysis: What the algorithm and the estimators say of the sequences; None where the task's
            family does not tell.
        nearest_heads: By name of the analytic pattern, the head of each layer that is nearest to it
            at each query, ``[layer, query]``, chosen on other sequences.
        n_cut: Positions at the end of the sequences that were left out.
    """

    model: str
    task: str | Mapping[str, Any]
    seed: int
    parameters: Mapping[str, float]
    tokens: Int[Tensor, "sequence position"]
    token_names: tuple[str, ...]
    attention: Float[Tensor, "layer head sequence query key"]
    analysis: Analysis | None
    nearest_heads: Mapping[str, Int[Tensor, "layer query"]]
    n_cut: int
