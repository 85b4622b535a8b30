"""What loaders give: those of other packages, and those that are registered."""

import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from mtd_lens.contracts import Family
from mtd_lens.errors import ArgumentError, ProbesError


def offered(group: str) -> dict[str, Callable[[], Any]]:
    """Loaders that other packages offer; a package is imported when its loader is called."""
    return {
        entry.name: functools.partial(_load_entry, entry)
        for entry in metadata.entry_points(group=group)
    }


def _load_entry(entry: metadata.EntryPoint) -> Any:
    found = entry.load()
    return found if isinstance(found, Family) else found()


def called(loader: Callable[[], Any], what: str, kind: type) -> Any:
    """What a loader returns, if it is of the right kind.

    Raises:
        ArgumentError: The loader failed, or returned something else.
    """
    try:
        found = loader()
    except ProbesError:
        raise
    except Exception as error:
        raise ArgumentError(
            f"the loader of {what} failed: {type(error).__name__}: {error}. Mend what registered "
            "it, or uninstall the package that offers it."
        ) from error
    if not isinstance(found, kind):
        raise ArgumentError(
            f"the loader of {what} returned {type(found).__name__}, which is no "
            f"{kind.__name__}. Mend what registered it."
        )
    return found


def checked_device(device: str | torch.device | None) -> torch.device | None:
    """A device that can be used here; None stays None.

    Raises:
        ArgumentError: It cannot.
    """
    if device is None:
        return None
    try:
        checked = torch.device(device)
        torch.ones(1, device=checked).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"device {device!r} cannot be used here. Use 'cpu', or a device that torch sees, such "
            "as 'cuda' where torch.cuda.is_available()."
        ) from error
    return checked
