"""Random models of several architectures, small enough to patch everywhere."""

import warnings

import torch

from mtd_lens.architectures.layout import Architecture
from mtd_lens.hooked import (
    HookedTransformer,
    HookedTransformerConfig,
    ModelInfo,
    assemble,
    randomized,
)

LENGTH = 6
SHAPE = {
    "n_layers": 3,
    "d_model": 12,
    "n_ctx": LENGTH,
    "n_heads": 2,
    "d_head": 3,
    "d_vocab": 7,
    "act_fn": "gelu",
    "default_prepend_bos": False,
    "device": "cpu",
}
ARCHITECTURES = {
    "attn-only": {"attn_only": True, "normalization_type": None},
    "gpt": {"d_mlp": 16, "normalization_type": "LN"},
    "grouped": {"d_mlp": 16, "normalization_type": "LN", "n_key_value_heads": 1},
    "rotary": {
        "d_mlp": 16,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "d_head": 4,
    },
    "local": {
        "attn_only": True,
        "normalization_type": "LN",
        "use_local_attn": True,
        "attn_types": ["local", "global", "local"],
        "window_size": 3,
    },
}
NAMES = (*ARCHITECTURES, "relative")
PAD = 6


def build(name, dtype=torch.float64):
    if name == "relative":
        shape = Architecture("relative", "logits", 3, 2, 12, 3, LENGTH, 7)
        return randomized(assemble(shape, {}, ModelInfo(None, "x"), dtype), 3, "random")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        cfg = HookedTransformerConfig(**{**SHAPE, **ARCHITECTURES[name]}, dtype=dtype)
        model = HookedTransformer(cfg).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():  # biases too, and larger than they are at the start
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.3 * draw.to(parameter)
    return model


def users_model(**shape):
    """What a user may bring: two layers, normalisation, MLPs, untrained."""
    fixed = {
        "n_layers": 2,
        "d_head": 8,
        "act_fn": "gelu",
        "d_vocab": 3,
        "normalization_type": "LN",
        "device": "cpu",
    }
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(7)
        return HookedTransformer(HookedTransformerConfig(**fixed, **shape))


def sequences(n=3, padded=False, seed=2):
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(PAD, (2, n, LENGTH), generator=generator)
    if padded:
        for row in range(n):
            clean[row, :row], corrupted[row, :row] = PAD, PAD
    return clean, corrupted


def metric(logits):
    return logits[:, 0] - logits[:, 1]


def two_layers(**changes):
    """A small model with the initial weights of TransformerLens."""
    settings = {
        "n_layers": 2,
        "d_model": 24,
        "n_ctx": 12,
        "d_head": 8,
        "n_heads": 3,
        "d_vocab": 5,
        "d_vocab_out": 5,
        "act_fn": "gelu",
        "d_mlp": 32,
        "normalization_type": "LN",
        "device": "cpu",
    }
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**{**settings, **changes}))
    torch.set_rng_state(state)
    return model.eval()


def special(model):
    """Names of the classes in a model that are not a HookedTransformer's own."""
    homes = ("mtd_lens.hooked.build", "mtd_lens.hooked.modules")
    return {type(module).__name__ for module in model.modules() if type(module).__module__ in homes}
