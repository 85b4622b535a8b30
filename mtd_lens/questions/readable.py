"""From which places of a model can a variable be read? Ridge probes, beside a control task."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

import probes
from mtd_lens.contracts import Algorithm, Carrier
from mtd_lens.measures.probe import probe_errors, share_read
from mtd_lens.questions.swaps import places_of, site_of
from mtd_lens.results.places import ProbeScore
from mtd_lens.trial import Trial
from probes.progress import steps

MAX_PROBED = 16
"""Query positions that a probe reads, evenly spaced where a carrier has more."""

FAINT = 1e-12
"""A head whose output varies by less than this share of its layer's largest variance is silent.

Added to the others' it would be lost in float32's rounding; a probe, which is free of scale, would
read it all the same.
"""

PROBED = ("z", "attn_out", "mlp_out", "resid_post")


def probe_places(
    trial: Trial, algorithm: Algorithm, carrier: Carrier
) -> tuple[list[ProbeScore], tuple[int, ...], float]:
    """Ridge probes of a variable at every place.

    Args:
        trial: Of the experiment.
        algorithm: With a control task.
        carrier: Says which variable, and at which queries.

    Returns:
        The probes, the positions that they read, and R² from the raw tokens of the shortest window
        that every query has.
    """
    assert algorithm.control is not None
    queries, tokens = trial.positions, torch.cat(trial.splits)
    sizes = [len(half) for half in trial.splits]
    indices = list(range(len(queries)))[carrier.queries]
    spread = np.linspace(0, len(indices) - 1, min(MAX_PROBED, len(indices))).round()
    indices = [indices[int(i)] for i in spread]
    positions = tuple(queries[i] for i in indices)
    target = torch.cat([trial.run(t)[carrier.variable] for t in trial.splits])[:, indices]
    decoy = algorithm.control(trial.causal_model, tokens, carrier.variable, trial.seed)[:, indices]
    places = places_of(trial.model, PROBED)
    sites = [site_of(place, positions) for place in places]
    halves = zip(*(trial.read(t, sites) for t in trial.splits), strict=True)
    captured = dict(zip(places, map(torch.cat, halves), strict=True))

    for _, heads in groupby((p for p in places if p.kind == "z"), key=lambda p: p.layer):
        _silence([captured[place] for place in heads])

    shown = steps(places, "probes")
    fitted = [probe_errors(captured[place].split(sizes), target, decoy) for place in shown]
    of_target, of_decoy = (
        _intervals([of[index][1] for of in fitted], trial.seed) for index in (0, 1)
    )
    raw = probes.raw_features(tokens, positions, queries[0] + 1, trial.task.inputs.size)
    [(_, errors)] = probe_errors(raw.split(sizes), target)
    read = [
        ProbeScore(
            **vars(found),
            variable=carrier.variable,
            place=place,
            control=control.score,
            control_low=control.low,
            control_high=control.high,
        )
        for place, found, control in zip(places, of_target, of_decoy, strict=True)
    ]
    return read, positions, share_read(errors)


def _intervals(errors: Sequence[tuple[Tensor, Tensor]], seed: int) -> list[probes.Interval]:
    """R² of every place, from its errors and deviations."""
    residual, deviation = (torch.stack(parts) for parts in zip(*errors, strict=True))
    scores = probes.ratio_intervals(residual, deviation, seed)
    return [probes.Interval(*map(float, found)) for found in zip(*scores, strict=True)]


def _silence(heads: Sequence[Tensor]) -> None:
    """Set to 0 what heads of a layer write too faintly to be added to the others'."""
    variances = [float(head.to(torch.float64).flatten(0, 1).var(0).sum()) for head in heads]
    for head, variance in zip(heads, variances, strict=True):
        if variance < FAINT * max(variances):
            head.zero_()
