"""Random models of trained scale, which everything measured stands beside."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mtd_lens.hooked.bridges import is_bridge, random_bridge
from mtd_lens.hooked.build import write_weights
from mtd_lens.hooked.info import ModelInfo, info_of, with_info
from mtd_lens.hooked.library import HookedTransformerConfig, Unembed
from mtd_lens.hooked.modules import LinearAttention, LogProbUnembed
from probes.passes import undisturbed
from probes.subject import HookedModel

SCORE_STD = 1.0
"""Standard deviation of a random model's attention scores: that of a construction's layer 0."""

LOGIT_STD = 0.5
"""Standard deviation of a random model's logits: that of a construction's log-probabilities."""

APART = 2**40
"""Added to the seed of what is drawn apart."""


def randomized(
    model: HookedModel,
    seed: int,
    name: str,
    over: HookedModel | None = None,
    own: Mapping[str, Any] | None = None,
) -> HookedModel:
    """A model of the same architecture with random weights of trained scale and a stock read-out.

    Attention scores and logits vary as much as those of the analytic models on the preset tasks.
    Biases are zero and normalisation layers at their initial values. A logarithmic read-out is
    replaced by the linear one, since what a random model writes there is no probability vector.

    Args:
        model: Any hooked model; it is not changed. Of a ``TransformerBridge`` a new one is made.
        seed: Of the weights; the process's random state is left alone.
        name: Of the new model.
        over: A random model of the same one whose weights are drawn anew, in place of a copy.
        own: By the last part of a weight's name, the index of that part of it which is drawn as a
            model's that has no more; the rest is drawn apart, and changes nothing else.
    """
    if is_bridge(model):
        return random_bridge(model, seed, name, over)
    twin: Any = over
    if twin is None:
        with undisturbed(model):  # or another thread's hooks would be copied too
            twin = copy.deepcopy(model)
    if isinstance(twin.unembed, LogProbUnembed):
        twin.unembed = Unembed(twin.cfg).to(twin.unembed.W_U)
        twin.setup()
    info = info_of(model)
    task = info.task if info else None
    if info is not None and info.redraw is not None:
        write_weights(twin, info.redraw(seed))
        return with_info(twin, replace(info, name=name)).eval()
    own = {} if own is None else own
    generator, apart = (torch.Generator().manual_seed(n) for n in (seed, seed + APART))
    for parameter_name, parameter in twin.named_parameters():
        kind = parameter_name.rsplit(".", 1)[-1].lstrip("_")
        if kind == "w":
            parameter.data.fill_(1.0)
        elif kind.startswith("b"):
            parameter.data.zero_()
        else:
            draw = _normal(parameter, apart if kind in own else generator)
            if kind in own:
                draw[own[kind]] = _normal(draw[own[kind]], generator)
            n_summed = twin.cfg.n_ctx if isinstance(twin.blocks[0].attn, LinearAttention) else 1
            scale = _trained_scale(kind, parameter, twin.cfg, n_summed)
            parameter.data.copy_(draw * scale)
    return with_info(twin, ModelInfo(task, name)).eval()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _trained_scale(
    kind: str, parameter: Tensor, cfg: HookedTransformerConfig, n_summed: int
) -> float:
    """Standard deviation of a random weight; ``n_summed`` values are summed, not averaged.

    Embeddings have variance 1 each; layers add ``1 / (2 n_layers)`` of the stream's variance, as in
    GPT-2's initialisation.
    """
    fan_in = parameter.shape[-2]
    stream = 2.0 if cfg.normalization_type is None else 1.0
    score = SCORE_STD * (cfg.attn_scale if cfg.use_attn_scale else 1.0)
    score /= math.sqrt(cfg.d_head * n_summed)
    variances = {
        "W_E": 1.0,
        "W_pos": 1.0,
        "RV": 1.0,
        "RK": score,  # as large as a key
        "W_Q": score / (stream * cfg.d_model),
        "W_K": score / (stream * cfg.d_model),
        "W_O": 1.0 / (fan_in * cfg.n_heads * 2 * cfg.n_layers),
        "W_out": 1.0 / (fan_in * 2 * cfg.n_layers),
        "W_U": LOGIT_STD**2 / (stream * fan_in),
    }
    return math.sqrt(variances.get(kind, 1.0 / fan_in))
