"""Attribution patching: what a patch would do, to first order, at every site from one gradient.

The effect of putting the source's activation into the base's run is estimated by the gradient of
the metric there times the difference of the two activations (Nanda 2023, *Attribution Patching*;
Syed, Rager & Conmy 2023; Kramár et al. 2024, *AtP**). It is exact where the metric is linear in the
activation, and wrong where it is saturated, as by a softmax that has decided.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from probes import checks, files
from probes.errors import DataError
from probes.passes import alone
from probes.patching.edits import Plan, Selection
from probes.patching.engines import Run
from probes.patching.grid import Grid
from probes.patching.metrics import Metric, checked_metric, metric_name
from probes.patching.sources import CachedRun, Source, base_and_source, read_source
from probes.patching.trust import check_graph, inert_hooks
from probes.sites import HEADED, PATTERN
from probes.subject import HookedModel

_CANONICAL = ("head", "position", "key")


@alone
def attribute_patches(
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
) -> Grid:
    """What ``patch_activations`` would find, to first order, from one gradient.

    A site's effect is the sum over its entries of the metric's gradient in the base's run times
    what the source's activation is above the base's (Nanda 2023; Syed, Rager & Conmy 2023). It
    takes a forward pass on the source and one forward and backward pass on the base, however many
    sites there are. :func:`agreement` says how near it comes to a grid of exact patches.

    Args:
        model: A hooked model; it is left as it was found.
        clean: ``[sequence, position]``, or a cache where it is the source; this and the rest as in
            ``patch_activations``.
        corrupted: ``[sequence, position]``: as many sequences, of the same length.
        component: Which activation.
        metric: From logits, ``[sequence, token]``, to one value a sequence, by functions of torch
            through which gradients flow; each value of its own sequence's logits alone. Figures and
            tables call it by its function's name, and a lambda "metric".
        direction: ``"denoising"`` or ``"noising"``.
        by: The grid's axes beside the layer.
        layers: Which layers.
        heads: Which heads.
        positions: Which positions.
        logits: ``"last"`` or ``"all"``.
        max_memory: Bytes, roughly, for the pass with gradients.

    Returns:
        A Grid in the form of ``patch_activations``: a site's values are the base's metric plus its
        estimated effect, one value a sequence.

    Raises:
        DataError: Tokens, or a metric or its values, that cannot be used, or no gradient.
        SiteError: As ``patch_activations``.

    Examples:
        >>> import mtd_lens, probes
        >>> model = mtd_lens.load_model("mtd-q5-m3-t32/trained-gpt-3l-s0")
        >>> task = mtd_lens.task_of(model)
        >>> clean, corrupted = (task.sample(16, seed=s).tokens for s in (0, 1))
        >>> difference = lambda logits: logits[:, 0] - logits[:, 1]
        >>> estimate = probes.attribute_patches(model, clean, corrupted, "z", difference)
        >>> exact = probes.patch_activations(model, clean, corrupted, "z", difference)
        >>> probes.agreement(estimate, exact).correlation > 0.9
        True
    """
    run = Run(logits, max_memory)
    base, source = base_and_source(model, clean, corrupted, direction)
    plan = Selection(component, by, layers, heads, positions).plan(model, base)
    check_graph(model, base, len(plan.layers), max_memory)
    measure = checked_metric(metric, len(base), last_only=run.last_only)
    with torch.no_grad():
        inert = inert_hooks(model, base, plan)
        there = read_source(model, source, plan.hooks)
        of_source = _source_outputs(model, source, len(base), run.last_only)
        source_values = None if of_source is None else measure(of_source)
    natural, slopes = _slopes(model, base, plan, measure, run.last_only)
    effects = []
    for hook in plan.hooks:
        here, gradient = slopes[hook]
        change = there[hook].to(_wide(here)) - here.to(_wide(here))
        effects.append(_by_axes(gradient.to(change) * change, plan))
    estimated = torch.stack(effects)
    return Grid(
        intervention=f"attribution, {direction}",
        component=plan.component,
        axes=plan.axes,
        values=natural.to(estimated) + estimated,
        base=natural,
        source=source_values,
        metric=metric_name(metric),
        engine="gradients of the unpatched runs, to first order",
        details={"inert_hooks": inert} if inert else {},
    )


def _slopes(
    model: HookedModel,
    tokens: Tensor,
    plan: Plan,
    measure: Callable[[Tensor], Tensor],
    last_only: bool,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The metric of the runs, and by hook the activation with the metric's gradient there."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, object], Tensor]:
        def edit(activation: Tensor, hook: object) -> Tensor:
            own = activation.clone()
            kept[name] = own if own.requires_grad else own.requires_grad_()
            return kept[name]

        return edit

    with torch.enable_grad(), model.hooks(fwd_hooks=[(name, keep(name)) for name in plan.hooks]):
        outputs = model(tokens)
        values = measure(outputs[:, -1] if last_only else outputs)
        found: tuple[Tensor | None, ...] = (None,)
        if values.requires_grad:
            found = torch.autograd.grad(
                values.sum(), [kept[name] for name in plan.hooks], allow_unused=True
            )
    if all(gradient is None for gradient in found):
        raise DataError(
            "no gradient of the metric reaches the activations. Compute it by differentiable "
            "functions of torch, without detach(), item() or argmax, in a model that lets "
            "gradients through; or use patch_activations."
        )
    slopes = {}
    for name, gradient in zip(plan.hooks, found, strict=True):
        here = kept[name].detach()
        slopes[name] = here, torch.zeros_like(here) if gradient is None else gradient
        if not slopes[name][1].isfinite().all():
            raise DataError(
                f"the metric's gradient at {name!r} is NaN or infinite. Use a metric that is "
                "smooth there, or patch_activations."
            )
    return values.detach(), slopes


def _source_outputs(
    model: HookedModel, source: Tensor | CachedRun, rows: int, last_only: bool
) -> Tensor | None:
    if isinstance(source, CachedRun):
        return source.outputs(rows, last_only=last_only)
    outputs = model(source)
    return outputs[:, -1] if last_only else outputs


def _wide(values: Tensor) -> torch.dtype:
    """A dtype in which differences and sums lose little."""
    return values.dtype if values.dtype == torch.float64 else torch.float32


def _by_axes(products: Tensor, plan: Plan) -> Tensor:
    """Sums over what each of a plan's edits writes, ``[*axes, sequence]`` without the layer."""
    if plan.component == PATTERN:
        terms = products  # [sequence, head, position, key]
    elif plan.component in HEADED:
        terms = products.sum(-1).transpose(1, 2)[..., None]
    else:
        terms = products.sum(-1)[:, None, :, None]
    for axis, name in reversed(list(enumerate(_CANONICAL, 1))):
        at_once = plan.edits[0].positions if name == "position" else None
        labels = plan.axes.get(name, at_once)
        if labels is not None:
            terms = terms.index_select(axis, torch.tensor(labels, device=terms.device))
        if name not in plan.axes:
            terms = terms.sum(axis)
    return terms.movedim(0, -1)


@dataclass(frozen=True)
class Agreement:
    """How near estimated effects come to exact ones, over the sites of a grid.

    Effects are mean differences of the metric over sequences, in its unit.

    Attributes:
        n_sites: How many sites.
        correlation: Of estimated and exact effects (Pearson's).
        same_sign: Share of the sites with an exact effect whose estimate has its sign.
        largest_error: The largest distance of an estimate from the exact effect, in the metric's
            unit.
        largest_effect: The largest exact effect, without its sign, beside which to see that.
    """

    n_sites: int
    correlation: float
    same_sign: float
    largest_error: float
    largest_effect: float

    def to_json(self, path: files.StrPath | None = None) -> str:
        """The figures as JSON text, also written to ``path`` if one is given.

        Args:
            path: A file to write to as well.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return files.json_text(asdict(self), path)

    def __str__(self) -> str:
        return (
            f"{self.n_sites} sites: correlation {self.correlation:.3g}, same sign at "
            f"{100 * self.same_sign:.3g}%, largest error {self.largest_error:.3g} beside effects "
            f"up to {self.largest_effect:.3g}"
        )


def agreement(estimate: Grid, exact: Grid) -> Agreement:
    """How near the effects of an estimated grid come to those of an exact one.

    Args:
        estimate: Of ``attribute_patches``.
        exact: Of ``patch_activations``, on the same sequences and sites.

    Returns:
        Correlation, agreement in sign, and the largest error.

    Raises:
        DataError: Something else than grids, grids of other sites, sequences or components, or
            exact effects or estimates that are all the same, with which nothing can correlate.
    """
    for grid in (estimate, exact):
        checks.instance(grid, Grid, "a grid to compare", DataError)
    if (estimate.component, estimate.axes) != (exact.component, exact.axes):
        raise DataError(
            f"grids must be of the same sites; got {estimate!r} and {exact!r}. Pass the same "
            "component, by, layers, heads and positions to both."
        )
    scale = exact.base.abs().max() if len(exact.base) else 0.0
    alike = estimate.base.shape == exact.base.shape
    if not alike or not ((estimate.base - exact.base).abs() <= _SAME_RUNS * scale).all():
        raise DataError(
            "grids must be of the same runs and metric, whose values without a patch are alike; "
            f"got {estimate!r} and {exact!r}. Pass both the same tokens, direction and metric."
        )
    found, true = (grid.differences.mean(-1).flatten() for grid in (estimate, exact))
    if float(found.std(correction=0)) == 0 or float(true.std(correction=0)) == 0:
        raise DataError("effects are the same at every site, so that nothing can correlate.")
    there = true != 0
    return Agreement(
        n_sites=len(true),
        correlation=float(torch.corrcoef(torch.stack([found, true]))[0, 1]),
        same_sign=float((found.sign() == true.sign())[there].double().mean()),
        largest_error=float((found - true).abs().max()),
        largest_effect=float(true.abs().max()),
    )


_SAME_RUNS = 0.05
"""Of the largest value: how far the unpatched metric of two grids may differ, in any dtype."""
