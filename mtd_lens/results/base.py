"""What every result has: head fields, JSON both ways, text, HTML, a data frame, and a figure."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mtd_lens.errors import ArgumentError
from mtd_lens.printing import NARROWEST, wrapped
from mtd_lens.results import forms
from mtd_lens.results.plain import UnreadableError, plain_fields, read
from probes import checks, files, pages
from probes.errors import InputPathError

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

ResultT = TypeVar("ResultT", bound="Result")

FORM = 2
"""Of what ``to_dict`` returns. Files of the first form do not say theirs."""


@dataclass(frozen=True, kw_only=True)
class Result(pages.Shown):
    """The head of every result, and how results are read, written and shown.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of all that was drawn: sequences, pairs, controls, random models and resampling.
        n_sequences: How many were drawn.
        parameters: Of the algorithm, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through, its exact twin or its own
            hooks; empty for other models.
    """

    FIGURE: ClassVar[str]
    """Name of the function in ``mtd_lens.views.plots`` that draws it."""

    model: str
    task: str | Mapping[str, Any]
    seed: int
    n_sequences: int
    parameters: Mapping[str, float]
    divergence: str
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    through: str = field(default="", repr=False)

    @property
    def task_name(self) -> str:
        """The task in words."""
        return self.task if isinstance(self.task, str) else "a task of the user's own"

    @property
    def short_name(self) -> str:
        """The model's name, without the task's, which stands beside it."""
        return self.model.removeprefix(f"{self.task}/")

    @property
    def provenance(self) -> dict[str, Any]:
        """First columns of a table of several results."""
        return {"model": self.model, "task": self.task_name, "seed": self.seed}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        plain = {"form": FORM} | plain_fields(self)
        return plain if self.through else {k: v for k, v in plain.items() if k != "through"}

    @classmethod
    def from_dict(cls: type[ResultT], data: Mapping[str, Any]) -> ResultT:
        """The result that ``to_dict`` described.

        Args:
            data: What ``to_dict`` or a JSON file holds, of this form or the first.

        Raises:
            ArgumentError: A field is missing, unknown or of another form.
        """
        given = dict(checks.mapping(data, f"what {cls.__name__}.to_dict returned", ArgumentError))
        try:
            checks.texts(given, cls.__name__, UnreadableError)
            form = given.pop("form", 1)
            if form not in (1, FORM):
                raise UnreadableError(f"form must be 1 or {FORM}; got {form!r:.60}")
            found = cls(**read(cls, cls._fields_of(given, first=form == 1)))
            found._check_fields()
            return found
        except (UnreadableError, TypeError, ValueError) as error:
            raise ArgumentError(
                f"expected what {cls.__name__}.to_dict returns: {error}."
            ) from error

    @classmethod
    def _fields_of(cls, data: dict[str, Any], *, first: bool) -> dict[str, Any]:
        """The fields of a result in what ``to_dict`` returned, in its first form or today's."""
        return data

    def _check_fields(self) -> None:
        """Raise an UnreadableError where fields of the right form do not belong together."""

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return files.json_text(self.to_dict(), path)

    @classmethod
    def from_json(cls: type[ResultT], source: str | os.PathLike[str]) -> ResultT:
        """The result that ``to_json`` wrote.

        Args:
            source: A path, or the JSON text itself.

        Raises:
            ArgumentError: A file that cannot be read, or that holds something else.
        """
        try:
            data, where = files.read_json(source)
        except InputPathError as error:
            raise ArgumentError(
                f"{error} Give a path that {cls.__name__}.to_json wrote, or its text."
            ) from error
        try:
            return cls.from_dict(data)
        except ArgumentError as error:
            raise ArgumentError(f"{where}: {error}") from error

    def to_dataframe(self) -> "pandas.DataFrame":
        """The main rows of the result, each with the model, the task and the seed."""
        import pandas as pd

        return pd.DataFrame([self.provenance | row for row in self._rows()])

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        data: str | os.PathLike[str] | None = None,
    ) -> "matplotlib.figure.Figure":
        """The result at a glance.

        Args:
            path: Also write the figure there, as PNG or SVG by its ending.
            data: Also write what is drawn there, as CSV.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ArgumentError: A path of another ending.
            OutputPathError: A path cannot be written to.
        """
        draw = getattr(importlib.import_module("mtd_lens.views.plots"), self.FIGURE)
        figure: matplotlib.figure.Figure = draw(self, path, data=data)
        return figure

    def _page_title(self) -> str:
        return f"{type(self).__name__} of {self.model}"

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows.

        Args:
            width: Of the lines, such as the terminal's: text and tables that are wider are broken.
                None leaves lines as long as they are.

        Raises:
            ArgumentError: A width below 20.
        """
        title, notes = ([self._title()], self._all_notes())
        if width is not None:
            width = checks.integer(width, "width", NARROWEST, ArgumentError)
            title, notes = (["\n".join(wrapped(x, width)) for x in p] for p in (title, notes))
        return "\n\n".join([*title, *(table.text(width) for table in self._shown()), *notes])

    def _repr_html_(self) -> str:
        title = f'<h1 class="title">{escape(self._title())}</h1>'
        lead = [f"<p><b>{escape(sentence)}</b></p>" for sentence in self._lead()]
        tables = [table.__html__() for table in self._shown()]
        notes = [f"<p>{escape(note)}</p>" for note in self._notes() + self._runs()]
        parts = [title, *lead, *tables, *notes, *self._folded()]
        return pages.fragment("\n".join(parts))

    def _shown(self) -> list[forms.Table]:
        return [table for table in self._tables() if table.rows]

    def _title(self) -> str:
        algorithm = getattr(self, "algorithm", "")  # not every result is of one
        held = f"against {algorithm}" if algorithm else ""
        fitted = forms.parameters(self.parameters)
        return "   ".join(filter(None, [self.model, held, fitted, f"{self.n_sequences} sequences"]))

    def _tables(self) -> list[forms.Table]:
        """What text and HTML show, unless it is empty."""
        raise NotImplementedError

    def _lead(self) -> list[str]:
        """What it comes to: what HTML says first, and text, of which the end is seen, last."""
        return []

    def _notes(self) -> list[str]:
        """What text and HTML say below the tables."""
        return []

    def _folded(self) -> list[str]:
        """Markup of what HTML has below all else, folded up."""
        return []

    def _all_notes(self) -> list[str]:
        return self._notes() + self._lead() + self._runs()

    def _runs(self) -> list[str]:
        return [f"Runs went through {self.through}."] if self.through else []

    def _rows(self) -> list[dict[str, Any]]:
        """What the data frame holds."""
        raise NotImplementedError
