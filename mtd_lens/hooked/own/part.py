"""A module that knows the configuration and can draw its weights anew."""

import torch
from torch import Tensor, nn
from transformer_lens.utilities import (
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)

from mtd_lens.hooked.own.config import HookedTransformerConfig


class Part(nn.Module):
    """A module of a HookedTransformer.

    Args:
        cfg: Of the whole model.
    """

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg

    def weight(self, *shape: int) -> nn.Parameter:
        """A matrix, or one for each head, that is still to be drawn or read."""
        return nn.Parameter(torch.empty(shape, dtype=self.cfg.dtype))

    def constant(self, value: float, *shape: int) -> nn.Parameter:
        """A bias, or a factor, that begins with one value."""
        return nn.Parameter(torch.full(shape, value, dtype=self.cfg.dtype))

    def reset_parameters(self) -> None:
        """Draw the weights as ``cfg.init_mode`` says; biases become 0, factors 1."""
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
                if "W_" in name:
                    _draw(parameter, self.cfg.init_mode, self.cfg.initializer_range)
                else:
                    parameter.fill_(1.0 if name == "w" else 0.0)


def _draw(parameter: Tensor, mode: str, size: float) -> None:
    if mode == "gpt2":
        nn.init.normal_(parameter, std=size)
    elif mode == "xavier_uniform":
        init_xavier_uniform_(parameter, gain=size)
    elif mode == "xavier_normal":
        init_xavier_normal_(parameter, gain=size)
    elif mode == "kaiming_uniform":
        init_kaiming_uniform_(parameter, gain=size)
    else:
        init_kaiming_normal_(parameter, gain=size)


def soft_capped(x: Tensor, cap: float) -> Tensor:
    """``cap tanh(x / cap)``, or ``x`` where the cap is not positive."""
    return cap * torch.tanh(x / cap) if cap > 0 else x
