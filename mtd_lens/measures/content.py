"""Weights and predictions: what the parameters alone show, and what comes out of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import Measurement, NotApplicable
from mtd_lens.measures.pairs import negligible
from mtd_lens.trial import Trial, checked_trial
from probes.statistics import NEGLIGIBLE
from probes.subject import subject_of
from probes.twins import through


@dataclass(frozen=True, eq=False)
class Content:
    """Content score in the weights: ``1 - KL(model) / KL(uniform)`` of its softmax over key tokens.

    Attributes:
        target: ``[query_token, key_token]``: a distribution over all key tokens each.
        query_tokens: ``[query_token]``: which tokens the rows are of.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> from mtd_lens.families.mtd.claims import column_normalised
        >>> test = measures.Content(*column_normalised(trial.task))
        >>> max(test(trial), key=lambda found: found.selection).layer
        0
    """

    target: Float[Tensor, "query_token key_token"]
    query_tokens: Int[Tensor, " query_token"]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer, of its best head.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        if not subject_of(trial.model).resumes:
            raise NotApplicable(
                "the claim is of weights, which are read from TransformerLens's blocks; the model "
                f"is seen through {through(trial.model) or 'blocks of another kind'}"
            )
        target = self.target
        uniform = probes.key_softmax_divergence(torch.zeros_like(target), target)
        if float(uniform.mean()) <= NEGLIGIBLE:
            return []
        heads, measurements = range(subject_of(trial.model).n_heads), []
        for layer in range(trial.n_layers):
            found = [
                probes.key_softmax_divergence(
                    probes.token_scores(trial.model, layer, head).cpu()[self.query_tokens], target
                )
                for head in heads
            ]
            best = min(heads, key=lambda head: float(found[head].mean()))
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"blocks.{layer}.attn.W_Q, W_K, head {best}",
                    selection=1 - float(found[best].mean() / uniform.mean()),
                    numerator=found[best],
                    denominator=uniform,
                    exact=True,
                    details={"kl": float(found[best].mean())},
                )
            )
        return measurements


@dataclass(frozen=True)
class Prediction:
    """``1 - D(algorithm ‖ model) / D(algorithm ‖ no evidence)`` at the last query.

    Attributes:
        without_evidence: ``(task, tokens) -> [sequence, outcome]``: what would be predicted if the
            algorithm's evidence were left out.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> from mtd_lens.families.mtd.claims import without_evidence
        >>> [found] = measures.Prediction(without_evidence)(trial)
        >>> found.layer is None, found.selection > 0.99
        (True, True)
    """

    without_evidence: Callable[[Any, Tensor], Tensor]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement, of the output.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        divergence, halves = trial.task.outputs.divergence, []
        for tokens in trial.splits:
            own = trial.run(tokens)["prediction"][:, -1]
            reference = divergence(own, self.without_evidence(trial.task, tokens))
            halves.append((divergence(own, trial.predictions(tokens)), reference))
        (fit_error, fit_reference), (error, reference) = halves
        if negligible(reference, own):
            return []
        selection = 1 - float(fit_error.mean() / fit_reference.mean())
        return [Measurement(None, "output at the last query", selection, error, reference)]
