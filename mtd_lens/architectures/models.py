"""Transformers that can be trained, in plain torch: the same functions as their HookedTransformers.

A trainable model holds the weights that training changes, under the names that they have in a
HookedTransformer's ``state_dict``. It leaves out hooks, attention over more heads or wider streams
than there are, and copies that are the identity, so that a step of training is fast; ``weights()``
gives what :func:`mtd_lens.hooked.assemble` needs for the hooked model of the same function.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from mtd_lens.architectures.layout import Architecture
from mtd_lens.errors import ArgumentError, ModelError
from probes import checks

MAX_LAYERS = 6
MAX_WIDTH = 2**20


@dataclass(frozen=True)
class Size:
    """Shape of a trainable model.

    Attributes:
        n_tokens: Vocabulary.
        n_ctx: Longest context.
        n_layers: From 1 to 6.
        d_model: Width of a stock model's residual stream; a disentangled one's follows from its
            depth.
        n_heads: Of a stock model; must divide ``d_model``. A disentangled one has one.
        n_outputs: Outcomes that are predicted; None for as many as tokens.
    """

    n_tokens: int
    n_ctx: int
    n_layers: int
    d_model: int = 64
    n_heads: int = 4
    n_outputs: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_tokens", "n_ctx", "d_model", "n_heads"):
            checks.integer(getattr(self, name), name, 1, ArgumentError, MAX_WIDTH)
        checks.integer(self.n_layers, "n_layers", 1, ArgumentError, MAX_LAYERS)
        if self.d_model % self.n_heads:
            raise ArgumentError(
                f"n_heads must divide d_model; got {self.n_heads} heads and d_model {self.d_model}."
            )


def normal(generator: torch.Generator | None, *shape: int, std: float) -> Tensor:
    """Initial weights, drawn at random; without a generator they have no values.

    Args:
        generator: Of the draw.
        *shape: Of the weights.
        std: Their standard deviation.
    """
    if generator is None:
        return torch.empty(shape)
    return std * torch.randn(*shape, generator=generator)


class Trainable(nn.Module):
    """Weights under their HookedTransformer names, and the function that they compute.

    Attributes:
        size: Its shape.
        architecture: The shape of its HookedTransformer.
        has_fixed_weights: Some weights of the HookedTransformer are not trained.
    """

    size: Size
    architecture: Architecture
    has_fixed_weights = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take trained weights and their dtype; a model on ``"meta"`` takes their device too.

        Raises:
            ModelError: They are not those of this architecture and size.
        """
        own = dict(self.named_parameters())
        wrong = sorted(set(own) ^ set(weights))
        if wrong:
            raise ModelError(f"the architecture and the weights do not both have {wrong[0]}.")
        for name, value in sorted(weights.items()):
            if not value.isfinite().all():
                raise ModelError(f"{name} holds values that are not finite.")
            if value.shape != own[name].shape:
                raise ModelError(
                    f"{name} has shape {tuple(value.shape)}; the architecture's has "
                    f"{tuple(own[name].shape)}."
                )
        without_values = next(self.parameters()).is_meta
        dtype = next(iter(weights.values())).dtype
        self.to(dtype).load_state_dict(dict(weights), assign=without_values)

    def _register(self, weights: Mapping[str, Tensor]) -> None:
        """Hold ``blocks.0.attn.W_K`` and the like as parameters of nested modules."""
        for name, value in weights.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]  # type: ignore[assignment]
            module.register_parameter(leaf, nn.Parameter(value))

    def forward(
        self, tokens: Shaped[Tensor, "batch pos *component"]
    ) -> Float[Tensor, "batch pos token"]:
        """Logits (or log-probabilities) of the next token, as the HookedTransformer's."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """All weights of the HookedTransformer, also those that training leaves alone."""
        return {name: value.detach() for name, value in self.named_parameters()}

    def redraw(self, seed: int) -> dict[str, Tensor]:
        """Random weights of trained scale, with the fixed ones as they are."""
        raise NotImplementedError


class StockTransformer(Trainable):
    """TransformerLens's own transformer: learned absolute positions; MLPs and LayerNorm if asked.

    Args:
        size: Its shape.
        generator: Of the initial weights; None for weights without values.
        gpt: With LayerNorm and MLPs of width ``4 d_model``; without, attention alone.
    """

    def __init__(self, size: Size, generator: torch.Generator | None, *, gpt: bool) -> None:
        super().__init__()
        self.size = size
        d, n_heads, d_head = size.d_model, size.n_heads, size.d_model // size.n_heads
        self.architecture = Architecture(
            form="absolute",
            read_out="logits",
            n_layers=size.n_layers,
            n_heads=n_heads,
            d_model=d,
            d_head=d_head,
            n_ctx=size.n_ctx,
            n_tokens=size.n_tokens,
            n_outputs=size.n_outputs,
            d_mlp=4 * d if gpt else None,
            layer_norm=gpt,
            scaled=True,
        )

        drawn = partial(normal, generator)
        inward, outward = 1 / math.sqrt(d), 1 / math.sqrt(2 * d * size.n_layers)
        weights = {
            "embed.W_E": drawn(size.n_tokens, d, std=0.5),
            "pos_embed.W_pos": drawn(size.n_ctx, d, std=0.5),
        }
        for layer in range(size.n_layers):
            attention = {
                "W_Q": drawn(n_heads, d, d_head, std=inward),
                "W_K": drawn(n_heads, d, d_head, std=inward),
                "W_V": drawn(n_heads, d, d_head, std=inward),
                "W_O": drawn(n_heads, d_head, d, std=outward),
                **{f"b_{part}": torch.zeros(n_heads, d_head) for part in "QKV"},
                "b_O": torch.zeros(d),
            }
            block = {f"attn.{name}": value for name, value in attention.items()}
            if gpt:
                block |= {
                    "mlp.W_in": drawn(d, 4 * d, std=inward),
                    "mlp.b_in": torch.zeros(4 * d),
                    "mlp.W_out": drawn(4 * d, d, std=outward / 2),
                    "mlp.b_out": torch.zeros(d),
                }
                for norm in ("ln1", "ln2"):
                    block |= {f"{norm}.w": torch.ones(d), f"{norm}.b": torch.zeros(d)}
            weights |= {f"blocks.{layer}.{name}": value for name, value in block.items()}
        if gpt:
            weights |= {"ln_final.w": torch.ones(d), "ln_final.b": torch.zeros(d)}
        n_outputs = size.n_outputs or size.n_tokens
        weights["unembed.W_U"] = drawn(d, n_outputs, std=inward)
        weights["unembed.b_U"] = torch.zeros(n_outputs)
        self._register(weights)

    def forward(
        self, tokens: Shaped[Tensor, "batch pos *component"]
    ) -> Float[Tensor, "batch pos token"]:
        """Logits of the next token."""
        w = dict(self.named_parameters())
        stream = self._embedded(tokens, w["embed.W_E"]) + w["pos_embed.W_pos"][: tokens.shape[1]]
        for layer in range(self.size.n_layers):
            block = {
                name: w[f"blocks.{layer}.{name}"]
                for name in self._BLOCK
                if f"blocks.{layer}.{name}" in w
            }
            stream = stream + self._attention(block, self._normed(block, "ln1", stream))
            if "mlp.W_in" in block:
                normed = self._normed(block, "ln2", stream)
                hidden = functional.linear(normed, block["mlp.W_in"].T, block["mlp.b_in"])
                hidden = functional.gelu(hidden)
                stream = stream + functional.linear(
                    hidden, block["mlp.W_out"].T, block["mlp.b_out"]
                )
        return self._normed(w, "ln_final", stream) @ w["unembed.W_U"] + w["unembed.b_U"]

    _BLOCK = (
        *(f"attn.{kind}_{part}" for kind in "Wb" for part in "QKVO"),
        *(f"mlp.{kind}_{part}" for kind in "Wb" for part in ("in", "out")),
        *(f"ln{norm}.{part}" for norm in "12" for part in "wb"),
    )

    def _embedded(self, tokens: Int[Tensor, "batch pos"], W_E: Tensor) -> Tensor:
        return functional.embedding(tokens, W_E)

    def _normed(self, w: Mapping[str, Tensor], name: str, stream: Tensor) -> Tensor:
        if f"{name}.w" not in w:
            return stream
        return functional.layer_norm(stream, stream.shape[-1:], w[f"{name}.w"], w[f"{name}.b"])

    def _attention(self, w: Mapping[str, Tensor], stream: Tensor) -> Tensor:
        """All heads' queries, keys and values by one product, and scores with the mask added.

        On short sequences this is faster than torch's fused attention, whose backward pass uses
        one thread a head.
        """
        inward = torch.cat([w[f"attn.W_{part}"] for part in "QKV"])  # [3 heads, d, d_head]
        bias = torch.cat([w[f"attn.b_{part}"] for part in "QKV"])
        n, length, n_heads, d_head = *stream.shape[:2], self.size.n_heads, inward.shape[-1]
        joint = functional.linear(stream, inward.transpose(1, 2).flatten(0, 1), bias.flatten())
        heads = joint.unflatten(-1, (3, n_heads, d_head)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.reshape(3, n * n_heads, length, d_head).unbind()
        z = (self._pattern(q, k) @ v).unflatten(0, (n, n_heads)).transpose(1, 2).flatten(2)
        return functional.linear(z, w["attn.W_O"].flatten(0, 1).T, w["attn.b_O"])

    def _pattern(self, q: Tensor, k: Tensor) -> Tensor:
        length, scale = q.shape[1], q.shape[-1] ** -0.5
        mask = q.new_full((length, length), -torch.inf).triu(1)
        return torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale).softmax(-1)


class DisentangledTransformer(Trainable):
    """One head a layer, relative tables, and a residual stream in which nothing is overwritten.

    The stream starts as the token's one-hot, a constant, and a learned function of the position;
    every layer appends its attention's average of the whole stream so far and of a relative value
    table. So queries and values are copies of the stream (``W_Q``, ``W_V``, ``W_O`` are fixed), and
    what is learnt is one score matrix ``W_K`` a layer, the relative tables ``RK`` and ``RV``, the
    positions and the unembedding (Nichani et al. 2024; D'Angelo & Flammarion 2026).

    Args:
        size: Its shape; ``d_model`` and ``n_heads`` are not used.
        generator: Of the initial weights; None for weights without values.
    """

    has_fixed_weights = True

    D_POSITION = 2
    """Components of the stream for a learned function of the position."""

    D_RELATIVE = 4
    """Components that a layer's relative value table writes."""

    FLOOR = 1e-3
    """Probabilities below this count as this; in training the gradient passes through."""

    def __init__(self, size: Size, generator: torch.Generator | None) -> None:
        super().__init__()
        self.size = size
        q = size.n_tokens
        self.widths = [q + 1 + self.D_POSITION]
        for _ in range(size.n_layers):
            self.widths.append(2 * self.widths[-1] + self.D_RELATIVE)
        self.architecture = Architecture(
            form="relative",
            read_out="log_probs",
            n_layers=size.n_layers,
            n_heads=1,
            d_model=self.widths[-1],
            d_head=self.widths[-2] + self.D_RELATIVE,
            n_ctx=size.n_ctx,
            n_tokens=q,
            probability_floor=self.FLOOR,
        )

        drawn = partial(normal, generator)
        weights = {"pos_embed.W_pos": drawn(size.n_ctx, self.D_POSITION, std=0.02)}
        for layer, width in enumerate(self.widths[:-1]):
            weights |= {
                f"blocks.{layer}.attn.W_K": drawn(width, width, std=0.02),
                f"blocks.{layer}.attn.RK": drawn(size.n_ctx, width, std=0.02),
                f"blocks.{layer}.attn.RV": drawn(size.n_ctx, self.D_RELATIVE, std=0.5),
            }
        weights["unembed.W_U"] = drawn(self.widths[-1], q, std=0.02)
        weights["unembed.W_U"][q] += 1 / q  # the constant: at first all tokens are equally likely
        self._register(weights)
        self._offsets: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos token"]:
        """Log-probabilities of the next token, up to a floor."""
        w = dict(self.named_parameters())
        n, length = tokens.shape
        positions = w["pos_embed.W_pos"][:length]
        one_hot = functional.one_hot(tokens, self.size.n_tokens).to(positions)
        constant = positions.new_ones(n, length, 1)
        stream = torch.cat([one_hot, constant, positions.expand(n, length, -1)], -1)
        offsets, mask, causal = self._by_offset(length, positions)
        offsets = offsets.expand(n, length, length)
        for layer in range(self.size.n_layers):
            W_K, RK, RV = (w[f"blocks.{layer}.attn.{name}"] for name in ("W_K", "RK", "RV"))
            relative = (stream @ RK[:length].T).gather(-1, offsets) + mask
            scores = torch.baddbmm(relative, stream, (stream @ W_K).transpose(1, 2))
            pattern = scores.softmax(-1)
            at_offset = torch.zeros_like(pattern).scatter_add(-1, offsets, pattern * causal)
            stream = torch.cat([stream, pattern @ stream, at_offset @ RV[:length]], -1)
        linear = stream @ w["unembed.W_U"]
        floored = linear + (linear.clamp_min(self.FLOOR) - linear).detach()
        return floored.log()

    def _by_offset(self, length: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query minus key position (at least 0), the causal mask of scores, and the same as 0/1."""
        key = (length, like.device, like.dtype)
        if key not in self._offsets:
            positions = torch.arange(length, device=like.device)
            offsets = positions[:, None] - positions
            mask = torch.zeros(length, length).to(like).masked_fill(offsets < 0, -torch.inf)
            self._offsets[key] = offsets.clamp_min(0), mask, (offsets >= 0).to(like)
        return self._offsets[key]

    def weights(self) -> dict[str, Tensor]:
        """All weights of the HookedTransformer, with the fixed copies."""
        return self._with_copies(super().weights())

    def redraw(self, seed: int) -> dict[str, Tensor]:
        """Random score matrices, tables and unembedding of trained scale; the copies stay."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name, value in super().weights().items():
            layer = int(name.split(".")[1]) if name.startswith("blocks") else 0
            squared_length = 2.0 ** (layer + 1)  # of the stream, on average
            std = {"W_K": 1 / squared_length, "RK": 1 / math.sqrt(squared_length)}.get(
                name.rsplit(".", 1)[-1], 1 / math.sqrt(value.shape[-2])
            )
            drawn[name] = std * torch.randn(value.shape, generator=generator).to(value)
        return self._with_copies(drawn)

    def _with_copies(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        q = self.size.n_tokens
        like = trained["unembed.W_U"]
        eye = torch.eye(self.architecture.d_model).to(like)
        embedding = like.new_zeros(q, q + 1)
        embedding[:, :q], embedding[:, q] = eye[:q, :q], 1.0
        positions = trained["pos_embed.W_pos"]
        weights = {
            "embed.W_E": embedding,
            "pos_embed.W_pos": functional.pad(positions, (q + 1, 0)),
            "unembed.W_U": like,
        }
        for layer, width in enumerate(self.widths[:-1]):
            names = {part: f"blocks.{layer}.attn.{part}" for part in ("W_K", "RK", "RV")}
            appended = width + self.D_RELATIVE
            weights |= {
                f"blocks.{layer}.attn.W_Q": eye[None, :width, :width],
                f"blocks.{layer}.attn.W_V": eye[None, :width, :width],
                f"blocks.{layer}.attn.W_O": functional.pad(
                    eye[None, :appended, :appended], (width, 0)
                ),
                names["W_K"]: trained[names["W_K"]][None],
                names["RK"]: trained[names["RK"]][None],
                names["RV"]: functional.pad(trained[names["RV"]], (width, 0))[None],
            }
        return weights
