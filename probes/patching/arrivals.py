"""What arrives at a site in runs in which values are written at others: a path's first half.

Written into otherwise natural runs, it is the effect along the paths that lead through the site
(Goldowsky-Dill et al. 2023, *Localizing Model Behavior with Path Patching*).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from probes.capture import BATCH_SIZE, NaturalRuns, read_activations
from probes.passes import alone
from probes.patching.swaps import Write
from probes.sites import Site
from probes.subject import HookedModel, subject_of


def arriving(natural: NaturalRuns, rows: Tensor, writes: Sequence[Write], site: Site) -> Tensor:
    """The activation at a site in runs with values written elsewhere, ``[run, …]``.

    Args:
        natural: A model's unedited runs, of whose sequences the runs are.
        rows: ``[run]``: the sequence that each run is of.
        writes: Sites inside blocks with what is written at each, ``[run, …]``.
        site: Where is read.
    """
    return _arriving(natural.model, natural.tokens[rows], writes, site)


@alone
def _arriving(model: HookedModel, tokens: Tensor, writes: Sequence[Write], site: Site) -> Tensor:
    dtype, found = subject_of(model).dtype, []
    for part in torch.arange(len(tokens), device=tokens.device).split(BATCH_SIZE):
        hooks = [(at.hook, _writer(at, value[part].to(dtype))) for at, value in writes]
        with model.hooks(fwd_hooks=hooks):  # the reader's own hook comes after these
            read = read_activations(model, tokens[part], {"site": site}, batch_size=len(part))
        found.append(read["site"])
    return torch.cat(found)


def _writer(site: Site, value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda activation, hook: site.write(activation, value)
