"""Building HookedTransformers from weights that were made in plain torch.

All stock hooks of such a model are causal. It carries its task and how its output is read.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Architecture
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.hooked.info import ModelInfo, with_info
from mtd_lens.hooked.library import HookedTransformer, HookedTransformerConfig
from mtd_lens.hooked.modules import (
    LinearAttention,
    LogProbUnembed,
    RelativeAttention,
    VectorEmbed,
    VectorPosEmbed,
)


class AnalyticTransformer(HookedTransformer):
    """A HookedTransformer whose weights mean something each, so none may be folded or rotated."""

    def load_and_process_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Refused: processing changes what each weight of this model stands for."""
        raise ModelError(
            "weight processing (folding, centring, factoring) would damage this model's analytic "
            "weights or its read-out. Use load_state_dict, which leaves weights as they are."
        )

    process_weights_ = load_and_process_state_dict
    refactor_factored_attn_matrices = load_and_process_state_dict
    center_unembed = load_and_process_state_dict
    center_writing_weights = load_and_process_state_dict
    fold_layer_norm = load_and_process_state_dict
    fold_value_biases = load_and_process_state_dict


ATTENTION: dict[str, Any] = {"relative": RelativeAttention, "linear": LinearAttention}
"""Attention of our own, by form; stock attention for others."""


def assemble(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    info: ModelInfo,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> HookedTransformer:
    """Build a model in evaluation mode from named weights; parameters not named are zero.

    Args:
        architecture: Its shape.
        weights: By the names of the model's ``state_dict``; heads may be left out at the end.
        info: What the model will know of itself.
        dtype: Of the parameters.
        device: Default: the CPU.
    """
    cfg = HookedTransformerConfig(
        n_layers=architecture.n_layers,
        n_heads=architecture.n_heads,
        d_model=architecture.d_model,
        d_head=architecture.d_head,
        n_ctx=architecture.n_ctx,
        d_vocab=architecture.n_tokens,
        d_vocab_out=architecture.n_outputs or architecture.n_tokens,
        attn_only=architecture.d_mlp is None,
        d_mlp=architecture.d_mlp,
        act_fn=architecture.activation,
        normalization_type="LN" if architecture.layer_norm else None,
        use_attn_scale=architecture.scaled,
        positional_embedding_type="standard",
        attention_dir="causal" if architecture.causal else "bidirectional",
        default_prepend_bos=False,
        init_weights=False,
        dtype=dtype,
        device=str(device or "cpu"),
        model_name=info.name,
    )
    attention, log_probs = ATTENTION.get(architecture.form), architecture.read_out == "log_probs"
    special = attention is not None or log_probs or architecture.reads_vectors
    kind = AnalyticTransformer if special else HookedTransformer
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="HookedTransformer is deprecated", category=DeprecationWarning
        )
        model = kind(cfg, move_to_device=False)
    if attention is not None:
        for index, block in enumerate(model.blocks):
            block.attn = attention(cfg, layer_id=index)
    if architecture.reads_vectors:
        model.embed, model.pos_embed = VectorEmbed(cfg, architecture.lags), VectorPosEmbed(cfg)
    if log_probs:
        model.unembed = LogProbUnembed(cfg, architecture.probability_floor)
    model.setup()
    write_weights(model, weights)
    model.to(str(device or "cpu"), print_details=False)
    return with_info(model, info).eval()


def write_weights(model: HookedTransformer, weights: Mapping[str, Tensor]) -> None:
    """Set a model's parameters; those not named, and entries beyond a weight's shape, become 0."""
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for parameter in parameters.values():
            parameter.zero_()
        for name, value in weights.items():
            target = parameters[name]
            target[tuple(slice(0, size) for size in value.shape)] = value.to(target)
            if not target.isfinite().all():
                raise ModelError(
                    f"{name} overflows {target.dtype}: its largest entry is "
                    f"{float(value.abs().max()):.3g}. Use float32 or float64."
                )


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, if it is one that models can have.

    Raises:
        ArgumentError: It is not.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ArgumentError(
            f"dtype must be a floating-point torch dtype, one of {', '.join(map(str, DTYPES))}; "
            f"got {dtype!r}."
        )
    return dtype
