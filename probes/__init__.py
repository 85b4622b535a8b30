"""Instruments for testing what a hooked model computes.

They know activations, sites and statistics, and nothing of any task; they take any model with
TransformerLens's hooks.

>>> import probes
>>> sites = {"out": probes.Site("blocks.0.hook_attn_out", positions=[-1])}
>>> probes.read_activations(model, tokens, sites)["out"].shape  # doctest: +SKIP
torch.Size([128, 1, 64])

Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
