"""What is measured of trained models beside their scorecards, and three results of the paper.

Results of Sander et al. (2024, arXiv 2402.05787), measured anew:

``depth``
    The error of trained models of linear attention, 1 to 4 layers on augmented tokens, against as
    many steps of gradient descent with fitted step sizes.
``heads``
    The closed-form loss of the multi-head diagonal model with learned positions on commuting
    unitary matrices, minimised: which position and which heads it uses.
``order``
    How well an autoregression fits the vectors of a sequence in their order, and shuffled.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.families.autoregressive import estimators, references
from mtd_lens.families.autoregressive.task import AutoregressiveTask, Vectors
from mtd_lens.hooked import task_of
from mtd_lens.measures.held_out import N_SEQUENCES, SEED, interval, ratio
from mtd_lens.shapes import PerSequence
from mtd_lens.spaces import last_predictions
from probes.subject import HookedModel, subject_of

DEPTHS = (1, 2, 3, 4)

DIM, LENGTH = 10, 20
HEADS = (1, 2, 4, 6, 8, 10)
STARTS = (0, 1, 2)
STEPS = 4000
START_SCALE = 0.3
LEARNING_RATE = 0.02

NOISES = (0.0, 0.05, 0.1, 0.2, 0.4)

Figures = dict[str, Any]
"""Plain data, as JSON holds it."""


def measure(model: HookedModel) -> Figures:
    """The figures of a model."""
    return {"held_out": held_out(model)}


def held_out(model: HookedModel) -> Figures:
    """Squared error at the last query, of the model and of gradient descent.

    Step sizes are fitted to the truth on other sequences.
    """
    task = task_of(model)
    batch, fit = task.sample(N_SEQUENCES, SEED), task.sample(N_SEQUENCES, SEED + 1)
    found = references.references(task, fit.tokens, fit.truth, batch.tokens)
    steps = n_steps_of(model)
    free = "one step" if steps == 1 else f"{steps} steps, free"
    predictions = {"model": last_predictions(model, batch.tokens, task.outputs)} | {
        name: found[name].prediction for name in dict.fromkeys(("one step", free, "zero"))
    }
    errors = {name: probes.squared_error(batch.truth, value) for name, value in predictions.items()}
    return {
        "n_sequences": N_SEQUENCES,
        "from_truth": {name: interval(value) for name, value in errors.items()},
        "median": float(errors["model"].median()),
        "n_steps": steps,
        "over_as_many_steps": ratio(errors["model"], errors[free]),
    }


def n_steps_of(model: HookedModel) -> int:
    """As many steps of gradient descent as a model has layers, or as many as are fitted."""
    return min(subject_of(model).n_layers, references.MAX_STEPS)


def measure_depth(models: Mapping[str, Iterable[HookedModel]]) -> list[Figures]:
    """Squared error from the truth at the last query: models, and fitted gradient descent.

    Models are trained on all queries. Step sizes are fitted to the last query, but for the prefix
    variant, whose one size is fitted to all of them too.

    Args:
        models: Of one task, by what their kind is called.
    """
    models = {kind: list(members) for kind, members in models.items()}
    task = task_of(next(member for members in models.values() for member in members))
    batch, fit = task.sample(N_SEQUENCES, SEED), task.sample(N_SEQUENCES, SEED + 1)
    found = references.references(task, fit.tokens, fit.truth, batch.tokens)
    truths = fit.tokens[:, 1:] @ fit.matrices.transpose(1, 2)

    def row(source: str, depth: int, predicted: Tensor) -> Figures:
        error = interval(probes.squared_error(batch.truth, predicted))
        return {"source": source, "depth": depth} | error

    rows = [
        row(kind, subject_of(model).n_layers, last_predictions(model, batch.tokens, task.outputs))
        for kind, members in models.items()
        for model in members
    ]
    for depth in DEPTHS:
        name = "one step" if depth == 1 else f"{depth} steps"
        free = name if depth == 1 else f"{name}, free"
        fitted = references.fit_common(fit.tokens, truths, prefix_steps, depth)
        sizes = torch.full((depth,), fitted["step_size"], dtype=torch.float64)
        rows += [
            row("gradient descent", depth, found[name].prediction),
            row("gradient descent, free", depth, found[free].prediction),
            row("gradient descent, prefix", depth, prefix_steps(batch.tokens, sizes)[:, -1]),
        ]
    return rows


def prefix_steps(
    tokens: Vectors, step_sizes: Float[Tensor, " step"]
) -> estimators.PredictedVectors:
    """What causal layers of gradient descent predict at every query."""
    return estimators.residual_steps(tokens, step_sizes, causal=True)


def head_loss(
    position: Float[Tensor, " position"],
    A: Float[Tensor, "head component"],
    B: Float[Tensor, "head component"],
) -> Float[Tensor, ""]:
    """Expected squared error of the multi-head diagonal model, in closed form.

    Head h has diagonal matrices ``A[h]``, ``B[h]`` and scores the key ``s_t`` by its product with
    the query ``s_{T-1}``, weighted by a learned ``position[t]``; the heads' sum is to be
    ``s_{T+1}``. With uniform phases and ``C = Bᵀ A`` the error is ``‖p‖² ‖C‖² + p_{T-1}² Σ_{i≠j}
    (Cᵀ C)_{ij} - 2 p_T tr C + d``: keys other than the query's own add up incoherently.

    Args:
        position: ``[position]``, p_1 … p_T.
        A: ``[head, component]``.
        B: ``[head, component]``.
    """
    C = B.T @ A
    gram = C.T @ C
    coherent = gram.sum() - gram.trace()
    squares = position.square().sum() * C.square().sum() + position[-2].square() * coherent
    return squares - 2 * position[-1] * C.trace() + C.shape[0]


def sampled_head_loss(
    position: Float[Tensor, " position"],
    A: Float[Tensor, "head component"],
    B: Float[Tensor, "head component"],
    n: int,
    seed: int,
) -> PerSequence:
    """The same squared error sequence by sequence, from the model itself."""
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(n, A.shape[1], generator=generator, dtype=torch.float64)
    exponents = torch.arange(1, len(position) + 2)[:, None]
    s = torch.polar(torch.ones_like(angles), angles)[:, None] ** exponents  # s_1 … s_{T+1}
    keys, query, target = s[:, :-1], s[:, -3], s[:, -1]
    scores = torch.einsum("hi,nti,ni->nht", A + 0j, keys, query.conj()) * position
    predicted = torch.einsum("nht,hj,ntj->nj", scores, B + 0j, keys)
    return (predicted - target).abs().square().sum(-1)


def minimise_heads(n_heads: int, seed: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """The loss, and the model, that Adam ends in from a random start."""
    generator = torch.Generator().manual_seed(seed)

    def start(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (START_SCALE * drawn).requires_grad_()

    position, A, B = start(LENGTH), start(n_heads, DIM), start(n_heads, DIM)
    optimizer = torch.optim.Adam([position, A, B], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = head_loss(position, A, B)
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach()), position.detach(), A.detach(), B.detach()


def measure_heads() -> list[Figures]:
    """Where the loss ends for several numbers of heads and starts, and the last one's matrix."""
    rows: list[Figures] = []
    for n_heads in HEADS:
        for seed in STARTS:
            loss, position, A, B = minimise_heads(n_heads, seed)
            unit_A, unit_B = (torch.nn.functional.normalize(x, dim=1) for x in (A, B))
            cosines = (unit_A @ unit_B.T).abs() - (unit_A * unit_B).sum(1).abs().diag()
            rows.append(
                {
                    "n_heads": n_heads,
                    "seed": seed,
                    "loss": loss,
                    "floor": DIM - n_heads,
                    "weight_on_last": float(position[-1].square() / position.square().sum()),
                    "position": (position / position.norm()).tolist(),
                    "largest_cosine_between_heads": float(cosines.max()),
                }
            )
    C = position[-1] * B.T @ A  # the scale is shared between the two
    rows[-1]["matrix"] = C.tolist()
    return rows


def shuffled(tokens: Vectors, seed: int) -> Vectors:
    """Every sequence in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    n, length = tokens.shape[:2]
    order = torch.rand(n, length, generator=generator).argsort(1)
    return tokens[torch.arange(n)[:, None], order]


def fit_error(tokens: Vectors) -> PerSequence:
    """``Σ_j ‖s_j - Ŵ s_{j-1}‖² / Σ_j ‖s_j‖²`` of the least-squares Ŵ of each sequence."""
    estimate = estimators.least_squares(tokens, last_only=True)[:, 0]
    residual = tokens[:, 1:] - tokens[:, :-1] @ estimate.transpose(1, 2)
    return residual.square().sum((1, 2)) / tokens[:, 1:].square().sum((1, 2))


def measure_order() -> list[Figures]:
    """Fits to ordered and to shuffled vectors, by how noisy the sequences are."""
    rows = []
    for noise in NOISES:
        tokens = AutoregressiveTask(5, 32, noise=noise).sample(N_SEQUENCES, SEED).tokens
        for order, vectors in (("ordered", tokens), ("shuffled", shuffled(tokens, SEED))):
            rows.append({"noise": noise, "order": order} | interval(fit_error(vectors)))
    return rows
