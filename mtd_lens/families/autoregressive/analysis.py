"""The algorithm beside a model on single sequences, at every position."""

import torch
from torch import Tensor

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.causal_model import AutoregressiveCausalModel
from mtd_lens.families.autoregressive.squares_model import LeastSquaresCausalModel
from mtd_lens.families.autoregressive.task import AutoregressiveBatch, Vectors, check_tokens
from mtd_lens.measures import signed_shares
from mtd_lens.spaces import at_every_position, every_prediction
from probes.subject import HookedModel


def analyse(
    model: HookedModel,
    causal_model: AutoregressiveCausalModel | LeastSquaresCausalModel,
    tokens: Tensor,
    fit_tokens: Tensor,
    batch: AutoregressiveBatch | None,
) -> Analysis:
    """Predicted vectors by every source; the latent is the next vector itself.

    Args:
        model: A hooked model.
        causal_model: Gradient descent, its step size fitted to the model, or least squares.
        tokens: ``[sequence, position, component]``.
        fit_tokens: For fitting; nothing more is fitted.
        batch: What the tokens were sampled with, or None.
    """
    task = causal_model.task
    vectors = check_tokens(task, tokens)
    found = {
        "model": every_prediction(model, vectors, task.outputs)[:, 1:],
        causal_model.source: causal_model.run(vectors)["prediction"],
        "least squares": estimators.predict_next(vectors, estimators.least_squares(vectors)),
    }
    if task.ensemble == "unitary":
        found["trigonometric rule"] = estimators.trigonometric_rule(task, vectors)
    if batch is not None:
        found["truth"] = vectors[:, 1:] @ batch.matrices.to(vectors).transpose(1, 2)
    predictions = at_every_position(found, 1)
    return Analysis(
        latent="next vector",
        components=tuple(f"component {index}" for index in range(task.dim)),
        latents=predictions,
        predictions=predictions,
    )


def patterns(
    causal_model: AutoregressiveCausalModel | LeastSquaresCausalModel, tokens: Vectors
) -> tuple[AnalyticPattern, ...]:
    """Attention to the vector before, and the inner products as signed shares of their magnitude.

    Of least squares nothing but the vector before is attention.

    Args:
        causal_model: Gradient descent, or least squares.
        tokens: ``[sequence, position, component]``.
    """
    n, length = tokens.shape[:2]
    nothing = torch.zeros(n, length, length, dtype=torch.float64, device=tokens.device)
    nothing[:, 0] = torch.nan
    before, products = nothing, nothing.clone()
    queries = torch.arange(1, length)
    before[:, queries, queries - 1] = 1.0
    found = [AnalyticPattern("vector before", "augmented_token", before)]
    if isinstance(causal_model, AutoregressiveCausalModel):
        products[:, 1:, 1:] = signed_shares(causal_model.run(tokens)["inner_products"])
        found.append(AnalyticPattern("inner products", "inner_products", products))
    return tuple(found)
