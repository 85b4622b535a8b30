"""Effective circuits read from parameters alone, compared up to what softmax ignores."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import SiteError
from probes.statistics import kl_divergence


def token_scores(model: Any, layer: int, head: int) -> Float[Tensor, "query_token key_token"]:
    """Content score of a head between tokens: the direct path from the token embedding.

    Entry ``[b, a]`` is the attention score that a query on token ``b`` gives a key on token ``a``,
    positions left out. A normalisation layer is applied to the token embedding alone.

    Raises:
        SiteError: A layer or head that the model does not have.
    """
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise SiteError(
            f"the model has {model.cfg.n_layers} layers of {model.cfg.n_heads} heads; layer "
            f"{layer}, head {head} is outside. Count from 0."
        )
    block = model.blocks[layer]
    with torch.no_grad():
        embedded = block.ln1(model.W_E[None])[0]
        query = embedded @ block.attn.W_Q[head] + block.attn.b_Q[head]
        key = embedded @ block.attn.W_K[head] + block.attn.b_K[head]
        return (query @ key.T / block.attn.attn_scale).to(torch.float64)


def key_softmax_divergence(
    scores: Float[Tensor, "query_token key_token"],
    target: Float[Tensor, "query_token key_token"],
) -> Float[Tensor, " query_token"]:
    """KL(target ‖ softmax of the scores over key tokens) in nats, one value a query token.

    The softmax removes what attention cannot see: a constant added to all keys of a query.
    """
    return kl_divergence(target, scores.softmax(-1))
