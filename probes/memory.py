"""Memory: how much of it is free, and running out of it as an error of our own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from probes.errors import MemoryLimitError

_EXHAUSTED = re.compile(
    r"(CUDA|HIP|MPS|XPU|backend) .*out of memory|DefaultCPUAllocator|_STATUS_ALLOC_FAILED"
)
"""In the RuntimeErrors of torch and of the libraries under it, on CPUs and elsewhere."""


def free_memory(device: torch.device | str) -> int:
    """Bytes that are free on a device."""
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept  # what torch keeps it uses again
    return int(psutil.virtual_memory().available)


def check_memory(needed: int, what: str, advice: str, device: torch.device | str = "cpu") -> None:
    """Refuse at once what cannot fit.

    Args:
        needed: Bytes that it takes at least.
        what: It is, as the subject of a sentence.
        advice: What to lower.
        device: Where it is to be.

    Raises:
        MemoryLimitError: No so much is free.
    """
    free = free_memory(device)
    if needed > free:
        least, there = (min(n, 2**1000) / 2**30 for n in (needed, free))  # floats end at 2**1024
        raise MemoryLimitError(
            f"{what} needs at least {least:,.3g} GiB of memory; {there:,.3g} GiB are free. {advice}"
        )


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Say what to lower where memory runs out.

    Args:
        advice: What to lower.

    Raises:
        MemoryLimitError: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _EXHAUSTED.search(str(error)):
            raise
        first = (str(error).splitlines() or ["MemoryError"])[0]
        raise MemoryLimitError(f"memory ran out ({first:.200}). {advice}") from error
