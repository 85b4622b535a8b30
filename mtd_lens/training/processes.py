"""One process, or several that train one model together, and how each computes."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from mtd_lens.errors import ArgumentError
from probes import passes


@dataclass(frozen=True)
class Processes:
    """This process, and the others that train the same model.

    Attributes:
        device: Where this one computes.
        count: How many they are.
        index: Which of them this is; the first writes what is written.
    """

    device: torch.device
    count: int = 1
    index: int = 0

    @property
    def is_main(self) -> bool:
        """This process is the one that writes."""
        return self.index == 0

    def shared(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are the mean over the processes."""
        if self.count == 1:
            return model
        placed = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=placed)

    def mean(self, values: Float[Tensor, "step"]) -> Float[Tensor, "step"]:
        """The mean over the processes of what each of them has."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values / self.count

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        if self.count == 1:
            return number
        numbers = torch.tensor(number, device=self.device)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers)

    def wait(self) -> None:
        """Until all have come this far."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def processes_on(name: str) -> Iterator[Processes]:
    """Where this process trains, and with which others: those of ``torchrun``, if it started this.

    Args:
        name: Of the device, such as ``"cpu"`` or ``"cuda"``; of several processes on GPUs each has
            its own.

    Raises:
        ArgumentError: A device that cannot be used here.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        device = torch.device(name)
        if count > 1 and device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ArgumentError(
            f"device {name!r} cannot be used here: {error} Use 'cpu', or a device that torch sees."
        ) from error
    if count == 1:
        yield Processes(device)
        return
    joined_here = not distributed.is_initialized()
    if joined_here:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(device, count, distributed.get_rank())
    finally:
        if joined_here:
            distributed.destroy_process_group()


@contextmanager
def own_modes(device: torch.device, n_threads: int) -> Iterator[None]:
    """The run's threads and torch's own modes, whatever the caller's are; they are as before after.

    Gradients are on, autocasting and inference mode off, and numbers float32 where nothing is said.

    Args:
        device: Where it computes.
        n_threads: Of a CPU.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        stack.callback(torch.set_default_dtype, dtype)
        stack.enter_context(passes.own_modes())
        stack.enter_context(torch.enable_grad())
        torch.set_num_threads(n_threads)
        torch.set_default_dtype(torch.float32)
        yield
