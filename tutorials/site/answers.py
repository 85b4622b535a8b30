"""The sentences that results pages begin with: what models do, from verdicts on their claims."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Model = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One thing that models may do, and the sentence that says which do.

    Attributes:
        holds: Whether a model does it.
        said: What it is, as the predicate of a sentence; ``[one|several]`` is how it goes for one
            model, and for several.
        claims: Whose scores stand behind it, under the words for them.
    """

    holds: Callable[[Model], bool]
    said: str
    claims: Mapping[str, str]


def has(model: Model, verdict: str, *claims: str) -> bool:
    """Whether claims of a model all have a verdict."""
    return all(model["claims"][claim]["verdict"] == verdict for claim in claims)


def sentences(groups: Mapping[str, Sequence[Model]], answers: Sequence[Answer]) -> list[str]:
    """A sentence for each answer that is some model's: each model's is the first that holds.

    Args:
        groups: Models that differ in their seed alone, by what they have in common.
        answers: The last one holds for every model.
    """
    everyone = sum(map(len, groups.values()))
    found = []
    for index, answer in enumerate(answers):
        earlier = answers[:index]
        doing = {
            label: [m for m in models if answer.holds(m) and not any(e.holds(m) for e in earlier)]
            for label, models in groups.items()
        }
        models = [model for each in doing.values() for model in each]
        if models:
            kinds = "; ".join(
                unbroken(label) + ("" if len(each) == len(groups[label]) else f", {_seeds(each)}")
                for label, each in doing.items()
                if each
            )
            scores = "; ".join(f"{w} {_span(models, c)}" for w, c in answer.claims.items())
            said = _predicate(answer.said, len(models))
            found.append(
                f"**{len(models)} of {everyone} models** {said}: {kinds}."
                + (f" Scores: {scores}." if scores else "")
            )
    return found


def _predicate(said: str, n_models: int) -> str:
    return re.sub(r"\[(\w+)\|(\w+)\]", lambda form: form[1] if n_models == 1 else form[2], said)


def unbroken(label: str) -> str:
    """A group's name whose length stays on one line."""
    return label.replace(" = ", "\u00a0=\u00a0")


def _seeds(models: Sequence[Model]) -> str:
    seeds = [str(model["config"].seed) for model in models]
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(seeds)


def _span(models: Sequence[Model], claim: str) -> str:
    known = [m["claims"][claim]["score"] for m in models if m["claims"][claim]["score"] is not None]
    if not known:
        return "none"
    low, high = (f"{end(known):.2f}".replace("-", "−") for end in (min, max))
    return low if low == high else f"{low} to {high}"
