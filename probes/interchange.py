"""Interchange interventions (Geiger et al. 2021): put a source's activation into a base run.

What the patched output ought to be is the caller's affair: a causal model in which the variable
takes its source value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes import checks
from probes.capture import (
    BATCH_SIZE,
    NaturalRuns,
    check_natural,
    check_source,
    check_tokens,
    last_outputs,
    read_activations,
)
from probes.errors import DataError, SiteError, shown
from probes.passes import alone
from probes.patching.fused import FusedAttention, fused_attention
from probes.patching.partial_runs import distance, tolerance, why_not, without_rounding
from probes.patching.swaps import SWAPPED, SwappedRuns, Write
from probes.patching.trust import why_inert
from probes.patching.truth import check_true
from probes.sites import Site, check_hooks, perturbed, suffix_of
from probes.subject import HookedModel, subject_of

Fused = Sequence[FusedAttention | None]

# Where the effect of an edit must show within the same block, whatever the blocks above do.
_WITNESS = {
    "hook_resid_pre": "hook_resid_post",
    "hook_resid_mid": "hook_resid_post",
    "hook_attn_out": "hook_resid_post",
    "hook_mlp_out": "hook_resid_post",
    "attn.hook_q": "attn.hook_pattern",
    "attn.hook_k": "attn.hook_pattern",
    "attn.hook_v": "attn.hook_z",
    "attn.hook_pattern": "attn.hook_z",
    "attn.hook_z": "hook_attn_out",
    "mlp.hook_pre": "hook_mlp_out",
    "mlp.hook_post": "hook_mlp_out",
}
_LAST = "hook_resid_post"
"""What a block passes on: the effect of its edits must show in the outputs."""


@dataclass(frozen=True)
class Interchanged:
    """Outputs at the last position: logits, or as the read-out is.

    Attributes:
        base: ``[sequence, d_vocab_out]``: of the unpatched runs.
        patched: ``[sequence, d_vocab_out]`` by name: of the same runs with the source's activations
            at each site, or at all sites of a set together.
    """

    base: Tensor
    patched: dict[str, Tensor]


@alone
def run_interchange(
    model: HookedModel,
    tokens: Tensor,
    source: Tensor,
    sites: Mapping[str, Site | Sequence[Site]],
    batch_size: int = BATCH_SIZE,
    *,
    natural: NaturalRuns | None = None,
) -> Interchanged:
    """Run every sequence with its source's activations at one set of sites after another.

    A patched run computes only what the swap can change: from the set's first block on and, where
    resumed runs agree with hooked ones on two sequences, from its first position on. Every value
    swapped in is that of the source's natural run, also where an earlier site of the set would have
    changed it. Activations are kept for one batch at a time, unless natural runs are given. Compare
    the outputs with those of a causal model to score an interchange intervention (Geiger et al.
    2021).

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        source: ``[sequence]``: the row of ``tokens`` that is each sequence's source.
        sites: What is swapped, inside blocks, by a name of the caller's: a site, or several of any
            layers that are swapped together. Where sites of a set overlap, the last one holds.
        batch_size: Sequences a forward pass.
        natural: The model's unedited runs on ``tokens``, or on more sequences that begin with
            them: what they hold is not run again.

    Returns:
        The outputs at the last position, unpatched and for each set of sites.

    Raises:
        SiteError: A hook that the model does not have, one outside the blocks, or an empty set.
        DataError: Tokens that the model cannot read, or sources that are no rows of them.
    """
    check_tokens(model, tokens)
    batch_size = checks.integer(batch_size, "batch_size", 1, DataError)
    of = "sites, or lists of sites, by name"
    sets = {
        name: (value,)
        if isinstance(value, Site)
        else tuple(checks.listed(value, f"the set {name!r}", of, DataError, Site))
        for name, value in checks.mapping(sites, "sites", DataError).items()
    }
    check_natural(natural, model, tokens)
    for name, group in sets.items():
        _check_set(name, group)
    check_source(tokens, source)
    check_hooks(model, (site.hook for group in sets.values() for site in group))
    swapped = list(dict.fromkeys(site for group in sets.values() for site in group))
    base: list[Tensor] = []
    found_outputs: dict[str, list[Tensor]] = {name: [] for name in sets}
    fused: Fused | None = None
    for rows in torch.arange(len(tokens), device=tokens.device).split(batch_size):
        if natural is None:
            pair = torch.cat([tokens[rows], tokens[source[rows]]])
            here = torch.arange(len(rows), device=rows.device)
            runs, there = NaturalRuns(model, pair, batch_size), here + len(rows)
        else:
            runs, here, there = natural, rows, source[rows]
        found = runs.read([*swapped, *streams_of(model)])
        values = {site: value[there] for site, value in zip(swapped, found, strict=False)}
        base.append(runs.outputs[here])
        writes = {name: [(site, values[site]) for site in group] for name, group in sets.items()}
        if int(rows[0]) == 0:
            fused = resumable(runs, list(writes.values()))
        for name, output in _written(runs, here, writes, fused).items():
            found_outputs[name].append(output)
    return Interchanged(
        torch.cat(base), {name: torch.cat(parts) for name, parts in found_outputs.items()}
    )


@alone
def run_written(
    model: HookedModel,
    natural: NaturalRuns,
    rows: Int[Tensor, " run"],
    writes: Mapping[str, Sequence[Write]],
    batch_size: int = BATCH_SIZE,
) -> dict[str, Tensor]:
    """Run sequences with values written at one set of sites after another.

    As :func:`run_interchange`, with values of the caller's own: those of other sequences, of
    several of them put together, or of no sequence at all.

    Args:
        model: A hooked model.
        natural: Its unedited runs.
        rows: ``[run]``: the sequence that each run is of.
        writes: By a name of the caller's, sites inside blocks with what is written at each,
            ``[run, …]`` as the site reads it, in any floating-point dtype.
        batch_size: Runs a forward pass.

    Returns:
        By name, outputs at the last position, ``[run, d_vocab_out]``.

    Raises:
        SiteError: A hook that the model does not have, one outside the blocks, or an empty set.
        DataError: Rows that there are not, writes of another kind, or values of another shape.
    """
    checks.instance(natural, NaturalRuns, "natural", DataError)
    batch_size = checks.integer(batch_size, "batch_size", 1, DataError)
    rows = checks.tensor(rows, "rows", "run", DataError, "integer")
    given = {
        name: _checked_writes(name, group)
        for name, group in checks.mapping(writes, "writes", DataError).items()
    }
    check_natural(natural, model, natural.tokens)
    n_sequences = len(natural.tokens)
    if len(rows) < 1 or int(rows.min()) < 0 or int(rows.max()) >= n_sequences:
        raise DataError(f"rows must be of the {n_sequences} sequences that were run; got {rows!r}.")
    for name, group in given.items():
        _check_set(name, [site for site, _ in group])
        for site, value in group:
            if len(value) != len(rows):
                raise DataError(
                    f"what is written at {site.hook} has {len(value)} rows for {len(rows)} runs."
                )
    check_hooks(model, (site.hook for group in given.values() for site, _ in group))
    natural.read(streams_of(model))
    dtype = subject_of(model).dtype
    found: dict[str, list[Tensor]] = {name: [] for name in given}
    groups = {
        name: [(site, value.to(dtype)) for site, value in group] for name, group in given.items()
    }
    written = tuple(site for site, _ in next(iter(groups.values()), []))
    if written not in natural.resumed:
        natural.resumed[written] = resumable(natural, list(groups.values()))
    fused = natural.resumed[written]
    for part in torch.arange(len(rows), device=rows.device).split(batch_size):
        batch = {name: [(s, v[part]) for s, v in group] for name, group in groups.items()}
        for name, output in _written(natural, rows[part], batch, fused).items():
            found[name].append(output)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _written(
    natural: NaturalRuns,
    rows: Tensor,
    writes: Mapping[str, Sequence[Write]],
    fused: Fused | None,
) -> dict[str, Tensor]:
    """Outputs of one batch at the last position, with each set of values written."""
    run, base = patched(natural, rows, fused), natural.outputs[rows]
    with torch.no_grad():
        return {name: without_rounding(run.swap(group), base) for name, group in writes.items()}


class HookedRuns:
    """Patched runs by hooks, from the first edited block on."""

    def __init__(self, natural: NaturalRuns, rows: slice | Tensor) -> None:
        self.natural, self.rows = natural, rows

    def swap(self, writes: Sequence[Write]) -> Tensor:
        """Outputs at the last position with values written at sites."""
        model = self.natural.model
        layer = min(site.layer for site, _ in writes if site.layer is not None)
        stream = Site.at("resid_pre", layer)
        hooks = [(site.hook, _writer(site, value)) for site, value in writes]
        if not subject_of(model).resumes or model.hook_dict[stream.hook].fwd_hooks:
            # A hook of the caller's there would act twice on a stream that it has acted on.
            with model.hooks(fwd_hooks=hooks):
                return model(self.natural.tokens[self.rows])[:, -1]
        start = self.natural.read([stream])[0][self.rows]
        with model.hooks(fwd_hooks=hooks):
            return model(start, start_at_layer=layer)[:, -1]


def patched(
    natural: NaturalRuns, rows: slice | Tensor, fused: Fused | None
) -> SwappedRuns | HookedRuns:
    """Patched runs of some sequences, at whose sites values are written by ``swap``.

    Args:
        natural: Unedited runs.
        rows: Of which of their sequences.
        fused: What ``resumable`` found.
    """
    if fused is None:
        return HookedRuns(natural, rows)
    streams = streams_of(natural.model)
    return SwappedRuns(natural.model, lambda layer: natural.read([streams[layer]])[0][rows], fused)


def streams_of(model: HookedModel) -> list[Site]:
    """The stream that each block reads: what the block before wrote, where there is one.

    Args:
        model: A hooked model.
    """
    n_layers = subject_of(model).n_layers
    first = [Site.at("resid_pre", 0)]
    return first + [Site.at("resid_post", layer) for layer in range(n_layers - 1)]


def resumable(natural: NaturalRuns, writes: Sequence[Sequence[Write]]) -> Fused | None:
    """Fused attention for runs that compute only what writes can change, if they can be trusted.

    They are where the model has nothing that they do not know of, and where they give what hooks
    give: under the first set of writes, on two sequences. Where they are not, hooks must do what
    they say.

    Args:
        natural: Unedited runs.
        writes: Sets of writes to their first sequences.

    Raises:
        SiteError: A hook does something else than it says.
    """
    fused = _trusted(natural, writes)
    if fused is None:
        sites = {site for group in writes for site, _ in group}
        for layer in sorted({site.layer for site in sites if site.layer is not None}):
            written = sorted({site.component for site in sites if site.layer == layer})
            check_true(natural.model, natural.tokens, written, [layer])
    return fused


def _trusted(natural: NaturalRuns, writes: Sequence[Sequence[Write]]) -> Fused | None:
    model, few = natural.model, NaturalRuns(natural.model, natural.tokens[:2])
    known = all(site.component in SWAPPED for group in writes for site, _ in group)
    if not known or not writes or why_not(model, with_before=True) is not None:
        return None
    with torch.no_grad():
        if subject_of(model).model.input_to_embed(few.tokens)[3] is not None:
            return None  # padding
    fused, first = fused_attention(model), [(site, value[:2]) for site, value in writes[0]]
    try:
        with torch.no_grad():
            expected = HookedRuns(few, slice(None)).swap(first)
            away = distance(patched(few, slice(None), fused).swap(first), expected)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    return fused if away <= tolerance(expected.dtype) else None


def _check_set(name: str, group: Sequence[Site]) -> None:
    """Raise a SiteError for a set without sites, or with one outside the blocks."""
    outside = [site.hook for site in group if site.layer is None]
    if outside:
        raise SiteError(
            f"interchange swaps activations inside blocks; {outside[0]!r} is outside. "
            "Use a hook named blocks.LAYER.…"
        )
    if not group:
        raise SiteError(f"the set {name!r} holds no site to swap. Give at least one.")


def _checked_writes(name: object, group: object) -> list[Write]:
    """The sites of a set with the tensors that are written there, as the caller gave them.

    Raises:
        DataError: They are something else.
    """
    what, of = f"the set {name!r}", "pairs of a site and what is written there"
    entries = checks.listed(group, what, of, DataError, tuple)
    for entry in entries:
        if len(entry) != 2:
            raise DataError(f"{what} must be a list of {of}; got {shown(entry)} in it.")
        site = checks.instance(entry[0], Site, f"the site in {what}", DataError)
        checks.tensor(entry[1], f"what is written at {site.hook}", "run, …", DataError)
    return entries


def _writer(site: Site, value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda activation, hook: site.write(activation, value)


@alone
def check_editable(model: HookedModel, tokens: Tensor, hook_suffixes: tuple[str, ...]) -> None:
    """Raise a SiteError where edits at a kind of hook do nothing, or not what they say.

    For each suffix (``"hook_attn_out"``, ``"attn.hook_pattern"``), the activation is perturbed in
    every layer; what the same block computes from it must move in at least one. Edits must also
    do what they say; see :mod:`probes.patching.truth`.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``; two sequences are run.
        hook_suffixes: Kinds of hooks within a block, by any of their names.

    Raises:
        SiteError: Edits that are ignored, on which nothing depends or that one of several readers
            alone follows, or a hook that the model does not have.
        DataError: Tokens that the model cannot read.
    """
    check_tokens(model, tokens)
    few = tokens[:2]
    listed = checks.listed(hook_suffixes, "hook_suffixes", "kinds of hooks", SiteError)
    listed = [suffix_of(suffix) if isinstance(suffix, str) else suffix for suffix in listed]
    for suffix in listed:
        checks.choice(suffix, "kind of hook", (*_WITNESS, _LAST), SiteError)
    components = [suffix.rpartition("hook_")[2] for suffix in listed]
    check_true(model, tokens, components, range(subject_of(model).n_layers))
    for suffix in listed:
        moved, names = False, []
        perturb = partial(_perturb, suffix.rpartition("hook_")[2])
        for layer in range(subject_of(model).n_layers):
            edited = f"blocks.{layer}.{suffix}"
            witness = _WITNESS.get(suffix)
            seen = {} if witness is None else {"seen": Site(f"blocks.{layer}.{witness}")}
            check_hooks(model, (edited, *(site.hook for site in seen.values())))
            names.append(edited)
            before = _seen(model, few, seen)
            with model.hooks(fwd_hooks=[(edited, perturb)]):
                after = _seen(model, few, seen)
            moved = moved or not torch.equal(before, after)
        if not moved:
            raise SiteError(
                f"editing 'blocks.*.{suffix}' changes nothing in any layer of this model, so every "
                f"intervention there would score 0: {why_inert(model, few, names)}"
            )


def _seen(model: HookedModel, tokens: Tensor, site: Mapping[str, Site]) -> Tensor:
    """The activation at the one site; without one the outputs at the last position."""
    found = read_activations(model, tokens, site) if site else {}
    return found["seen"] if found else last_outputs(model, tokens)


def _perturb(component: str, activation: Tensor, hook: object) -> Tensor:
    return perturbed(component, activation)
