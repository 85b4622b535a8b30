"""The result of ``compare_scorecards``: claims of several scorecards, and how they differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mtd_lens.errors import ArgumentError, UnknownNameError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import NOTHING, Table, figure, interval, parameters
from mtd_lens.results.plain import check
from mtd_lens.results.scorecard import ClaimResult
from mtd_lens.verdicts import SUPPORTED
from probes import checks, pages
from probes.statistics.intervals import Interval

PAIRED, UNPAIRED, EXACT = "paired", "unpaired", "exact"

LEVEL = 0.05
"""Below which a corrected p is called a difference."""

IN_WORDS = {
    PAIRED: "over the same sequences or pairs: a bootstrap, and p of sign flips",
    UNPAIRED: "from the two scores' intervals, taken as independent",
    EXACT: "of scores without sampling error, read from parameters or equal on every sequence",
}


@dataclass(frozen=True)
class ComparedCard:
    """One of the scorecards.

    Attributes:
        name: What it is called here.
        model: Its model.
        task: The task in words.
        seed: Of its sequences.
        n_sequences: Half for choices, half for scores.
        parameters: Of the algorithm, fitted to its model.
        quick: Whether the slow tests were left out.
        conclusion: In two or three sentences.
        unpaired: Why its sequences are not the first one's; empty where they are.
    """

    name: str
    model: str
    task: str
    seed: int
    n_sequences: int
    parameters: Mapping[str, float]
    quick: bool
    conclusion: str
    unpaired: str


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """A score minus the first scorecard's, with its 95% interval.

    Attributes:
        score: The difference itself.
        low: Lower end of its interval.
        high: Upper end.
        p: That there is none; None where the scores are exact.
        p_adjusted: The same, corrected for all differences shown (Holm).
        how: A key of ``mtd_lens.results.scorecard_comparison.IN_WORDS``.
    """

    p: float | None
    p_adjusted: float | None
    how: str


@dataclass(frozen=True)
class ClaimBeside:
    """A claim, as each scorecard has it.

    Attributes:
        id: ``variable.test``.
        statement: The claim in a sentence.
        found: One a scorecard; None where it does not have the claim.
        differences: One a further scorecard, from the first; None where one of both has no score.
    """

    id: str
    statement: str
    found: tuple[ClaimResult | None, ...]
    differences: tuple[Difference | None, ...]


@dataclass(frozen=True, kw_only=True)
class ScorecardComparison(Result):
    """Several scorecards beside each other, the others held against the first.

    ``found["mixture_weights.attention"]`` is one claim's row; ``print(found)`` shows the tables.

    Attributes:
        model: Of the first scorecard.
        task: Of the first.
        seed: Of the first, and of resampling.
        n_sequences: Of the first.
        parameters: Of the first.
        divergence: Its name and unit.
        versions: Of what the first depends on.
        through: What the runs of the first one's ``TransformerBridge`` went through.
        algorithm: That all of them are against.
        cards: What was compared.
        claims: Every claim that one of them has.
    """

    FIGURE: ClassVar[str] = "plot_scorecard_comparison"

    algorithm: str
    cards: tuple[ComparedCard, ...]
    claims: tuple[ClaimBeside, ...]

    def __iter__(self) -> Iterator[ClaimBeside]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def __getitem__(self, claim_id: str) -> ClaimBeside:
        by_id = {claim.id: claim for claim in self.claims}
        return by_id[checks.choice(claim_id, "claim", by_id, UnknownNameError)]

    def __repr__(self) -> str:
        beside = ", ".join(repr(card.name) for card in self.cards[1:])
        return f"ScorecardComparison({self.model!r} beside {beside})"

    @property
    def letters(self) -> list[str]:
        """What stands for each scorecard in tables and figures: A, B, …, then A1, B1, …"""
        return [
            chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")
            for i in range(len(self.cards))
        ]

    def differing(self, index: int) -> list[str]:
        """Ids of the claims whose scores differ from the first scorecard's, by corrected p.

        Args:
            index: Of the further scorecard, from 1.

        Returns:
            Their ids, in the order of the claims.

        Raises:
            ArgumentError: There is none of that index.
        """
        index = checks.integer(index, "index", 1, ArgumentError, len(self.cards) - 1)
        found = [(claim.id, claim.differences[index - 1]) for claim in self.claims]
        return [name for name, d in found if d is not None and _differs(d)]

    def _check_fields(self) -> None:
        n = len(self.cards)
        check(n > 1, "two scorecards or more", n, "cards")
        for claim in self.claims:
            sizes = [len(claim.found), len(claim.differences)]
            check(sizes == [n, n - 1], f"{n} and {n - 1} entries", sizes, "found and differences")

    def _page_title(self) -> str:
        return f"Scorecards of {' and '.join(card.name for card in self.cards)}"

    def _title(self) -> str:
        others = ", ".join(card.name for card in self.cards[1:])
        return f"{others} beside {self.cards[0].name}   against {self.algorithm}"

    def _tables(self) -> list[Table]:
        """What was compared, every claim of each further scorecard beside the first, and in one."""
        letters = self.letters
        heads = [
            (
                letter, card.name, card.task, f"{card.seed}", f"{card.n_sequences}",
                parameters(card.parameters), self._supported(index),
                NOTHING if index == 0 else f"not: {card.unpaired}" if card.unpaired else "yes",
            )
            for index, (letter, card) in enumerate(zip(letters, self.cards, strict=True))
        ]  # fmt: skip
        header = ("", "scorecard", "task", "seed", "sequences", "fitted", "supported", "paired")
        return [
            Table(header, heads, (0, 1, 2, 5, 7)),
            *(self._beside(index) for index in range(1, len(self.cards))),
        ]

    def _supported(self, index: int) -> str:
        found = [claim.found[index] for claim in self.claims]
        tested = [claim for claim in found if claim is not None and claim.score is not None]
        return f"{sum(c.verdict == SUPPORTED for c in tested)} of {len(tested)}"

    def _beside(self, index: int) -> Table:
        """A row for each claim that both have."""
        first, letter = self.letters[0], self.letters[index]
        header = (
            *("claim", first, "verdict", letter, "verdict", f"{letter} − {first}"),
            *("95% interval", "p", "p (Holm)", "how"),
        )
        rows = []
        for claim in self.claims:
            one, two, found = claim.found[0], claim.found[index], claim.differences[index - 1]
            if one is None or two is None:
                continue
            numbers = (
                (NOTHING,) * 5
                if found is None
                else (
                    "+" * (found.score > 0) + figure(found.score),
                    interval(found),
                    _p(found.p),
                    _p(found.p_adjusted),
                    found.how,
                )
            )
            verdicts = [figure(one.score), one.verdict, figure(two.score), two.verdict]
            rows.append((claim.id, *verdicts, *numbers))
        title = f"{letter} beside {first}: {self.cards[index].name} − {self.cards[0].name}"
        return Table(header, rows, (0, 2, 4, 9), title)

    def _notes(self) -> list[str]:
        letters, first = self.letters, self.letters[0]
        notes = []
        for index in range(1, len(self.cards)):
            found = self.differing(index)
            both = [c.id for c in self.claims if c.differences[index - 1] is not None]
            alike = [name for name in both if name not in found]
            named = f": {', '.join(found)}" if 0 < len(found) <= len(alike) else ""
            if found and alike and not named:
                named = f", all but {', '.join(alike)}"
            notes.append(
                f"{len(found)} of {len(both)} scores of {letters[index]} differ from {first} "
                f"(corrected p below {LEVEL:g}){named}."
            )
        for index, letter in enumerate(letters[1:], start=1):
            for who, other, whose in ((0, index, first), (index, 0, letter)):
                alone = [
                    claim.id
                    for claim in self.claims
                    if claim.found[who] is not None and claim.found[other] is None
                ]
                if alone:
                    unlike = letter if whose == first else first
                    notes.append(f"Only {whose} has, and not {unlike}: {', '.join(alone)}.")
        used = {d.how for claim in self.claims for d in claim.differences if d is not None}
        said = [f"{how}: {words}" for how, words in IN_WORDS.items() if how in used]
        notes.append(
            f"Differences are {'; '.join(said)}. Intervals and p are over sequences, for these "
            "very models: how far models of other training seeds would lie apart they do not say."
        )
        return notes

    def _lead(self) -> list[str]:
        told = zip(self.letters, self.cards, strict=True)
        return [f"{letter}, {card.name}: {card.conclusion}" for letter, card in told]

    def _folded(self) -> list[str]:
        """Each scorecard's claims, with what they are held against and why they were judged so."""
        return [
            pages.folded(f"{letter}, {card.name}: every claim", self._claims_of(index).__html__())
            for index, (letter, card) in enumerate(zip(self.letters, self.cards, strict=True))
        ]

    def _claims_of(self, index: int) -> Table:
        header = ("claim", "verdict", "layer", "score", "95% interval", "floor", "ceiling", "why")
        rows = [
            (
                claim.id, claim.verdict, figure(claim.layer, 0), figure(claim.score),
                interval(claim), figure(claim.floor), figure(claim.ceiling), claim.reason,
            )
            for claim in (beside.found[index] for beside in self.claims)
            if claim is not None
        ]  # fmt: skip
        return Table(header, rows, (0, 1, 7))

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each claim and further scorecard; ``first_`` are the first one's columns."""
        rows = []
        for claim in self.claims:
            one = claim.found[0]
            for card, two, found in zip(
                self.cards[1:], claim.found[1:], claim.differences, strict=True
            ):
                row: dict[str, Any] = {"claim": claim.id, "other": card.name}
                for prefix, side in (("first_", one), ("other_", two)):
                    names = ("score", "low", "high", "layer", "verdict")
                    row |= {f"{prefix}{name}": getattr(side, name, None) for name in names}
                ends = {"": "score", "_low": "low", "_high": "high"}
                row |= {f"difference{e}": getattr(found, name, None) for e, name in ends.items()}
                row |= {name: getattr(found, name, None) for name in ("p", "p_adjusted", "how")}
                rows.append(row)
        return rows


def _differs(found: Difference) -> bool:
    """Whether a difference is more than chance; exact scores differ where they are not the same."""
    if found.how == EXACT:
        return abs(found.score) > 0
    return found.p_adjusted is not None and found.p_adjusted < LEVEL


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"
