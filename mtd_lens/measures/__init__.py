"""The tests of claims: a causal model's variables against a model's activations.

Each is a record that is called with a :class:`~mtd_lens.trial.Trial` and makes one kind of
test at every layer, for any family whose causal model follows :mod:`mtd_lens.contracts`. Choices
(layer, head, penalty) are made on the fit split alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
