"""Two ways to run a model under many edits of one kind of activation.

:class:`HookedLoop` runs the whole model once an edit, as TransformerLens's own patching does, and
works on any hooked model. :class:`Resumed` runs only what each edit can change and gives the same
outputs. Both take one layer's edits at a time and yield the outputs edit by edit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from probes import checks
from probes.capture import read_activations, run_and_capture
from probes.errors import DataError
from probes.patching.edits import Edit, write
from probes.patching.fused import fused_attention
from probes.patching.partial_runs import PartialRunner, without_rounding
from probes.progress import checked
from probes.sites import NEURONS, PATTERN, Site, hook_name
from probes.subject import HookedModel, subject_of

ROWS = 16
"""Sequences a resumed forward pass, stacked edits counted; wider passes fall out of CPU caches."""


@dataclass(frozen=True)
class Run:
    """How runs are made, as ``patch_activations`` takes it.

    Attributes:
        logits: ``"last"``: outputs at the last position; ``"all"``: at every one.
        max_memory: Bytes that they may take; None: half of what is free.
        accelerate: False takes the hooked loop.
        progress: Whether to show how far it is; see :func:`probes.progress.shown`.

    Raises:
        DataError: Other logits, or a switch that is neither on nor off.
    """

    logits: str = "last"
    max_memory: float | int | None = None
    accelerate: bool = True
    progress: bool | None = None

    def __post_init__(self) -> None:
        checks.choice(self.logits, "kind of logits", ("last", "all"), DataError)
        object.__setattr__(self, "progress", checked(self.progress))
        accelerate = checks.flag(self.accelerate, "accelerate", DataError)
        object.__setattr__(self, "accelerate", accelerate)

    @property
    def last_only(self) -> bool:
        """Whether outputs are those of the last position."""
        return self.logits == "last"


_KEPT = {"z": "z", "resid_pre": "streams", "attn_out": "attn_out"}
"""Components that a resumed run has kept, and where."""

_WITHIN_ATTENTION = ("q", "k", "v", PATTERN)
_OF_ONE_QUERY = ("q", PATTERN)
"""Edits at one position that change the attention output at that position alone."""


class HookedLoop:
    """The whole model with one hook, an edit after another.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``: the runs that are edited.
        component: One of ``COMPONENTS``.
        last_only: Outputs at the last position alone.
        rows: Sequences a forward pass.

    Attributes:
        outputs: Of the unedited runs.
        rows: As above.
        last_only: As above.
    """

    def __init__(
        self, model: HookedModel, tokens: Tensor, component: str, *, last_only: bool, rows: int
    ) -> None:
        self.model, self.component, self.rows = model, component, rows
        self._batches, self.last_only = tokens.split(rows), last_only
        self.outputs = self._natural_outputs(tokens)

    def run(self, layer: int, values: Tensor, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Any]]:
        """Outputs under each edit, ``[sequence, …]``.

        Args:
            layer: Whose activation is edited.
            values: What is written, in the activation's shape, for all sequences.
            edits: Where.
        """
        for edit in edits:
            parts, start = [], 0
            for batch in self._batches:
                own = values[start : start + len(batch)]
                start += len(batch)

                def put(activation: Tensor, hook: object, own: Tensor = own) -> Tensor:
                    activation = activation.clone()
                    write(self.component, activation, own, edit)  # noqa: B023
                    return activation

                with self.model.hooks(fwd_hooks=[(hook_name(self.component, layer), put)]):
                    parts.append(self._cut(self.model(batch)))
            yield edit, torch.cat(parts)

    def natural(
        self, tokens: Tensor, layers: Sequence[int], *, with_outputs: bool
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """The component's activations in unedited runs of any tokens, by layer, and their outputs.

        Args:
            tokens: ``[sequence, position]``.
            layers: Which ones.
            with_outputs: Outputs too, cut as those of edited runs; otherwise None.
        """
        sites = {f"{layer}": Site(hook_name(self.component, layer)) for layer in layers}
        outputs: Tensor | None = None
        if with_outputs and self.last_only:
            found, outputs = run_and_capture(self.model, tokens, sites, self.rows)
        else:
            found = read_activations(self.model, tokens, sites, self.rows) if sites else {}
        if with_outputs and not self.last_only:
            outputs = self._natural_outputs(tokens)
        return {layer: found[f"{layer}"] for layer in layers}, outputs

    def _natural_outputs(self, tokens: Tensor) -> Tensor:
        return torch.cat([self._cut(self.model(batch)) for batch in tokens.split(self.rows)])

    def _cut(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1].clone() if self.last_only else outputs


class Resumed(HookedLoop):
    """Only what each edit can change; see :mod:`probes.patching.partial_runs`.

    Arguments and attributes are those of :class:`HookedLoop`. Several edits are stacked on the
    batch axis, up to ``rows`` sequences in all.
    """

    def __init__(
        self, model: HookedModel, tokens: Tensor, component: str, *, last_only: bool, rows: int
    ) -> None:
        self.model, self.component, self.rows = model, component, rows
        self.last_only, self._fused = last_only, fused_attention(model)
        self._blocks = subject_of(model).model.blocks
        self._runners = list(self._natural(tokens))
        self.outputs = torch.cat([runner.outputs for runner in self._runners])

    def _natural(self, tokens: Tensor) -> Iterator[PartialRunner]:
        for batch in tokens.split(self.rows):
            yield PartialRunner(
                self.model,
                batch,
                last_only=self.last_only,
                fused=self._fused,
                keep_z=self.component == "z",
            )

    def natural(
        self, tokens: Tensor, layers: Sequence[int], *, with_outputs: bool
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """See :meth:`HookedLoop.natural`."""
        if self.component not in _KEPT:
            return super().natural(tokens, layers, with_outputs=with_outputs)
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        outputs = []
        for runner in self._natural(tokens):
            if with_outputs:
                outputs.append(runner.outputs)
            for layer in layers:
                found[layer].append(getattr(runner, _KEPT[self.component])[layer])
        values = {layer: torch.cat(parts) for layer, parts in found.items()}
        return values, torch.cat(outputs) if with_outputs else None

    def kept(self, layer: int) -> Tensor | None:
        """The component's natural activations, if they are kept."""
        if self.component not in _KEPT:
            return None
        return torch.cat([getattr(x, _KEPT[self.component])[layer] for x in self._runners])

    def run(self, layer: int, values: Tensor, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Any]]:
        """See :meth:`HookedLoop.run`; edits come in an order of their own."""
        if self._reads_last_alone(layer):
            last = self._runners[0].length - 1
            yield from ((edit, self.outputs) for edit in edits if last not in edit.positions)
            edits = [replace(edit, positions=(last,)) for edit in edits if last in edit.positions]
        for window, same in groupby(sorted(edits, key=self._order), key=self._window):
            alike = list(same)
            size = self._stack_size(layer, window)
            for start in range(0, len(alike), size):
                group = alike[start : start + size]
                parts, row = [], 0
                for runner in self._runners:
                    own = values[row : row + runner.batch]
                    row += runner.batch
                    parts.append(self._outputs(runner, layer, own, group))
                outputs = torch.cat(parts, 1)
                since = 0 if self.last_only else group[0].positions[0]
                reached = (..., slice(since, None), slice(None))
                without_rounding(outputs[reached], self.outputs[reached])
                yield from zip(group, outputs, strict=True)

    def _reads_last_alone(self, layer: int) -> bool:
        """Whether the outputs depend on the component at the last position alone."""
        runner = self._runners[0]
        read_elsewhere = self.component in ("resid_pre", "k", "v")
        return runner.last_only and layer == runner.n_layers - 1 and not read_elsewhere

    def _order(self, edit: Edit) -> tuple[bool, tuple[int, ...], int]:
        return len(edit.positions) > 1, edit.positions, -1 if edit.head is None else edit.head

    def _window(self, edit: Edit) -> tuple[int, ...] | None:
        """What edits must share to be stacked."""
        if len(edit.positions) > 1 or self.component in _WITHIN_ATTENTION:
            return edit.positions
        return None  # single positions of the stream: one pass serves neighbours too

    def _stack_size(self, layer: int, window: tuple[int, ...] | None) -> int:
        runner = self._runners[0]
        rows = self.rows
        if window is None and runner.is_cheap(self._after(layer)):
            rows *= max(1, runner.length // 8)
        return max(1, rows // runner.batch)

    def _after(self, layer: int) -> int:
        """The first stream that an edit of the component changes."""
        return layer if self.component == "resid_pre" else layer + 1

    def _outputs(
        self, runner: PartialRunner, layer: int, values: Tensor, edits: Sequence[Edit]
    ) -> Tensor:
        """Outputs of one batch under edits of one window, ``[edit, batch, …]``."""
        if self.component in _WITHIN_ATTENTION:
            return self._within_attention(runner, layer, values, edits)
        after, changed = self._after(layer), self._streams(runner, layer, values, edits)
        positions, first = list(edits[0].positions), edits[0].positions[0]
        if len(positions) == 1:
            points = [edit.positions[0] for edit in edits]
            return runner.resume_points(after, changed[:, :, 0], points)
        stream = changed
        if len(positions) < runner.length - first:
            stream = runner.streams[after][:, first:].expand(len(edits), -1, -1, -1).clone()
            stream[:, :, [position - first for position in positions]] = changed
        return runner.resume(after, stream.flatten(0, 1), first).unflatten(0, (len(edits), -1))

    def _streams(
        self, runner: PartialRunner, layer: int, values: Tensor, edits: Sequence[Edit]
    ) -> Tensor:
        """The stream after each edit at its positions, ``[edit, batch, position, d_model]``."""

        def there(x: Tensor) -> Tensor:
            """``x`` at the positions of each edit, which share them if they are several."""
            shared = list(edits[0].positions)
            if len(shared) == 1:
                return x[:, [edit.positions[0] for edit in edits]].transpose(0, 1)[:, :, None]
            whole = len(shared) == x.shape[1]
            return x[None] if whole else x[None, :, shared]

        if self.component in ("resid_pre", "resid_post"):
            return there(values)
        natural = there(runner.streams[layer])
        if self.component == "resid_mid":
            return runner.after_mlp(layer, there(values))
        if self.component == "attn_out":
            return runner.after_mlp(layer, natural + there(values))
        natural = natural + there(runner.attn_out[layer])
        if self.component == "mlp_out":
            return natural + there(values)
        if self.component in NEURONS:
            written = there(values).contiguous()  # the MLP reshapes by view
            hook = (hook_name(self.component, layer), lambda own, hook: written.to(own))
            with self.model.hooks(fwd_hooks=[hook]):
                return runner.after_mlp(layer, natural)
        W_O = self._blocks[layer].attn.W_O  # [head, d_head, d_model]
        change = there(values) - there(runner.z[layer])  # [edit, batch, position, head, d_head]
        if edits[0].head is None:
            return runner.after_mlp(layer, natural + change.flatten(3) @ W_O.flatten(0, 1))
        heads = [edit.head for edit in edits]
        change = change.expand(len(edits), *change.shape[1:])
        change = change[range(len(edits)), :, :, heads]  # [edit, batch, position, d_head]
        written = (change.flatten(1, 2) @ W_O[heads]).unflatten(1, change.shape[1:3])
        return runner.after_mlp(layer, natural + written)

    def _within_attention(
        self, runner: PartialRunner, layer: int, values: Tensor, edits: Sequence[Edit]
    ) -> Tensor:
        positions = edits[0].positions
        first = positions[0]
        alone = len(positions) == 1 and self.component in _OF_ONE_QUERY

        def put(activation: Tensor, hook: object) -> Tensor:
            stacked = activation.clone().unflatten(0, (len(edits), -1))
            for own, edit in zip(stacked, edits, strict=True):
                write(self.component, own, values, edit, first)
            return stacked.flatten(0, 1)

        with self.model.hooks(fwd_hooks=[(hook_name(self.component, layer), put)]):
            attn_out = runner.attend(layer, first, 1 if alone else None, len(edits))
        attn_out = attn_out.unflatten(0, (len(edits), -1))
        natural = runner.streams[layer][:, first : first + attn_out.shape[2]]
        stream = runner.after_mlp(layer, natural + attn_out)
        if alone:
            return runner.resume_points(layer + 1, stream[:, :, 0], [first] * len(edits))
        outputs = runner.resume(layer + 1, stream.flatten(0, 1), first)
        return outputs.unflatten(0, (len(edits), -1))
