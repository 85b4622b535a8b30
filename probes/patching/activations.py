"""Activation patching and ablation at every site of a kind, as labelled grids.

Effects are those of a plain hooked loop, in fewer and shorter forward passes; see
:mod:`probes.patching.engines`. Kinds of activations are those of :mod:`probes.sites`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from probes import checks
from probes.capture import check_tokens
from probes.errors import DataError
from probes.passes import alone
from probes.patching.edits import Plan, Selection
from probes.patching.engines import HookedLoop, Run
from probes.patching.grid import Grid
from probes.patching.metrics import Metric, checked_metric, metric_name
from probes.patching.partial_runs import without_rounding
from probes.patching.sources import CachedRun, Source, base_and_source
from probes.patching.trust import choose_engine
from probes.progress import shown, steps
from probes.subject import HookedModel

ABLATIONS = ("zero", "mean", "resample")


@alone
def patch_activations(
    model: HookedModel,
    clean: Source,
    corrupted: Source,
    component: str,
    metric: Metric,
    *,
    direction: str = "denoising",
    by: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    logits: str = "last",
    max_memory: float | int | None = None,
    accelerate: bool = True,
    progress: bool | None = None,
) -> Grid:
    """Put one run's activations into the other's, site after site.

    Denoising puts clean activations into corrupted runs (which suffice to restore the behaviour?),
    noising corrupted ones into clean runs (which are needed for it?).

    Args:
        model: A hooked model; it is left as it was found.
        clean: ``[sequence, position]``; where it is the source, which denoising puts into the
            other runs, it may be the activations of such a run instead: the ``ActivationCache`` of
            ``model.run_with_cache(tokens)``, or a dict by full names of hooks. The source's own
            metric is then known if the last block's ``resid_post`` is among them; otherwise effects
            are differences.
        corrupted: ``[sequence, position]``: as many sequences, of the same length; the source where
            it is put into the others (noising), as above.
        component: Which activation, for example ``"resid_pre"`` or ``"z"``, or another name that
            TransformerLens has for it; a full one, ``"blocks.0.attn.hook_z"``, is of its layer
            alone. ``"result"`` stands for ``"z"``, which determines it.
        metric: From logits, ``[sequence, token]``, to one value a sequence. Figures and tables call
            it by its function's name, and a lambda "metric".
        direction: ``"denoising"`` or ``"noising"``.
        by: The grid's axes beside the layer: ``["position"]``, ``["head"]`` or both; for patterns
            the position is the query's, and ``"key"`` may stand last. By default ``["head"]`` where
            the component has heads, else ``["position"]``. What is not an axis is patched whole.
            TransformerLens's names (``"pos"``, ``"head_index"``, …) mean the same. Whatever the
            order here, the grid's axes are layer, head, position, key.
        layers: Which layers; all by default.
        heads: Which heads (key-value heads for ``k`` and ``v`` of grouped-query attention).
        positions: Which positions: the axis's labels, or what is patched at once without that axis.
        logits: ``"last"``: the metric sees the last position; ``"all"``: every one,
            ``[sequence, position, token]``.
        max_memory: Bytes, roughly, for natural runs and forward passes, beside the activations that
            are written; by default half of what is free.
        accelerate: False runs the plain hooked loop.
        progress: Whether to show how far it is; see :func:`probes.progress.shown`.

    Returns:
        A Grid with one value a sequence at every site.

    Raises:
        DataError: Tokens, or a metric or its values, that cannot be used.
        SiteError: A component, layer, head or position that the model or the cache lacks, or one
            whose edits the model ignores.
    """
    base, source = base_and_source(model, clean, corrupted, direction)
    return _grid(
        model,
        Selection(component, by, layers, heads, positions),
        _Intervention(direction, base, source, replace=lambda activation: activation),
        metric,
        Run(logits, max_memory, accelerate, progress),
    )


@alone
def ablate(
    model: HookedModel,
    tokens: Tensor,
    component: str,
    metric: Metric,
    kind: str,
    *,
    reference: Tensor | None = None,
    seed: int = 0,
    by: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    logits: str = "last",
    max_memory: float | int | None = None,
    accelerate: bool = True,
    progress: bool | None = None,
) -> Grid:
    """Replace activations by what holds no information of the sequence, site after site.

    Args:
        model: A hooked model; it is left as it was found.
        tokens: ``[sequence, position]``.
        component: Which activation; this and the rest as in ``patch_activations``.
        metric: From logits, ``[sequence, token]``, to one value a sequence. Figures and tables call
            it by its function's name, and a lambda "metric".
        kind: ``"zero"``; ``"mean"``: the mean over the reference sequences, at each position;
            ``"resample"``: the activation of another reference sequence, drawn at random.
        reference: ``[sequence, position]``: sequences of the same length for means and resampling;
            ``tokens`` by default.
        seed: Of the resampling.
        by: The grid's axes beside the layer.
        layers: Which layers.
        heads: Which heads.
        positions: Which positions.
        logits: ``"last"`` or ``"all"``.
        max_memory: Bytes.
        accelerate: False runs the plain hooked loop.
        progress: Whether to show how far it is; see :func:`probes.progress.shown`.

    Returns:
        A Grid with one value a sequence at every site.

    Raises:
        DataError: Tokens, a kind, or a metric's values that cannot be used.
        SiteError: As ``patch_activations``.
    """
    checks.choice(kind, "kind of ablation", ABLATIONS, DataError)
    seed = checks.seed(seed, DataError)
    check_tokens(model, tokens)
    reference = tokens if reference is None else reference
    check_tokens(model, reference)
    if reference.shape[1] != tokens.shape[1] or (kind == "resample" and len(reference) < 2):
        raise DataError(
            f"reference must hold sequences of {tokens.shape[1]} positions, at least two for "
            f"resampling; got {tuple(reference.shape)}."
        )
    rows = _others(len(tokens), len(reference), torch.equal(reference, tokens), seed)

    def without_information(activation: Tensor) -> Tensor:
        if kind == "resample":
            return activation[rows.to(activation.device)]
        one = activation.mean(0, keepdim=True)
        one = torch.zeros_like(one) if kind == "zero" else one
        return one.expand(len(tokens), *one.shape[1:])

    return _grid(
        model,
        Selection(component, by, layers, heads, positions),
        _Intervention(
            f"{kind} ablation", tokens, reference, without_information, False, {"seed": seed}
        ),
        metric,
        Run(logits, max_memory, accelerate, progress),
    )


def _others(n: int, n_reference: int, same: bool, seed: int) -> Tensor:
    """A random reference row for each of ``n`` sequences; another's, where there is another."""
    generator = np.random.default_rng(seed)
    if same:
        return torch.from_numpy((np.arange(n) + generator.integers(1, max(n, 2), size=n)) % n)
    return torch.from_numpy(generator.integers(n_reference, size=n))


@dataclass(frozen=True)
class _Intervention:
    """What is written into which runs.

    Attributes:
        name: As grids have it.
        base: ``[sequence, position]``: the runs that are edited.
        origin: ``[sequence, position]``: the runs that activations are taken from; or these.
        replace: From those activations to what is written.
        from_source: Whether the origin's metric is what effects are measured against.
        details: Of the grid.
    """

    name: str
    base: Tensor
    origin: Tensor | CachedRun
    replace: Callable[[Tensor], Tensor]
    from_source: bool = True
    details: Mapping[str, int] = field(default_factory=dict)


def _grid(
    model: HookedModel,
    selection: Selection,
    intervention: _Intervention,
    metric: Metric,
    run: Run,
) -> Grid:
    base, from_source = intervention.base, intervention.from_source
    plan = selection.plan(model, base)
    with shown(intervention.name, run.progress), torch.no_grad():
        engine, how, inert = choose_engine(model, base, plan, run)
        measure = checked_metric(metric, len(base), last_only=run.last_only)
        natural = measure(engine.outputs)
        origin, outputs = _natural(engine, intervention.origin, plan, with_outputs=from_source)
        found = natural.new_zeros(*map(len, plan.axes.values()), len(base))
        for index, layer in enumerate(steps(plan.layers, "layers")):
            written = intervention.replace(origin[layer])
            for edit, edited in engine.run(layer, written, plan.edits):
                found[(index, *edit.place)] = measure(edited)
        source = None if outputs is None else measure(without_rounding(outputs, engine.outputs))
    return Grid(
        intervention=intervention.name,
        component=plan.component,
        axes=plan.axes,
        values=found,
        base=natural,
        source=source,
        metric=metric_name(metric),
        engine=how,
        details={**intervention.details, **({"inert_hooks": inert} if inert else {})},
    )


def _natural(
    engine: HookedLoop, origin: Tensor | CachedRun, plan: Plan, *, with_outputs: bool
) -> tuple[dict[int, Tensor], Tensor | None]:
    """The origin's activations by layer, and its outputs where they are asked for and known."""
    if not isinstance(origin, CachedRun):
        return engine.natural(origin, plan.layers, with_outputs=with_outputs)
    found = origin.read(plan.hooks)
    outputs = origin.outputs(engine.rows, last_only=engine.last_only) if with_outputs else None
    return {n: found[hook] for n, hook in zip(plan.layers, plan.hooks, strict=True)}, outputs
