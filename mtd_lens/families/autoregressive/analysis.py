"""The algorithm beside a model on single sequences, at every position."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.causal_model import AutoregressiveCausalModel
from mtd_lens.families.autoregressive.claims import prediction
from mtd_lens.families.autoregressive.task import Matrices, Vectors, check_tokens
from mtd_lens.vectors import signed_shares


def analyse(
    model: Any, causal_model: AutoregressiveCausalModel, tokens: Tensor, matrices: Matrices | None
) -> Analysis:
    """See :class:`mtd_lens.contracts.InspectableFamily`; the latent is the next vector itself.

    Args:
        model: A HookedTransformer.
        causal_model: One step of gradient descent, its step size fitted to the model.
        tokens: ``[sequence, position, component]``.
        matrices: ``[sequence, component, component]``: what the tokens were made with, or None.
    """
    task = causal_model.task
    vectors = check_tokens(task, tokens)
    with torch.no_grad():
        output = prediction(model, model(vectors))[:, 1:]
    found = {
        "model": output,
        "one step": causal_model.run(vectors)["prediction"],
        "least squares": estimators.predict_next(vectors, estimators.least_squares(vectors)),
    }
    if task.ensemble == "unitary":
        found["trigonometric rule"] = estimators.trigonometric_rule(task, vectors)
    if matrices is not None:
        found["truth"] = vectors[:, 1:] @ matrices.to(vectors).transpose(1, 2)
    predictions = _at_every_position(found)
    return Analysis(
        patterns=patterns(causal_model, vectors),
        latent="next vector",
        components=tuple(f"component {index}" for index in range(task.dim)),
        latents=predictions,
        predictions=predictions,
    )


def patterns(
    causal_model: AutoregressiveCausalModel, tokens: Vectors
) -> tuple[AnalyticPattern, ...]:
    """Attention to the vector before, and the inner products as signed shares of their magnitude.

    Args:
        causal_model: One step of gradient descent.
        tokens: ``[sequence, position, component]``.
    """
    n, length = tokens.shape[:2]
    nothing = torch.zeros(n, length, length, dtype=torch.float64, device=tokens.device)
    nothing[:, 0] = torch.nan
    before, products = nothing, nothing.clone()
    queries = torch.arange(1, length)
    before[:, queries, queries - 1] = 1.0
    products[:, 1:, 1:] = signed_shares(causal_model.run(tokens)["inner_products"])
    return (
        AnalyticPattern("vector before", "augmented_token", before),
        AnalyticPattern("inner products", "inner_products", products),
    )


def _at_every_position(
    values: Mapping[str, Tensor],
) -> dict[str, Float[Tensor, "sequence position component"]]:
    """Values at queries, with NaN at the first position, which has no evidence."""
    return {
        source: torch.cat([torch.full_like(value[:, :1], torch.nan), value], 1)
        for source, value in values.items()
    }
