"""Figures fit for a paper, each with the data behind it.

Drawn through matplotlib's figure objects alone: pyplot is never imported, and no figure stays open.
matplotlib is imported when a figure is asked for, pandas when its data are written.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
