"""All that touches transformer_lens: building, drawing and reading HookedTransformers.

Names are imported when they are first used: those of :mod:`mtd_lens.hooked.info` need no
transformer_lens.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
