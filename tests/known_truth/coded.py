"""Models whose code of the mean depends on the query's own tokens, as trained ones' does."""

import itertools

import torch
from torch import Tensor

import mtd_lens
from mtd_lens import MTDTask, hooked
from mtd_lens.families.mtd.gated import coded
from mtd_lens.families.mtd.plan import Plan
from mtd_lens.hooked import ModelInfo
from probes.subject import HookedModel


def gated(task: MTDTask) -> HookedModel:
    """The mean is stored as ``S_g · 1[y_{t+1-g} = a]``, a component for each lag and token."""
    return mtd_lens.construct(task, form="gated", dtype=torch.float64)


def signed(task: MTDTask) -> HookedModel:
    """The mean is stored as ``S_g · sign of y_{t+1-g}``, a component for each lag."""
    architecture, weights = coded(Plan(task, mtd_lens.best_beta(task)), signs(task)[:, None])
    return hooked.assemble(architecture, weights, ModelInfo(task, "signed"), torch.float64)


def signs(task: MTDTask) -> Tensor:
    """A sign for each token, so that both are about as frequent under the transition."""
    frequency = torch.linalg.matrix_power(task.transition, 1000)[0]
    choices = torch.tensor(list(itertools.product([1.0, -1.0], repeat=task.n_tokens))).double()
    return choices[(choices @ frequency).abs().argmin()]
