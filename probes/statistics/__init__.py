"""Statistics over sequences: divergences, bootstrap intervals, and tests of many sites."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
