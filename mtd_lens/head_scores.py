"""What heads score keys by at the last query, and a form that is fitted to it."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HeadScores:
    """Attention scores at the last query of some sequences, beside a fitted form.

    What is the same for all keys of a query, a softmax ignores: both are less their mean over keys.

    Attributes:
        form: In words, what the scores are fitted with.
        keys: Positions of the keys.
        measured: ``[layer, head, sequence, key]``: the scores before the softmax.
        fitted: ``[layer, head, sequence, key]``: the form's, fitted on other sequences.
        explained: ``[layer, head]``: R² of the form on sequences that it was not fitted to; NaN
            where scores do not vary.
    """

    form: str
    keys: tuple[int, ...]
    measured: Float[Tensor, "layer head sequence key"]
    fitted: Float[Tensor, "layer head sequence key"]
    explained: Float[Tensor, "layer head"]
