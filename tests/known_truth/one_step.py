"""Models that do one step of mirror descent, whole, broken, spread out or in other coordinates."""

from collections.abc import Sequence

import torch
from torch import Tensor

import mtd_lens
from known_truth.making import build, identity, noise
from mtd_lens import MTDTask, hooked
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    scaled,
)
from mtd_lens.architectures.writing import eye
from mtd_lens.families.mtd import stages
from mtd_lens.families.mtd.absolute import construct_absolute
from mtd_lens.families.mtd.plan import Plan
from mtd_lens.hooked import ModelInfo
from probes.subject import HookedModel

SEED = 11
FIRST = 5
NOISE = 6


def whole(task: MTDTask, form: str = "absolute", factor: float = 1.0) -> HookedModel:
    """The construction with ``factor`` times the task's best β."""
    return mtd_lens.construct(task, factor * mtd_lens.best_beta(task), form, dtype=torch.float64)


def broken(task: MTDTask, **changes: object) -> HookedModel:
    """The construction with fields of its plan changed."""
    plan = Plan(task, mtd_lens.best_beta(task), **changes)
    architecture, weights = construct_absolute(plan)
    return hooked.assemble(architecture, weights, ModelInfo(task, "broken"), torch.float64)


def transposed(task: MTDTask) -> HookedModel:
    """Layer 0 takes the transition's rows for its columns."""
    return broken(task, content=task.transition.T.contiguous())


def shifted_rows(task: MTDTask) -> HookedModel:
    """Layer 0 takes each row of the transition for the next one."""
    return broken(task, content=task.transition.roll(1, 0))


def layered(
    task: MTDTask, name: str, layers: Sequence[Sequence[Part]], **further: int
) -> HookedModel:
    """A model of attention layers, each a list of groups of heads."""
    layout = stages.lay_out(task, **further)
    built = [Layer(groups) for groups in layers]
    return build(task, layout, built, stages.ends(task, layout), name)


def first_positions(task: MTDTask) -> Tensor:
    """The mean over the first evidence positions, as a pattern."""
    pattern = stages.shares(task)
    pattern[:, task.order + FIRST :] = 0.0
    return pattern / pattern.sum(1, keepdim=True).clamp_min(1e-9)


def first_only(task: MTDTask) -> HookedModel:
    """The mean is that of the first evidence positions only, and so are the predictions."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    average = stages.average(task, layout, first_positions(task))
    layers = [[stages.responsibilities(task, layout)], [average]]
    return layered(task, "first only", [*layers, [stages.read_out(task, layout, beta)]])


def first_beside(task: MTDTask) -> HookedModel:
    """Layer 1 holds the mean of the first positions, unread; layer 3 does what is read."""
    layout, beta = stages.lay_out(task, copy=task.order), mtd_lens.best_beta(task)
    first = stages.average(task, layout, first_positions(task), target="copy")
    layers = [
        [stages.responsibilities(task, layout)],
        [first],
        [],
        [stages.average(task, layout)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "first beside", layers, copy=task.order)


def first_and_rest(task: MTDTask) -> HookedModel:
    """Layer 1 writes the mean A of the first positions, layer 3 adds S − A; their sum is read."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    first = stages.average(task, layout, first_positions(task))
    layers = [
        [stages.responsibilities(task, layout)],
        [first],
        [],
        [stages.average(task, layout), scaled(first, -1.0)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "first and rest", layers)


def interleaved(task: MTDTask) -> HookedModel:
    """Layer 1 sums over every second position, layer 3 over the others; their sum is read."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    even = stages.shares(task) * (torch.arange(task.seq_len) % 2 == 0)
    layers = [
        [stages.responsibilities(task, layout)],
        [stages.average(task, layout, even)],
        [],
        [stages.average(task, layout, stages.shares(task) - even)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "interleaved", layers)


def split(task: MTDTask, early: float, read_outs: Sequence[float] = (1.0,)) -> HookedModel:
    """Layer 1 writes ``early · S``, layer 3 the rest; further layers each read out a share."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    average, read_out = stages.average(task, layout), stages.read_out(task, layout, beta)
    layers = [
        [stages.responsibilities(task, layout)],
        [scaled(average, early)],
        [],
        [scaled(average, 1 - early)],
        *[[scaled(read_out, share)] for share in read_outs],
    ]
    return layered(task, "split", layers)


def responsibilities_in_halves(task: MTDTask) -> HookedModel:
    """Layers 0 and 1 write half of γ each."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    half = scaled(stages.responsibilities(task, layout), 0.5)
    layers = [[half], [half], [stages.average(task, layout)]]
    return layered(task, "γ in halves", [*layers, [stages.read_out(task, layout, beta)]])


def all_in_halves(task: MTDTask) -> HookedModel:
    """Two layers each for γ, for its mean and for the read-out, each writing half."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    stage = (
        stages.responsibilities(task, layout),
        stages.average(task, layout),
        stages.read_out(task, layout, beta),
    )
    return layered(task, "in halves", [[scaled(group, 0.5)] for group in stage for _ in range(2)])


def stored_unused(task: MTDTask) -> HookedModel:
    """Layer 1 stores S where nothing reads; layer 3 computes the S that is read."""
    layout, beta = stages.lay_out(task, stored=task.order), mtd_lens.best_beta(task)
    layers = [
        [stages.responsibilities(task, layout)],
        [stages.average(task, layout, target="stored")],
        [],
        [stages.average(task, layout)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "stored, never used", layers, stored=task.order)


def stored_only(task: MTDTask) -> HookedModel:
    """Layer 1 stores S where nothing reads, and nothing else has it: weights are uniform."""
    layout, beta = stages.lay_out(task, stored=task.order), mtd_lens.best_beta(task)
    layers = [
        [stages.responsibilities(task, layout)],
        [stages.average(task, layout, target="stored")],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "stored only", layers, stored=task.order)


def spaced(task: MTDTask) -> HookedModel:
    """The construction with layers between that do nothing."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    used = [
        [stages.responsibilities(task, layout)],
        [stages.average(task, layout)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "spaced", [groups for layer in used for groups in ([], layer)] + [[]])


def noisy(task: MTDTask) -> HookedModel:
    """Heads with random weights beside every stage, writing where nothing but noise reads."""
    layout, beta = stages.lay_out(task, noise=NOISE), mtd_lens.best_beta(task)
    used = [
        stages.responsibilities(task, layout),
        stages.average(task, layout),
        stages.read_out(task, layout, beta),
    ]
    layers = [[group, noise(layout, 2, "noise", SEED + i)] for i, group in enumerate(used)]
    return layered(task, "noisy", layers, noise=NOISE)


def plain_layers(task: MTDTask) -> list[Layer]:
    """The three layers of the construction."""
    layout, beta = stages.lay_out(task), mtd_lens.best_beta(task)
    return [
        Layer([stages.responsibilities(task, layout)]),
        Layer([stages.average(task, layout)]),
        Layer([stages.read_out(task, layout, beta)]),
    ]


def rotated(task: MTDTask) -> HookedModel:
    """The construction in a random orthogonal basis of the residual stream."""
    layout = stages.lay_out(task)
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn((layout.size, layout.size), generator=generator).double()
    basis = torch.linalg.qr(drawn).Q
    ends = stages.ends(task, layout)
    return build(task, layout, plain_layers(task), ends, "rotated", basis)


def mixing(task: MTDTask) -> Tensor:
    """A matrix that is invertible, well conditioned, and neither symmetric nor orthogonal."""
    m = task.order
    return 1.5 * eye(m).roll(1, 0) + 0.5 * torch.ones(m, m).triu().double()


def mixed(task: MTDTask) -> HookedModel:
    """The construction with linear mixtures of the lags' γ in place of γ."""
    layout = stages.lay_out(task)
    basis = eye(layout.size)
    basis[layout["lag"], layout["lag"]] = mixing(task)
    return build(task, layout, plain_layers(task), stages.ends(task, layout), "mixed", basis)


def with_identity(task: MTDTask) -> HookedModel:
    """The construction, and a layer that stores which sequence it is, used for nothing."""
    layout = stages.lay_out(task, identity=task.n_tokens)
    beta = mtd_lens.best_beta(task)
    layers = [
        [stages.responsibilities(task, layout)],
        [stages.average(task, layout)],
        [identity(task, layout, "identity", SEED)],
        [stages.read_out(task, layout, beta)],
    ]
    return layered(task, "identity beside", layers, identity=task.n_tokens)


def identity_only(task: MTDTask) -> HookedModel:
    """A layer that stores which sequence it is, and uniform mixture weights."""
    layout = stages.lay_out(task, identity=task.n_tokens)
    layers = [
        [identity(task, layout, "identity", SEED)],
        [stages.read_out(task, layout, mtd_lens.best_beta(task))],
    ]
    return layered(task, "identity only", layers, identity=task.n_tokens)


def uniform(task: MTDTask) -> HookedModel:
    """Every token is as likely as any other, whatever came before; heads write where none reads."""
    layout = stages.lay_out(task, noise=NOISE)
    ends = stages.ends(task, layout)
    ends["pos_embed.W_pos"][:, layout["output"]] = 1 / task.n_tokens
    ends["unembed.W_U"][layout["output"]] = eye(task.n_tokens)
    layers = [Layer([noise(layout, 2, "noise", SEED + i)]) for i in range(3)]
    return build(task, layout, layers, ends, "uniform")
