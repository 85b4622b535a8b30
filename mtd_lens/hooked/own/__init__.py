"""A HookedTransformer of our own, for the versions of TransformerLens that have none.

It is written on TransformerLens's ``HookedRootModule`` and ``HookPoint``, and has the hooks, the
names and order of weights, the methods and the numbers of the class of version 3, which the tests
hold it against. What it does not do it refuses by name.
"""
