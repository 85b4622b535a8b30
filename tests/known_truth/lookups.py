"""Windows of tokens looked up by the units of an MLP, exactly."""

from functools import partial

import torch
from torch import Tensor

import mtd_lens
from known_truth.making import build
from mtd_lens import MTDTask
from mtd_lens.architectures.layout import Layout
from mtd_lens.architectures.parts import Layer, Part, copies, read, units, written
from mtd_lens.families.mtd import stages
from probes.subject import HookedModel


def looked_up(task: MTDTask) -> HookedModel:
    """Layer 0's attention copies the window; its MLP looks γ up, one unit a window."""
    q, m, beta = task.n_tokens, task.order, mtd_lens.best_beta(task)
    lags = range(1, m + 1)
    layout = stages.lay_out(task, **{f"token at lag {g}": q for g in lags})
    likelihoods = torch.stack([window_likelihoods(task, g) for g in lags], -1)
    gamma = likelihoods / likelihoods.sum(-1, keepdim=True)
    lookup = window_units(task, layout, written(layout, "lag", gamma))
    ends = stages.ends(task, layout)
    layers = [
        Layer([copies(layout, g, f"token at lag {g}") for g in lags], [lookup]),
        Layer([stages.average(task, layout, resting=False)]),
        Layer([stages.read_out(task, layout, beta)]),
    ]
    return build(task, layout, layers, ends, "looked up")


def windows(task: MTDTask) -> Tensor:
    """All windows of a token and its parents at lags 1 … m, ``[window, offset]``."""
    return torch.cartesian_prod(*[torch.arange(task.n_tokens)] * (task.order + 1))


def window_likelihoods(task: MTDTask, lag: int) -> Tensor:
    """The probability of each window's token given its parent at a lag, ``[window]``."""
    found = windows(task)
    return task.transition[found[:, lag], found[:, 0]]


def window_units(task: MTDTask, layout: Layout, writes: Tensor) -> Part:
    """A unit for each window, 1 where it stands at an evidence position and 0 elsewhere."""
    q, m, found = task.n_tokens, task.order, windows(task)
    one_hot = partial(torch.nn.functional.one_hot, num_classes=q)
    reads = read(layout, "token", one_hot(found[:, 0]).T.double())
    for g in range(1, m + 1):
        reads += read(layout, f"token at lag {g}", one_hot(found[:, g]).T.double())
    evidence = (torch.arange(task.seq_len) >= m).double()
    reads += read(layout, "position", evidence[:, None].expand(-1, len(found)))
    return units(reads, torch.full((len(found),), -(m + 1.0)).double(), writes)
