"""The result of ``compete``: a family's algorithms held against a model on the same sequences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mtd_lens.errors import UnknownNameError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import NOTHING, Table, figure, interval, parameters, scored
from mtd_lens.results.plain import check
from probes import checks
from probes.statistics.intervals import Interval


@dataclass(frozen=True)
class Contender:
    """An algorithm, fitted to the model, and how the model does by it.

    Attributes:
        id: By which the algorithm is asked for.
        name: In words.
        parameters: That were fitted to the model's predictions.
        divergence: Mean divergence of the model's predictions from the algorithm's.
        predictions: ``1 - D(algorithm ‖ model) / D(algorithm ‖ no evidence)``; None where the
            algorithm does not say what is predicted without evidence.
        interchange: Of its statistic, given the query, over blind, at ``layer``; None where it
            names none, or where no such pairs can be made.
        layer: Whose attention output at the last query was swapped: the earliest best on other
            sequences.
        scrubbing: Of its statistic, given the query, at the layer that is best for that.
        scrubbing_layer: That layer.
        notes: By test, why it was not made.
        alike: Names of rivals that no test tells from it.
        verdict: A key of ``mtd_lens.verdicts.IN_WORDS``.
        reason: In words.
    """

    id: str
    name: str
    parameters: Mapping[str, float]
    divergence: Interval
    predictions: Interval | None
    interchange: Interval | None
    layer: int | None
    scrubbing: Interval | None
    scrubbing_layer: int | None
    notes: Mapping[str, str]
    alike: tuple[str, ...]
    verdict: str
    reason: str


@dataclass(frozen=True)
class Duel:
    """Two algorithms on the sequences, or pairs, on which they differ most.

    Attributes:
        one: Name of an algorithm.
        other: Of another.
        predictions: ``(D(other) - D(one)) / (D(other) + D(one))`` of mean divergences from the
            model: 1 where it predicts as the one, -1 where as the other, 0 where as near to both.
            Intervals here are corrected for the number of rivals. None where they predict alike.
        interchange: The same of their counterfactuals from the model's predictions after swaps
            given the query; None where one of them has none, where both are the same, or where
            they were swapped at different layers.
        share: How much of the way from the one's predictions to the other's the model's lie: 0
            where the one screens the other off, 1 where it is the other way round.
        apart: Mean divergence of the other's predictions from the one's; 0 where they are the
            same, and only swaps could tell them apart.
    """

    one: str
    other: str
    predictions: Interval | None
    interchange: Interval | None
    share: Interval | None
    apart: float

    def turned(self) -> "Duel":
        """The same from the other's side."""

        def mirrored(found: Interval | None, of: float) -> Interval | None:
            return (
                None
                if found is None
                else Interval(*(of - x for x in (found.score, found.high, found.low)))
            )

        return Duel(
            self.other,
            self.one,
            predictions=mirrored(self.predictions, 0.0),
            interchange=mirrored(self.interchange, 0.0),
            share=mirrored(self.share, 1.0),
            apart=self.apart,
        )


@dataclass(frozen=True, kw_only=True)
class Competition(Result):
    """Which of a family's algorithms a model runs, if one of them.

    ``found["posterior"]`` is one algorithm's row, by its id; ``print(found)`` shows the tables.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences, pairs and resampling.
        n_sequences: Half for fits and choices, half for scores.
        parameters: None: what is fitted stands in the rows.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        contenders: The algorithms, nearest to the model's predictions first.
        duels: Every two of them, the nearer one first.
        conclusion: What it comes to, in a sentence.
    """

    FIGURE: ClassVar[str] = "plot_competition"

    contenders: tuple[Contender, ...]
    duels: tuple[Duel, ...]
    conclusion: str

    def __iter__(self) -> Iterator[Contender]:
        return iter(self.contenders)

    def __len__(self) -> int:
        return len(self.contenders)

    def __getitem__(self, id: str) -> Contender:
        by_id = {contender.id: contender for contender in self.contenders}
        return by_id[checks.choice(id, "algorithm", by_id, UnknownNameError)]

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{c.name} {c.verdict}" for c in self.contenders)
        return f"Competition({self.model!r}: {verdicts})"

    @property
    def nearest(self) -> Contender:
        """The algorithm whose predictions are nearest to the model's."""
        return self.contenders[0]

    def against_nearest(self) -> list[Duel]:
        """The duels of the nearest algorithm with each of its rivals."""
        return [duel for duel in self.duels if duel.one == self.nearest.name]

    def _check_fields(self) -> None:
        names = [contender.name for contender in self.contenders]
        several = len(names) > 1 and len(set(names)) == len(names)
        check(several, "two algorithms or more, of different names", names, "contenders")
        wanted = [[one, other] for i, one in enumerate(names) for other in names[i + 1 :]]
        found = [[duel.one, duel.other] for duel in self.duels]
        check(found == wanted, "every two of the contenders, in their order", found, "duels")

    def _title(self) -> str:
        return f"{self.model}: {len(self)} algorithms   {self.n_sequences} sequences"

    def _tables(self) -> list[Table]:
        """The algorithms, why each was judged so, and the nearest one beside its rivals."""
        header = (
            *("algorithm", "verdict", "divergence", "95% interval", "predictions"),
            *("interchange", "layer", "scrubbing", "layer"),
        )
        rows = [
            (
                c.name, c.verdict, scored(c.divergence, 5), interval(c.divergence, 5),
                scored(c.predictions), scored(c.interchange), figure(c.layer, 0),
                scored(c.scrubbing), figure(c.scrubbing_layer, 0),
            )
            for c in self.contenders
        ]  # fmt: skip
        why = [(c.name, c.reason) for c in self.contenders]
        fitted = [(c.name, parameters(c.parameters)) for c in self.contenders if c.parameters]
        notes = [
            (c.name, test, reason) for c in self.contenders for test, reason in c.notes.items()
        ]
        beside = [
            (d.other, *(_with_interval(x) for x in (d.predictions, d.interchange, d.share)))
            for d in self.against_nearest()
        ]
        return [
            Table(header, rows, (0, 1), f"Algorithm ‖ model at the last query ({self.divergence})"),
            Table(("algorithm", "why"), why, (0, 1), "Why"),
            Table(
                ("rival", "predictions", "interchange", "share of the rival"),
                beside,
                title=f"The nearest, {self.nearest.name}, beside each rival where the two differ "
                "most (1: as it, -1: as the rival)",
            ),
            Table(("algorithm", "fitted"), fitted, (0, 1), "Fitted to the model"),
            Table(("algorithm", "test", "why it was not made"), notes, (0, 1, 2), "Not made"),
        ]

    def _lead(self) -> list[str]:
        return [self.conclusion]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"algorithm": c.id, "verdict": c.verdict}
            | {"divergence": c.divergence.score}
            | {"divergence_low": c.divergence.low, "divergence_high": c.divergence.high}
            | {
                f"{test}{end}": None if found is None else getattr(found, name)
                for test in ("predictions", "interchange", "scrubbing")
                for found in [getattr(c, test)]
                for end, name in (("", "score"), ("_low", "low"), ("_high", "high"))
            }
            | {"layer": c.layer, "scrubbing_layer": c.scrubbing_layer}
            for c in self.contenders
        ]


def _with_interval(found: Interval | None) -> str:
    return NOTHING if found is None else f"{scored(found)} {interval(found)}"
