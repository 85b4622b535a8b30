"""One self-contained page that shows a model's attention, inferences and scores on a few sequences.

The patterns are drawn by CircuitsVis, of which the page holds one copy; nothing is loaded from the
network. A notebook shows the page in a frame of its own.
"""

import base64
import html
import importlib.resources
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from mtd_lens import verdicts
from mtd_lens.contracts import Algorithm, Task
from mtd_lens.errors import ArgumentError
from mtd_lens.questions import inspect as inspecting
from mtd_lens.results import forms
from mtd_lens.results.inspection import MAX_OUTCOMES, Inspection, distances, likeliest
from mtd_lens.results.scorecard import Scorecard
from mtd_lens.vocabulary import Vocabulary
from probes import files, pages
from probes.subject import HookedModel

LEVELS = 32767
"""Attention from 0 to 1, and likewise from 0 to −1, is rounded to this many levels."""

UNDEFINED = -32768
"""The 16-bit number that marks "not defined"."""

DIGITS = 4
VECTOR_DIGITS = 2
"""Of the components by which a vector is named."""

TIE = 0.01
"""Heads that are as near to patterns as this, as a share, tie; the last pattern's is taken."""

SMALLEST = 1e-3
"""Of distances from uniform attention."""

FRAME_HEIGHT = 900
"""Of the page in a notebook, in pixels."""


@dataclass(frozen=True, repr=False)
class Dashboard:
    """A page to look at: ``save`` writes it, and a notebook shows it.

    Attributes:
        inspection: What is shown.
        scorecard: Shown below it, if there is one.
    """

    inspection: Inspection
    scorecard: Scorecard | None

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The page as text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to, or ends in neither ``.html`` nor
                ``.htm``.
        """
        target = None if path is None else files.check_page_path(path)
        text = _page(self.inspection, self.scorecard)
        if target is not None:
            files.write_text(target, text)
        return text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Args:
            path: Where to.

        Raises:
            OutputPathError: The path cannot be written to, or ends in neither ``.html`` nor
                ``.htm``.
        """
        self.to_html(path)

    def with_scorecard(self, scorecard: Scorecard) -> "Dashboard":
        """The same page with what ``score`` returned for the model.

        Args:
            scorecard: What ``score`` returned.

        Raises:
            ArgumentError: Something else than a scorecard, or one on another task or against
                another algorithm.
        """
        return replace(self, scorecard=_checked_card(scorecard, self.inspection))

    def _repr_html_(self) -> str:
        page = html.escape(self.to_html(), quote=True)
        title = html.escape(f"Dashboard of {self.inspection.model}", quote=True)
        return (
            f'<iframe title="{title}" srcdoc="{page}" width="100%" height="{FRAME_HEIGHT}" '
            'style="border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        scored = "with its scorecard" if self.scorecard else "not scored"
        return f"Dashboard({self.inspection!r}, {scored})"


def dashboard(
    model: HookedModel,
    tokens: Tensor | None = None,
    *,
    task: Task | str | None = None,
    n_sequences: int = inspecting.N_SEQUENCES,
    seed: int = 0,
    token_names: Sequence[str] | None = None,
    scorecard: Scorecard | None = None,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    algorithm: str | Algorithm | None = None,
    progress: bool | None = None,
) -> Dashboard:
    """A page that shows a model's attention beside the algorithm's, sequence by sequence.

    For each sequence: the attention of every layer and head, the algorithm's own (for an MTD task
    the responsibilities, their uniform average, and the mixture weights), and their difference; the
    weights that the model's predictions imply, beside one step and two steps of mirror descent,
    exact Bayes where it can be integrated, and the truth; and the predicted distributions.

    Args:
        model: A hooked model, of this package or not; it is left as it was found.
        tokens: ``[sequence, position]``; by default ``n_sequences`` drawn from the task. At most
            256 positions are shown, and no more than the task has, with a note if any are left out.
        task: What the model is held against, or its name; by default the task that it knows.
        n_sequences: How many to draw, 1 to 16.
        seed: Of the sequences.
        token_names: What to call each token of the vocabulary; by default its number.
        scorecard: What ``score`` returned for the model, to be shown too.
        name: What to call the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        algorithm: What the model is held against, such as ``"one-step"`` or ``"posterior"`` on
            mixtures, or an algorithm of the caller's own; by default the family's first.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Raises:
        ArgumentError: Something else than a scorecard, or one on another task or against another
            algorithm; ``n_sequences``, ``seed``, ``token_names``, ``name``, ``vocabulary`` or
            ``algorithm`` that cannot be used.
        DataError: Tokens that the model cannot read.
        TokensError: Tokens that do not fit the task.
        ModelError: The model does not fit the task, or no task is known.
    """
    _check_card(scorecard)
    found = inspecting.inspect(
        model,
        tokens,
        task=task,
        n_sequences=n_sequences,
        seed=seed,
        token_names=token_names,
        name=name,
        vocabulary=vocabulary,
        algorithm=algorithm,
        progress=progress,
    )
    return Dashboard(found, _checked_card(scorecard, found))


def _check_card(scorecard: Scorecard | None) -> None:
    if scorecard is not None and not isinstance(scorecard, Scorecard):
        raise ArgumentError(
            f"scorecard takes what mtd_lens.score returned; got a {type(scorecard).__name__}."
        )


def _checked_card(scorecard: Scorecard | None, inspection: Inspection) -> Scorecard | None:
    _check_card(scorecard)
    if scorecard is not None and scorecard.task != inspection.task:
        raise ArgumentError(
            f"the scorecard is of the model {scorecard.model!r} on another task than the "
            "dashboard's. Score the model on the task that is shown."
        )
    if scorecard is not None and scorecard.algorithm != inspection.algorithm:
        raise ArgumentError(
            f"the scorecard holds the model {scorecard.model!r} against {scorecard.algorithm}, the "
            f"dashboard against {inspection.algorithm}. Score it with the same algorithm."
        )
    return scorecard


def _page(inspection: Inspection, card: Scorecard | None) -> str:
    analysis, task = inspection.analysis, inspection.task
    data = json.dumps(_data(inspection), allow_nan=False, separators=(",", ":"))
    return forms.html(
        "dashboard.html",
        inspection=inspection,
        task=f"Task {task}" if isinstance(task, str) else "A task of the user's own",
        algorithm=f"against {inspection.algorithm}",
        parameters=forms.parameters,
        length=inspection.tokens.shape[1],
        n_sequences=len(inspection.tokens),
        n_heads=inspection.attention.shape[1],
        n_tokens=len(inspection.token_names),
        max_outcomes=MAX_OUTCOMES,
        patterns=analysis.patterns if analysis else (),
        latent=analysis.latent if analysis else "",
        predicts_latent=analysis is not None and analysis.predicts_latent,
        vectors=inspection.tokens.is_floating_point(),
        figures=[Markup(svg) for svg in _figures(inspection)],
        given=inspection.given_query,
        scores=analysis.scores if analysis else None,
        counts=_counts(card),
        scorecard=card,
        card=Markup(card._repr_html_()) if card else "",
        css=Markup(_template("dashboard.css")),
        script=Markup(_template("dashboard.js")),
        circuitsvis=Markup(_circuitsvis()),
        # Nothing in a script element is markup, but "</script" and "<!--" would end or change it.
        data=Markup(data.replace("<", "\\u003c")),
    )


def _counts(card: Scorecard | None) -> list[Markup]:
    """How many claims have each verdict, marked by what it says."""
    found = [claim.verdict for claim in card or ()]
    return [
        Markup(pages.verdict(name, f"{found.count(name)} {name.replace('_', ' ')}"))
        for name in verdicts.IN_WORDS
        if name in found
    ]


def _opening(inspection: Inspection) -> list[int]:
    """Layer, head and pattern that are shown first; the first head where there are no patterns.

    The head is the one that is nearest to one of the algorithm's patterns, as a share of how far
    uniform attention is from it, which is near to some of them.
    """
    patterns = inspection.analysis.patterns if inspection.analysis else ()
    n_sequences, length = inspection.attention.shape[2:4]
    uniform = torch.ones(1, 1, n_sequences, length, length).tril()
    uniform /= uniform.sum(-1, keepdim=True)
    shares = [
        inspection.distances(pattern).nanmean(-1)
        / distances(uniform, pattern, 0).nanmean().clamp_min(SMALLEST)
        for pattern in patterns
    ]
    if not shares:
        return [0, 0, 0]
    found = torch.stack(shares).nan_to_num(torch.inf)
    *_, last = (found <= found.min() + TIE).nonzero().tolist()
    pattern, layer, head = last
    return [layer, head, pattern]


def _figures(inspection: Inspection) -> list[str]:
    if inspection.analysis is None:
        return []
    from mtd_lens.views import plots

    return [
        plots.svg_text(plots.plot_latents(inspection, sequence))
        for sequence in range(len(inspection.tokens))
    ]


def _data(inspection: Inspection) -> dict[str, Any]:
    analysis = inspection.analysis
    attention = inspection.attention.flatten(0, 1).transpose(0, 1)  # [sequence, map, query, key]
    tokens, names = _named_tokens(inspection)
    data: dict[str, Any] = {
        "length": inspection.tokens.shape[1],
        "n_layers": inspection.attention.shape[0],
        "n_heads": inspection.attention.shape[1],
        "n_before": inspection.n_before,
        "tokens": tokens,
        "names": names,
        "vectors": inspection.tokens.is_floating_point(),
        "attention": [_packed(maps) for maps in attention],
        "patterns": [],
        "defaults": [],
        "sources": None,
        "opening": _opening(inspection),
        "given": _given_query(inspection),
        "scores": None,
    }
    if analysis is None:
        return data
    shown = likeliest(analysis.predictions)
    return data | {
        "patterns": [
            {"name": p.name, "nearest": inspection.nearest_heads[p.name].tolist()}
            for p in analysis.patterns
        ],
        "analytic": [
            _packed(torch.stack([p.values[sequence] for p in analysis.patterns]))
            for sequence in range(len(inspection.tokens))
            if analysis.patterns
        ],
        "defaults": _nearest_patterns(inspection),
        "scores": None
        if analysis.scores is None
        else {
            "keys": analysis.scores.keys,
            "measured": _rounded(analysis.scores.measured),
            "fitted": _rounded(analysis.scores.fitted),
            "explained": _rounded(analysis.scores.explained),
        },
        "sources": list(analysis.predictions),
        "components": analysis.components,
        "latents": None
        if analysis.predicts_latent
        else {source: _rounded(value) for source, value in analysis.latents.items()},
        "outcomes": [inspection.token_names[token] for token in shown],
        "predictions": {
            source: _rounded(value[..., shown]) for source, value in analysis.predictions.items()
        },
    }


def _given_query(inspection: Inspection) -> dict[str, Any] | None:
    given = inspection.given_query
    if given is None:
        return None
    shown = likeliest(given.predictions)
    return {
        "n_own": given.n_own,
        "sources": given.sources.tolist(),
        "outcomes": [inspection.token_names[token] for token in shown],
        "predictions": {name: _rounded(x[:, shown]) for name, x in given.predictions.items()},
    }


def _named_tokens(inspection: Inspection) -> tuple[list[list[int]], list[str]]:
    """Tokens as numbers of names; a vector's name is its components, rounded."""
    if not inspection.tokens.is_floating_point():
        return inspection.tokens.tolist(), list(inspection.token_names)
    numbers = iter(range(inspection.tokens[..., 0].numel()))
    names = [
        f"({', '.join(f'{value:.{VECTOR_DIGITS}f}' for value in vector)})"
        for vector in inspection.tokens.flatten(0, 1).tolist()
    ]
    return [[next(numbers) for _ in sequence] for sequence in inspection.tokens], names


def _nearest_patterns(inspection: Inspection) -> list[int]:
    """For each layer, the analytic pattern that its nearest heads come nearest to."""
    assert inspection.analysis is not None
    if not inspection.analysis.patterns:
        return []
    distances = [inspection.nearest_distances(pattern) for pattern in inspection.analysis.patterns]
    return torch.stack(distances).nan_to_num(1.0).argmin(0).tolist()


def _packed(maps: Tensor) -> str:
    """Maps ``[map, query, key]`` as base64 of 16-bit numbers, on and below the diagonal.

    Values lie in -1 … 1; only attention without a softmax has negative ones.
    """
    rows, columns = torch.tril_indices(*maps.shape[-2:])
    values = maps[:, rows, columns].to(torch.float64)
    levels = (values.clamp(-1, 1) * LEVELS).round().nan_to_num(UNDEFINED)
    return base64.b64encode(levels.numpy().astype("<i2").tobytes()).decode()


def _rounded(values: Tensor) -> Any:
    """Nested lists with None for NaN."""
    rounded = np.round(values.to(torch.float64).numpy(), DIGITS).astype(object)
    rounded[values.isnan().numpy()] = None
    return rounded.tolist()


def _template(name: str) -> str:
    return (importlib.resources.files("mtd_lens") / "views" / "templates" / name).read_text("utf-8")


def _circuitsvis() -> str:
    """CircuitsVis's script, which must not end the element that holds it."""
    spec = importlib.util.find_spec("circuitsvis")  # without running the package
    assert spec is not None
    path = Path(str(spec.origin)).parent / "dist" / "cdn" / "iife.js"
    code = path.read_text("utf-8").replace("</script", "<\\/script")
    return code.partition("//# sourceMappingURL=")[0]
