"""Two ways to run a model under many edits of one kind of activation.

:class:`HookedLoop` runs the whole model once an edit, as TransformerLens's own patching does, and
works on any hooked model. :class:`Resumed` runs only what each edit can change and gives the same
outputs. Both take one layer's edits at a time and yield the outputs edit by edit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import psutil
import torch
from torch import Tensor

from probes import checks
from probes.edits import PATTERN, Edit, hook_name, write
from probes.errors import DataError
from probes.partial_runs import PartialRunner, why_not

ROWS = 16
"""Sequences a resumed forward pass, stacked edits counted; wider passes fall out of CPU caches."""

SHARE_OF_FREE_MEMORY = 0.5

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
    """

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

                def replace(activation: Tensor, hook: Any, own: Tensor = own) -> Tensor:
                    activation = activation.clone()
                    write(self.component, activation, own, edit)  # noqa: B023
                    return activation

                with self.model.hooks(fwd_hooks=[(hook_name(self.component, layer), replace)]):
                    parts.append(self._cut(self.model(batch)))
            yield edit, torch.cat(parts)

    def _cut(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1].clone() if self._last_only else outputs


class Resumed:
    """Only what each edit can change; see :mod:`probes.partial_runs`.

    Arguments are those of :class:`HookedLoop`. Several edits are stacked on the batch axis, up to
    ``rows`` sequences in all.
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

    def run(self, layer: int, values: Tensor, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Any]]:
        """See :meth:`HookedLoop.run`; edits come in an order of their own."""
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
            change = (values - runner.z[layer])[:, there]  # [batch, edit, head, d_head]
            if heads[0] is None:
                written = torch.einsum("behd,hdm->bem", change, W_O)
            else:
                which = torch.tensor(heads, device=values.device)
                change = change[:, torch.arange(len(there), device=values.device), which]
                written = torch.einsum("bed,edm->bem", change, W_O[which])
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

        def replace(activation: Tensor, hook: Any) -> Tensor:
            stacked = activation.clone().unflatten(0, (len(edits), -1))
            for own, edit in zip(stacked, edits, strict=True):
                write(self.component, own, values, edit, first)
            return stacked.flatten(0, 1)

        with self.model.hooks(fwd_hooks=[(hook_name(self.component, layer), replace)]):
            attn_out = runner.attend(layer, first, 1 if alone else None, len(edits))
        attn_out = attn_out.unflatten(0, (len(edits), -1))
        natural = runner.streams[layer][:, first : first + attn_out.shape[2]]
        stream = runner.after_mlp(layer, natural + attn_out)
        if alone:
            return runner.resume_points(layer + 1, stream[:, :, 0], [first] * len(edits))
        outputs = runner.resume(layer + 1, stream.flatten(0, 1), first)
        return outputs.unflatten(0, (len(edits), -1))


def choose_engine(
    model: Any,
    tokens: Tensor,
    component: str,
    layer: int,
    values: Tensor,
    edits: Sequence[Edit],
    *,
    last_only: bool,
    max_memory: int | None = None,
    accelerate: bool = True,
) -> tuple[HookedLoop | Resumed, str]:
    """The fastest engine that gives the hooked loop's outputs on this model, and its description.

    Before it is chosen, :class:`Resumed` must agree with the hooked loop on two sequences, for the
    first, middle and last edit of a layer.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``: the runs that will be edited.
        component: Which activation.
        layer: Of the trial.
        values: What the trial writes.
        edits: Those of one layer.
        last_only: Outputs at the last position alone.
        max_memory: Bytes that the runs may take; by default half of what is free.
        accelerate: False takes the hooked loop.

    Raises:
        DataError: Too little memory.
    """
    reason = why_not(model) if accelerate else "asked for"
    rows = _rows(model, tokens, reason is None, max_memory)
    settings: dict[str, Any] = {"last_only": last_only, "rows": rows}
    if reason is None:
        few = [edits[0], edits[len(edits) // 2], edits[-1]]
        reason = _disagreement(model, tokens[:2], component, layer, values[:2], few, settings)
    if reason is None:
        return Resumed(model, tokens, component, **settings), "resumed from the edited position"
    settings["rows"] = _rows(model, tokens, False, max_memory)
    return HookedLoop(model, tokens, component, **settings), f"hooked loop: {reason}"


def _disagreement(
    model: Any,
    tokens: Tensor,
    component: str,
    layer: int,
    values: Tensor,
    edits: Sequence[Edit],
    settings: Mapping[str, Any],
) -> str | None:
    """Why resumed runs cannot be trusted on this model; None if they agree with hooked ones."""
    loop = HookedLoop(model, tokens, component, **settings)
    try:
        resumed = Resumed(model, tokens, component, **settings)
        found = dict(resumed.run(layer, values, edits))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"resuming its runs failed ({type(error).__name__}: {error})"
    for edit, outputs in loop.run(layer, values, edits):
        scale = float(outputs.abs().max().clamp_min(1.0))
        difference = float((found[edit] - outputs).abs().max()) / scale
        if not difference <= _tolerance(outputs.dtype):
            return f"resumed runs differ from hooked ones by {difference:.1g}"
    return None


def _tolerance(dtype: torch.dtype) -> float:
    return math.sqrt(torch.finfo(dtype).eps) / 3


def _rows(model: Any, tokens: Tensor, resumed: bool, max_memory: int | None) -> int:
    """Sequences a forward pass that memory has room for, beside what is kept of natural runs."""
    budget = free_memory(tokens.device) if max_memory is None else max_memory
    budget = checks.integer(budget, "max_memory", 1, DataError)
    cfg, length = model.cfg, tokens.shape[1]
    size = next(model.parameters()).element_size()
    heads = cfg.n_heads * cfg.d_head
    kept = 2 * (cfg.n_layers + 1) * (cfg.d_model + heads) * length * size if resumed else 0
    passing = length * size * (8 * cfg.d_model + 6 * heads + 3 * (cfg.d_mlp or 0))
    passing += length * size * (4 * cfg.n_heads * length + 2 * cfg.d_vocab_out)
    needed = kept * len(tokens) + passing
    if needed > budget:
        raise DataError(
            f"patching {len(tokens)} sequences of {length} positions needs about "
            f"{needed / 1e6:.0f} MB, more than the {budget / 1e6:.0f} MB allowed. Pass fewer "
            "sequences at a time, or raise max_memory."
        )
    most = ROWS if resumed else len(tokens)
    return int(max(1, min(most, (budget - kept * len(tokens)) // passing)))


def free_memory(device: Any) -> int:
    """Half of the memory that is free on a device, in bytes."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_FREE_MEMORY)
    return int(psutil.virtual_memory().available * SHARE_OF_FREE_MEMORY)
