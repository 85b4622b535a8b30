"""TransformerLens's bridges: exact twins of them, and random ones.

A bridge wraps a model of another library, or TransformerLens's native one. Its hooks are not all
causal, and its runs cannot be resumed. Its *twin* is a HookedTransformer with the bridge's weights
and options, which must give the bridge's logits and residual streams within rounding each time that
it is asked for.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mtd_lens.errors import ModelError
from mtd_lens.hooked.info import ModelInfo, info_of, moved, with_info
from probes.passes import own_modes
from probes.patching.memory import fingerprint
from probes.subject import check_runs
from probes.twins import MARK, Twin

ROUNDING = 200
"""Units in the last place of the largest entry by which a twin's runs may differ from a bridge's.

Bridges of Hugging Face's models differ by up to some tens."""

N_SEQUENCES = 4
"""Random ones, on which a twin is held against its bridge."""

N_POSITIONS = 64
MOST_POSITIONS = 1024
"""Of them: at every call, and when the twin is built, where windows of attention might show."""

OF_ITS_OWN = frozenset(
    {
        "checkpoint_index", "checkpoint_label_type", "checkpoint_value", "device",
        "default_prepend_bos", "from_checkpoint", "init_weights", "n_params",
        "original_architecture", "seed", "tie_word_embeddings", "tokenizer_name",
        "tokenizer_prepends_bos", "trust_remote_code",
    }
)  # fmt: skip
"""Fields of a configuration that a twin does not take over: its numbers do not depend on them."""

_kept: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()
_refused: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
"""Why bridges have no twin, until their weights change: their own hooks are always right."""


def is_bridge(model: object) -> bool:
    """Whether a model is one of TransformerLens's bridges; none is imported for that."""
    return any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)


def bridge_twin(model: Any) -> Twin | None:
    """The exact twin of a bridge, or why it has none; None for another model.

    It is built once for the same weights, and held against the bridge at every call.

    Args:
        model: Any model.

    Raises:
        DataError: A bridge whose passes differ by chance, since dropout is active.
    """
    if not is_bridge(model):
        return None
    check_runs(model)
    if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()):
        return Twin(None, "it has hooks of the caller's")
    dtype = next(model.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        return Twin(None, "in 16 bits no twin can be told from another model")
    same, reason = _refused.get(model, (None, ""))
    if same == (now := _versions(model)):
        return Twin(None, reason)
    with own_modes(), torch.no_grad():
        try:
            twin, away = _built(model)
            reason = f"a HookedTransformer of its weights and options differs by {away:.1e}"
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            away, reason = math.nan, f"no HookedTransformer can be made of it ({error})"
    if away <= ROUNDING * torch.finfo(dtype).eps:
        return Twin(twin)
    _kept.pop(model, None)
    _refused[model] = now, reason
    return Twin(None, reason)


def _versions(bridge: Any) -> tuple[Any, ...]:
    """What changes with a bridge's weights, without a look at them."""
    return tuple(
        (id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in bridge.parameters()
    )


def _built(bridge: Any) -> tuple[Any, float]:
    """The nearest HookedTransformer of a bridge's weights, and how far it is from the bridge.

    It is kept as long as the weights and the bridge are.
    """
    state = (
        repr(bridge.cfg),
        info_of(bridge),
        *((name, fingerprint(weight)) for name, weight in bridge.named_parameters()),
    )
    before, kept = _kept.get(bridge, (None, None))
    if before == state:
        return kept, _distance(bridge, kept, N_POSITIONS)
    twin, away = None, math.nan
    for options in _options(bridge):
        other = _twin(bridge, options)
        if not (far := _distance(bridge, other, MOST_POSITIONS)) >= away:
            twin, away = other, far
        if away <= ROUNDING * torch.finfo(next(bridge.parameters()).dtype).eps:
            break
    _kept[bridge] = state, twin
    return twin, away


def _options(bridge: Any) -> Iterator[dict[str, Any]]:
    """What a HookedTransformer's configuration may be; of what a bridge's does not say, each way.

    Native bridges scale scores whatever it says, and turn adjacent pairs of components; GPT-NeoX's
    says nothing of how many components are turned.
    """
    from mtd_lens.hooked.library import HookedTransformerConfig

    known = {field.name for field in fields(HookedTransformerConfig)} - OF_ITS_OWN
    options = {name: value for name, value in vars(bridge.cfg).items() if name in known}
    if is_native(bridge):
        options["use_attn_scale"] = True
    if options["positional_embedding_type"] != "rotary":
        yield options
        return
    size, adjacent = bridge.cfg.d_head, options["rotary_adjacent_pairs"]
    for turned in dict.fromkeys((options["rotary_dim"] or size, size // 4, size // 2)):
        for pairs in (adjacent, not adjacent):
            yield options | {"rotary_dim": turned, "rotary_adjacent_pairs": pairs}


def _twin(bridge: Any, options: Mapping[str, Any]) -> Any:
    from mtd_lens.hooked.library import HookedTransformer, HookedTransformerConfig

    first = next(bridge.parameters())
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="HookedTransformer is deprecated", category=DeprecationWarning
        )
        cfg = HookedTransformerConfig(
            **{**options, "dtype": first.dtype, "device": str(first.device), "init_weights": False}
        )
        twin: Any = HookedTransformer(cfg, move_to_device=False)
    _load(twin, bridge.tl_parameters())
    twin.to(str(first.device), print_details=False)
    setattr(twin, MARK, type(bridge).__name__)
    info = info_of(bridge)
    return (twin if info is None else with_info(twin, info)).eval()


def random_bridge(bridge: Any, seed: int, name: str, over: Any = None) -> Any:
    """A bridge of a model of the same class and configuration with random weights.

    Matrices vary by ``1 / fan-in``, so that what they give varies as what they take; tables by 1,
    or as matrices where they are read as one too; normalisation layers are at 1 and biases at 0.
    Hooks of the caller's act in it as well.

    Args:
        bridge: The bridge; it is not changed.
        seed: Of the weights; the process's random state is left alone.
        name: Of the new model.
        over: A random bridge of the same one whose weights are drawn anew.

    Raises:
        ModelError: No model of the class can be made of its configuration.
    """
    from transformer_lens.model_bridge import TransformerBridge, sources

    wrapped, first = bridge.original_model, next(bridge.parameters())
    with own_modes(), torch.random.fork_rng(devices=[]):
        try:
            if is_native(bridge):
                new: Any = over or TransformerBridge.boot_native(copy.deepcopy(bridge.cfg))
                _draw(new.original_model, seed)
            else:
                config = copy.deepcopy(wrapped.config)
                inner = type(wrapped)(config)
                _draw(inner, seed)
                new = sources.build_bridge_from_module(
                    inner, architecture=bridge.cfg.architecture, hf_config=config
                )
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"a random {type(wrapped).__name__} to hold the bridge against cannot be made of "
                f"its configuration: {error}. Wrap a model whose class takes its configuration."
            ) from error
    new.eval()
    moved(new, first.device, first.dtype)
    for hook, point in bridge.hook_dict.items():
        if point.name == hook:  # others are further names of the same
            for handle in point.fwd_hooks:
                new.hook_dict[hook].add_hook(handle.user_hook, is_permanent=handle.is_permanent)
    info = info_of(bridge)
    return with_info(new, ModelInfo(info.task if info else None, name))


def _draw(model: nn.Module, seed: int) -> None:
    """Draw a model's weights anew, each by the kind of the module that it is of."""
    generator = torch.Generator().manual_seed(seed)
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    read = {id(m.weight) for m in model.modules() if _is_matrix(m)}
    with torch.no_grad():
        for full, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if full.endswith("bias") else 1.0)
                continue
            owner = model.get_submodule(full.rpartition(".")[0])
            is_table = any(weight is table for table in tables) and id(weight) not in read
            fan_in = weight.shape[0] if type(owner).__name__ == "Conv1D" else weight.shape[-1]
            draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(draw if is_table else draw / math.sqrt(fan_in))


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_native(bridge: Any) -> bool:
    """Whether a bridge wraps TransformerLens's own native model."""
    return type(bridge.original_model).__name__ == "NativeModel"


def _load(twin: Any, weights: Mapping[str, Tensor]) -> None:
    """Set a twin's parameters; normalisation layers that the bridge does not name do nothing."""
    for name, parameter in twin.named_parameters():
        where, _, kind = name.rpartition(".")
        value = weights.get(f"{where}.{kind.lstrip('_')}")
        if value is None and kind in ("w", "b"):
            value = torch.full_like(parameter, float(kind == "w"))
        if value is None:
            raise ModelError(f"its {name} is not known")
        if kind.startswith("_"):  # of a group of heads, for which bridges give one a head
            value = value[:: len(value) // len(parameter)]
        if value.shape != parameter.shape:
            raise ModelError(f"its {name} has the shape {tuple(value.shape)}")
        parameter.data.copy_(value)


def _distance(bridge: Any, twin: Any, n_positions: int) -> float:
    """The largest difference of logits and streams, as a share of the largest entry."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_SEQUENCES, min(bridge.cfg.n_ctx, n_positions))
    tokens = torch.randint(bridge.cfg.d_vocab, shape, generator=generator)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(bridge.cfg.n_layers)]
    device = next(bridge.parameters()).device
    (own, of_twin) = (_ends(model, tokens.to(device), names) for model in (bridge, twin))
    return max(
        float((x - y).abs().max() / x.abs().max()) for x, y in zip(own, of_twin, strict=True)
    )


def _ends(model: Any, tokens: Tensor, names: list[str]) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(activation: Tensor, hook: object) -> None:
        found.append(activation.detach().clone())

    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        outputs = model(tokens)
    return [*found, outputs.detach()]
