"""What a HookedTransformer says of its weights: all layers' in one tensor, and products of them."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix, HookedRootModule
from transformer_lens.utilities import composition_scores

from mtd_lens.errors import ModelError
from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.norms import norm_of


def _of(part: str, name: str) -> Any:
    def weight(model: Any) -> Tensor:
        return getattr(getattr(model, part), name)

    return property(weight)


def _stacked(part: str, name: str) -> Any:
    def weights(model: Any) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in model.blocks])

    return property(weights)


def _processed(name: str, *given: str) -> Any:
    """A method: one step of TransformerLens's processing, of a state_dict."""

    def process(model: Any, state_dict: dict[str, Tensor], *args: Any) -> dict[str, Tensor]:
        from transformer_lens.weight_processing import ProcessWeights

        step = getattr(ProcessWeights, name)
        return step(state_dict, *(getattr(model, each) for each in given), *args)

    process.__name__ = name
    return process


class Weights(HookedRootModule):
    """The weights of a model whose parts have TransformerLens's names."""

    cfg: HookedTransformerConfig
    blocks: Any

    W_E, W_pos = _of("embed", "W_E"), _of("pos_embed", "W_pos")
    W_U, b_U = _of("unembed", "W_U"), _of("unembed", "b_U")
    W_Q, W_K = _stacked("attn", "W_Q"), _stacked("attn", "W_K")
    W_V, W_O = _stacked("attn", "W_V"), _stacked("attn", "W_O")
    b_Q, b_K = _stacked("attn", "b_Q"), _stacked("attn", "b_K")
    b_V, b_O = _stacked("attn", "b_V"), _stacked("attn", "b_O")
    W_in, W_out = _stacked("mlp", "W_in"), _stacked("mlp", "W_out")
    b_in, b_out = _stacked("mlp", "b_in"), _stacked("mlp", "b_out")

    @property
    def W_gate(self) -> Tensor | None:
        """Of gated MLPs, ``[layer, d_model, d_mlp]``; None of others."""
        if not self.cfg.gated_mlp:
            return None
        return torch.stack([block.mlp.W_gate for block in self.blocks])

    @property
    def W_E_pos(self) -> Float[Tensor, "row d_model"]:
        """``W_E``, then ``W_pos``."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def QK(self) -> FactoredMatrix:
        """``W_Q W_Kᵀ``, by layer and head."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """``W_V W_O``, by layer and head."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def n_params_total(self) -> int:
        """Entries of all parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def init_weights(self) -> None:
        """Draw every weight as ``cfg.init_mode`` says; biases become 0."""
        if self.cfg.seed is not None:
            torch.manual_seed(self.cfg.seed)
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def all_head_labels(self) -> list[str]:
        """``L0H0`` and so on."""
        layers, heads = range(self.cfg.n_layers), range(self.cfg.n_heads)
        return [f"L{layer}H{head}" for layer in layers for head in heads]

    def all_composition_scores(self, mode: str) -> Float[Tensor, "left_layer left_head layer head"]:
        """How much each head reads of what each earlier one writes (Elhage et al. 2021).

        Args:
            mode: ``"Q"``, ``"K"`` or ``"V"``: by which of the later head's products.

        Returns:
            Scores of pairs; 0 where the second layer is not the later one.
        """
        readers = {"Q": lambda: self.QK, "K": lambda: self.QK.T, "V": lambda: self.OV}
        if mode not in readers:
            raise ModelError(f"mode must be 'Q', 'K' or 'V'; got {mode!r}.")
        scores = composition_scores(self.OV, readers[mode](), broadcast_dims=True)
        layers = torch.arange(self.cfg.n_layers, device=scores.device)
        later = layers[:, None, None, None] < layers[None, None, :, None]
        return torch.where(later, scores, torch.zeros_like(scores))

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """The sum of the biases that layers write.

        Args:
            layer: Of the layers before this one.
            mlp_input: Whether this layer's attention is counted too.
            include_mlp_biases: Whether those of MLPs are.
        """
        total = self.b_U.new_zeros(self.cfg.d_model)
        for index, block in enumerate(self.blocks[: layer + mlp_input]):
            total = total + block.attn.b_O
            if include_mlp_biases and index < layer and not self.cfg.attn_only:
                total = total + block.mlp.b_out
        return total

    def tokens_to_residual_directions(self, tokens: int | Tensor) -> Tensor:
        """The columns of ``W_U``, with ``d_model`` as the last axis.

        Args:
            tokens: One, or a tensor of them; one alone gives ``[d_model]``.
        """
        if isinstance(tokens, str):
            raise ModelError("this model reads no text. Pass tokens as integers.")
        if isinstance(tokens, Tensor) and tokens.numel() == 1:
            return self.W_U[:, int(tokens)]
        return self.W_U.T[tokens]

    fold_layer_norm = _processed("fold_layer_norm", "cfg")
    fold_value_biases = _processed("fold_value_biases", "cfg")
    center_writing_weights = _processed("center_writing_weights", "cfg")
    center_unembed = _processed("center_unembed")
    refactor_factored_attn_matrices = _processed("refactor_factored_attn_matrices", "cfg")

    def process_weights_(
        self,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Rewrite the weights in a form that is easier to read; the probabilities stay.

        Args:
            fold_ln: Whether weights of normalisation layers are put into those that follow.
            center_writing_weights: Whether what is written has mean 0.
            center_unembed: Whether logits have mean 0.
            refactor_factored_attn_matrices: Whether heads' factors are made alike.
        """
        self.load_and_process_state_dict(
            self.state_dict(),
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )

    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Load weights in that form.

        Args:
            state_dict: Of a model of this shape.
            fold_ln: See :meth:`process_weights_`, as of the others.
            center_writing_weights: See there.
            center_unembed: See there.
            fold_value_biases: Whether biases of values are put into that of what heads write.
            refactor_factored_attn_matrices: See there.
        """
        from transformer_lens.weight_processing import ProcessWeights

        folds = {"LN": "LNPre", "RMS": "RMSPre"}
        if fold_ln := fold_ln and self.cfg.normalization_type in folds:
            self.cfg.normalization_type = folds[str(self.cfg.normalization_type)]
        weights = ProcessWeights.process_weights(
            dict(state_dict),
            self.cfg,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        if fold_ln:
            self._without_norm_weights()
        self.load_state_dict(weights, strict=False)

    def _without_norm_weights(self) -> None:
        self.ln_final = norm_of(self.cfg, final=True)
        for block in self.blocks:
            block.ln1 = norm_of(self.cfg)
            if not self.cfg.attn_only:
                block.ln2 = norm_of(self.cfg)
                block.mlp.drop_norm_weights()
        self.setup()
