"""Path patching: the effect that one head has on another, or on the logits, directly.

A sender head's output is replaced by the source's, while every other head keeps its natural
output; what then reaches the receiver (its query, key or value, or the read-out) is put into an
otherwise natural run (Wang et al. 2023, *Interpretability in the Wild*; Goldowsky-Dill et al. 2023,
*Localizing Model Behavior with Path Patching*). MLPs in between are recomputed, or kept natural.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from probes import checks
from probes.capture import read_activations
from probes.errors import DataError, SiteError
from probes.passes import alone
from probes.patching.edits import Edit, Plan, Selection
from probes.patching.engines import Run
from probes.patching.grid import Grid
from probes.patching.metrics import Metric, checked_metric, metric_name
from probes.patching.partial_runs import without_rounding
from probes.patching.sources import CachedRun, Source, base_and_source, read_source
from probes.patching.trust import choose_engine, inert_hooks
from probes.progress import shown, steps
from probes.sites import Site, hook_name
from probes.subject import HookedModel, subject_of

INPUTS = ("q", "k", "v")


@alone
def patch_paths(
    model: HookedModel,
    clean: Source,
    corrupted: Source,
    receiver: tuple[int, int] | str,
    metric: Metric,
    *,
    receiver_input: str = "q",
    direction: str = "denoising",
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    freeze_mlps: bool = False,
    logits: str = "last",
    max_memory: float | int | None = None,
    progress: bool | None = None,
) -> Grid:
    """The effect of every head below a receiver, along its direct path to the receiver alone.

    Args:
        model: A hooked model; it is left as it was found.
        clean: ``[sequence, position]``; the source may be a cache, as in ``patch_activations``.
        corrupted: ``[sequence, position]``: as many sequences, of the same length.
        receiver: ``(layer, head)``, or ``"logits"``.
        metric: From logits, ``[sequence, token]``, to one value a sequence. Figures and tables call
            it by its function's name, and a lambda "metric".
        receiver_input: ``"q"``, ``"k"`` or ``"v"``: through which of the receiver's inputs (for
            ``k`` and ``v`` of grouped-query attention the head is a key-value head).
        direction: As in ``patch_activations``.
        layers: Of the senders; all below the receiver by default.
        heads: Of the senders.
        positions: At which positions the sender's output is replaced; all by default.
        freeze_mlps: Keep MLPs between sender and receiver natural as well.
        logits: ``"last"`` or ``"all"``: what the metric sees.
        max_memory: Bytes that the runs may take; by default half of what is free.
        progress: Whether to show how far it is; see :func:`probes.progress.shown`.

    Returns:
        A Grid of senders by layer and head.

    Raises:
        DataError: Tokens, or a metric's values, that cannot be used.
        SiteError: A receiver or a sender that the model or the cache lacks, or no layer below the
            receiver.
    """
    checks.choice(receiver_input, "input of the receiver", INPUTS, SiteError)
    freeze_mlps = checks.flag(freeze_mlps, "freeze_mlps", DataError)
    run = Run(logits, max_memory, progress=progress)
    base, source = base_and_source(model, clean, corrupted, direction)
    top, head = _receiver(model, receiver, receiver_input)
    senders = Selection("z", ["head"], layers, heads, positions).plan(
        model, base, top, f"layers of senders below {_named(receiver)}"
    )
    received = "resid_post" if head is None else receiver_input
    block = subject_of(model).n_layers - 1 if head is None else top
    whole = Edit((), tuple(range(base.shape[1])), head)
    with shown("path patching", run.progress), torch.no_grad():
        inert = inert_hooks(model, base, senders)
        sent = read_source(model, source, senders.hooks)
        path = _Path(model, base, senders.layers, top, freeze_mlps)
        measure = checked_metric(metric, len(base), last_only=run.last_only)
        arrival = Plan(received, (block,), {}, (whole,))
        engine, how, _ = choose_engine(model, base, arrival, run)
        natural = measure(engine.outputs)
        found = natural.new_zeros(*map(len, senders.axes.values()), len(base))
        for index, layer in enumerate(steps(senders.layers, "layers")):
            for edit in senders.edits:
                arriving = path.arriving(layer, sent[senders.hooks[index]], edit, received, block)
                ((_, outputs),) = engine.run(block, arriving, [whole])
                found[(index, *edit.place)] = measure(outputs)
        of_source = (
            source.outputs(engine.rows, last_only=run.last_only)
            if isinstance(source, CachedRun)
            else engine.natural(source, [], with_outputs=True)[1]
        )
        source_values = (
            None if of_source is None else measure(without_rounding(of_source, engine.outputs))
        )
    mlps = "MLPs frozen" if freeze_mlps else "MLPs recomputed"
    return Grid(
        intervention=f"path patching, {direction}",
        component=f"z to {_named(receiver)}{'' if head is None else f' {receiver_input}'}",
        axes=senders.axes,
        values=found,
        base=natural,
        source=source_values,
        metric=metric_name(metric),
        engine=how,
        details={"mlps": mlps, **({"inert_hooks": inert} if inert else {})},
    )


def _receiver(
    model: HookedModel, receiver: tuple[int, int] | str, receiver_input: str
) -> tuple[int, int | None]:
    """The number of layers below the receiver, and its head."""
    subject = subject_of(model)
    if isinstance(receiver, str) and receiver == "logits":
        return subject.n_layers, None
    pair = isinstance(receiver, tuple | list) and len(receiver) == 2
    if not pair:
        raise SiteError(f"receiver must be (layer, head) or 'logits'; got {receiver!r}.")
    if subject.n_layers < 2:
        raise SiteError("no head is below another in a model of one layer. Use 'logits'.")
    layer = checks.integer(receiver[0], "the receiver's layer", 1, SiteError, subject.n_layers - 1)
    n_heads = subject.n_heads if receiver_input == "q" else subject.n_key_value_heads
    return layer, checks.integer(receiver[1], "the receiver's head", 0, SiteError, n_heads - 1)


def _named(receiver: tuple[int, int] | str) -> str:
    return "logits" if receiver == "logits" else f"L{receiver[0]}H{receiver[1]}"


class _Path:
    """Runs in which one head is replaced and all others, up to the receiver, are held."""

    def __init__(
        self, model: HookedModel, tokens: Tensor, layers: Sequence[int], top: int, freeze_mlps: bool
    ) -> None:
        self.model, self.tokens = model, tokens
        self.held = [hook_name("z", layer) for layer in range(min(layers), top)]
        if freeze_mlps and subject_of(model).has_mlp:
            self.held += [hook_name("mlp_out", layer) for layer in range(min(layers), top)]
        self.values = self._read(self.held)

    def natural(self, component: str, layer: int) -> Tensor:
        """An activation under whatever hooks there are."""
        name = hook_name(component, layer)
        return self._read([name])[name]

    def _read(self, names: Sequence[str]) -> dict[str, Tensor]:
        sites = {name: Site(name) for name in names}
        # in one batch: what is held is of all sequences
        return read_activations(self.model, self.tokens, sites, batch_size=len(self.tokens))

    def arriving(
        self, layer: int, sent: Tensor, edit: Edit, component: str, at_layer: int
    ) -> Tensor:
        """What arrives at the receiver when the sender alone is replaced."""
        sender = Site(hook_name("z", layer), list(edit.positions), edit.head)
        values = dict(self.values)
        values[sender.hook] = sender.write(values[sender.hook], sender.read(sent))
        hooks = [(name, _hold(values[name])) for name in self.held]
        with self.model.hooks(fwd_hooks=hooks):
            return self.natural(component, at_layer)


def _hold(value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda activation, hook: value.clone()
