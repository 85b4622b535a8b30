"""Weights against the analytic construction: what parameters alone show, on no data.

Each part of the algorithm that stands in single weights has a finding: the content score of layer 0
(the transition), the bands of layers 0 and 2, the selector that turns mean responsibilities into
scores of lags (β times the identity), and the path from tokens to the output (the transition
again). Only direct paths are asked, but for the bands on the mean token. Uniform averaging, layer
1's part, is not asked: random weights do it too.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import probes
from mtd_lens.families.mtd.claims import column_normalised
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures.tables import has_tables, relative_patterns, table_path
from probes.circuits import WeightFinding
from probes.statistics import NEGLIGIBLE
from probes.subject import HookedModel, subject_of


def weight_findings(model: HookedModel, task: MTDTask, reads_logits: bool) -> list[WeightFinding]:
    """The parts of the algorithm, in its order; as many for every model of an architecture.

    At every layer, with the best head:

    - ``content``: softmax over key tokens of the content score, in KL from the column-normalised
      transition (the paper reports 0.0376 nats for a model trained at length 192).
    - ``lag_band``, ``recent_band``: which offsets are favoured, in total variation from uniform
      attention to lags 1 … m and to offsets 0 … m-1. ``.direct`` reads relative tables (or, in
      stock attention, the positional embedding alone); ``.mean_token`` runs the model on the mean
      token embedding at every position, so that earlier layers have their part.
    - ``selector``: the path from the relative values of one layer to the relative keys of a later
      one, ``.via_average`` through the values of a layer between, ``.direct`` without. The
      construction's is β times the identity.
    - ``output``: the path token → values → output, against the transition (its logarithm where
      the model's output is logits).

    Args:
        model: A HookedTransformer; it is not changed.
        task: What it is held against.
        reads_logits: Whether the linear part of the read-out gives logits, not probabilities.

    Returns:
        All findings; scores are 1 where the weights are the construction's.
    """
    m = task.order
    lags, recent = range(1, m + 1), range(m)
    direct = relative_patterns if has_tables(model) else probes.direct_patterns
    found = _content(model, task)
    for name, offsets in (("lag_band", lags), ("recent_band", recent)):
        found += _bands(model, task, f"{name}.direct", offsets, direct)
        found += _bands(model, task, f"{name}.mean_token", offsets, probes.mean_token_patterns)
    found += [_selector(model, task, "selector.via_average", 1)]
    found += [_selector(model, task, "selector.direct", 0)]
    return found + _outputs(model, task, reads_logits)


def _content(model: HookedModel, task: MTDTask) -> list[WeightFinding]:
    """Content scores between tokens against the column-normalised transition."""
    target, occurring = column_normalised(task)
    reference = float(probes.key_softmax_divergence(torch.zeros_like(target), target).mean())
    if reference <= NEGLIGIBLE:
        return [WeightFinding("content", (), "all tokens are equally likely parents.")]
    found = []
    for layer in range(subject_of(model).n_layers):
        heads = range(subject_of(model).n_heads)
        scores = [probes.token_scores(model, layer, h).cpu()[occurring] for h in heads]
        losses = [float(probes.key_softmax_divergence(s, target).mean()) for s in scores]
        head = int(np.argmin(losses))
        found.append(
            WeightFinding(
                name="content",
                heads=((layer, head),),
                statement=f"The content score of layer {layer}, head {head} is {losses[head]:.4f} "
                "nats from the log of the transition; equal scores for all keys are "
                f"{reference:.4f}.",
                value=losses[head],
                unit="KL, nats",
                score=1 - losses[head] / reference,
                details={"uniform": reference},
                matrices={
                    "softmax of content score": scores[head].softmax(-1).tolist(),
                    "column-normalised transition": target.tolist(),
                    "query tokens": [occurring.double().tolist()],
                },
                axes=("query token", "key token"),
            )
        )
    return found


def _bands(
    model: HookedModel,
    task: MTDTask,
    name: str,
    offsets: Sequence[int],
    read: Callable[[HookedModel, int], Tensor],
) -> list[WeightFinding]:
    """Attention by offset against uniform attention to a band; the best head at each query."""
    if subject_of(model).positional_embedding != "standard":
        return [WeightFinding(name, (), "the model has no positional embedding to read.")]
    first, length = task.order, task.seq_len
    patterns = read(model, length)[:, :, first:]
    band = torch.zeros(length, dtype=torch.float64)
    band[list(offsets)] = 1 / len(offsets)
    counts = torch.arange(first + 1, length + 1, dtype=torch.float64)
    reference = 1 - len(offsets) / counts  # of uniform attention to all keys of a query
    distances = _away(patterns, band)
    found = []
    for layer, distance in enumerate(distances):
        least, heads = distance.min(0)
        mean = _away(patterns[layer].mean(0), band)
        value = float(least.mean())
        found.append(
            WeightFinding(
                name=name,
                heads=tuple((layer, int(head)) for head in heads.unique()),
                statement=f"Without content, layer {layer} attends to offsets {offsets[0]} … "
                f"{offsets[-1]} up to a total variation of {value:.3f}; uniform attention to all "
                f"keys is {float(reference.mean()):.3f} away.",
                value=value,
                unit="total variation",
                score=1 - value / float(reference.mean()),
                details={
                    "uniform": float(reference.mean()),
                    "last_query": float(least[-1]),
                    "one_head_score": 1 - float(distance.mean(1).min() / reference.mean()),
                    "mean_of_heads_score": 1 - float(mean.mean() / reference.mean()),
                },
                matrices={
                    "attention of each head": patterns[layer, :, -1].tolist(),
                    "uniform over the band": [band.tolist()],
                },
                axes=("head, at the last query", "offset"),
            )
        )
    return found


def _away(patterns: Tensor, band: Tensor) -> Tensor:
    """Total variation from a band; what is left of 1 attends to what comes before the sequence."""
    before = (1 - patterns.sum(-1)).clamp_min(0)
    return probes.total_variation(patterns, band.expand_as(patterns)) + before / 2


def _selector(model: HookedModel, task: MTDTask, name: str, n_carriers: int) -> WeightFinding:
    """The path from a table of relative values to one of relative keys against β · identity.

    A softmax ignores what is added to all offsets, and as responsibilities sum to 1, what all lags
    add to an offset is a bias, which other weights may cancel: both are centred away. Of all paths
    through ever later layers, the one with the largest ``β · R²`` is taken.
    """
    m, n_layers = task.order, subject_of(model).n_layers
    reason = (
        "a task of order 1 has no lag to select."
        if m == 1
        else "stock attention has no relative tables; lags are coded in positions, if at all."
        if not has_tables(model)
        else "normalisation layers rescale what is written by each activation."
        if subject_of(model).normalization is not None
        else f"it takes {n_carriers + 2} layers; the model has {n_layers}."
        if n_layers < n_carriers + 2
        else None
    )
    if reason is not None:
        return WeightFinding(name, (), reason)
    heads, lags, recent = range(subject_of(model).n_heads), range(1, m + 1), range(m)
    identity = torch.eye(m, dtype=torch.float64)
    target = probes.centred(identity, -1)
    found = []
    for layers in itertools.combinations(range(n_layers), n_carriers + 2):
        for chosen in itertools.product(heads, repeat=len(layers)):
            path = tuple(zip(layers, chosen, strict=True))
            first, *carriers, last = path
            matrix = table_path(model, first, carriers, last, lags, recent)
            beta, explained = probes.fit_scale(probes.centred(matrix, -1, 0), target)
            found.append((beta * explained, beta, explained, path, matrix))
    _, beta, explained, path, matrix = max(found, key=lambda item: item[0])
    return WeightFinding(
        name=name,
        heads=path,
        statement=f"From relative values of layer {path[0][0]} to relative keys of layer "
        f"{path[-1][0]}, responsibility for a lag raises that lag's own score by β = {beta:.3f}; "
        f"this is {explained:.3f} of its effect, biases left out.",
        value=beta,
        unit="β",
        score=explained if beta > 0 else 0.0,
        details={"score_with_bias": probes.fit_scale(probes.centred(matrix, -1), target)[1]},
        matrices={"score": matrix.tolist(), "identity": identity.tolist()},
        axes=("lag 1 … m of the responsibility", "offset 0 … m-1 of the key"),
    )


def _outputs(model: HookedModel, task: MTDTask, logits: bool) -> list[WeightFinding]:
    """The path from a token through a head to the output, against the transition.

    What all source tokens add is a bias, and centred away; of logits, also what they add to all
    outputs, which a softmax ignores.
    """
    transition = task.transition
    if logits and not bool((transition > 0).all()):
        return [WeightFinding("output", (), "the transition has zeros, and log 0 is no logit.")]
    name, target = ("log transition", transition.log()) if logits else ("transition", transition)
    axes = (0, -1) if logits else (0,)
    reference = probes.centred(target, *axes)
    if float(reference.square().sum()) <= NEGLIGIBLE:
        return [WeightFinding("output", (), "all rows of the transition are equal.")]
    found = []
    for layer in range(subject_of(model).n_layers):
        paths = [
            probes.token_outputs(model, layer, head) for head in range(subject_of(model).n_heads)
        ]
        fits = [probes.fit_scale(probes.centred(path, *axes), reference) for path in paths]
        scores = [explained if scale > 0 else 0.0 for scale, explained in fits]
        head = int(np.argmax(scores))
        total = torch.stack(paths).sum(0)
        total_scale, total_explained = probes.fit_scale(probes.centred(total, *axes), reference)
        found.append(
            WeightFinding(
                name="output",
                heads=((layer, head),),
                statement=f"What layer {layer}, head {head} adds to the output for a token is "
                f"{fits[head][0]:.3f} times the {name}, up to {1 - fits[head][1]:.3f} of what it "
                "adds.",
                value=fits[head][0],
                unit=f"scale of {name}",
                score=scores[head],
                details={
                    "all_heads_scale": total_scale,
                    "all_heads_score": total_explained if total_scale > 0 else 0.0,
                },
                matrices={
                    "path": paths[head].tolist(),
                    "path, all heads": total.tolist(),
                    name: target.tolist(),
                },
                axes=("source token", "output token"),
            )
        )
    return found
