"""Interchange interventions (Geiger et al. 2021): put a source's activation into a base run.

What the patched output ought to be is the caller's affair: a causal model in which the variable
takes its source value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes import checks
from probes.capture import BATCH_SIZE, check_tokens, read_activations, run_and_capture
from probes.errors import DataError, SiteError
from probes.sites import Site, check_hooks

# Where the effect of an edit must show within the same block, whatever the blocks above do.
_WITNESS = {
    "hook_attn_out": "hook_resid_post",
    "attn.hook_pattern": "attn.hook_z",
    "attn.hook_z": "hook_attn_out",
    "hook_mlp_out": "hook_resid_post",
}


@dataclass(frozen=True)
class Interchanged:
    """Outputs at the last position, ``[sequence, d_vocab_out]``: logits, or as the read-out is.

    Attributes:
        base: Of the unpatched runs.
        patched: Of the same runs with the source's activation at each site, under its name.
    """

    base: Tensor
    patched: dict[str, Tensor]


def run_interchange(
    model: Any,
    tokens: Any,
    source: Any,
    sites: Mapping[str, Site],
    batch_size: int = BATCH_SIZE,
) -> Interchanged:
    """Run every sequence with its source's activation at one site after another.

    A patched run starts at the site's block, from the sequence's own residual stream.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        source: ``[sequence]``: the row of ``tokens`` that is each sequence's source.
        sites: Where the activation is swapped, inside blocks, by a name of the caller's.
        batch_size: Sequences a forward pass.

    Raises:
        SiteError: A hook that the model does not have, or one outside the blocks.
        DataError: Tokens that the model cannot read, or sources that are no rows of them.
    """
    check_tokens(model, tokens)
    outside = [site.hook for site in sites.values() if site.layer is None]
    if outside:
        raise SiteError(
            f"interchange swaps activations inside blocks; {outside[0]!r} is outside. "
            "Use a hook named blocks.LAYER.…"
        )
    whole = isinstance(source, Tensor) and not source.is_floating_point()
    if not whole or source.shape != tokens.shape[:1] or not _within(source, len(tokens)):
        raise DataError(
            f"source must hold one row number of tokens, 0 … {len(tokens) - 1}, for each of the "
            f"{len(tokens)} sequences; got {source!r}."
        )
    streams = {
        f"resid_pre {site.layer}": Site(f"blocks.{site.layer}.hook_resid_pre")
        for site in sites.values()
    }
    natural, base = run_and_capture(model, tokens, {**sites, **streams}, batch_size)
    patched = {}
    for name, site in sites.items():
        start_at: int | None = site.layer
        starts = natural[f"resid_pre {site.layer}"].split(batch_size)
        if model.hook_dict[f"blocks.{site.layer}.hook_resid_pre"].fwd_hooks:
            # A hook of the caller's there would act twice on a stream that it has acted on.
            start_at, starts = None, tokens.split(batch_size)
        values = natural[name][source].split(batch_size)
        outputs = []
        for start, value in zip(starts, values, strict=True):
            hook = (site.hook, _writer(site, value))
            with torch.no_grad(), model.hooks(fwd_hooks=[hook]):
                outputs.append(model(start, start_at_layer=start_at)[:, -1])
        patched[name] = torch.cat(outputs)
    return Interchanged(base, patched)


def _within(index: Tensor, length: int) -> bool:
    return int(index.min()) >= 0 and int(index.max()) < length


def _writer(site: Site, value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda activation, hook: site.write(activation, value)


def check_editable(model: Any, tokens: Tensor, hook_suffixes: tuple[str, ...]) -> None:
    """Raise a SiteError where edits at a kind of hook are silently ignored.

    For each suffix (``"hook_attn_out"``, ``"attn.hook_pattern"``), the activation is perturbed in
    every layer; what the same block computes from it must move in at least one.
    """
    few = tokens[:2]
    for suffix in hook_suffixes:
        checks.choice(suffix, "kind of hook", _WITNESS, SiteError)
        moved = False
        for layer in range(model.cfg.n_layers):
            edited, seen = f"blocks.{layer}.{suffix}", f"blocks.{layer}.{_WITNESS[suffix]}"
            check_hooks(model, (edited, seen))
            before = read_activations(model, few, {"seen": Site(seen)})["seen"]
            with model.hooks(fwd_hooks=[(edited, _perturb)]):
                after = read_activations(model, few, {"seen": Site(seen)})["seen"]
            moved = moved or not torch.equal(before, after)
        if not moved:
            raise SiteError(
                f"editing 'blocks.*.{suffix}' changes nothing in any layer of this model: it "
                "ignores such edits, so every intervention there would score 0. Use a "
                "HookedTransformer, whose hooks are causal."
            )


def _perturb(activation: Tensor, hook: Any) -> Tensor:
    return activation * 0.5 + torch.linspace(0, 1, activation.shape[-1]).to(activation)
