"""A model of known truth on some sequences, beside the algorithm's own values."""

from collections.abc import Callable

import torch
from torch import Tensor

import mtd_lens
from known_truth.models import Known

N_SEQUENCES = 96
KEPT = ("hook_attn_out", "hook_pattern")


class Seen:
    """A model's activations on some sequences, beside the algorithm's own values."""

    def __init__(self, known: Known) -> None:
        self.known, self.task = known, known.task
        self.model = known.build(known.task)
        self.tokens = known.task.sample(N_SEQUENCES, seed=7).tokens
        with torch.no_grad():
            output, self.cache = self.model.run_with_cache(
                self.tokens, names_filter=lambda name: name.endswith(KEPT)
            )
        self.predictions = output[:, -1].softmax(-1)
        self.responsibilities = mtd_lens.responsibilities(self.task, self.tokens)
        self.mean = self.responsibilities.mean(1)
        self.beta = mtd_lens.best_beta(self.task)

    def written(self, layer: int) -> Tensor:
        """A layer's attention output, centred over sequences, at the last query."""
        found = self.cache[f"blocks.{layer}.hook_attn_out"][:, -1]
        return found - found.mean(0)

    def written_at_evidence(self, layer: int) -> Tensor:
        """A layer's attention output at evidence positions, centred, one a row."""
        found = self.cache[f"blocks.{layer}.hook_attn_out"][:, self.task.order :].flatten(0, 1)
        return found - found.mean(0)

    def pattern(self, layer: int, head: int = 0) -> Tensor:
        """A head's attention to the last m positions at the last query, by lag."""
        found = self.cache[f"blocks.{layer}.attn.hook_pattern"][:, head, -1]
        return found[:, -self.task.order :].flip(-1)

    def one_step(self, beta: float, mean: Tensor | None = None) -> Tensor:
        """What the algorithm predicts."""
        weights = (beta * (self.mean if mean is None else mean)).softmax(-1)
        return mtd_lens.predict(self.task, self.tokens, weights)


def determined(found: Tensor, values: Tensor) -> Tensor:
    """Share of each column's variance that is linear in ``found``."""
    values = values - values.mean(0)
    left = values - found @ torch.linalg.lstsq(found, values, driver="gelsd").solution
    return 1 - left.square().sum(0) / values.square().sum(0)


def patched(found: Seen, hook: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Predictions with an activation changed."""
    with torch.no_grad():
        output = found.model.run_with_hooks(
            found.tokens, fwd_hooks=[(hook, lambda values, hook: change(values))]
        )
    return output[:, -1].softmax(-1)
