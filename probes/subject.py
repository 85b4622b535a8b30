"""What a model is: the one place that asks a hooked model for its sizes and options.

``subject_of(model).n_layers`` is how everything else learns them, so that what a configuration
calls its fields, and which fields it lacks, is known here alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from probes.errors import DataError


@runtime_checkable
class HookedModel(Protocol):
    """A model with TransformerLens's hooks: a ``HookedTransformer``, a ``TransformerBridge``.

    Called with ``stop_at_layer`` it returns a residual stream; where :attr:`Subject.resumes`, it
    takes one in place of tokens with ``start_at_layer``.
    """

    @property
    def cfg(self) -> Any:
        """The configuration, which :class:`Subject` reads."""

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by their full names."""

    def hooks(self, fwd_hooks: Any = ..., bwd_hooks: Any = ...) -> AbstractContextManager[object]:
        """A context in which further hooks act.

        Args:
            fwd_hooks: Pairs of a hook's name and a function of the activation and the hook point.
            bwd_hooks: The same for gradients.
        """

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """A call in which further hooks act.

        Args:
            *args: As for a call.
            **kwargs: As for a call, and ``fwd_hooks`` and ``bwd_hooks``.

        Returns:
            The outputs.
        """

    def run_with_cache(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """A call whose activations are kept.

        Args:
            *args: As for a call.
            **kwargs: As for a call, and ``names_filter``: which activations.

        Returns:
            The outputs, and activations by the names of their hooks.
        """

    def to(self, *args: Any, **kwargs: Any) -> "HookedModel":
        """The model itself, moved to a device or to a dtype.

        Args:
            *args: The device or the dtype.
            **kwargs: Further options of the model's class.
        """

    def eval(self) -> "HookedModel":
        """The model itself, in evaluation mode."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""

    def __call__(
        self, input: Tensor, *, start_at_layer: int | None = ..., stop_at_layer: int | None = ...
    ) -> Tensor:
        """Outputs, ``[sequence, position, d_vocab_out]``."""


def subject_of(model: object) -> "Subject":
    """A model's sizes and options.

    Args:
        model: A hooked model.

    Raises:
        DataError: It is none.

    Examples:
        >>> import mtd_lens, probes
        >>> subject = probes.subject_of(mtd_lens.load_model("mtd-q5-m3-t64/constructed-absolute"))
        >>> subject.n_layers, subject.n_inputs, subject.normalization
        (3, 5, None)
    """
    if not isinstance(model, HookedModel):
        raise DataError(
            f"expected a hooked model; got a {type(model).__name__}. Pass a HookedTransformer, a "
            "TransformerBridge, or another model that has TransformerLens's hooks."
        )
    return Subject(model)


def check_runs(model: object) -> None:
    """Raise a DataError for a model whose passes say nothing of what an edit does.

    Args:
        model: A hooked model.

    Raises:
        DataError: It, a part of it or its ``forward`` went through ``torch.compile``, so that it
            may run without the hooks that are added to it; or it is being trained, with dropout.
    """
    if not isinstance(model, nn.Module):
        return
    left: list[nn.Module] = [model]
    while left:  # named_modules takes three times as long
        part = left.pop()
        own = vars(part)
        left += [module for module in own["_modules"].values() if module is not None]
        forward = own.get("forward")
        if own.get("_compiled_call_impl") or hasattr(forward, "_torchdynamo_orig_callable"):
            where = next(full for full, module in model.named_modules() if module is part)
            raise DataError(
                f"{where or 'the model'} is compiled, and compiled code leaves out hooks that are "
                "added later, so that every effect would be 0. Pass the model as it was before "
                "torch.compile or .compile()."
            )
        if own["training"] and (share := _dropout(part)):
            where = next(full for full, module in model.named_modules() if module is part)
            raise DataError(
                f"the model is in training mode, and its dropout ({where or 'the model'}, {share}) "
                "makes every pass another, so that no effect could be told from chance. Call "
                "model.eval() first."
            )


def _dropout(part: nn.Module) -> float:
    """The share of activations that a module drops, itself or by calling a function."""
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p
    shares = (value for name, value in vars(part).items() if "dropout" in name)
    return next((share for share in shares if type(share) is float and share > 0), 0.0)


class Subject:
    """Sizes and options of a hooked model, as they are when they are asked for.

    Args:
        model: A hooked model; see :func:`subject_of`.

    Attributes:
        model: The model itself, whose weights have their TransformerLens names.
    """

    def __init__(self, model: HookedModel) -> None:
        self.model: Any = model

    @property
    def _cfg(self) -> Any:
        return self.model.cfg

    @property
    def underlying(self) -> Any:
        """The model whose hooks these are: another one, where it is seen through a view of it."""
        return getattr(self.model, "underlying", self.model)

    @property
    def n_before(self) -> int:
        """Positions that a view puts before every sequence, and that it shows nowhere."""
        return getattr(self.model, "n_before", 0)

    @property
    def name(self) -> str:
        """What the model is called, or its class."""
        return getattr(self._cfg, "model_name", None) or type(self.underlying).__name__

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return int(self._cfg.n_layers)

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return int(self._cfg.n_heads)

    @property
    def n_key_value_heads(self) -> int:
        """Heads of a layer's keys and values: fewer in grouped-query attention."""
        grouped = getattr(self._cfg, "n_key_value_heads", None)
        return self.n_heads if grouped is None else int(grouped)

    @property
    def d_model(self) -> int:
        """Components of the residual stream."""
        return int(self._cfg.d_model)

    @property
    def d_head(self) -> int:
        """Components of a head's query, key and value."""
        return int(self._cfg.d_head)

    @property
    def d_mlp(self) -> int:
        """Neurons of a layer; 0 without MLPs."""
        return int(self._cfg.d_mlp or 0) if self.has_mlp else 0

    @property
    def has_mlp(self) -> bool:
        """Whether blocks have an MLP."""
        return not getattr(self._cfg, "attn_only", False)

    @property
    def n_ctx(self) -> int:
        """The longest sequence, in positions."""
        return int(self._cfg.n_ctx)

    @property
    def n_inputs(self) -> int:
        """Tokens that it reads, or components of a vector."""
        return int(self._cfg.d_vocab)

    @property
    def n_outputs(self) -> int:
        """Entries of its output at a position."""
        return int(self._cfg.d_vocab_out)

    @property
    def vector_size(self) -> int | None:
        """Components of the vectors that it reads; None for a model of tokens."""
        return getattr(getattr(self.model, "embed", None), "d_in", None)

    @property
    def resumes(self) -> bool:
        """Whether it is made of TransformerLens's blocks, and runs from a residual stream on."""
        blocks = getattr(self.model, "blocks", None)
        return hasattr(self.model, "input_to_embed") and all(
            type(block).__name__ == "TransformerBlock" for block in blocks or [None]
        )

    @property
    def causal(self) -> bool:
        """Whether attention goes to earlier positions alone."""
        return getattr(self._cfg, "attention_dir", "causal") == "causal"

    @property
    def normalization(self) -> str | None:
        """The kind of its normalisation layers, such as ``"LN"``; None without them."""
        return self._cfg.normalization_type

    @property
    def positional_embedding(self) -> str:
        """How it codes positions; ``"standard"`` is a table that is added to the embedding."""
        return self._cfg.positional_embedding_type

    @property
    def device(self) -> torch.device:
        """Of its first parameter."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its first parameter."""
        return next(self.model.parameters()).dtype

    @property
    def plain_attention(self) -> bool:
        """Whether patterns are softmax of scaled products alone, and all heads share one form."""
        cfg = self._cfg
        return (
            self.positional_embedding == "standard"
            and not (cfg.attn_scores_soft_cap or 0) > 0
            and not any(getattr(cfg, name, False) for name in _SPECIAL_ATTENTION)
            and not str(getattr(cfg, "original_architecture", "")).startswith("Olmo")
        )

    @property
    def departures(self) -> list[str]:
        """In words, how its options depart from blocks that add attention, then an MLP.

        Empty where each part reads the normalised stream of its own position and, by causal
        attention, of earlier ones.
        """
        cfg = self._cfg
        found = [words for name, words in _DEPARTURES.items() if getattr(cfg, name, False)]
        if not self.causal:
            found.append("its attention is not causal")
        if self.positional_embedding in ("shortformer", "relative_positional_bias"):
            found.append(f"its positional embedding is {self.positional_embedding!r}")
        if (cfg.output_logits_soft_cap or 0) > 0:
            found.append("it caps its logits")
        if getattr(cfg, "n_devices", 1) > 1:
            found.append("it is spread over several devices")
        return found


_DEPARTURES = {
    "parallel_attn_mlp": "its attention and MLP run in parallel",
    "use_normalization_before_and_after": "it normalises after its layers",
    "use_attn_in": "use_attn_in is set",
    "use_split_qkv_input": "use_split_qkv_input is set",
    "use_hook_mlp_in": "use_hook_mlp_in is set",
    "load_in_4bit": "its weights are quantised",
}

_SPECIAL_ATTENTION = (
    "use_qk_norm",
    "use_logn_attn",
    "use_attention_sinks",
    "clip_qkv",
    "use_attn_result",
    "ungroup_grouped_query_attention",
)
