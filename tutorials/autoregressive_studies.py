"""Three results of Sander et al. (2024, arXiv 2402.05787), measured anew.

``depth``
    The error of trained models of linear attention, 1 to 4 layers on augmented tokens, against as
    many steps of gradient descent with fitted step sizes.
``heads``
    The closed-form loss of the multi-head diagonal model with learned positions on commuting
    unitary matrices, minimised: which position and which heads it uses.
``order``
    How well an autoregression fits the vectors of a sequence in their order, and shuffled.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from model_pages import DATA, SEED
from torch import Tensor

import mtd_lens
import probes
from mtd_lens import AutoregressiveTask
from mtd_lens.families.autoregressive import estimators, references
from mtd_lens.families.autoregressive.claims import predicted_vectors
from mtd_lens.results import forms as render
from mtd_lens.views.plots import style
from probes import files

TASK = "ar-d5-t32"
DEPTHS = (1, 2, 3, 4)
TRAINED = (
    *(f"trained-linear-augmented-{depth}l-s0" for depth in DEPTHS),
    "trained-softmax-augmented-2l-s0",
)
N_SEQUENCES = 4096

DIM, LENGTH = 10, 20
HEADS = (1, 2, 4, 6, 8, 10)
STARTS = (0, 1, 2)
STEPS = 4000

NOISES = (0.0, 0.05, 0.1, 0.2, 0.4)


def measure_depth(n_sequences: int = N_SEQUENCES, seed: int = SEED) -> list[dict[str, Any]]:
    """Squared error from the truth at the last query: models, and fitted gradient descent.

    Models are trained on all queries. Step sizes are fitted to the last query, but for the prefix
    variant, whose one size is fitted to all of them too.
    """
    task = mtd_lens.load_task(TASK)
    batch, fit = task.sample(n_sequences, seed), task.sample(n_sequences, seed + 1)
    found = references.reference_predictions(task, fit.tokens, fit.truth, batch.tokens)
    truths = fit.tokens[:, 1:] @ fit.matrices.transpose(1, 2)
    rows = []

    def add(source: str, depth: int, predicted: Tensor, fitted: Any = None) -> None:
        interval = probes.mean_interval(probes.squared_error(batch.truth, predicted), seed=seed)
        row = {"source": source, "depth": depth, "error": interval.score}
        rows.append(row | {"low": interval.low, "high": interval.high, "fitted": fitted or {}})

    for name in TRAINED:
        model = mtd_lens.load_model(f"{TASK}/{name}")
        kind = name.split("-")[1]
        add(f"{kind} attention", model.cfg.n_layers, predicted_vectors(model, batch.tokens, task))
    for depth in DEPTHS:
        name = "one step" if depth == 1 else f"{depth} steps"
        for kind in ("", ", free"):
            add(f"gradient descent{kind}", depth, *found[name if depth == 1 else f"{name}{kind}"])
        fitted = references.fit_common(fit.tokens, truths, prefix_steps, depth)
        sizes = torch.full((depth,), fitted["step_size"], dtype=torch.float64)
        prefix = prefix_steps(batch.tokens, sizes)[:, -1]
        add("gradient descent, prefix", depth, prefix, fitted)
    return rows


def prefix_steps(tokens: Tensor, step_sizes: Tensor) -> Tensor:
    """What causal layers of gradient descent predict at every query."""
    return estimators.residual_steps(tokens, step_sizes, causal=True)


def draw_depth(rows: list[dict[str, Any]]) -> Any:
    """Error against depth, with 95% intervals."""
    figure, [[axes]] = style.new_figure((6.4, 4.2))
    handles = {}
    names = {
        "linear attention": "trained linear attention",
        "softmax attention": "trained softmax attention",
        "gradient descent": "gradient descent, one step size",
        "gradient descent, free": "gradient descent, free step sizes",
        "gradient descent, prefix": "gradient descent, prefix variant",
    }
    for index, (source, label) in enumerate(names.items()):
        look = style.model_style(index) if index < 2 else style.estimator_style(index)
        mine = [row for row in rows if row["source"] == source]
        errors = np.array([[r["error"] - r["low"], r["high"] - r["error"]] for r in mine]).T
        depths, values = [r["depth"] for r in mine], [r["error"] for r in mine]
        handles[label] = axes.errorbar(depths, values, errors, capsize=3, **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(DEPTHS)
    axes.set_xlabel("layers, or steps")
    axes.set_ylabel("squared error of the next vector")
    style.plain(axes)
    style.add_title(figure, f"Error against depth: {TASK}, last query, {N_SEQUENCES} sequences")
    style.add_legend_below(figure, handles)
    return figure


def head_loss(position: Tensor, A: Tensor, B: Tensor) -> Tensor:
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


def sampled_head_loss(position: Tensor, A: Tensor, B: Tensor, n: int, seed: int) -> Tensor:
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
        return (0.3 * drawn).requires_grad_()

    position, A, B = start(LENGTH), start(n_heads, DIM), start(n_heads, DIM)
    optimizer = torch.optim.Adam([position, A, B], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = head_loss(position, A, B)
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach()), position.detach(), A.detach(), B.detach()


def measure_heads() -> list[dict[str, Any]]:
    """Where the loss ends for several numbers of heads and starts."""
    rows = []
    for n_heads in HEADS:
        for seed in STARTS:
            loss, position, A, B = minimise_heads(n_heads, seed)
            C = position[-1] * B.T @ A  # the scale is shared between the two
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
                    "matrix": C.tolist(),
                }
            )
    return rows


def draw_heads(rows: list[dict[str, Any]]) -> Any:
    """The loss against the number of heads, the positions used, and the matrix of all heads."""
    figure, [[losses, positions, matrix]] = style.new_figure((10.5, 3.4), 1, 3)
    look = style.model_style(0) | {"linestyle": "none"}
    losses.plot([r["n_heads"] for r in rows], [r["loss"] for r in rows], **look)
    losses.plot(HEADS, [DIM - h for h in HEADS], **style.estimator_style(0) | {"marker": None})
    losses.set_xlabel("heads (dotted: dim - heads)")
    losses.set_ylabel("expected squared error")
    style.plain(losses)
    for row in rows:
        squared = [value**2 for value in row["position"]]
        look = style.model_style(0) | {"linewidth": 1.0, "markersize": 3}
        positions.plot(range(1, LENGTH + 1), squared, **look)
    positions.set_xlabel("key position")
    positions.set_ylabel("share of p²")
    style.plain(positions)
    last = np.array(rows[-1]["matrix"])
    shown = matrix.imshow(last, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=matrix, shrink=0.8)
    matrix.set_xlabel("component")
    matrix.set_ylabel("component")
    matrix.set_title(f"p_T BᵀA, {rows[-1]['n_heads']} heads", fontsize="medium")
    style.add_title(
        figure,
        f"Commuting unitary matrices, dim {DIM}, T = {LENGTH}: the closed-form loss, minimised "
        f"from {len(STARTS)} starts a number of heads",
    )
    return figure


def shuffled(tokens: Tensor, seed: int, *, keep_last: bool) -> Tensor:
    """Every sequence in an order of its own; the last vector may stay."""
    generator = torch.Generator().manual_seed(seed)
    n, length = tokens.shape[0], tokens.shape[1] - keep_last
    order = torch.rand(n, length, generator=generator).argsort(1)
    rows = torch.arange(n)[:, None]
    return torch.cat([tokens[rows, order], tokens[:, length:]], 1)


def fit_error(tokens: Tensor) -> Tensor:
    """``Σ_j ‖s_j - Ŵ s_{j-1}‖² / Σ_j ‖s_j‖²`` of the least-squares Ŵ of each sequence."""
    estimate = estimators.least_squares(tokens, last_only=True)[:, 0]
    residual = tokens[:, 1:] - tokens[:, :-1] @ estimate.transpose(1, 2)
    return residual.square().sum((1, 2)) / tokens[:, 1:].square().sum((1, 2))


def measure_order(n_sequences: int = N_SEQUENCES, seed: int = SEED) -> list[dict[str, Any]]:
    """Fits to ordered and to shuffled vectors, by how noisy the sequences are."""
    rows = []
    for noise in NOISES:
        tokens = AutoregressiveTask(5, 32, noise=noise).sample(n_sequences, seed).tokens
        mixed = shuffled(tokens, seed, keep_last=False)
        for order, vectors in (("ordered", tokens), ("shuffled", mixed)):
            interval = probes.mean_interval(fit_error(vectors), seed=seed)
            rows.append(
                {
                    "noise": noise,
                    "order": order,
                    "error": interval.score,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    return rows


def draw_order(rows: list[dict[str, Any]]) -> Any:
    """Error of the fit against the noise, ordered and shuffled."""
    figure, [[axes]] = style.new_figure((6.0, 4.0))
    handles = {}
    for index, order in enumerate(("ordered", "shuffled")):
        mine = [row for row in rows if row["order"] == order]
        errors = np.array([[r["error"] - r["low"], r["high"] - r["error"]] for r in mine]).T
        handles[order] = axes.errorbar(
            [r["noise"] for r in mine],
            [r["error"] for r in mine],
            errors.clip(0),
            capsize=3,
            **style.model_style(index),
        )
    axes.set_ylim(0, 1)
    axes.set_xlabel("noise (standard deviation a component; the first vector has length 1)")
    axes.set_ylabel("share of the squares left by the fit")
    style.plain(axes)
    style.add_title(figure, "Least-squares autoregression of 32 vectors in 5 dimensions")
    style.add_legend_below(figure, handles)
    return figure


STUDIES = {
    "depth": (measure_depth, draw_depth),
    "heads": (measure_heads, draw_heads),
    "order": (measure_order, draw_order),
}


def data_file(study: str) -> Path:
    """Where what was measured of a study is kept."""
    return DATA / f"autoregression-{study}.json"


def data_of(study: str) -> Any:
    """What was measured of a study."""
    return json.loads(data_file(study).read_text(encoding="utf-8"))


def measure_studies(*, missing: bool) -> None:
    """Measure every study, or those that were not yet, and keep what was found."""
    for study, (measure, _) in STUDIES.items():
        if not (missing and data_file(study).exists()):
            render.json_text(measure(), data_file(study))
            print(f"measured {study}", flush=True)


def draw_studies() -> None:
    """Every study's figure."""
    for study, (_, draw) in STUDIES.items():
        with style.applied():
            files.write_figure(draw(data_of(study)), DATA / f"autoregression-{study}.png")
