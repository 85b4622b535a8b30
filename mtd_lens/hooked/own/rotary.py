"""Rotary positions: pairs of a query's and a key's components, turned by angles of the position.

Su et al. 2021, RoFormer.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.hooked.own.config import HookedTransformerConfig


def rotary_tables(
    cfg: HookedTransformerConfig, n_positions: int, local: bool
) -> tuple[Float[Tensor, "position component"], Float[Tensor, "position component"]]:
    """Sines and cosines of each position's angles.

    Args:
        cfg: Of the model; its ``rotary_dim`` components are turned.
        n_positions: From the first on.
        local: Whether they are those of local attention.
    """
    assert cfg.rotary_dim is not None
    base = cfg.rotary_base
    if local and cfg.rotary_base_local is not None:
        base = cfg.rotary_base_local
    precision = torch.float64 if cfg.dtype == torch.float64 else torch.float32
    half = torch.arange(cfg.rotary_dim // 2, dtype=precision)
    wavelength = base ** (half / (cfg.rotary_dim / 2))
    if cfg.rotary_adjacent_pairs:
        wavelength = wavelength.repeat_interleave(2)
    else:
        wavelength = wavelength.repeat(2)
    angles = torch.arange(n_positions, dtype=precision)[:, None] / wavelength
    return angles.sin().to(cfg.dtype), angles.cos().to(cfg.dtype)


def rotated(x: Tensor, sines: Tensor, cosines: Tensor, adjacent: bool) -> Tensor:
    """The first components of each head turned; the others as they are.

    Args:
        x: ``[batch, position, head, d_head]``.
        sines: ``[batch or 1, position, 1, component]``.
        cosines: The same.
        adjacent: Whether pairs are neighbours, or components half of them apart.
    """
    n_turned = sines.shape[-1]
    turned, rest = x[..., :n_turned], x[..., n_turned:]
    if adjacent:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
    else:
        first, second = turned.chunk(2, -1)
        across = torch.cat([-second, first], -1)
    return torch.cat([turned * cosines + across * sines, rest], -1)
