"""Tables of how score and value of the last layer make the correction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtd_lens.families.mtd.circuit import COVARIANCE
from mtd_lens.families.mtd.circuit_forms import ADDITIVE, JOINT, LAST, SHUFFLED
from mtd_lens.families.mtd.score_claims import COMPETING

Figures = dict[str, Any]
Cell = Callable[[Figures], str]

KINDS = (LAST, ADDITIVE, JOINT, SHUFFLED)
BOTH = "both, covariance"
NULLS = ("parents relabelled", "another head's table", "another model's table")
GAMMA = "γ × π"
RIVALS = (
    f"{GAMMA}, lags turned",
    *[
        f"{name}{lags}"
        for name in ("p × π", "log p × π", "match and copy")
        for lags in ("", ", lags competing")
    ],
)
SIGN = "evidence × sign"
RUNS = ("natural", "MLP at its mean", "through the MLP alone")


def tables(models: Mapping[str, Figures]) -> dict[str, str]:
    """The tables of the section, by their names in the template.

    Args:
        models: By the words for a model, what ``circuit_study`` measures of it.
    """
    values: dict[str, Cell] = {
        f"{kind}{words}": _score("values", kind, key)
        for key, words in (("output", ""), (COVARIANCE, ", covariance"))
        for kind in KINDS
    }
    own = {
        "softmax to first order": _score("together", "first order, own parts"),
        "covariance": _score("together", "covariance, own parts"),
        "mean scores": _score("together", "mean scores"),
        "mean values": _score("together", "mean values"),
    }
    together = {
        "scores fitted": _score("together", "scores competing"),
        "values fitted": _score("values", ADDITIVE, COVARIANCE),
        "both": _score("together", BOTH),
        "both, any scores": _score("together", "both, scores any, covariance"),
        **{name: _score("together", name) for name in NULLS},
    }
    product = {
        GAMMA: _beside("product", COMPETING, GAMMA),
        **{name: _code("product", COMPETING, name) for name in RIVALS},
    }
    pair = {
        **{name: _code("pair", name) for name in ("y_{k-g} alone", "y_k alone", "of the pair")},
        "y_{k-g} as the parent": _beside("pair", "y_{k-g} as the parent"),
        SIGN: _beside("pair", SIGN),
        "of an additive code": _code("pair", f"{SIGN}, additive code"),
        "of what is left": _beside("pair", f"{SIGN}, of the pair"),
    }
    mlp = {
        **{name: _score("mlp", name, "kept") for name in RUNS[1:]},
        **{f"{name}: of the effect": _effect("mlp", name, "kept") for name in RUNS[1:]},
        **{
            f"{name}: nearer to one step": _score("mlp", name, "nearer to one step")
            for name in RUNS[:2]
        },
    }
    with_mlp = {name: found for name, found in models.items() if len(found["mlp"]) > 1}
    without = {
        name: found for name, found in models.items() if len(found["mlp"]) == 1 and _stock(name)
    }
    return {
        "of_values": table(values, models),
        "own_parts": table(own, models),
        "together": table(together, models),
        "product": table(product, models),
        "pair": table(pair, {k: v for k, v in models.items() if "random" not in k}),
        "mlp": table(mlp, with_mlp | without),
    }


def as_covariance(models: Sequence[Figures]) -> str:
    """How far the output is a covariance of score and value, in a sentence."""
    kept = [model["together"]["covariance, own parts"][0] for model in models]
    return (
        "The output is, to a varying part, a covariance over keys of score and value: that alone "
        f"keeps {min(kept):.2f} to {max(kept):.2f} of the predictions."
    )


def sentences(models: Mapping[str, Figures]) -> list[str]:
    """What the figures say of all trained models together, with their ranges.

    Args:
        models: As in ``tables``; those of random weights and constructions are left out.
    """
    trained = [found for name, found in models.items() if _stock(name)]
    if not trained:
        return []

    def span(*path: str, of: int | str = 0, over: Sequence[Figures] = trained) -> str:
        found = sorted(_at(model, *path)[of] for model in over)
        return f"{found[0]:.2f} to {found[-1]:.2f}"

    def highest(model: Figures, *path: str, names: Sequence[str], of: int | str) -> float:
        found = _at(model, *path)
        return float(max(found[name][of] for name in names if name in found))

    def by_model(*path: str) -> str:
        return ", ".join(f"{_at(model, *path)[0]:.2f}" for model in trained)

    n, gamma = len(trained), ("product", COMPETING, GAMMA)
    margins = [
        _at(model, "together", BOTH)[0] - highest(model, "together", names=NULLS, of=0)
        for model in trained
    ]
    of_gamma = [_at(model, "product", COMPETING, GAMMA)["value"] for model in trained]
    of_rivals = [
        highest(model, "product", COMPETING, names=RIVALS, of="value") for model in trained
    ]
    nearest = sum(own > other for own, other in zip(of_gamma, of_rivals, strict=True))
    null = max(_at(model, "product", COMPETING, GAMMA)["null 95%"] for model in trained)
    left = f"{SIGN}, of the pair"
    above = sum(_at(model, "pair", left)["as high"] <= 0.05 for model in trained)
    found = [
        f"Share of the predictions of {n} models that is kept, in the order of the tables (below "
        "0: worse than the mean over sequences of the same last tokens): by the softmax to first "
        f"order, {by_model('together', 'first order, own parts')}; by the covariance over keys of "
        f"score and value alone, {by_model('together', 'covariance, own parts')}.",
        "Values fitted by the window as a whole keep "
        f"{span('values', JOINT, 'output')}; by a sum over its tokens, "
        f"{span('values', ADDITIVE, COVARIANCE)} by the covariance, and of the whole output "
        f"{span('values', ADDITIVE, 'output')}.",
        f"Scores of competing lags and values that are such sums, both fitted, keep "
        f"{by_model('together', BOTH)} by the covariance, {min(margins):.2f} to {max(margins):.2f} "
        "more than the best null.",
        f"The product of these two correlates {span('product', COMPETING, GAMMA, of='value')} "
        f"with γ × π; 95% of relabellings of π stay below {null:.2f}. The nearest rival reaches "
        f"{min(of_rivals):.2f} to {max(of_rivals):.2f}; γ is above it in {nearest} of {n} models."
        + "".join(
            f" In {name}, where γ is the truth, it is {_at(model, *gamma)['value']:.2f} beside "
            f"{highest(model, *gamma[:-1], names=RIVALS, of='value'):.2f}."
            for name, model in models.items()
            if "constructed-fused" in name
        ),
        f"Evidence times a sign of y_k correlates {span('pair', SIGN, of='value')} with the code "
        f"of pairs, and with its additive part alone "
        f"{span('pair', f'{SIGN}, additive code', of='value')}. With the rest of the code, "
        f"{span('pair', 'of the pair', of='value')} of its variance, it correlates "
        f"{span('pair', left, of='value')}: above 95% of relabellings in {above} of {n} models.",
    ]
    with_mlp = [model for model in trained if len(model["mlp"]) > 1]
    if with_mlp:
        nearer = "nearer to one step"
        found.append(
            f"With layer 2's MLP at its mean {span('mlp', RUNS[1], 'kept', over=with_mlp)} is "
            f"kept in {len(with_mlp)} models that have one. Their own predictions are nearer to "
            f"one step than to first order by {span('mlp', RUNS[0], nearer, over=with_mlp)}; with "
            f"the MLP at its mean by {span('mlp', RUNS[1], nearer, over=with_mlp)}."
        )
    random = [model for name, model in models.items() if "random" in name]
    if random:
        found.append(
            "That much is kept by first order or a covariance tells little by itself: in "
            f"{len(random)} models of random weights "
            f"{span('together', 'first order, own parts', over=random)} and "
            f"{span('together', 'covariance, own parts', over=random)}. Their product of score and "
            f"value correlates {span('product', COMPETING, GAMMA, of='value', over=random)} with "
            "γ × π."
        )
    return found


def table(columns: Mapping[str, Cell], models: Mapping[str, Figures]) -> str:
    """A row a model."""
    head = f"| model | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|\n"
    rows = [
        f"| {name} | {' | '.join(cell(found) for cell in columns.values())} |"
        for name, found in models.items()
    ]
    return head + "\n".join(rows)


def _stock(name: str) -> bool:
    """Whether a row is of a trained model."""
    return "trained" in name and "random" not in name


def _at(found: Figures, *path: str) -> Any:
    """What lies at a path; None if it was not measured."""
    for key in path:
        if key not in found:
            return None
        found = found[key]
    return found


def _score(*path: str) -> Cell:
    """A score with its interval."""

    def cell(model: Figures) -> str:
        found: Sequence[float] | None = _at(model, *path)
        if found is None:
            return "–"
        score, low, high = found[:3]
        return f"{score:.2f} [{low:.2f}, {high:.2f}]" if abs(score) < 100 else f"{score:.0f}"

    return cell


def _effect(*path: str) -> Cell:
    """The share of the algorithm's effect."""

    def cell(model: Figures) -> str:
        found: Sequence[float] | None = _at(model, *path)
        return "–" if found is None else f"{found[3]:.2f}"

    return cell


def _code(*path: str) -> Cell:
    """A figure of a code, with its standard error."""

    def cell(model: Figures) -> str:
        found = _at(model, *path)
        return "–" if found is None else f"{found['value']:.2f} ± {found['error']:.2f}"

    return cell


def _beside(*path: str) -> Cell:
    """The same, with the 95th percentile over relabellings and the share of them as high."""

    def cell(model: Figures) -> str:
        found = _at(model, *path)
        if found is None:
            return "–"
        null, share = found["null 95%"], found["as high"]
        return f"{_code(*path)(model)} ({null:.2f}; {share:.2f})"

    return cell
