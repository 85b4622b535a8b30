"""Batched activations at named sites, only those asked for.

Models are left as they were found: hooks of ours are removed (also after an exception), those of
the caller stay, and neither the mode nor the weights change.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from probes.sites import Site, check_hooks

BATCH_SIZE = 32

Hook = tuple[str, Callable[..., Tensor | None]]


@runtime_checkable
class Readable(Protocol):
    """Anything with a hook name that can read its part of an activation."""

    @property
    def hook(self) -> str: ...  # noqa: D102

    def read(self, activation: Tensor) -> Tensor: ...  # noqa: D102


def read_activations(
    model: Any, tokens: Tensor, sites: Mapping[str, Readable], batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """Activations at ``sites`` for every sequence, under the same names.

    Blocks after the last site are not run.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        sites: What to read, by a name of the caller's.
        batch_size: Sequences a forward pass.

    Raises:
        SiteError: A hook that the model does not have.
    """
    return _run(model, tokens, sites, batch_size, stop=_last_layer(sites.values()))[0]


def run_and_capture(
    model: Any, tokens: Tensor, sites: Mapping[str, Readable], batch_size: int = BATCH_SIZE
) -> tuple[dict[str, Tensor], Tensor]:
    """What ``read_activations`` returns, and the outputs at the last position."""
    return _run(model, tokens, sites, batch_size, stop=None)


def _run(
    model: Any,
    tokens: Tensor,
    sites: Mapping[str, Readable],
    batch_size: int,
    stop: int | None,
) -> tuple[dict[str, Tensor], Tensor]:
    check_hooks(model, (site.hook for site in sites.values()))
    found: dict[str, list[Tensor]] = {name: [] for name in sites}

    def reader(name: str, site: Readable) -> Hook:
        def keep(activation: Tensor, hook: Any) -> None:
            found[name].append(site.read(activation).detach())

        return site.hook, keep

    hooks = [reader(name, site) for name, site in sites.items()]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        outputs = [model(batch, stop_at_layer=stop)[:, -1] for batch in tokens.split(batch_size)]
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(outputs)


def last_outputs(model: Any, tokens: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """The model's output at the last position, ``[sequence, d_vocab_out]``."""
    return _run(model, tokens, {}, batch_size, stop=None)[1]


def _last_layer(sites: Iterable[Readable]) -> int | None:
    """The layer before which a forward pass may stop, or None where it must run to the end."""
    layers = [Site(site.hook).layer for site in sites]
    known = [layer for layer in layers if layer is not None]
    return max(known) + 1 if len(known) == len(layers) and known else None
