"""The reference estimators that a model's predictions are held against.

======================  ==========================================================================
uniform                 1/q for every token
unigram                 how often each token came, whatever came before
kernel                  a generalized induction head, its sharpness fitted
additive kernel         the same with the share of the parents that match, where there are several
maximum likelihood      how often each token came after the same parents; uniform if never
exact Bayes             the posterior mean of the row in use
exact Bayes, lags {…}   the same with a wrong set of parents: one lag left out, or one too many
======================  ==========================================================================
"""

from torch import Tensor

from mtd_lens.algorithms import is_at_bound, with_flag
from mtd_lens.contracts import Reference
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import (
    MATCHES,
    SHARPNESS_RANGE,
    fit_sharpness,
    kernel_of,
    nearest_sharpness,
)
from mtd_lens.families.ngram.task import NGramTask


def references(
    task: NGramTask, fit_tokens: Tensor, fit_target: Tensor, tokens: Tensor, target_first: bool
) -> dict[str, Reference]:
    """Every estimator's prediction at the last query, the kernels' sharpness fitted."""
    fit = fit_sharpness if target_first else nearest_sharpness
    everything = estimators.last_counts(task, tokens, ())
    counts = estimators.last_counts(task, tokens)

    def kernel(match: str) -> Reference:
        sharpness = fit(task, fit_tokens, fit_target, match=match)
        at_bound = is_at_bound(sharpness, SHARPNESS_RANGE)
        return Reference(
            kernel_of(task, tokens, match)(sharpness), with_flag("sharpness", sharpness, at_bound)
        )

    found = {
        "uniform": Reference(counts.new_full(counts.shape, 1 / task.n_tokens)),
        "unigram": Reference(estimators.likeliest(everything)),
    }
    # Of a single parent, both kernels are one.
    kernels = MATCHES if len(task.parents) > 1 else {"tuple": MATCHES["tuple"]}
    found |= {name: kernel(match) for match, name in kernels.items()}
    found |= {
        "maximum likelihood": Reference(estimators.likeliest(counts)),
        "exact Bayes": Reference(estimators.posterior_mean(counts, task.concentration)),
    }
    for lags in wrong_parents(task):
        counts = estimators.last_counts(task, tokens, lags)
        label = ", ".join(map(str, lags))
        found[f"exact Bayes, lags {{{label}}}"] = Reference(
            estimators.posterior_mean(counts, task.concentration)
        )
    return found


def wrong_parents(task: NGramTask) -> list[tuple[int, ...]]:
    """Sets of lags that differ from the task's parents by one lag, none of them empty."""
    own = set(task.parents)
    different = [own ^ {lag} for lag in range(1, task.window + 1)]
    return sorted(tuple(sorted(lags)) for lags in different if lags)
