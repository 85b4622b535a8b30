"""HookedTransformers of this package: only here and in ``modules`` is transformer_lens imported.

Weights are made elsewhere in plain torch; here they become a model whose stock hooks are all
causal. A model carries its task and how its output is read, so that results can name both.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components import Unembed

from mtd_lens.architectures.layout import Architecture
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.hooked.modules import (
    LinearAttention,
    LogProbUnembed,
    RelativeAttention,
    VectorEmbed,
    VectorPosEmbed,
)

_ATTRIBUTE = "mtd_lens_info"


@dataclass(frozen=True)
class ModelInfo:
    """What a model of this package knows of itself.

    Attributes:
        task: The task it was made for.
        name: Registry name, or a description.
        probabilities: True if its output is probabilities, not logits.
        blueprint: What a construction was built from; None for other models.
        redraw: ``seed -> weights`` by name: random weights of trained scale, for architectures
            whose fixed parts must stay as they are; None where every weight is free.
    """

    task: Any
    name: str
    probabilities: bool = False
    blueprint: Any = None
    redraw: Callable[[int], Mapping[str, Tensor]] | None = None


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
    _write(model, weights)
    model.to(str(device or "cpu"), print_details=False)
    setattr(model, _ATTRIBUTE, info)
    return model.eval()


def _write(model: Any, weights: Mapping[str, Tensor]) -> None:
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


def check_dtype(dtype: Any) -> torch.dtype:
    """``dtype``, if it is one that models can have.

    Raises:
        ArgumentError: It is not.
    """
    if dtype not in DTYPES:
        raise ArgumentError(
            f"dtype must be a floating-point torch dtype, one of {', '.join(map(str, DTYPES))}; "
            f"got {dtype!r}."
        )
    return dtype


def info_of(model: Any) -> ModelInfo | None:
    """What a model of this package knows of itself; None for other models."""
    return getattr(model, _ATTRIBUTE, None)


def with_info(model: Any, info: ModelInfo) -> Any:
    """``model`` itself, now knowing ``info``."""
    setattr(model, _ATTRIBUTE, info)
    return model


def task_of(model: Any) -> Any:
    """The task that a model of this package was made for.

    Args:
        model: A HookedTransformer.

    Raises:
        ModelError: The model was not made by this package.
    """
    info = info_of(model)
    if info is None:
        raise ModelError(
            "this model does not know its task: it was not loaded by name or built by mtd-lens. "
            "Pass the task, for example score(model, task=load_task('mtd-q5-m3-t64'))."
        )
    return info.task


def probabilities(
    model: Any, output: Float[Tensor, "*batch token"]
) -> Float[Tensor, "*batch token"]:
    """A model's output as probabilities in float64, whatever its read-out."""
    info = info_of(model)
    output = output.to(torch.float64)
    return output if info is not None and info.probabilities else output.softmax(-1)


SCORE_STD = 1.0
"""Standard deviation of a random model's attention scores: that of a construction's layer 0."""

LOGIT_STD = 0.5
"""Standard deviation of a random model's logits: that of a construction's log-probabilities."""


def randomized(model: Any, seed: int, name: str) -> Any:
    """A model of the same architecture with random weights of trained scale and a stock read-out.

    Attention scores and logits vary as much as those of the analytic models on the preset tasks.
    Biases are zero and normalisation layers at their initial values. A logarithmic read-out is
    replaced by the linear one, since what a random model writes there is no probability vector.

    Args:
        model: Any HookedTransformer; it is not changed.
        seed: Of the weights; the process's random state is left alone.
        name: Of the new model.
    """
    twin = copy.deepcopy(model)
    if isinstance(twin.unembed, LogProbUnembed):
        twin.unembed = Unembed(twin.cfg).to(model.unembed.W_U)
        twin.setup()
    info = info_of(model)
    task = info.task if info else None
    if info is not None and info.redraw is not None:
        _write(twin, info.redraw(seed))
        return with_info(twin, replace(info, name=name)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in twin.named_parameters():
        kind = parameter_name.rsplit(".", 1)[-1].lstrip("_")
        if kind == "w":
            parameter.data.fill_(1.0)
        elif kind.startswith("b"):
            parameter.data.zero_()
        else:
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            n_summed = twin.cfg.n_ctx if isinstance(twin.blocks[0].attn, LinearAttention) else 1
            scale = _trained_scale(kind, parameter, twin.cfg, n_summed)
            parameter.data.copy_(draw * scale)
    return with_info(twin, ModelInfo(task, name)).eval()


def _trained_scale(kind: str, parameter: Tensor, cfg: Any, n_summed: int) -> float:
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


from mtd_lens.hooked.reading import moved, reads_logits  # noqa: E402,F401
