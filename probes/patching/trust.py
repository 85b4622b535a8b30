"""Before a run: do edits move the logits, may runs be resumed on this model, and is there room?"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probes import checks
from probes.capture import read_activations
from probes.errors import DataError, SiteError
from probes.memory import free_memory
from probes.patching.edits import Edit, Plan, write
from probes.patching.engines import ROWS, HookedLoop, Resumed, Run
from probes.patching.memory import fingerprint, remembered
from probes.patching.partial_runs import distance, tolerance, why_not, without_rounding
from probes.patching.truth import check_true
from probes.sites import Site, hook_name, perturbed
from probes.subject import HookedModel, subject_of
from probes.twins import MARK, through

TRIAL_LENGTH = 8
"""Positions of the trial before a run; whole sequences where a tokenizer may have padded them."""

SHARE_OF_FREE_MEMORY = 0.5


def choose_engine(
    model: HookedModel, tokens: Tensor, plan: Plan, run: Run
) -> tuple[HookedLoop | Resumed, str, list[str]]:
    """The fastest engine that gives the hooked loop's outputs on this model.

    First every hook that will be used is edited once in a trial on a few tokens, which must move
    the logits; there :class:`Resumed` must agree with the hooked loop as well. What a trial finds
    is remembered under all that it depends on; see :mod:`probes.patching.memory`.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``: the runs that will be edited.
        plan: The edits.
        run: How.

    Returns:
        The engine, its description, and the hooks whose edit left every logit as it was.

    Raises:
        SiteError: No hook's edit moves the logits: the model ignores such edits; or one does not
            do what it says.
        DataError: Too little memory.
    """
    reason = why_not(model) if run.accelerate else "asked for"
    rows = _rows(model, tokens, reason is None, run.max_memory)
    trial = _Trial(model, tokens, plan, rows)

    def verdict() -> tuple[list[str], str | None]:
        inert = trial.inert()
        return inert, trial.disagreement(run.last_only) if reason is None else reason

    inert, reason = remembered(model, (*trial.key, reason, run.last_only), verdict)
    if reason is None:
        engine = Resumed(model, tokens, plan.component, last_only=run.last_only, rows=rows)
        return engine, "resumed from the edited position" + _of_twin(model), list(inert)
    rows = _rows(model, tokens, False, run.max_memory)
    loop = HookedLoop(model, tokens, plan.component, last_only=run.last_only, rows=rows)
    return loop, f"hooked loop{_of_twin(model)}: {reason}", list(inert)


def _of_twin(model: HookedModel) -> str:
    return f", of {through(model)}" if hasattr(model, MARK) else ""


def inert_hooks(model: HookedModel, tokens: Tensor, plan: Plan) -> list[str]:
    """Edit a component once in each layer; the hooks whose edit leaves every logit as it was.

    Raises:
        SiteError: All of them: the model ignores such edits.
    """
    trial = _Trial(model, tokens, replace(plan, edits=()), ROWS)
    return list(remembered(model, trial.key, trial.inert))


class _Trial:
    """A few edits that perturb what is there, on the first tokens of two sequences.

    They are stacked on the batch axis after the natural run, up to ``rows`` sequences a pass.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        plan: Each of its layers is edited whole, and of its edits the middle one is tried in the
            first layer and the last one in the last layer, in the same places of shorter sequences.
        rows: Sequences a forward pass.
    """

    def __init__(self, model: HookedModel, tokens: Tensor, plan: Plan, rows: int) -> None:
        self.model, self.component, self.layers = model, plan.component, plan.layers
        padded = getattr(model, "tokenizer", None) is not None
        self.tokens = tokens[:2] if padded else tokens[:2, :TRIAL_LENGTH]
        short, length = self.tokens.shape[1], tokens.shape[1]
        whole = Edit((), tuple(range(short)))
        self._edits = [(layer, whole) for layer in plan.layers]
        if plan.edits:
            middle, last = plan.edits[len(plan.edits) // 2], plan.edits[-1]
            ends = ((plan.layers[0], middle), (plan.layers[-1], last))
            self._edits += [(layer, _moved(edit, length, short)) for layer, edit in ends]
        self._size = max(1, rows // len(self.tokens) - 1)
        self._values: dict[int, Tensor] = {}
        self._natural_values: dict[int, Tensor] = {}
        self._edited: list[Tensor] = []

    @property
    def key(self) -> tuple[Any, ...]:
        """What it depends on, beside the model."""
        return self.component, tuple(self._edits), self._size, fingerprint(self.tokens)

    def _run(self) -> None:
        for start in range(0, len(self._edits), self._size):
            some = self._edits[start : start + self._size]
            hooks = [
                (hook_name(self.component, layer), self._edit(layer, some)) for layer in self.layers
            ]
            with self.model.hooks(fwd_hooks=hooks):
                outputs = self.model(torch.cat([self.tokens] * (len(some) + 1)))
            self._natural, *edited = outputs.split(len(self.tokens))
            self._edited += edited

    def _edit(self, layer: int, some: Sequence[tuple[int, Edit]]) -> Any:
        def edit(activation: Tensor, hook: object) -> Tensor:
            natural, *parts = activation.clone().split(len(self.tokens))
            self._natural_values.setdefault(layer, natural.clone())
            self._values[layer] = perturbed(self.component, natural)
            for part, (at, where) in zip(parts, some, strict=True):
                if at == layer:
                    write(self.component, part, self._values[layer], where)
            return torch.cat([natural, *parts])

        return edit

    def inert(self) -> list[str]:
        """Hooks whose edit moves no logit; a SiteError if that is true of all, or an edit lies."""
        check_true(self.model, self.tokens, [self.component], self.layers)
        self._run()
        hooks = {layer: hook_name(self.component, layer) for layer in self.layers}
        silent = {name: Site(name) for layer, name in hooks.items() if layer not in self._values}
        if silent:
            read_activations(self.model, self.tokens, silent)  # raises an error that says so
        inert = [
            hooks[layer]
            for layer, outputs in zip(self.layers, self._edited, strict=False)
            if torch.equal(without_rounding(outputs, self._natural), self._natural)
        ]
        if len(inert) == len(self.layers):
            why = why_inert(self.model, self.tokens, inert)
            raise SiteError(
                f"editing {inert[0]!r} changes no logit of this model, nor does any other hook "
                f"that was asked for, so every effect would be 0: {why} Choose other layers, "
                "another component or longer sequences."
            )
        return inert

    def disagreement(self, last_only: bool) -> str | None:
        """Why resumed runs cannot be trusted on this model; None if they agree with hooked ones."""
        try:
            resumed = Resumed(self.model, self.tokens, self.component, last_only=last_only, rows=2)
            found = [
                (next(resumed.run(layer, self._values[layer], [edit]))[1], hooked)
                for (layer, edit), hooked in zip(self._edits, self._edited, strict=True)
            ]
            kept = [(resumed.kept(layer), self._natural_values[layer]) for layer in self.layers]
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            return f"resuming its runs failed ({type(error).__name__}: {error})"
        found = [(outputs, hooked[:, -1] if last_only else hooked) for outputs, hooked in found]
        found += [(values, hooked) for values, hooked in kept if values is not None]
        for values, hooked in found:
            difference = distance(values, hooked)
            if not difference <= tolerance(values.dtype):
                return f"resumed runs differ from hooked ones by {difference:.1g}"
        return None


def why_inert(model: HookedModel, tokens: Tensor, hooks: Sequence[str]) -> str:
    """Why edits at hooks change nothing, in a sentence: NaN passes through weights of 0 too."""

    def spoil(activation: Tensor, hook: object) -> Tensor:
        return torch.full_like(activation, torch.nan)

    with torch.no_grad(), model.hooks(fwd_hooks=[(name, spoil) for name in hooks]):
        heard = bool(model(tokens).isnan().any())
    if heard:
        return "nothing depends on that activation, as where the weights that read it are 0."
    return "the model ignores such edits. Pass a model whose hooks are causal there."


def _moved(edit: Edit, length: int, short: int) -> Edit:
    """An edit of sequences of one length at the same places of shorter ones."""
    positions = sorted({position * short // length for position in edit.positions})
    key = None if edit.key is None else edit.key * short // length
    return replace(edit, positions=tuple(positions), key=key)


def check_graph(
    model: HookedModel, tokens: Tensor, n_kept: int, max_memory: float | int | None
) -> None:
    """Raise a DataError if memory has no room for one pass over all tokens and its gradients.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        n_kept: Layers whose activations are kept from two runs, with their gradients.
        max_memory: Bytes; None for half of what is free.
    """
    one = _bytes_of_layer(model, tokens.shape[1])
    needed = len(tokens) * one * (subject_of(model).n_layers + 3 * n_kept)
    _check_budget(model, tokens, needed, max_memory)


def _check_budget(
    model: HookedModel, tokens: Tensor, needed: int, max_memory: float | int | None
) -> float:
    """The bytes that are allowed, if as many as are needed."""
    free = int(free_memory(subject_of(model).device) * SHARE_OF_FREE_MEMORY)
    asked = free if max_memory is None else max_memory
    budget = checks.number(asked, "max_memory", 0, math.inf, DataError, "It is in bytes.")
    if needed > budget:
        raise DataError(
            f"patching {len(tokens)} sequences of {tokens.shape[1]} positions needs about "
            f"{needed / 1e6:.3g} MB, more than the {budget / 1e6:.3g} MB allowed. Pass fewer "
            "sequences at a time, or raise max_memory."
        )
    return budget


def _bytes_of_layer(model: HookedModel, length: int) -> int:
    """Roughly what one sequence's pass takes while it is in a layer."""
    subject = subject_of(model)
    heads = subject.n_heads * subject.d_head
    entries = 8 * subject.d_model + 6 * heads + 3 * subject.d_mlp
    entries += 4 * subject.n_heads * length + 2 * subject.n_outputs
    return length * subject.dtype.itemsize * entries


def _rows(model: HookedModel, tokens: Tensor, resumed: bool, max_memory: float | int | None) -> int:
    """Sequences a forward pass that memory has room for, beside what is kept of natural runs."""
    subject, length = subject_of(model), tokens.shape[1]
    size, heads = subject.dtype.itemsize, subject.n_heads * subject.d_head
    kept = 3 * (subject.n_layers + 1) * (subject.d_model + heads) * length * size if resumed else 0
    passing = _bytes_of_layer(model, length)
    budget = _check_budget(model, tokens, kept * len(tokens) + passing, max_memory)
    most = ROWS if resumed else len(tokens)
    return int(max(1, min(most, (budget - kept * len(tokens)) // passing)))
