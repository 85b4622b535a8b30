"""The arguments and options that commands share, with what there is to choose from."""

from pathlib import Path
from typing import Annotated

import typer

from mtd_lens import listing
from mtd_lens.defaults import COMPETE, INSPECT, MAX_SEED, MIN_SEQUENCES
from mtd_lens.errors import ArgumentError
from probes import checks, files


def _threshold(value: float) -> float:
    return checks.number(value, "--threshold", 0, 1, ArgumentError, "It is a share.")


def _seed(value: int) -> int:
    return checks.integer(value, "--seed", 0, ArgumentError, MAX_SEED)


NAMED = (
    "A model's name, TASK/VARIANT (see `mtd-lens models`), or the folder of a checkpoint or of a "
    "training run, whose last checkpoint is taken."
)
Model = Annotated[str, typer.Argument(help=NAMED)]
Models = Annotated[list[str], typer.Argument(metavar="NAME...", help=NAMED)]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="Ids of claims, or patterns such as 'mixture_weights.*'; may be given repeatedly. "
        "One that names none, such as '?', is answered with a list of them.",
        show_default="all",
    ),
]
SEQUENCES, OF_THEM = "--sequences", "Number of sequences."
Sequences = Annotated[int, typer.Option(SEQUENCES, help=OF_THEM, min=MIN_SEQUENCES)]
Competing = Annotated[int, typer.Option(SEQUENCES, help=OF_THEM, min=COMPETE.least)]
Seen = Annotated[
    int,
    typer.Option(SEQUENCES, help="Sequences to look at.", min=INSPECT.least, max=INSPECT.most),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        help="What the interval of a supported claim, or of a set that is found, must lie above, "
        "between 0 and 1.",
        callback=_threshold,
    ),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        help="Context lengths, separated by commas.",
        show_default="the task's and its halves",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", callback=_seed)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a self-contained page.")]
Figure = Annotated[Path | None, typer.Option("--figure", help="Draw it, as PNG or SVG.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="As torch calls it: cpu, cuda, cuda:1, mps, …", show_default="cpu"
    ),
]
Held = Annotated[
    str | None,
    typer.Option(
        "--algorithm",
        help=f"What the model is held against: {listing.choices('algorithms')}.",
        show_default="the first of the task's family",
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        "--form",
        help=f"Of the table of evidence: {listing.choices('forms')}.",
        show_default="the first of at most 65,536 numbers",
    ),
]


def integers(text: str) -> list[int]:
    """The integers in a list that is separated by commas.

    Raises:
        ArgumentError: It holds something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"--lengths takes integers separated by commas, such as 16,32,64; got {text!r}."
        ) from None


def check_outputs(json: Path | None, html: Path | None = None, figure: Path | None = None) -> None:
    """Check where results will be written, so that no work is lost on it.

    Raises:
        OutputPathError: One cannot be written, or two are the same file.
        ArgumentError: A page or a figure of another ending.
    """
    files.check_output_paths(json, html, figure)
    if html:
        files.check_page_path(html, ArgumentError)
    if figure:
        files.check_figure_path(figure, ArgumentError)
