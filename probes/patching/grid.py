"""Labelled results: what an intervention at every site of a kind does to a metric.

>>> grid.top(1)  # doctest: +SKIP
[({'layer': 1, 'position': 5}, 0.93)]

A site counts as making a difference by a sign-flip test over sequences, corrected for how many
sites there are (see ``probes.statistics.significance``); how large the difference is comes with
bootstrap intervals.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes import checks, files, pages
from probes.errors import DataError
from probes.patching import labelled
from probes.patching.figures import draw_heat_map
from probes.patching.sites_table import FLIPS_A_SITE, sites_in_html
from probes.statistics.intervals import CONFIDENCE, MIN_SEQUENCES, mean_intervals, ratio_intervals
from probes.statistics.significance import N_FLIPS, adjust_p_values, sign_flip_p_values

if TYPE_CHECKING:
    import matplotlib.figure

LEVEL = 0.05
N_SHOWN = 8
"""Strongest sites in a notebook's table."""

COUNTED = 25_000
"""Values, up to which sign flips take so little time, 0.1 s, that one line may wait for them."""

SCREEN = 0.01
"""Only sites with p up to this are worth more than ``N_FLIPS`` flips."""

NEGLIGIBLE_GAP = 0.01
"""Source and base differ too little to normalise by, as a share of the spread over sequences."""

ROUNDING = 1e-9
"""Of the metric, as a share of its size."""

_COLUMNS = ("mean", "effect", "low", "high", "p", "p_holm")


@dataclass(frozen=True, eq=False)
class Grid(pages.Shown):
    """Effects of one kind of intervention at every site, one value a sequence.

    Values are kept in float64 on the CPU.

    Attributes:
        intervention: ``"denoising"``, ``"noising"``, ``"mean ablation"``, …
        component: What was changed: ``"resid_pre"``, ``"z"``, ``"pattern"``, …
        axes: Names of the axes of ``values``, in order, each with its labels, integers or text:
            ``{"layer": (0, 1), "position": (0, 1, 2)}``.
        values: ``[*axes, sequence]``: the metric of the patched runs.
        base: ``[sequence]``: the metric of the unpatched runs that were patched.
        source: ``[sequence]``: the metric of the runs that the activations came from; None if they
            came from no run, as in ablations.
        metric: Its name, with the unit.
        engine: How it was computed, in words.
        details: Plain data of any kind: versions, seeds, …

    Parameters of the methods:
        - ``seed``: Of resampling or sign flips.
        - ``confidence``: Coverage of the intervals, between 0 and 1.
        - ``level``: What a corrected p must not exceed.
        - ``method``: A correction that ``adjust_p_values`` knows.
        - ``n``: How many.
        - ``path``: A file to write to as well.

    Raises:
        DataError: Shapes that do not fit the axes, values that are not finite, texts that cannot be
            shown, or details that are no plain data.
    """

    intervention: str
    component: str
    axes: Mapping[str, Sequence[int | str]]
    values: Tensor
    base: Tensor
    source: Tensor | None
    metric: str
    engine: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes = labelled.checked(self.axes, reserved=_COLUMNS)
        for name in ("intervention", "component", "metric", "engine"):
            checks.text(getattr(self, name), name, DataError)
        shape = tuple(map(len, axes.values()))
        object.__setattr__(self, "axes", axes)
        n_sequences = len(self.base) if isinstance(self.base, Tensor) and self.base.ndim else 0
        for name, wanted in (
            ("values", (*shape, n_sequences)),
            ("base", (n_sequences,)),
            ("source", (n_sequences,)),
        ):
            if name != "source" or self.source is not None:
                tensor = labelled.checked_values(name, getattr(self, name), wanted, axes)
                object.__setattr__(self, name, tensor)
        try:
            plain = json.loads(json.dumps(dict(self.details), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"details must be plain data, as in JSON: {error}. Turn tensors into lists."
            ) from error
        object.__setattr__(self, "details", plain)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.values.shape[:-1])

    @property
    def n_sites(self) -> int:
        """Product of the sizes of the axes."""
        return math.prod(self.shape)

    @property
    def n_sequences(self) -> int:
        """How many sequences were run at every site."""
        return len(self.base)

    @property
    def mean(self) -> Float[Tensor, "*axes"]:
        """The metric of the patched runs, mean over sequences, ``[*axes]``."""
        return self.values.mean(-1)

    @property
    def differences(self) -> Float[Tensor, "*axes sequence"]:
        """``[*axes, sequence]``: the patched runs' metric less the unpatched runs', in its unit."""
        return self.values - self.base

    @property
    def normalized(self) -> bool:
        """Whether effects are shares of the way from base to source, rather than differences.

        False for ablations, and where source and base differ too little on average: negligibly, or
        with 16 sequences or more so that the 95% interval of their mean difference holds 0.
        """
        return self.source is not None and self._doubt() is None

    def _doubt(self, seed: int = 0, confidence: float = CONFIDENCE) -> str | None:
        """Why effects cannot be shares of the gap, in words; None where they can, or need not."""
        if self.source is None:
            return None
        gap = self.source - self.base
        mean, spread = float(gap.mean()), float(gap.std(correction=0))
        differ = f"{self.metric} of source and base differ by {mean:.3g} on average"
        rounding = ROUNDING * float(self.source.abs().max() + self.base.abs().max())
        if abs(mean) <= max(NEGLIGIBLE_GAP * spread, rounding):
            most = float(gap.abs().max())
            return f"{differ}, which is negligible beside single differences of up to {most:.3g}"
        if self.n_sequences >= MIN_SEQUENCES:
            _, low, high = map(float, mean_intervals(gap, seed, confidence))
            if low <= 0 <= high:
                return f"{differ}, {100 * confidence:g}% interval [{low:.3g}, {high:.3g}], maybe 0"
        return None

    @property
    def effects(self) -> Float[Tensor, "*axes"]:
        """``[*axes]``: 0 is no effect; normalised, 1 gives the source runs' mean metric.

        ``(mean(values) - mean(base)) / (mean(source) - mean(base))``, or for ablations the mean
        difference in the metric's unit.

        Raises:
            DataError: Source and base differ too little on average to normalise by.
        """
        found, gap = self.differences.mean(-1), self._gap()
        return found if gap is None else found / gap.mean()

    def _gap(self, seed: int = 0, confidence: float = CONFIDENCE) -> Tensor | None:
        """What the source's metric is above the base's; None where effects are differences."""
        if doubt := self._doubt(seed, confidence):
            raise DataError(
                f"effects cannot be normalised: {doubt}. Use .differences, or more sequences, or "
                "pair base and source so that the metric changes one way."
            )
        return None if self.source is None else self.source - self.base

    def _warned(self) -> bool:
        """Whether effects are undefined, with a warning that says why."""
        if doubt := self._doubt():
            warnings.warn(f"no effects, but differences: {doubt}.", stacklevel=3)
        return doubt is not None

    def intervals(
        self, seed: int = 0, confidence: float = CONFIDENCE
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
        """The lower and upper limits of the effects, ``[*axes]``, by bootstrap over sequences.

        Raises:
            DataError: Fewer than 16 sequences, effects that are undefined, or resamples by which
                source and base may not differ at all.
        """
        gap = self._gap(seed, confidence)
        if gap is None:
            return mean_intervals(self.differences, seed, confidence)[1:]
        up = gap.mean().sign()
        return ratio_intervals((gap - self.differences) * up, gap * up, seed, confidence)[1:]

    def p_values(self, seed: int = 0) -> Float[Tensor, "*axes"]:
        """The two-sided p of no mean difference at every site, ``[*axes]``, by flipping signs.

        In grids of many sites, those with p up to ``SCREEN`` are tested again with so many flips
        that the strongest of all can pass at 0.05 after Holm's correction. Either p is valid, and
        so is this choice between them: no p below ``SCREEN`` comes from the first test.
        """
        p, n_more = sign_flip_p_values(self.differences, N_FLIPS, seed), FLIPS_A_SITE * self.n_sites
        if n_more > N_FLIPS:
            again = p <= SCREEN
            p[again] = sign_flip_p_values(self.differences[again], n_more, seed)
        return p

    def adjusted(self, method: str = "holm", seed: int = 0) -> Float[Tensor, "*axes"]:
        """The p values, ``[*axes]``, corrected for the number of sites."""
        return adjust_p_values(self.p_values(seed), method)

    def significant(
        self, level: float = LEVEL, method: str = "holm", seed: int = 0
    ) -> Bool[Tensor, "*axes"]:
        """Where the corrected p is at most ``level``, ``[*axes]``.

        Raises:
            DataError: A level outside 0 … 1, or a method or seed that cannot be used.
        """
        level = checks.number(level, "level", 0, 1, DataError)
        return self.adjusted(method, seed) <= level

    def top(self, n: int = 5) -> list[tuple[dict[str, int | str], float]]:
        """The ``n`` sites of the largest absolute effect, each with its labels, strongest first."""
        return labelled.strongest(self.effects, self.axes, n)

    def select(self, **labels: Any) -> "Grid":
        """The part of the grid at some labels of some axes, each a label or a list of them.

        ``grid.select(layer=1, position=[3, 4])``. Every axis stays, if only with one label.

        Args:
            **labels: By axis, a label or a list of them.

        Raises:
            DataError: An axis or label that the grid does not have.
        """
        values = self.values
        axes, places = labelled.choose(self.axes, labels)
        for axis, index in enumerate(places):
            values = values.index_select(axis, index)
        return replace(self, axes=axes, values=values)

    def to_dataframe(self, seed: int = 0) -> Any:
        """A pandas DataFrame, one row a site.

        Columns: a label of every axis; ``mean`` of the metric; ``effect``, ``low`` and ``high``
        (95%), NaN, with a warning, where effects are undefined; ``p`` and ``p_holm``. With fewer
        than 16 sequences ``low``, ``high``, ``p`` and ``p_holm`` are NaN.
        """
        import pandas as pd

        unknown = torch.full(self.shape, torch.nan, dtype=torch.float64)
        figures = dict.fromkeys(_COLUMNS, unknown) | {"mean": self.mean}
        defined, enough = not self._warned(), self.n_sequences >= MIN_SEQUENCES
        if defined:
            figures["effect"] = self.effects
        if defined and enough:
            figures["low"], figures["high"] = self.intervals(seed)
        if enough:
            figures["p"] = self.p_values(seed)
            figures["p_holm"] = adjust_p_values(figures["p"])
        sites = pd.MultiIndex.from_product(list(self.axes.values()), names=list(self.axes))
        columns = {name: tensor.flatten().numpy() for name, tensor in figures.items()}
        return pd.DataFrame(columns, index=sites).reset_index()

    def to_json(self, path: files.StrPath | None = None) -> str:
        """The grid as JSON text, also written to ``path`` if one is given.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        plain = dict(vars(self)) | {"axes": {name: list(ls) for name, ls in self.axes.items()}}
        for name in ("values", "base", "source"):
            plain[name] = None if plain[name] is None else plain[name].tolist()
        return files.json_text(plain | {"shape": list(self.shape)}, path, indent=None)

    @classmethod
    def from_json(cls, source: files.StrPath) -> "Grid":
        """The grid that ``to_json`` made.

        Args:
            source: A path, or the JSON text itself.

        Raises:
            DataError: A file that cannot be read, or that holds something else.
        """
        try:
            plain, _ = files.read_json(source)
            shape = plain.pop("shape")
            for name in ("values", "base", "source"):
                if plain[name] is not None:
                    plain[name] = torch.tensor(plain[name], dtype=torch.float64)
            grid = cls(**plain)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            cause: Any = error.__cause__ or error
            raise DataError(
                f"{files.named(source)} is not what Grid.to_json writes: {type(cause).__name__}: "
                f"{files.reason_of(cause)}."
            ) from error
        if list(grid.shape) != shape:
            raise DataError(f"the grid's values have shape {grid.shape}, not {shape} as it says.")
        return grid

    def plot(
        self, path: files.StrPath | None = None, *, level: float = LEVEL, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        """Heat map of the effects; with 16 sequences or more, dots where they are significant.

        The last two axes are rows and columns, those before them panels. Where effects cannot be
        normalised, mean differences are drawn, with a warning.

        Args:
            path: Also write the figure there, as PNG or SVG by its ending.
            level: Of the dots, after Holm's correction for the number of sites.
            seed: Of the sign flips.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            DataError: More axes or panels than a figure holds.
            OutputPathError: Another ending, or the path cannot be written to.
        """
        if path is not None:
            files.check_figure_path(path)
        level = checks.number(level, "level", 0, 1, DataError)
        self._warned()
        marks = self.significant(level, seed=seed) if self.n_sequences >= MIN_SEQUENCES else None
        note = "" if marks is None else f"; dots: p ≤ {level:g} (sign flips, Holm)"
        figure = draw_heat_map(
            self._shown,
            self.axes,
            label=self._unit,
            title=f"{self._heading}\n{self.metric}, {self._count}{note}",
            marks=marks,
        )
        if path is not None:
            files.write_figure(figure, path)
        return figure

    @property
    def _shown(self) -> Tensor:
        """Effects, or mean differences where effects are undefined."""
        return self.effects if self.normalized else self.differences.mean(-1)

    @property
    def _unit(self) -> str:
        return "normalised effect" if self.normalized else f"difference of {self.metric}"

    @property
    def _heading(self) -> str:
        fixed = [f"{name} {ls[0]}" for name, ls in self.axes.items() if len(ls) == 1]
        return ", ".join([f"{self.intervention} of {self.component}", *fixed])

    def _page_title(self) -> str:
        return self._heading

    @property
    def _count(self) -> str:
        return f"{self.n_sequences} sequence{'s' if self.n_sequences != 1 else ''}"

    @property
    def _summary(self) -> str:
        sizes = " × ".join(f"{name} ({len(labels)})" for name, labels in self.axes.items())
        return f"{self.intervention} of {self.component}: {sizes}, {self._count}; strongest"

    def __repr__(self) -> str:
        [(labels, effect)] = labelled.strongest(self._shown, self.axes, 1)
        site = ", ".join(f"{name} {label}" for name, label in labels.items())
        found = f"{self._summary} {self._unit} {effect:.3g} at {site}"
        if self.n_sequences >= MIN_SEQUENCES and self.values.numel() <= COUNTED:
            n = int(self.significant().sum())
            found += f"; {n} of {self.n_sites} sites at p ≤ {LEVEL:g} (Holm)"
        return f"Grid({found})"

    def _repr_html_(self) -> str:
        """The strongest sites; with 16 sequences or more, each with its interval and p."""
        found = labelled.strongest(self._shown, self.axes, N_SHOWN)
        return sites_in_html(self, found, unit=self._unit, title=f"{self._summary} sites")
