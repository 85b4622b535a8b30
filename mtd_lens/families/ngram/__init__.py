"""In-context n-grams (Chen, Sheen, Wang & Yang 2024, arXiv 2409.10559)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
