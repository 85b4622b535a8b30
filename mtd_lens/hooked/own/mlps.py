"""MLPs: plain and gated ones."""

import torch
from torch import Tensor
from torch.nn import functional
from transformer_lens.hook_points import HookPoint

from mtd_lens.hooked.own.config import ACTIVATIONS, HookedTransformerConfig
from mtd_lens.hooked.own.norms import LayerNorm, LayerNormPre
from mtd_lens.hooked.own.part import Part


class MLP(Part):
    """``act(x W_in + b_in) W_out + b_out``; some activations are normalised in between."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        assert cfg.act_fn is not None
        assert cfg.d_mlp is not None
        self.act_fn, self.d_mlp = ACTIVATIONS[cfg.act_fn], cfg.d_mlp
        if cfg.is_layer_norm_activation():
            self.hook_mid = HookPoint()  # [batch, position, d_mlp]
            kind = LayerNorm if cfg.normalization_type == "LN" else LayerNormPre
            self.ln: LayerNormPre = kind(cfg, self.d_mlp)
        self.add_weights()
        self.hook_pre = HookPoint()  # [batch, position, d_mlp]
        if cfg.gated_mlp:
            self.hook_pre_linear = HookPoint()  # [batch, position, d_mlp]
        self.hook_post = HookPoint()  # [batch, position, d_mlp]

    def add_weights(self) -> None:
        """Make the parameters, in the order that random draws follow."""
        self.W_in = self.weight(self.cfg.d_model, self.d_mlp)
        self.b_in = self.constant(0.0, self.d_mlp)
        self.W_out = self.weight(self.d_mlp, self.cfg.d_model)
        self.b_out = self.constant(0.0, self.cfg.d_model)

    def drop_norm_weights(self) -> None:
        """Normalise neurons, where they are, without the weights that were folded into others."""
        if self.cfg.is_layer_norm_activation():
            self.ln = LayerNormPre(self.cfg, self.d_mlp)

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes."""
        active = self.act_fn(self.hook_pre(_affine(x, self.W_in, self.b_in)))
        if self.cfg.is_layer_norm_activation():
            active = self.ln(self.hook_mid(active))
        return _affine(self.hook_post(active), self.W_out, self.b_out)


class GatedMLP(MLP):
    """``(act(x W_gate) · (x W_in) + b_in) W_out + b_out``."""

    def add_weights(self) -> None:
        """Make the parameters, in the order that random draws follow."""
        self.W_in = self.weight(self.cfg.d_model, self.d_mlp)
        self.W_out = self.weight(self.d_mlp, self.cfg.d_model)
        self.W_gate = self.weight(self.cfg.d_model, self.d_mlp)
        self.b_in = self.constant(0.0, self.d_mlp)
        self.b_out = self.constant(0.0, self.cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes."""
        active = self.act_fn(self.hook_pre(functional.linear(x, self.W_gate.T.contiguous())))
        if self.cfg.is_layer_norm_activation():
            active = self.ln(self.hook_mid(active))
        else:
            linear = functional.linear(x, self.W_in.T.contiguous())
            active = active * self.hook_pre_linear(linear) + self.b_in
        return functional.linear(self.hook_post(active), self.W_out.T.contiguous(), self.b_out)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b``, in one rounding."""
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
