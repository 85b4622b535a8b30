"""TEMP"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class HookedModel(Protocol):
    cfg: Any
    hook_dict: Any

    def hooks(self, *a: Any, **k: Any) -> Any: ...


class Subject:
    def __init__(self, model):
        self.model = model
        self.cfg = model.cfg

    def __getattr__(self, n):
        return getattr(self.cfg, n)

    @property
    def n_inputs(self):
        return self.cfg.d_vocab

    @property
    def n_outputs(self):
        return self.cfg.d_vocab_out

    @property
    def vector_size(self):
        return getattr(getattr(self.model, "embed", None), "d_in", None)

    @property
    def has_mlp(self):
        return not self.cfg.attn_only

    @property
    def causal(self):
        return self.cfg.attention_dir == "causal"

    @property
    def normalization(self):
        return self.cfg.normalization_type

    @property
    def positional_embedding(self):
        return self.cfg.positional_embedding_type

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def dtype(self):
        return next(self.model.parameters()).dtype

    @property
    def name(self):
        return getattr(self.cfg, "model_name", None) or type(self.model).__name__


def subject_of(model):
    return Subject(model)
