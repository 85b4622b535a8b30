"""What claims are made of: the statement, the test that decides it, and what the test found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError
from probes import checks
from probes.statistics import Interval

if TYPE_CHECKING:
    from mtd_lens.trial import Trial


class Record:
    """A dataclass whose names and sentences can be shown as they are.

    Raises:
        ArgumentError: One of its texts, or of those in its lists and mappings, cannot be.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            checks.texts(
                getattr(self, each.name), f"{type(self).__name__}.{each.name}", ArgumentError
            )


Errors = tuple[Float[Tensor, " row"], Float[Tensor, " row"]]
"""Numerator and denominator of a score, one value a row of each."""


class NotApplicable(Exception):  # noqa: N818 - no error: a test says why it was not made
    """Raised by a claim's test that cannot be made, with the reason in words."""


@dataclass(frozen=True)
class Measurement(Record):
    """What a claim's test found at one layer; the score is ``1 - E[numerator]/E[denominator]``.

    Attributes:
        layer: Block index; None for the model's output.
        site: Hook, heads and positions, in words.
        selection: The score on the fit split, by which the claim's layer is chosen.
        numerator: ``[row]``: discrepancy of the model, one value an evaluation sequence or pair
            (for scores read from parameters, one value a row compared).
        denominator: ``[row]``: discrepancy of the reference.
        controls: By name in words, what must not score as well (a control task, a wrong source, a
            permuted map): numerator and denominator, ``[row]`` each, or the score with its
            interval.
        dose: How much of the source's value the patched model acts on, with its interval; None
            where that cannot be said.
        exact: True for scores read from parameters, which sequences do not make uncertain.
        details: Further figures for the report.
        interval: The score with its interval, where rows alone do not give it.
    """

    layer: int | None
    site: str
    selection: float
    numerator: Float[Tensor, " row"]
    denominator: Float[Tensor, " row"]
    controls: Mapping[str, Errors | Interval] = field(default_factory=dict)
    dose: Interval | None = None
    exact: bool = False
    details: Mapping[str, float | str] = field(default_factory=dict)
    interval: Interval | None = None


@dataclass(frozen=True)
class Claim(Record):
    """A statement about a model and the test that decides it.

    Attributes:
        id: ``variable.test``: what results and ``score(only=…)`` name it by.
        statement: The claim in one sentence.
        measure: The test: one measurement for every layer that it can be made at, or at least for
            the one that is best on the fit split where the trial is not ``complete``. None where
            the variable does not vary; where the test cannot be made for another reason it raises
            :class:`NotApplicable`. ``mtd_lens.measures`` has those that any causal model can use. A
            test with a method ``reads(trial)`` says which activations of the splits it will ask
            for, so that those of all claims are read in one pass; one with a method
            ``edits(trial)`` names the hook, or hooks, within a block that it edits, which are tried
            first.
        slow: True for a test that a quick scorecard leaves out.

    Raises:
        ArgumentError: An id that is empty, has spaces at its ends or cannot be shown, a statement
            that cannot, or a test that is no function.
    """

    id: str
    statement: str
    measure: Callable[["Trial"], Sequence[Measurement]]
    slow: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        id = checks.text(self.id, "a claim's id", ArgumentError)
        if not id or id != id.strip():
            raise ArgumentError(
                "a claim's id must be a text without spaces at its ends, variable.test; got "
                f"{id!r}."
            )
        checks.text(self.statement, f"the statement of the claim {id!r}", ArgumentError)
        checks.function(self.measure, f"the test of the claim {id!r}", ArgumentError)


@contextmanager
def naming(claim: Claim) -> Iterator[None]:
    """A context in which what a claim's test raises bears a note with the claim's id.

    Args:
        claim: Whose test is called.
    """
    try:
        yield
    except NotApplicable:  # no error, but an answer
        raise
    except Exception as error:
        error.add_note(f"Raised by the test of the claim {claim.id!r}.")
        raise


@dataclass(frozen=True)
class QueryTokens(Record):
    """The tokens that belong to a query itself, whatever came before them.

    A model's code of what it reads at the query may depend on them. A source that shares them with
    its base is another sequence's context with the base's last tokens put under it.

    Attributes:
        count: How many last tokens of a sequence, at least 1.
        possible: ``tokens -> [sequence]``: which sequences made so have a positive probability;
            None where all do.

    Raises:
        ArgumentError: No such number, or no function.
    """

    count: int
    possible: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer(self.count, "count", 1, ArgumentError)
        if self.possible is not None:
            checks.function(self.possible, "possible", ArgumentError)


@dataclass(frozen=True)
class Code(Record):
    """A function of a variable and of the query's own tokens, in which a model may hold it.

    Attributes:
        name: In words: ``"correction"``.
        variable: Of the causal model.
        values: ``(causal model, tokens) -> [sequence, query, entry]``.
        rival: Of another algorithm: written in place of the hypothesis's own, for comparison.
    """

    name: str
    variable: str
    values: Callable[[Any, Tensor], Tensor]
    rival: bool = False
