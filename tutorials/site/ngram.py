"""The results page of models trained on n-gram tasks."""

from typing import Any

import mtd_lens
from mtd_lens.families.ngram import study
from tutorials.site import RESULTS
from tutorials.site.answers import Answer, has, sentences
from tutorials.site.pages import (
    Model,
    Results,
    comparison,
    final,
    groups,
    nearest_first,
    supported,
)

NEAR = 1.1
"""A model whose excess loss is within this factor of exact Bayes' is said to reach it."""

DRAWN = ("uniform", "exact Bayes, lags {1}", "exact Bayes, lags {2}", "exact Bayes")
"""Of the estimators, in figures: those that give no token a probability of 0."""


COPIED, NOTHING_ELSE = "copied_parents.attention", "copied_parents.scrubbing"
MATCHED, SWAPPED = "match_weights.attention", "match_weights.interchange"

ANSWERS = (
    Answer(
        lambda m: has(m, "supported", COPIED, NOTHING_ELSE),
        "[copies|copy] the parents by heads, as a generalized induction head does, and "
        "[passes|pass] nothing else there",
        {"copying": COPIED, "nothing else": NOTHING_ELSE, "match weights as a pattern": MATCHED},
    ),
    Answer(
        lambda m: has(m, "supported", COPIED),
        "[copies|copy] the parents by heads, where something else passes too",
        {"copying": COPIED, "nothing else": NOTHING_ELSE, "match weights as a pattern": MATCHED},
    ),
    Answer(
        lambda m: True,
        "[copies|copy] no parents by a head that is found",
        {"copying": COPIED, "predictions": "prediction.estimator"},
    ),
)
"""What models do, the first that holds."""


def answers(finals: list[Model]) -> list[str]:
    """What models do, whether they act as the kernel, and which estimator is nearest."""
    acting = sum(has(model, "supported", SWAPPED) for model in finals)
    nearest = [next(iter(nearest_first(model))) for model in finals]
    said = ", ".join(f"{name} in {nearest.count(name)}" for name in dict.fromkeys(nearest))
    return [
        *sentences(groups(finals), ANSWERS),
        f"Swapped match weights act as the kernel's say in {acting} of {len(finals)}. "
        f"Of the reference estimators nearest to predictions is {said}.",
    ]


def at_end(model: Model) -> str:
    """How the model's excess loss stands to that of exact Bayes."""
    last, everywhere = (
        model["held_out"][name][0] for name in ("over_bayes", "over_bayes_at_all_queries")
    )
    return (
        f"This model's is {last:.3f} times that of exact Bayes; over all queries, "
        f"{everywhere:.3f} times."
    )


def oddities(model: Model) -> list[str]:
    """What a user of the model should know, read off its figures."""
    found = []
    if model["held_out"]["over_bayes"][0] > NEAR:
        found.append(f"Its excess loss is more than {NEAR} times that of exact Bayes.")
    held = ", ".join(supported(model)) or "none"
    found.append(f"Claims of the construction that hold for it: {held}.")
    if "sharpness_at_bound" in model["scorecard"]["parameters"]:
        found.append("Its fitted sharpness lies at the end of its range, so it is no estimate.")
    return found


def figures(finals: list[Model]) -> dict[str, list[Model]]:
    """Which models stand in which figure of KL against length, the first seed of each kind."""
    first = [members[0] for members in groups(finals).values()]
    return {
        f"kl-against-length-{task}.png": [m for m in first if m["task"] == task]
        for task in sorted({m["task"] for m in first})
    }


def draw_figures(models: list[Model]) -> None:
    """KL from the truth against length."""
    for path, members in figures(final(models)).items():
        mtd_lens.plot_comparisons(map(comparison, members), RESULTS / path, estimators=DRAWN)


def one_parent(model: Model) -> float:
    """The least excess loss of exact Bayes with one parent alone."""
    found = model["held_out"]["from_truth"]
    return float(min(i["score"] for who, i in found.items() if who.startswith("exact Bayes, ")))


def near_bayes(finals: list[Model]) -> str:
    """Which models reach exact Bayes, in a sentence."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for model in finals:
        names[model["held_out"]["over_bayes"][0] <= NEAR].append(f"`{model['name']}`")
    said = {True: f"Within {NEAR} times exact Bayes at the last query", False: "Beyond"}
    return "\n".join(f"- {said[near]}: {', '.join(names[near]) or 'none'}." for near in said)


def context(models: list[Model]) -> dict[str, Any]:
    """What the page's template is given."""
    finals = final(models)
    return {
        "figures": list(figures(finals)),
        "near_bayes": near_bayes(finals),
        "one_parent": one_parent,
    }


NGRAM = Results("ngram", study.measure, draw_figures, context, at_end, oddities, answers)
