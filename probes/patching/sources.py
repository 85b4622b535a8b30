"""Where patched values come from: a run on tokens, or the activations of one that was made before.

A user of TransformerLens has the latter in an ``ActivationCache``, of ``model.run_with_cache``.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from probes import checks
from probes.capture import check_tokens, read_activations
from probes.errors import DataError, SiteError, nearest, shown
from probes.patching.edits import Edit
from probes.patching.engines import HookedLoop
from probes.sites import Site, hook_name
from probes.subject import HookedModel, subject_of

DIRECTIONS = ("denoising", "noising")


@runtime_checkable
class Cache(Protocol):
    """Activations by the names of their hooks: an ``ActivationCache``, or a dict."""

    def keys(self) -> Any: ...  # noqa: D102

    def __getitem__(self, hook: Any) -> Any: ...


Source = Tensor | Cache
"""Tokens, ``[sequence, position]``, or the activations of a run on such ones."""


def base_and_source(
    model: HookedModel, clean: Source, corrupted: Source, direction: str
) -> tuple[Tensor, "Tensor | CachedRun"]:
    """The runs that are patched, and those that values come from.

    Args:
        model: A hooked model.
        clean: ``[sequence, position]``, or a cache where it is the source.
        corrupted: The same.
        direction: ``"denoising"`` or ``"noising"``.

    Raises:
        DataError: No sequences in pairs that the model can read, or a cache of what is patched.
    """
    checks.choice(direction, "direction", DIRECTIONS, DataError)
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    if isinstance(base, Cache):
        name = "corrupted" if direction == "denoising" else "clean"
        raise DataError(
            f"{name} must be tokens, since {direction} patches its runs; got {shown(base)}. A "
            "cache can stand for the other one."
        )
    check_tokens(model, base)
    if isinstance(source, Cache):
        return base, CachedRun(model, base, source)
    check_tokens(model, source)
    if base.shape != source.shape:
        raise DataError(
            "clean and corrupted must be sequences in pairs, of one shape; got "
            f"{tuple(torch.as_tensor(clean).shape)} and {tuple(torch.as_tensor(corrupted).shape)}."
        )
    return base, source


class CachedRun:
    """A run whose activations are at hand, sequence by sequence beside those that are patched.

    Args:
        model: A hooked model.
        base: ``[sequence, position]``: the runs that are patched.
        cache: By hook, the source's activations, in the shapes that the base's have; of one
            sequence the first axis may be missing.
    """

    def __init__(self, model: HookedModel, base: Tensor, cache: Cache) -> None:
        self.model, self.base, self.cache = model, base, cache

    def read(self, hooks: Iterable[str]) -> dict[str, Tensor]:
        """By hook, its activation, ``[sequence, …]``, as the model would have it.

        Args:
            hooks: Full names.

        Raises:
            SiteError: One that the cache does not hold.
            DataError: An activation of another kind or shape, or one that is not finite.
        """
        names = list(hooks)
        sites = {name: Site(name) for name in names}
        like = read_activations(self.model, self.base[:1], sites) if names else {}
        return {name: self._checked(name, like[name]) for name in names}

    def outputs(self, rows: int, *, last_only: bool) -> Tensor | None:
        """The source's own outputs, if the cache holds the last block's ``resid_post``.

        Args:
            rows: Sequences a forward pass.
            last_only: Whether they are of the last position alone.
        """
        last = subject_of(self.model).n_layers - 1
        hook = hook_name("resid_post", last)
        if not self._holds(hook):
            return None
        loop = HookedLoop(self.model, self.base, "resid_post", last_only=last_only, rows=rows)
        whole = Edit((), tuple(range(self.base.shape[1])))
        ((_, outputs),) = loop.run(last, self.read([hook])[hook], [whole])
        return outputs

    def _holds(self, hook: str) -> bool:
        try:
            self.cache[hook]
        except (KeyError, IndexError, TypeError):
            return False
        return True

    def _checked(self, hook: str, like: Tensor) -> Tensor:
        if not self._holds(hook):
            known = [str(name) for name in self.cache.keys()]  # noqa: SIM118 - it may lack __iter__
            raise SiteError(
                f"the cache does not hold {hook!r}. {nearest(hook, known)} Keep it in "
                "run_with_cache, or pass tokens."
            )
        value = self.cache[hook]
        n, shape = len(self.base), tuple(like.shape[1:])
        if isinstance(value, Tensor) and n == 1 and value.shape == shape:
            value = value[None]
        fits = isinstance(value, Tensor) and value.is_floating_point()
        if not fits or value.shape != (n, *shape):
            raise DataError(
                f"the cache's {hook!r} must be a floating-point tensor of shape {(n, *shape)}, as "
                f"the {n} patched sequences have it; got {shown(value)}. Cache a run on as many "
                "sequences of the same length, and keep the batch axis."
            )
        if not value.isfinite().all():
            raise DataError(f"the cache's {hook!r} holds NaN or infinity.")
        return value.detach().to(like)


def read_source(
    model: HookedModel, source: Tensor | CachedRun, hooks: Iterable[str]
) -> Mapping[str, Tensor]:
    """By hook, the source's activations, ``[sequence, …]``.

    Args:
        model: A hooked model.
        source: As ``base_and_source`` has it.
        hooks: Full names.
    """
    if isinstance(source, CachedRun):
        return source.read(hooks)
    return read_activations(model, source, {name: Site(name) for name in hooks})
