"""Mixture of Transition Distributions (D'Angelo & Flammarion 2026, arXiv 2604.10848)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
