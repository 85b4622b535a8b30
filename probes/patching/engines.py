"""Two ways to run a model under many edits of one kind of activation.

:class:`HookedLoop` runs the whole model once an edit, as TransformerLens's own patching does, and
works on any hooked model. :class:`Resumed` runs only what each edit can change and gives the same
outputs. Both take one layer's edits at a time and yield the outputs edit by edit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from probes.patching.edits import Edit, write
from probes.patching.partial_runs import PartialRunner
from probes.sites import PATTERN, hook_name

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
        rounding: By how much outputs that no edit reaches may differ from those, as a share of
            their size.
    """

    rounding = 0.0

    def __init__(
        self, model: Any, tokens: Tensor, component: str, *, last_only: bool, rows: int
    ) -> None:
        self.model, self.component = model, component
        self._batches, self._last_only = tokens.split(rows), last_only
        self.outputs = torch.cat([self._cut(model(batch)) for batch in self._batches])

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

                def put(activation: Tensor, hook: Any, own: Tensor = own) -> Tensor:
                    activation = activation.clone()
                    write(self.component, activation, own, edit)  # noqa: B023
                    return activation

                with self.model.hooks(fwd_hooks=[(hook_name(self.component, layer), put)]):
                    parts.append(self._cut(self.model(batch)))
            yield edit, torch.cat(parts)

    def _cut(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1].clone() if self._last_only else outputs


class Resumed:
    """Only what each edit can change; see :mod:`probes.patching.partial_runs`.

    Arguments and attributes are those of :class:`HookedLoop`. Several edits are stacked on the
    batch axis, up to ``rows`` sequences in all.
    """

    def __init__(
        self, model: Any, tokens: Tensor, component: str, *, last_only: bool, rows: int
    ) -> None:
        self.model, self.component, self.rows = model, component, rows
        self._runners = [
            PartialRunner(model, batch, last_only=last_only, keep_z=component == "z")
            for batch in tokens.split(rows)
        ]
        self.outputs = torch.cat([runner.outputs for runner in self._runners])
        self.rounding = 32 * torch.finfo(self.outputs.dtype).eps

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
                for index, edit in enumerate(group):
                    yield edit, torch.cat([part[index] for part in parts])

    def _reads_last_alone(self, layer: int) -> bool:
        """Whether the outputs depend on the component at the last position alone."""
        runner = self._runners[0]
        read_elsewhere = self.component in ("resid_pre", "k", "v")
        return runner.last_only and layer == runner.n_layers - 1 and not read_elsewhere

    def _order(self, edit: Edit) -> Any:
        return len(edit.positions) > 1, edit.positions, -1 if edit.head is None else edit.head

    def _window(self, edit: Edit) -> Any:
        """What edits must share to be stacked."""
        if len(edit.positions) > 1 or self.component in _WITHIN_ATTENTION:
            return edit.positions
        return None  # single positions of the stream: one pass serves neighbours too

    def _stack_size(self, layer: int, window: Any) -> int:
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
        if len(edits[0].positions) == 1:
            positions = [edit.positions[0] for edit in edits]
            points = self._streams(runner, layer, values, positions, [e.head for e in edits])
            return runner.resume_points(self._after(layer), points, positions)
        positions, first = list(edits[0].positions), edits[0].positions[0]
        after = self._after(layer)
        stream = runner.streams[after][:, first:].expand(len(edits), -1, -1, -1).clone()
        here = [position - first for position in positions]
        for index, edit in enumerate(edits):
            heads = [edit.head] * len(positions)
            changed = self._streams(runner, layer, values, positions, heads)
            stream[index, :, here] = changed.transpose(0, 1)
        return runner.resume(after, stream.flatten(0, 1), first).unflatten(0, (len(edits), -1))

    def _streams(
        self,
        runner: PartialRunner,
        layer: int,
        values: Tensor,
        positions: Sequence[int],
        heads: Sequence[int | None],
    ) -> Tensor:
        """The stream changed by an edit at each position (and head), ``[edit, batch, d_model]``."""
        there = list(positions)
        natural = runner.streams[layer][:, there]
        if self.component == "z":
            W_O = self.model.blocks[layer].attn.W_O
            change = values[:, there] - runner.z[layer][:, there]  # [batch, edit, head, d_head]
            if heads[0] is None:
                written = change.flatten(2) @ W_O.flatten(0, 1)
            elif len(set(heads)) == 1:
                written = change[:, :, heads[0]] @ W_O[heads[0]]
            else:
                change = change[:, range(len(there)), list(heads)]
                written = torch.einsum("bed,edm->bem", change, W_O[list(heads)])
            middle = natural + runner.attn_out[layer][:, there] + written
            changed = runner.after_mlp(layer, middle)
        else:
            value = values[:, there].to(natural.dtype)
            if self.component == "resid_mid":
                changed = runner.after_mlp(layer, value)
            elif self.component == "attn_out":
                changed = runner.after_mlp(layer, natural + value)
            elif self.component == "mlp_out":
                changed = natural + runner.attn_out[layer][:, there] + value
            else:
                changed = value
        return changed.transpose(0, 1)

    def _within_attention(
        self, runner: PartialRunner, layer: int, values: Tensor, edits: Sequence[Edit]
    ) -> Tensor:
        positions = edits[0].positions
        first = positions[0]
        alone = len(positions) == 1 and self.component in _OF_ONE_QUERY

        def put(activation: Tensor, hook: Any) -> Tensor:
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
