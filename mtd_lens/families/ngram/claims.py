"""What a scorecard tests of a model on an n-gram task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Claim, Measurement, QueryTokens
from mtd_lens.contracts import BUT_LAST, EVERY, LAST, Carrier
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import NGramCausalModel
from mtd_lens.families.ngram.counts_model import NGramCountsModel
from mtd_lens.families.ngram.task import NGramTask
from mtd_lens.measures import (
    Attention,
    Injection,
    Interchange,
    Prediction,
    Probe,
    Scrubbing,
)
from mtd_lens.measures.attention import PATTERN
from mtd_lens.measures.probe import probe_errors, read_halves, share_read
from mtd_lens.measures.words import hook_of, last_write
from mtd_lens.shapes import Predictions, Tokens
from mtd_lens.trial import Trial

WRITTEN = (last_write, "hook_resid_post")
"""Where the selected feature is probed."""


TUPLES, PARENTS = "which tuples of parents there are", "the tokens of the parents"
"""What the selected feature is, in words."""


def claims(task: NGramTask) -> list[Claim]:
    """The claims of the kernel, in causal order."""
    head = "a generalized induction head"
    return [*copied(task), *selected(task, TUPLES), *matched(task), predicted(head)]


def additive_claims(task: NGramTask) -> list[Claim]:
    """The claims of the additive kernel, in causal order.

    That its feature can be read is no claim: it can be wherever the copies can.
    """
    feature = [c for c in selected(task, PARENTS) if not c.id.endswith("probe")]
    return [*copied(task), *feature, *matched(task), predicted("an additive kernel")]


def bayes_claims(task: NGramTask) -> list[Claim]:
    """The claims of exact Bayes, in causal order."""
    return [*copied(task), *selected(task, TUPLES), *counted(task), predicted("exact Bayes")]


def likelihood_claims(task: NGramTask) -> list[Claim]:
    """The claims of maximum likelihood, in causal order."""
    tail = predicted("maximum likelihood")
    return [*copied(task), *selected(task, TUPLES), *counted(task), tail]


def copied(task: NGramTask) -> list[Claim]:
    """Claims of the copier."""
    window = task.window + 1
    return [
        Claim(
            "copied_parents.interchange",
            "Swapping a layer's attention output at all evidence positions acts as swapping the "
            "tokens before each.",
            Interchange("copied_parents", "hook_attn_out"),
        ),
        Claim(
            "copied_parents.scrubbing",
            "At evidence positions a layer passes on the tokens before each and nothing else.",
            Scrubbing("copied_parents", "hook_attn_out", BUT_LAST, window),
            slow=True,
        ),
        Claim(
            "copied_parents.probe",
            "The tokens of the window can be read linearly from a layer at every position.",
            Probe("copied_parents", control_task, window),
        ),
        Claim(
            "copied_parents.attention",
            "For each lag of the window, a head attends to the token that far back.",
            Copying(),
        ),
    ]


def selected(task: NGramTask, feature: str) -> list[Claim]:
    """Claims of the selector.

    Args:
        task: The task.
        feature: What it selects, in words.
    """
    return [
        Claim(
            "selected_feature.interchange",
            f"Swapping what a layer's MLP writes at all evidence positions acts as swapping "
            f"{feature}.",
            Interchange("selected_feature", last_write),
        ),
        Claim(
            "selected_feature.injection",
            f"{feature[0].upper()}{feature[1:]}, written linearly into a layer, acts as swapping "
            "them.",
            Injection("selected_feature", last_write, EVERY),
            slow=True,
        ),
        Claim(
            "selected_feature.probe",
            "Which tuple the parents form can be read linearly from a layer at every position.",
            Selection("selected_feature", control_task, task.window + 1, EVERY, WRITTEN),
        ),
    ]


def matched(task: NGramTask) -> list[Claim]:
    """Claims of a kernel's match."""
    first = task.window + 1
    return [
        Claim(
            "match_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the match.",
            Interchange("match_weights", PATTERN, LAST),
        ),
        Claim(
            "match_weights.interchange_given_query",
            "The same, with sources that share the query's own tokens.",
            Interchange("match_weights", PATTERN, LAST, given_query=True),
        ),
        Claim(
            "match_weights.attention",
            "At the last query a head attends to evidence positions by the match of their parents.",
            Attention("match_weights", lambda length: range(length - first, -1, -1), LAST),
        ),
    ]


def counted(task: NGramTask) -> list[Claim]:
    """Claims of the counts of what followed the same parents.

    A layer that averages writes their shares with that of the prior, which are not linear in them:
    the claims have no doses, and none says that the counts can be read linearly.
    """
    return [
        Claim(
            "matching_counts.interchange",
            "Swapping a layer's attention output at the last query acts as swapping the counts of "
            "what followed the same parents.",
            Interchange("matching_counts", "hook_attn_out", LAST),
        ),
        Claim(
            "matching_counts.interchange_given_query",
            "The same, with sources that share the query's own tokens.",
            Interchange("matching_counts", "hook_attn_out", LAST, given_query=True),
        ),
        Claim(
            "matching_counts.scrubbing_given_query",
            "At the last query a layer passes on the counts and nothing else, given its tokens.",
            Scrubbing("matching_counts", "hook_attn_out", LAST),
            slow=True,
        ),
    ]


def predicted(algorithm: str) -> Claim:
    """The claim of the predictions.

    Args:
        algorithm: Whose they are like, in words.
    """
    return Claim(
        "prediction.estimator",
        f"Predictions at the last query are like those of {algorithm}.",
        Prediction(without_evidence),
    )


def query_tokens(task: NGramTask) -> QueryTokens:
    """The window at the query."""
    return QueryTokens(task.window)


def carriers(task: NGramTask) -> tuple[Carrier, ...]:
    """Heads copy, a layer's write holds the feature, and the match is attended with.

    Only attention moves tokens between positions, so copies are sought in heads alone.
    """
    return (
        Carrier("copied_parents", ("z",), EVERY),
        Carrier("selected_feature", ("mlp_out", "z"), EVERY),
        Carrier("match_weights", ("pattern",), LAST),
    )


def count_carriers(task: NGramTask) -> tuple[Carrier, ...]:
    """Copies and features as a kernel's; counts are written at the last query."""
    counts = Carrier("matching_counts", ("z", "mlp_out"), LAST)
    return (*carriers(task)[:2], counts)


def without_evidence(task: NGramTask, tokens: Tokens) -> Predictions:
    """How often each token came, whatever came before."""
    return estimators.likeliest(estimators.last_counts(task, tokens, ()))


@dataclass(frozen=True)
class Copying:
    """Attention to each lag of the window: ``1 - (1 - A[k, k - h]) / (1 - 1 / (window + 1))``.

    The mean over lags h and evidence positions k; the head of each lag is chosen on the fit split.
    It is 0 for uniform attention over the window and the position itself.
    """

    def reads(self, trial: Trial) -> list[probes.Band]:
        """The window's lags at every position."""
        lags = tuple(range(1, trial.task.window + 1))
        return [
            probes.Band(f"blocks.{layer}.{PATTERN}", trial.positions, lags)
            for layer in range(trial.n_layers)
        ]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        window, bands = trial.task.window, self.reads(trial)
        fit, found = (  # of each layer [sequence, head, lag]
            [attention.to(torch.float64).mean(2) for attention in trial.read(tokens, bands)]
            for tokens in trial.splits
        )
        uniform = 1 - 1 / (window + 1)
        measurements = []
        for layer, band in enumerate(bands):
            heads = fit[layer].mean(0).argmax(0)  # [lag]
            each = torch.arange(window)
            missed = 1 - found[layer][:, heads, each].mean(-1)
            listed = ", ".join(
                f"{head} for lag {lag}" for lag, head in enumerate(heads.tolist(), 1)
            )
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{band.hook}, head {listed}",
                    selection=1 - float(1 - fit[layer][:, heads, each].mean()) / uniform,
                    numerator=missed,
                    denominator=torch.full_like(missed, uniform),
                )
            )
        return measurements


class Selection(Probe):
    """The probe of the selected feature, and beside it one of the lags that are not selected.

    The details hold, for each layer, R² of a probe of the unselected lags from what the block
    writes last, and from the selected feature itself: sequences are repetitive, so that one says
    something of the other. Where a selector has dropped the unselected lags, the two agree.
    """

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        found, lags = super().__call__(trial), unselected(trial.task)
        if not lags or not found:
            return found
        task = trial.task
        copies = replace(self, variable="copied_parents").target(trial)
        copies = copies.unflatten(-1, (task.window, task.n_tokens))
        dropped = copies[:, :, [lag - 1 for lag in lags]].flatten(2)

        def readable(halves: Sequence[Tensor]) -> float:
            [(_, errors)] = probe_errors(halves, dropped)
            return share_read(errors)

        from_feature = readable(self.target(trial).split([len(half) for half in trial.splits]))
        hook = hook_of(last_write, trial)
        sites = [probes.Site(f"blocks.{m.layer}.{hook}", trial.positions) for m in found]
        return [
            replace(
                measurement,
                details={
                    **measurement.details,
                    "unselected_lags": readable(read_halves(trial, site)),
                    "unselected_lags_in_feature": from_feature,
                },
            )
            for measurement, site in zip(found, sites, strict=True)
        ]


def unselected(task: NGramTask) -> Sequence[int]:
    """Lags of the window that neither the key nor the query feature of a position depends on."""
    used = {*task.parents, *(lag - 1 for lag in task.parents)}
    return [lag for lag in range(1, task.window + 1) if lag not in used]


def control_task(
    causal_model: NGramCausalModel | NGramCountsModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: an arbitrary function of the tokens, of the same shape.

    For copies and features, an arbitrary point of the simplex for each token window; for what
    follows from features, what follows from such ones.
    """
    task = causal_model.task
    positions = tuple(range(task.window, tokens.shape[1]))
    windows = probes.token_windows(tokens, positions, task.window + 1)
    copies = task.window * task.n_tokens
    size = copies if variable == "copied_parents" else 2 * causal_model.n_features
    decoys = probes.random_simplex_map(windows, size, seed)
    held = variable if variable == "copied_parents" else "selected_feature"
    return causal_model.do(**{held: decoys}).run(tokens)[variable]
