"""The configuration of a HookedTransformer, with the fields of TransformerLens's version 3."""

import dataclasses
import math
import pprint
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformer_lens.utilities import SUPPORTED_ACTIVATIONS, get_device

from mtd_lens.errors import ModelError

ACTIVATIONS = {name: act for name, act in SUPPORTED_ACTIVATIONS.items() if name != "xielu"}
INIT_MODES = ("gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("LN", "LNPre", "RMS", "RMSPre", None),
    "positional_embedding_type": ("standard", "rotary"),
    "attention_dir": ("causal", "bidirectional"),
    "init_mode": INIT_MODES,
}


@dataclass(kw_only=True)
class Unfollowed:
    """Fields that must keep their defaults: the class would not do what another value says."""

    original_architecture: str | None = None
    tokenizer_name: str | None = None
    n_devices: int = 1
    load_in_4bit: bool = False
    quantization_method: str | None = None
    num_experts: int | None = None
    experts_per_token: int | None = None
    norm_topk_prob: bool = False
    use_qk_norm: bool = False
    clip_qkv: float | None = None
    use_logn_attn: bool = False
    train_seq_length: int | None = None
    use_dynamic_ntk_rope: bool = False
    use_attention_sinks: bool = False
    post_embedding_ln: bool = False
    use_normalization_before_and_after: bool = False
    rotary_scaling_factor: float = 1.0
    use_NTK_by_parts_rope: bool = False
    NTK_by_parts_low_freq_factor: float = 1.0
    NTK_by_parts_high_freq_factor: float = 4.0
    NTK_by_parts_factor: float = 8.0
    NTK_original_ctx_len: int = 8192
    use_yarn_rope: bool = False
    yarn_factor: float = 1.0
    yarn_attention_factor: float = 1.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    yarn_original_max_position_embeddings: int = 4096
    yarn_truncate: bool = True
    yarn_global_attn_only: bool = False
    relative_attention_max_distance: int | None = None
    relative_attention_num_buckets: int | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = False


@dataclass(repr=False)
class HookedTransformerConfig(Unfollowed):
    """What a HookedTransformer is like.

    Attributes:
        d_model: Components of the residual stream.
        d_head: Components of a head's query, key and value.
        n_layers: Blocks.
        n_ctx: The longest sequence.
        n_heads: Heads of a layer; -1 for as many as fill ``d_model``.
        d_mlp: Neurons of a layer; None for four times ``d_model``.
        d_vocab: Tokens that it reads.
        device: Where its parameters are; None for a GPU where there is one.
        use_attn_result: Whether ``hook_result`` yields what each head writes.
        use_split_qkv_input: Whether queries, keys and values have inputs of their own, by head.
        default_prepend_bos: Whether text begins with a token of its own.
        positional_embedding_type: ``"standard"`` (a table) or ``"rotary"``.
        n_key_value_heads: Heads of keys and values; None for as many as of queries.
        attn_only: Whether blocks have no MLP.
        gated_mlp: Whether the MLP multiplies its neurons with a linear map.
        uses_rms_norm: Read by nothing.
        eps: Added to the variance that a normalisation layer divides by.
        layer_norm_folding: Read by nothing.
        act_fn: The MLP's activation function.
        normalization_type: ``"LN"``, ``"LNPre"``, ``"RMS"``, ``"RMSPre"``, or None for none.
        final_rms: Whether the last layer normalises by the root mean square alone.
        dtype: Of the parameters.
        model_name: What it is called.
        use_attn_scale: Whether scores are divided by ``attn_scale``.
        attn_scale: -1 for ``√d_head``.
        use_hook_mlp_in: Whether ``hook_mlp_in`` yields the MLP's input.
        use_attn_in: Whether ``hook_attn_in`` yields an input for each head.
        use_local_attn: Whether ``attn_types`` says which layers look at ``window_size`` positions.
        ungroup_grouped_query_attention: Whether keys and values are computed by query head.
        from_checkpoint: Read by nothing, like the three next.
        checkpoint_index: See there.
        checkpoint_label_type: See there.
        checkpoint_value: See there.
        window_size: Positions that local attention sees.
        attn_types: ``"local"`` or ``"global"``, by layer.
        init_mode: How weights are drawn.
        attention_dir: ``"causal"`` or ``"bidirectional"``.
        seed: Seeds the process's random state, where it is not None.
        initializer_range: Standard deviation of ``"gpt2"``, a factor of others; -1 for theirs.
        init_weights: Whether weights are drawn; they are whatever the memory holds otherwise.
        scale_attn_by_inverse_layer_idx: Whether scores are divided by the layer's number, from 1.
        d_vocab_out: Entries of the output; -1 for ``d_vocab``.
        parallel_attn_mlp: Whether the MLP reads what attention reads.
        rotary_dim: Components of a head that are turned; None for all.
        n_params: Weights of attention and MLPs; computed.
        use_hook_tokens: Whether ``hook_tokens`` yields the tokens.
        tokenizer_prepends_bos: Read by nothing.
        rotary_base: Of the wavelengths.
        rotary_base_local: Of local attention's; None for the same.
        trust_remote_code: Read by nothing.
        rotary_adjacent_pairs: Whether a component is turned with the next, not with that half of
            them away.
        attn_scores_soft_cap: What scores are bounded by; not positive for nothing.
        output_logits_soft_cap: What logits are bounded by; not positive for nothing.
    """

    d_model: int
    d_head: int
    n_layers: int
    n_ctx: int
    n_heads: int = -1
    d_mlp: int | None = None
    d_vocab: int = -1
    device: str | torch.device | None = None
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    default_prepend_bos: bool = True
    positional_embedding_type: str = "standard"
    n_key_value_heads: int | None = None
    attn_only: bool = False
    gated_mlp: bool = False
    uses_rms_norm: bool = False
    eps: float = 1e-5
    layer_norm_folding: bool = False
    act_fn: str | None = "relu"
    normalization_type: str | None = "LN"
    final_rms: bool = False
    dtype: torch.dtype = torch.float32
    model_name: str | None = "custom"
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    use_hook_mlp_in: bool = False
    use_attn_in: bool = False
    use_local_attn: bool = False
    ungroup_grouped_query_attention: bool = False
    from_checkpoint: bool = False
    checkpoint_index: int | None = None
    checkpoint_label_type: str | None = None
    checkpoint_value: int | None = None
    window_size: int | None = None
    attn_types: list[str] | None = None
    init_mode: str = "gpt2"
    attention_dir: str = "causal"
    seed: int | None = None
    initializer_range: float = -1.0
    init_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    d_vocab_out: int = -1
    parallel_attn_mlp: bool = False
    rotary_dim: int | None = None
    n_params: int | None = None
    use_hook_tokens: bool = False
    tokenizer_prepends_bos: bool | None = None
    rotary_base: float | int = 10000
    rotary_base_local: float | int | None = None
    trust_remote_code: bool = False
    rotary_adjacent_pairs: bool = False
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0

    def __post_init__(self) -> None:
        """Check the fields, and fill in those that follow from others."""
        self._check()
        if self.n_heads == -1:
            self.n_heads = self.d_model // self.d_head
        if self.d_mlp is None:
            self.d_mlp = 4 * self.d_model
        if self.d_vocab_out == -1:
            self.d_vocab_out = self.d_vocab
        if self.positional_embedding_type == "rotary" and self.rotary_dim is None:
            self.rotary_dim = self.d_head
        if self.use_attn_scale and self.attn_scale == -1.0:
            self.attn_scale = math.sqrt(self.d_head)
        if self.initializer_range < 0:
            self.initializer_range = (
                0.8 / math.sqrt(self.d_model) if self.init_mode == "gpt2" else 1.0
            )
        if self.device is None:
            self.device = get_device()
        mlp = 0 if self.attn_only else self.d_mlp * (2 + self.gated_mlp)
        self.n_params = self.n_layers * self.d_model * (4 * self.d_head * self.n_heads + mlp)
        if self.seed is not None:
            self.set_seed_everywhere(self.seed)

    def _check(self) -> None:
        for field in dataclasses.fields(Unfollowed):
            if (value := getattr(self, field.name)) != field.default:
                raise ModelError(
                    f"{field.name}={value!r}: the HookedTransformer that mtd-lens has for "
                    f"transformer-lens 4 knows {field.default!r} alone. Leave it out, or install "
                    "transformer-lens<4."
                )
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ModelError(
                    f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}."
                )
        if not self.attn_only and self.act_fn not in ACTIVATIONS:
            raise ModelError(
                f"act_fn must be one of {', '.join(ACTIVATIONS)}; got {self.act_fn!r}. "
                "Name one, or set attn_only=True."
            )
        if self.d_vocab == -1:
            raise ModelError("d_vocab is missing: say how many tokens the model reads.")
        if self.n_heads == -1 and self.d_model % self.d_head:
            raise ModelError(
                f"d_model={self.d_model} is no multiple of d_head={self.d_head}. Say n_heads."
            )
        if self.use_local_attn and (self.window_size is None or self.attn_types is None):
            raise ModelError("use_local_attn needs window_size and attn_types. Pass both.")

    @classmethod
    def unwrap(cls, config: Any) -> "HookedTransformerConfig":
        """A configuration itself, or that of a mapping.

        Args:
            config: Either.
        """
        if isinstance(config, Mapping):
            return cls.from_dict(config)
        if not isinstance(config, cls):
            raise ModelError(
                f"cfg must be a HookedTransformerConfig of mtd_lens.hooked, or its fields; got a "
                f"{type(config).__name__}."
            )
        return config

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> "HookedTransformerConfig":
        """The configuration that ``to_dict`` described.

        Args:
            config_dict: Fields by name.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(config_dict) - known):
            raise ModelError(f"a HookedTransformerConfig has no fields {', '.join(unknown)}.")
        return cls(**config_dict)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return "HookedTransformerConfig:\n" + pprint.pformat(self.to_dict())

    def set_seed_everywhere(self, seed: int) -> None:
        """Seed the random states of torch, Python and numpy.

        Args:
            seed: Of all three.
        """
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002

    def is_layer_norm_activation(self) -> bool:
        """Whether the MLP normalises its neurons."""
        return self.act_fn is not None and self.act_fn.endswith("_ln")
