"""One process, or several that train one model together."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from mtd_lens.errors import ArgumentError


class OneProcess:
    """What training asks of ``accelerate.Accelerator``, for a process that is alone.

    Accelerate keeps its choice of device for the life of a process, so it is used only where there
    are several.
    """

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Nothing is to be wrapped."""
        return model, optimizer

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        """There is nothing to reduce over."""
        return tensor

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Tensor:
        """Scale gradients that are longer than ``max_norm`` to it."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def wait_for_everyone(self) -> None:
        """Nobody else is there."""


def processes_of(name: str) -> Any:
    """Where this process trains, and with which others.

    Args:
        name: Of the device, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        An :class:`OneProcess` or, under ``accelerate launch`` or ``torchrun`` with several
        processes, an ``accelerate.Accelerator``.

    Raises:
        ArgumentError: A device that cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ArgumentError(
            f"device {name!r} cannot be used here: {error} Use 'cpu', or a device that torch sees."
        ) from error
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return OneProcess(device)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if accelerator.device.type != device.type:
        raise ArgumentError(
            f"device {name!r} was asked for, but the launcher gave {accelerator.device}. Leave "
            "--device out of one of them."
        )
    return accelerator
