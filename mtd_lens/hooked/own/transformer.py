"""A HookedTransformer: tokens to logits through hooks on every step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import (
    LocallyOverridenDefaults,
    get_attention_mask,
    lm_cross_entropy_loss,
    move_to_and_update_config,
)

from mtd_lens.errors import ModelError
from mtd_lens.hooked.own.block import TransformerBlock
from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.ends import Embed, PosEmbed, Unembed
from mtd_lens.hooked.own.norms import norm_of
from mtd_lens.hooked.own.part import soft_capped
from mtd_lens.hooked.own.weights import Weights


class Output(NamedTuple):
    """What ``return_type="both"`` gives."""

    logits: Tensor
    loss: Tensor


_OPTIONS = {
    "attn.hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
}
"""Hooks that yield nothing unless an option is set."""


def _refused(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        """Refused: these models read tokens, and are trained or built here."""
        raise ModelError(
            f"{name}: the HookedTransformer that mtd-lens has for transformer-lens 4 reads tokens, "
            "not text, and loads no pretrained language models. Use TransformerBridge for those, "
            "or install transformer-lens<4."
        )

    refuse.__name__ = name
    return refuse


class HookedTransformer(Weights):
    """A transformer with the interface of TransformerLens's version 3.

    Args:
        cfg: A configuration, or its fields.
        tokenizer: None; there is no text.
        move_to_device: Whether parameters are moved to ``cfg.device``.
        default_padding_side: None.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: None = None,
        move_to_device: bool = True,
        default_padding_side: None = None,
    ) -> None:
        super().__init__()
        if tokenizer is not None:
            self.set_tokenizer()
        self.tokenizer: Any = None
        self.cfg = cfg = HookedTransformerConfig.unwrap(cfg)
        self.embed = Embed(cfg)
        self.hook_embed = HookPoint()  # [batch, position, d_model]
        if cfg.positional_embedding_type == "standard":
            self.pos_embed = PosEmbed(cfg)
            self.hook_pos_embed = HookPoint()  # [batch, position, d_model]
        if cfg.use_hook_tokens:
            self.hook_tokens = HookPoint()  # [batch, position]
        self.blocks = nn.ModuleList([TransformerBlock(cfg, index) for index in range(cfg.n_layers)])
        if cfg.normalization_type is not None:
            self.ln_final = norm_of(cfg, final=True)
        self.unembed = Unembed(cfg)
        if cfg.init_weights:
            self.init_weights()
        if move_to_device:
            nn.Module.to(self, cfg.device)
        self.setup()

    def forward(
        self,
        input: Tensor,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        tokens: Tensor | None = None,
        shortformer_pos_embed: None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: Any = None,
    ) -> Any:
        """Logits, loss, or a residual stream.

        Args:
            input: ``[batch, position]`` tokens; with ``start_at_layer`` a residual stream.
            return_type: ``"logits"``, ``"loss"``, ``"both"``, or None for nothing.
            loss_per_token: Whether the loss is ``[batch, position - 1]``, not its mean.
            prepend_bos: Whether padded text begins with a token of its own.
            padding_side: Where it is padded; None for the tokenizer's side.
            start_at_layer: The first block to run, counted from the end if negative.
            tokens: For the loss, where ``input`` is a residual stream.
            shortformer_pos_embed: Of no use: these models have no such positions.
            attention_mask: ``[batch, position]``, 0 at padding.
            stop_at_layer: The block before which to stop; the residual stream there is returned.
            past_kv_cache: A ``TransformerLensKeyValueCache``: earlier keys and values.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise ModelError(
                f"return_type must be 'logits', 'loss', 'both' or None; got {return_type!r}."
            )
        if start_at_layer is None:
            with LocallyOverridenDefaults(self, prepend_bos=prepend_bos, padding_side=padding_side):
                residual, tokens, _, attention_mask = self.input_to_embed(
                    input, attention_mask=attention_mask, past_kv_cache=past_kv_cache
                )
        else:
            residual = input.to(self.unembed.W_U.device)
            if attention_mask is not None:
                attention_mask = attention_mask.to(residual.device)
        layers = range(self.cfg.n_layers)[start_at_layer:stop_at_layer]
        for layer in layers:
            entry = None if past_kv_cache is None else past_kv_cache[layer]
            residual = self.blocks[layer](
                residual, past_kv_cache_entry=entry, attention_mask=attention_mask
            )
        if stop_at_layer is not None:
            return residual
        if self.cfg.normalization_type is not None:
            residual = self.ln_final(residual)
        if return_type is None:
            return None
        logits = soft_capped(self.unembed(residual), self.cfg.output_logits_soft_cap)
        if return_type == "logits":
            return logits
        if tokens is None:
            raise ModelError("a loss from a residual stream needs the tokens. Pass tokens=.")
        loss = self.loss_fn(logits, tokens, attention_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def input_to_embed(
        self,
        input: Tensor,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: Any = None,
    ) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """The residual stream before the first block.

        Args:
            input: ``[batch, position]`` tokens; one axis is one sequence.
            prepend_bos: See ``forward``, as of the others.
            padding_side: See there.
            attention_mask: See there.
            past_kv_cache: See there.

        Returns:
            The stream, the tokens, None, and the attention mask or None where all is attended.
        """
        if isinstance(input, str | list):
            self.to_tokens(input)
        tokens = (input[None] if input.ndim == 1 else input).to(self.unembed.W_U.device)
        padded = self.tokenizer is not None and self.tokenizer.padding_side == "left"
        if attention_mask is None and (padded or past_kv_cache is not None):
            attention_mask = torch.ones(tokens.shape[:2], dtype=torch.int64)
            if padded:
                if prepend_bos is None:
                    prepend_bos = self.cfg.default_prepend_bos
                attention_mask = get_attention_mask(self.tokenizer, tokens, prepend_bos)
        if attention_mask is not None:
            if attention_mask.shape != tokens.shape[:2]:
                raise ModelError(
                    f"attention_mask must be of the tokens' shape {tuple(tokens.shape[:2])}; got "
                    f"{tuple(attention_mask.shape)}."
                )
            attention_mask = attention_mask.to(tokens.device)
        n_past = 0
        if past_kv_cache is not None:
            attention_mask = past_kv_cache.append_attention_mask(attention_mask)
            n_past = past_kv_cache[0].past_keys.shape[1]
        if self.cfg.use_hook_tokens:
            tokens = self.hook_tokens(tokens)
        residual = self.hook_embed(self.embed(tokens))
        if self.cfg.positional_embedding_type == "standard":
            positions = self.pos_embed(tokens, n_past, attention_mask)
            residual = residual + self.hook_pos_embed(positions)
        return residual, tokens, None, attention_mask

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Cross-entropy of the next tokens, in nats.

        Args:
            logits: The model's.
            tokens: ``[batch, position]``.
            attention_mask: ``[batch, position]``, 0 at padding, which is not counted.
            per_token: Whether it is ``[batch, position - 1]``, not the mean.
        """
        return lm_cross_entropy_loss(logits, tokens.to(logits.device), attention_mask, per_token)

    def run_with_cache(
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """A call whose activations are kept.

        Args:
            *model_args: As for a call.
            return_cache_object: Whether they come as an ``ActivationCache``, not a dictionary.
            remove_batch_dim: Whether the batch axis, of one sequence, is left out.
            **kwargs: As for a call, and ``names_filter``: which activations.

        Returns:
            What the call gives, and activations by the names of their hooks.
        """
        out, kept = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        if not return_cache_object:
            return out, kept
        return out, ActivationCache(kept, self, has_batch_dim=not remove_batch_dim)

    def check_hooks_to_add(
        self, hook_point: HookPoint, hook_point_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse a hook that would yield nothing.

        Args:
            hook_point: Where it would be added.
            hook_point_name: Its full name.
            *args: Of no use.
            **kwargs: Of no use.
        """
        for ending, option in _OPTIONS.items():
            if hook_point_name.endswith(ending) and not getattr(self.cfg, option):
                raise ModelError(
                    f"{hook_point_name} yields nothing while {option} is off. Call "
                    f"set_{option}(True) first."
                )

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Let ``hook_result`` yield what each head writes, or not."""
        self.cfg.use_attn_result = use_attn_result

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Give each head's query, key and value an input with a hook of its own, or not."""
        self.cfg.use_split_qkv_input = use_split_qkv_input

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Let ``hook_mlp_in`` yield what the MLP reads, or not."""
        if self.cfg.attn_only:
            raise ModelError("an attention-only model has no hook_mlp_in.")
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Let ``hook_attn_in`` yield what each head reads, or not."""
        if self.cfg.n_key_value_heads is not None:
            raise ModelError(
                "heads that share keys have no hook_attn_in. Use set_use_split_qkv_input."
            )
        self.cfg.use_attn_in = use_attn_in

    def set_ungroup_grouped_query_attention(self, ungroup_grouped_query_attention: bool) -> None:
        """Compute keys and values by head, not by group, or the other way round."""
        self.cfg.ungroup_grouped_query_attention = ungroup_grouped_query_attention

    def to(  # type: ignore[override]
        self, device_or_dtype: str | torch.device | torch.dtype, print_details: bool = True
    ) -> "HookedTransformer":
        """The model itself on another device or in another dtype, of which its ``cfg`` knows.

        Args:
            device_or_dtype: Either.
            print_details: Whether that is printed.
        """
        return move_to_and_update_config(self, device_or_dtype, print_details)

    def cuda(self, device: int | str | torch.device | None = None) -> "HookedTransformer":
        """The model itself on a GPU."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    def cpu(self) -> "HookedTransformer":
        """The model itself on the CPU."""
        return self.to("cpu")

    set_tokenizer = _refused("set_tokenizer")
    to_tokens = _refused("to_tokens")
    to_string = _refused("to_string")
    to_str_tokens = _refused("to_str_tokens")
    to_single_token = _refused("to_single_token")
    to_single_str_token = _refused("to_single_str_token")
    get_token_position = _refused("get_token_position")
    generate = _refused("generate")
    generate_stream = _refused("generate_stream")
    from_pretrained = _refused("from_pretrained")
    from_pretrained_no_processing = _refused("from_pretrained_no_processing")
    load_sample_training_dataset = _refused("load_sample_training_dataset")
    sample_datapoint = _refused("sample_datapoint")
