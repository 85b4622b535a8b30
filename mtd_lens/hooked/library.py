"""The HookedTransformer and its parts: TransformerLens's, or our own where it has none any more.

TransformerLens 4 has left out the class. Which one to take is decided by its version, since asking
it for the class raises there.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from probes.progress import part, shown

OWN = int(version("transformer-lens").split(".")[0]) >= 4
"""Whether the class is the one of :mod:`mtd_lens.hooked.own`."""

with shown("mtd_lens"), part("loading transformer-lens"):
    if TYPE_CHECKING or not OWN:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.components import Attention, Embed, PosEmbed, Unembed
    else:
        from mtd_lens.hooked.own.attention import Attention
        from mtd_lens.hooked.own.config import HookedTransformerConfig
        from mtd_lens.hooked.own.ends import Embed, PosEmbed, Unembed
        from mtd_lens.hooked.own.transformer import HookedTransformer

__all__ = [
    "OWN",
    "Attention",
    "Embed",
    "HookedTransformer",
    "HookedTransformerConfig",
    "PosEmbed",
    "Unembed",
]
