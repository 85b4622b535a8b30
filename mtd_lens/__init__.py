"""Test algorithmic claims about transformers: what a layer computes, and what would follow from it.

>>> import mtd_lens
>>> model = mtd_lens.load_model("mtd-q5-m3-t64/constructed-absolute")
>>> print(mtd_lens.score(model))  # doctest: +SKIP

Names are imported when they are first used: ``import mtd_lens`` loads neither torch nor
transformer_lens.
"""

import lazy_loader

from probes import twins

twins.BUILDERS.append("mtd_lens.hooked.bridges:bridge_twin")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
