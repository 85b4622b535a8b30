"""What is asked of HookedTransformers, so that two classes of them can be held side by side.

Everything that a model computes and that users can see: names, activations, effects of edits,
gradients. Weights follow from a formula, edits and targets too.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformer_lens import TransformerLensKeyValueCache

import mtd_lens

MODELS = (
    "mtd-q3-m2-t32/constructed-absolute",
    "mtd-q3-m2-t32/constructed-relative",
    "mtd-q5-m3-t32/trained-disentangled-3l-s0",
    "mtd-q5-m3-t32/trained-gpt-3l-s0",
    "ngram-q3-s12-t32/constructed-absolute",
    "ngram-q3-s12-t32/trained-gpt-2l-s0",
    "ar-d3-t16/constructed-4-steps",
    "ar-d5-t32/trained-softmax-augmented-2l-s0",
)
"""Of three families: constructed and trained, attention of every kind, tokens and vectors."""

SHAPE = {
    "n_layers": 2,
    "d_model": 12,
    "n_ctx": 7,
    "n_heads": 4,
    "d_head": 4,
    "d_vocab": 5,
    "d_vocab_out": 3,
    "d_mlp": 10,
    "act_fn": "gelu",
    "default_prepend_bos": False,
    "init_weights": False,
    "device": "cpu",
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "LN": {},
    "LNPre, silu": {"normalization_type": "LNPre", "act_fn": "silu"},
    "RMS, gated": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "RMSPre, relu": {"normalization_type": "RMSPre", "act_fn": "relu"},
    "none, gelu_new": {"normalization_type": None, "act_fn": "gelu_new"},
    "final_rms, gelu_fast": {"final_rms": True, "act_fn": "gelu_fast"},
    "solu_ln": {"act_fn": "solu_ln"},
    "solu_ln folded, gated": {
        "act_fn": "solu_ln",
        "normalization_type": "LNPre",
        "gated_mlp": True,
        "final_rms": True,
    },
    "attention only": {"attn_only": True, "act_fn": None, "normalization_type": None},
    "grouped": {"n_key_value_heads": 2},
    "grouped, ungrouped": {"n_key_value_heads": 2, "ungroup_grouped_query_attention": True},
    "rotary": {"positional_embedding_type": "rotary"},
    "rotary, adjacent, partial": {
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "rotary_adjacent_pairs": True,
        "rotary_base": 100,
    },
    "rotary, grouped, local": {
        "positional_embedding_type": "rotary",
        "rotary_base_local": 50.0,
        "n_key_value_heads": 1,
        "use_local_attn": True,
        "attn_types": ["local", "global"],
        "window_size": 3,
    },
    "bidirectional": {"attention_dir": "bidirectional"},
    "capped": {"attn_scores_soft_cap": 0.7, "output_logits_soft_cap": 1.5},
    "scales": {"use_attn_scale": False, "scale_attn_by_inverse_layer_idx": True},
    "another scale": {"attn_scale": 3.0, "use_hook_tokens": True},
    "parallel": {"parallel_attn_mlp": True},
}
"""Options of the configuration, beyond what the models of this package use."""

SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")

Answers = dict[str, Tensor]
Names = dict[str, list[str]]


def filled(kind: Any, config: Any, options: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A model whose weights follow from a formula, by their places among the parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = kind(config(**{**SHAPE, **options}, dtype=dtype)).eval()
    with torch.no_grad():
        for place, (name, parameter) in enumerate(model.named_parameters()):
            angles = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + place
            value = 0.5 * (angles * (1 + place / 7)).sin().reshape(parameter.shape)
            parameter.copy_(value + (1.0 if name.endswith(".w") else 0.0))
    return model


def some_tokens(n_tokens: int = 5, length: int = 7) -> Tensor:
    """Three sequences."""
    return torch.arange(3 * length).square().remainder(11).remainder(n_tokens).reshape(3, length)


def inputs_of(name: str) -> Tensor:
    """Three sequences of a model's task."""
    return mtd_lens.load_model(name).mtd_lens_info.task.sample(3, 0).tokens


def names_of(model: Any) -> Names:
    """What a model's hooks and weights are called, in order."""
    return {
        "hooks": list(model.hook_dict),
        "parameters": [name for name, _ in model.named_parameters()],
        "buffers": [name for name, _ in model.named_buffers()],
    }


def computed(model: Any, inputs: Tensor) -> Answers:
    """Output, every activation, output under an edit of each of them, and gradients."""
    found: Answers = {}
    output, cache = model.run_with_cache(inputs)
    found["output"] = output
    found |= {f"cache {name}": value for name, value in cache.items()}
    for name, value in cache.items():
        if value.is_floating_point():
            found[f"edit {name}"] = model.run_with_hooks(inputs, fwd_hooks=[(name, _edited)])
    model.zero_grad()
    output = model(inputs)
    weights = torch.arange(output.numel(), dtype=output.dtype).cos().reshape(output.shape)
    (output * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad.clone()
    model.zero_grad()
    return {name: value.detach() for name, value in found.items()}


def _edited(value: Tensor, hook: Any) -> Tensor:
    change = torch.arange(value.numel(), dtype=value.dtype).sin().reshape(value.shape)
    return value + 0.1 * change


def asked(model: Any) -> Answers:
    """What a model of tokens computes by all the ways of calling it."""
    tokens, n_layers = some_tokens(), model.cfg.n_layers
    with torch.no_grad():
        found = computed_ways(model, tokens)
        for switch in SWITCHES:
            if _can(model, switch):
                setattr(model.cfg, switch, True)
                found |= _named(switch, model.run_with_cache(tokens)[1].items())
                if switch == "use_split_qkv_input":
                    found |= _edits_of_inputs(model, tokens)
                setattr(model.cfg, switch, False)
    for layer in range(n_layers):
        attention = model.blocks[layer].attn
        found[f"QK {layer}"], found[f"OV {layer}"] = attention.QK.AB, attention.OV.AB
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_E", "W_U", "b_U"):
        found[name] = getattr(model, name)
    if not model.cfg.attn_only:
        for name in ("W_in", "W_out", "b_in", "b_out"):
            found[name] = getattr(model, name)
        if model.cfg.dtype == torch.float32:  # version 3 adds in float32, whatever the dtype
            found["bias"] = model.accumulated_bias(1, mlp_input=True)
    for mode in "QKV":
        found[f"composition {mode}"] = model.all_composition_scores(mode)
    found["direction"] = model.tokens_to_residual_directions(2)
    found["directions"] = model.tokens_to_residual_directions(torch.tensor([[0, 2]]))
    return {name: value.detach() for name, value in found.items()}


def computed_ways(model: Any, tokens: Tensor) -> Answers:
    """Losses, parts of a pass, padding and a cache of keys and values."""
    few = tokens.remainder(model.cfg.d_vocab_out)
    found = {
        "one sequence": model(tokens[0]),
        "loss": model(few, return_type="loss"),
        "loss per token": model(few, return_type="loss", loss_per_token=True),
    }
    found["both: logits"], found["both: loss"] = model(few, return_type="both")
    stream = model(tokens, stop_at_layer=1)
    found |= {"stop 1": stream, "stop -1": model(tokens, stop_at_layer=-1)}
    found |= {"start 1": model(stream, start_at_layer=1), "stop 0": model(tokens, stop_at_layer=0)}
    found["part"] = model(stream, start_at_layer=1, stop_at_layer=2)
    loss = model(stream, start_at_layer=1, tokens=few, return_type="loss")
    found["start 1: loss"] = loss
    mask = torch.ones_like(tokens)
    mask[1, :2] = mask[2, :4] = 0
    found |= _named("padded", model.run_with_cache(tokens, attention_mask=mask)[1].items())
    padded = model(few, attention_mask=mask, return_type="loss")
    found |= {"padded: loss": padded, "padded": model(tokens, attention_mask=mask)}
    if not model.cfg.ungroup_grouped_query_attention:
        past = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(tokens))
        for part in (slice(0, 4), slice(4, 5), slice(5, None)):
            found[f"read on {part.start}"] = model(
                tokens[:, part], past_kv_cache=past, attention_mask=mask[:, part]
            )
        found["past keys"] = past[1].past_keys
    return found


def _can(model: Any, switch: str) -> bool:
    if switch == "use_hook_mlp_in":
        return not model.cfg.attn_only
    return switch != "use_attn_in" or model.cfg.n_key_value_heads is None


def _named(prefix: str, items: Any) -> Answers:
    return {f"{prefix}: {name}": value for name, value in items}


def _edits_of_inputs(model: Any, tokens: Tensor) -> Answers:
    hooks = [f"blocks.1.hook_{kind}_input" for kind in "qkv"]
    return {
        f"edit {hook}": model.run_with_hooks(tokens, fwd_hooks=[(hook, _edited)]) for hook in hooks
    }


def apart(first: Answers, second: Answers) -> Iterator[tuple[str, float]]:
    """The largest difference of every answer; infinite where one is missing or of another shape."""
    for name in sorted(set(first) | set(second)):
        if name not in first or name not in second or first[name].shape != second[name].shape:
            yield name, math.inf
            continue
        left, right = (_finite(side[name]) for side in (first, second))
        yield name, float((left - right).abs().max()) if left.numel() else 0.0


def _finite(value: Tensor) -> Tensor:
    """With 0 for minus infinity, of masked scores, and a number of its own for what is none."""
    return value.double().nan_to_num(nan=math.pi, neginf=0.0)
