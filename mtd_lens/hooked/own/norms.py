"""Normalisation layers, with and without weights of their own."""

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.part import Part


class RMSNormPre(Part):
    """``x / √(mean(x²) + eps)``, over the last axis."""

    def __init__(self, cfg: HookedTransformerConfig, length: int | None = None) -> None:
        super().__init__(cfg)
        self.eps = cfg.eps
        self.length = cfg.d_model if length is None else length
        self.hook_scale = HookPoint()  # [batch, position, 1]
        self.hook_normalized = HookPoint()  # [batch, position, length]

    def forward(self, x: Tensor) -> Tensor:
        """The normalised vectors; in float32 at least, whatever the dtype of the model."""
        if self.cfg.dtype not in (torch.float32, torch.float64):
            x = x.to(torch.float32)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale).to(self.cfg.dtype)


class RMSNorm(RMSNormPre):
    """The same, times a weight."""

    def __init__(self, cfg: HookedTransformerConfig, length: int | None = None) -> None:
        super().__init__(cfg, length)
        self.w = self.constant(1.0, self.length)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised vectors, times the weight."""
        return super().forward(x) * self.w


class LayerNormPre(RMSNormPre):
    """The same of ``x`` less its mean."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised vectors."""
        if self.cfg.dtype not in (torch.float32, torch.float64):
            x = x.to(torch.float32)
        return super().forward(x - x.mean(-1, keepdim=True))


class LayerNorm(LayerNormPre):
    """That times a weight, plus a bias."""

    def __init__(self, cfg: HookedTransformerConfig, length: int | None = None) -> None:
        super().__init__(cfg, length)
        self.w, self.b = self.constant(1.0, self.length), self.constant(0.0, self.length)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised vectors, times the weight, plus the bias."""
        return super().forward(x) * self.w + self.b


_NORMS = {"LN": LayerNorm, "LNPre": LayerNormPre, "RMS": RMSNorm, "RMSPre": RMSNormPre}


def norm_of(cfg: HookedTransformerConfig, final: bool = False) -> nn.Module:
    """The normalisation layer that a configuration asks for; the identity if for none."""
    kind = cfg.normalization_type
    if kind is None:
        return nn.Identity()
    return _NORMS[kind.replace("LN", "RMS") if final and cfg.final_rms else kind](cfg)
