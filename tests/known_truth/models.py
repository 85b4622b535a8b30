"""What is known of each model, by its construction, in terms of the scorecard's claims."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mtd_lens
from known_truth import coded, lookups, one_step, rivals
from mtd_lens import MTDTask
from probes.subject import HookedModel

Claims = frozenset[str]


@dataclass(frozen=True)
class Known:
    """A model whose truth is known.

    Attributes:
        name: Of the model.
        build: Makes it for a task.
        task: The task.
        true: Claims that hold.
        false: Claims that do not. Of claims in neither set, nothing is known.
        why: What makes them so.
    """

    name: str
    build: Callable[[MTDTask], HookedModel]
    task: MTDTask
    true: Claims
    false: Claims
    why: str


def named(variable: str, *tests: str) -> Claims:
    """The claims that some tests make of a variable."""
    return frozenset(f"{variable}.{test}" for test in tests)


READABLE_RESPONSIBILITIES = named("responsibilities", "probe", "attention", "weights")
MOVED_RESPONSIBILITIES = named("responsibilities", "interchange", "injection")
RESPONSIBILITIES = (
    READABLE_RESPONSIBILITIES | MOVED_RESPONSIBILITIES | named("responsibilities", "scrubbing")
)
READABLE_MEAN = named("mean_responsibility", "probe", "probe_given_query")
MOVED_MEAN = named("mean_responsibility", "interchange", "interchange_given_query", "injection")
MEAN_GIVEN_QUERY = named(
    "mean_responsibility", "interchange_given_query", "scrubbing_given_query", "probe_given_query"
)
MEAN_SCRUBBING = named("mean_responsibility", "scrubbing_given_query")
MEAN = READABLE_MEAN | MOVED_MEAN | MEAN_SCRUBBING
MOVED_WEIGHTS = named("mixture_weights", "interchange", "interchange_given_query")
ATTENTION = named("mixture_weights", "attention")
WEIGHTS = MOVED_WEIGHTS | ATTENTION
ESTIMATOR = named("prediction", "estimator")
ALGORITHM = named("prediction", "algorithm")
PREDICTION = ESTIMATOR | ALGORITHM
EVERYTHING = RESPONSIBILITIES | MEAN | WEIGHTS | PREDICTION
SCRUBBING = named("responsibilities", "scrubbing") | MEAN_SCRUBBING
NOTHING: Claims = frozenset()

GENERIC_INTERCHANGE = named("mean_responsibility", "interchange")
PARTS_OF_THE_MEAN = EVERYTHING - GENERIC_INTERCHANGE - named("mean_responsibility", "injection")
"""What is true where several layers make the mean together. The read-out's own output holds all
that the mean does given the query, so that claims given the query are true of its layer."""

HALVES = (0.5, 0.5)

Build = Callable[[MTDTask], HookedModel]
Entry = tuple[str, Build, Claims, Claims, str]

WHOLE: list[Entry] = [
    (name, build, EVERYTHING, NOTHING, why)
    for name, build, why in (
        ("whole, absolute", one_step.whole, "the construction"),
        ("whole, relative", partial(one_step.whole, form="relative"), "the construction"),
        ("β doubled", partial(one_step.whole, factor=2.0), "β is fitted to the model"),
        ("layers between", one_step.spaced, "idle layers change nothing"),
        ("noise heads", one_step.noisy, "only noise reads what they write"),
        ("rotated", one_step.rotated, "all reads and writes are rotated alike"),
        ("γ mixed", one_step.mixed, "claims are about linear codes, not coordinates"),
        ("stored, never used", one_step.stored_unused, "layer 3 has the mean that is read"),
        ("first five beside", one_step.first_beside, "layer 3 has the mean that is read"),
        ("identity beside", one_step.with_identity, "layer 1 has the mean that is read"),
    )
]

SPREAD: list[Entry] = [
    (
        "60/40",
        partial(one_step.split, early=0.6),
        PARTS_OF_THE_MEAN,
        GENERIC_INTERCHANGE,
        "layers 1 and 3 write 0.6 S and 0.4 S",
    ),
    (
        "50/50",
        partial(one_step.split, early=0.5),
        PARTS_OF_THE_MEAN,
        GENERIC_INTERCHANGE,
        "layers 1 and 3 write half of S each",
    ),
    (
        "overshoot",
        partial(one_step.split, early=2.0),
        PARTS_OF_THE_MEAN,
        GENERIC_INTERCHANGE,
        "layers 1 and 3 write 2 S and −S",
    ),
    (
        "first five and the rest",
        one_step.first_and_rest,
        PARTS_OF_THE_MEAN,
        GENERIC_INTERCHANGE,
        "layers 1 and 3 write the mean of the first five, A, and S − A",
    ),
    (
        "interleaved",
        one_step.interleaved,
        PARTS_OF_THE_MEAN,
        GENERIC_INTERCHANGE,
        "layers 1 and 3 sum over every second position each",
    ),
    (
        "60/40, read out in halves",
        partial(one_step.split, early=0.6, read_outs=HALVES),
        RESPONSIBILITIES | READABLE_MEAN | MEAN_SCRUBBING | ATTENTION | PREDICTION,
        MOVED_MEAN | MOVED_WEIGHTS,
        "no layer carries more than 60% of the mean, nor more than half of the mixture",
    ),
    (
        "γ in halves",
        one_step.responsibilities_in_halves,
        EVERYTHING - MOVED_RESPONSIBILITIES,
        MOVED_RESPONSIBILITIES,
        "layers 0 and 1 write half of γ each",
    ),
    (
        "all in halves",
        one_step.all_in_halves,
        EVERYTHING - MOVED_RESPONSIBILITIES - MOVED_MEAN - MOVED_WEIGHTS,
        MOVED_RESPONSIBILITIES | MOVED_MEAN | MOVED_WEIGHTS,
        "six layers, each writing half of its stage",
    ),
]

CODED: list[Entry] = [
    (
        "gated",
        coded.gated,
        EVERYTHING - MOVED_MEAN | named("mean_responsibility", "interchange_given_query"),
        GENERIC_INTERCHANGE,
        "another query's code does not match the keys; its sum over tokens is still the mean",
    ),
    (
        "signed",
        coded.signed,
        EVERYTHING - MEAN | MEAN_GIVEN_QUERY,
        GENERIC_INTERCHANGE | named("mean_responsibility", "probe"),
        "the sign with which each lag is stored is that of the query's own parent",
    ),
]

BROKEN_EARLY = EVERYTHING - SCRUBBING
UNREAD = RESPONSIBILITIES - READABLE_RESPONSIBILITIES - SCRUBBING
LOST_WINDOW = MOVED_RESPONSIBILITIES | MOVED_MEAN | MOVED_WEIGHTS | ESTIMATOR
LOST_MEAN = LOST_WINDOW | READABLE_MEAN | ATTENTION
PASSED_ON = READABLE_RESPONSIBILITIES | named("responsibilities", "scrubbing")
UNMOVED = UNREAD | MOVED_MEAN | WEIGHTS | PREDICTION

BROKEN: list[Entry] = [
    (
        "transition transposed",
        one_step.transposed,
        NOTHING,
        BROKEN_EARLY,
        "layer 0 computes other responsibilities",
    ),
    (
        "transition rows shifted",
        one_step.shifted_rows,
        NOTHING,
        BROKEN_EARLY,
        "layer 0 computes other responsibilities",
    ),
    (
        "lags permuted",
        partial(one_step.broken, lag_shift=1),
        READABLE_RESPONSIBILITIES | SCRUBBING | READABLE_MEAN,
        LOST_WINDOW | ATTENTION | PREDICTION,
        "layer 2 gives each lag the weight of the next one",
    ),
    (
        "β = 0",
        partial(one_step.whole, factor=0.0),
        READABLE_RESPONSIBILITIES | READABLE_MEAN,
        UNMOVED,
        "the mean is there, and weights are uniform whatever it is",
    ),
    (
        "stored only",
        one_step.stored_only,
        READABLE_RESPONSIBILITIES | READABLE_MEAN,
        UNMOVED,
        "the mean is where nothing reads it, and weights are uniform",
    ),
    (
        "last 16",
        partial(one_step.broken, window=16),
        PASSED_ON,
        LOST_WINDOW,
        "layer 1 averages the last 16 of 29 positions",
    ),
    *[
        (
            f"last {window}",
            partial(one_step.broken, window=window),
            PASSED_ON,
            LOST_MEAN,
            f"layer 1 averages the last {window} of 29 positions",
        )
        for window in (8, 4, 2)
    ],
    (
        "first five only",
        one_step.first_only,
        PASSED_ON,
        LOST_MEAN,
        "layer 1 averages the first 5 of 29 positions",
    ),
    (
        "γ looked up",
        lookups.looked_up,
        EVERYTHING - RESPONSIBILITIES | named("responsibilities", "probe"),
        RESPONSIBILITIES - named("responsibilities", "probe"),
        "layer 0's attention copies tokens; its MLP looks γ up",
    ),
    (
        "identity only",
        one_step.identity_only,
        NOTHING,
        EVERYTHING - SCRUBBING,
        "a layer holds which sequence it is; weights are uniform",
    ),
    ("uniform tokens", one_step.uniform, NOTHING, EVERYTHING - SCRUBBING, "nothing is read"),
]

NO_RESPONSIBILITIES = RESPONSIBILITIES - named("responsibilities", "probe", "scrubbing")
READABLE = named("responsibilities", "probe") | READABLE_MEAN
"""Differences of the log-likelihoods of near nodes are all but linear in γ, and so are means."""
OTHER_ALGORITHM = NO_RESPONSIBILITIES | ATTENTION | ALGORITHM

RIVALS: list[Entry] = [
    (
        "Bayes on a grid",
        rivals.bayes_on_a_grid,
        ESTIMATOR | READABLE,
        OTHER_ALGORITHM | named("responsibilities", "scrubbing"),
        "21 nodes; patterns are posteriors over nodes, and never over lags",
    ),
    (
        "product of likelihoods",
        rivals.product_of_likelihoods,
        NOTHING,
        OTHER_ALGORITHM | named("responsibilities", "scrubbing"),
        "the nodes are single lags",
    ),
    (
        "two passes",
        partial(rivals.passes, n_passes=1, factor=0.5),
        READABLE_RESPONSIBILITIES | READABLE_MEAN,
        ALGORITHM,
        "responsibilities are computed again under the weights so far",
    ),
    (
        "three passes",
        partial(rivals.passes, n_passes=2, factor=0.5),
        READABLE_RESPONSIBILITIES | READABLE_MEAN,
        ALGORITHM,
        "responsibilities are computed again under the weights so far, twice",
    ),
]

EXACT: list[Entry] = [
    (
        "exact Bayes",
        rivals.exact_bayes,
        ESTIMATOR | READABLE,
        OTHER_ALGORITHM,
        "16 nodes integrate the posterior exactly; its statistic is no mean responsibility, but "
        "moves predictions much as one",
    ),
    (
        "exact Bayes in halves",
        partial(rivals.exact_bayes, shares=HALVES),
        ESTIMATOR | READABLE,
        OTHER_ALGORITHM | MOVED_MEAN | MOVED_WEIGHTS,
        "no layer carries more than half of log-likelihoods or weights",
    ),
]

TWO_LAGS, THREE_LAGS = (mtd_lens.load_task(f"mtd-{size}-t32") for size in ("q3-m2", "q5-m3"))

ON_BOTH = {
    "whole, absolute",
    "whole, relative",
    "60/40",
    "lags permuted",
    "gated",
    "signed",
    "two passes",
}


def on(task: MTDTask, entries: list[Entry]) -> list[Known]:
    """What is known of models on a task."""
    size = f"q{task.n_tokens}-m{task.order}"
    return [
        Known(f"{name}, {size}", build, task, true, false, why)
        for name, build, true, false, why in entries
    ]


ON_THREE_LAGS = [*WHOLE, *SPREAD, *CODED, *BROKEN, *RIVALS]

MODELS: tuple[Known, ...] = (
    *on(THREE_LAGS, ON_THREE_LAGS),
    *on(TWO_LAGS, [entry for entry in ON_THREE_LAGS if entry[0] in ON_BOTH] + EXACT),
)
