"""What a checkpoint holds beside the weights: the optimiser's moments, by name of the weight."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtd_lens.errors import ModelError


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, ``WEIGHT/KEY``.

    Args:
        model: What is trained.
        optimizer: Of all its parameters, in their order.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def expected_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the names, shapes and dtypes that AdamW holds once it has taken a step.

    Args:
        model: What is trained.
    """
    step = torch.empty((), dtype=torch.float32, device="meta")
    return {
        f"{name}/{key}": like
        for name, parameter in model.named_parameters()
        for key, like in {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}.items()
    }


def load_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], step: int
) -> None:
    """Set an optimiser to what ``state_of`` returned.

    Args:
        model: What is trained.
        optimizer: Of all its parameters, in their order.
        state: Of the names, shapes and dtypes of ``expected_state``.
        step: How many steps it has taken.

    Raises:
        ModelError: A value that AdamW cannot hold after that many steps.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    index = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ModelError(f"the optimiser's {name} is not finite.")
        weight, _, key = name.rpartition("/")
        if (key == "step" and float(value) != step) or (key == "exp_avg_sq" and (value < 0).any()):
            raise ModelError(f"the optimiser's {name} is not what AdamW holds after step {step}.")
        moments.setdefault(index[weight], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
