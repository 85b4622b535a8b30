"""The commands.

Exit status: 0 for a finished run whatever the verdicts, 2 for bad input, 130 and 143 for training
that SIGINT or SIGTERM stopped.

Files are written before anything is printed, and nobody who reads what is printed can make a run
fail: see :class:`~mtd_lens.printing.Output`.
"""

import inspect
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mtd_lens import listing
from mtd_lens.defaults import COMPARE, COMPETE, FIT, INSPECT, LOCALIZE, SCORE, THRESHOLD
from mtd_lens.errors import ProbesError
from mtd_lens.options import (
    Competing,
    Device,
    Figure,
    Form,
    Held,
    Html,
    Json,
    Lengths,
    Model,
    Models,
    Only,
    Seed,
    Seen,
    Sequences,
    Threshold,
    check_outputs,
    integers,
)
from mtd_lens.printing import Output, say, text_table, width_of
from mtd_lens.training.config import (
    SETTINGS,
    TrainingConfig,
    descriptions,
    option_of,
    read_settings,
)
from mtd_lens.training.signals import Interrupted, Stopped
from probes.progress import part, shown

if TYPE_CHECKING:
    from probes.subject import HookedModel

app = typer.Typer(name="mtd-lens", add_completion=False, pretty_exceptions_enable=False)

Command = TypeVar("Command", bound=Callable[..., None])


def _print_version(show: bool) -> bool:
    if show:
        print(f"mtd-lens {metadata.version('mtd-lens')}")
        raise typer.Exit
    return show


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Test algorithmic claims about transformers on in-context tasks."""


@app.command()
def models() -> None:
    """List the models that can be loaded by name."""
    print("\n".join(listing.models()))


@app.command()
def tasks() -> None:
    """List the tasks that can be loaded by name."""
    header = ["task", "family", "what it is"]
    print(text_table(header, listing.tasks(), left=(0, 1, 2), width=width_of(sys.stdout)))


@app.command()
def score(
    names: Models,
    sequences: Sequences = SCORE.default,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
    device: Device = None,
    threshold: Threshold = THRESHOLD,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out slow tests, such as scrubbing, and which of like algorithms it is.",
        ),
    ] = False,
    algorithm: Held = None,
    only: Only = None,
) -> None:
    """Score a model: does each layer compute its part of the algorithm?

    Of several models, claim by claim, how the others differ from the first.
    """
    check_outputs(json, html)
    listing.check_alike(names)
    for name in names:
        listing.check_model(name, algorithm=algorithm)
    with shown("score", True):
        models = [_load(name, device) for name in names]
        from mtd_lens.questions.compare_scorecards import compare_scorecards
        from mtd_lens.questions.score import score

        found = [
            score(
                model,
                n_sequences=sequences,
                seed=seed,
                threshold=threshold,
                quick=quick,
                algorithm=algorithm,
                only=only or None,
            )
            for model in models
        ]
        result = found[0] if len(found) == 1 else compare_scorecards(found)
    _finish(result, json=json, html=html)


@app.command()
def compare(
    name: Model,
    lengths: Lengths = None,
    sequences: Sequences = COMPARE.default,
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
    device: Device = None,
) -> None:
    """Hold a model's predictions and the reference estimators against the truth."""
    chosen = None if lengths is None else integers(lengths)
    check_outputs(json, figure=figure)
    listing.check_model(name, lengths=chosen)
    with shown("compare", True):
        model = _load(name, device)
        from mtd_lens.questions.compare import compare

        found = compare(model, lengths=chosen, n_sequences=sequences, seed=seed)
    _finish(found, json=json, figure=figure)


@app.command()
def compete(
    name: Model,
    sequences: Competing = COMPETE.default,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw how near each algorithm is, as PNG or SVG."),
    ] = None,
    device: Device = None,
) -> None:
    """Which of its task's algorithms does a model run, or does it run none of them?"""
    check_outputs(json, html, figure=figure)
    listing.check_model(name)
    with shown("compete", True):
        model = _load(name, device)
        from mtd_lens.questions.compete import compete

        found = compete(model, n_sequences=sequences, seed=seed)
    _finish(found, json=json, html=html, figure=figure)


@app.command()
def localize(
    name: Model,
    sequences: Sequences = LOCALIZE.default,
    seed: Seed = 0,
    threshold: Threshold = THRESHOLD,
    json: Json = None,
    figure: Figure = None,
    device: Device = None,
    algorithm: Held = None,
) -> None:
    """Find where in a model each variable of the algorithm lives."""
    check_outputs(json, figure=figure)
    listing.check_model(name, algorithm=algorithm)
    with shown("localize", True):
        model = _load(name, device)
        from mtd_lens.questions.localize import localize

        found = localize(
            model, n_sequences=sequences, seed=seed, threshold=threshold, algorithm=algorithm
        )
    _finish(found, json=json, figure=figure)


@app.command()
def fit(
    name: Model,
    sequences: Sequences = FIT.default,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
    figure: Figure = None,
    device: Device = None,
    form: Form = None,
) -> None:
    """Read an algorithm off a model's predictions: a table of evidence, summed over positions."""
    check_outputs(json, html, figure=figure)
    listing.check_model(name, form=form, additive=True)
    with shown("fit", True):
        model = _load(name, device)
        from mtd_lens.questions.fit_algorithm import fit_algorithm

        found = fit_algorithm(model, n_sequences=sequences, seed=seed, form=form)
    _finish(found, json=json, html=html, figure=figure)


@app.command()
def dashboard(
    name: Model,
    out: Annotated[Path, typer.Option("--out", help="The page to write, such as page.html.")],
    sequences: Seen = INSPECT.default,
    seed: Seed = 0,
    scored: Annotated[
        bool, typer.Option("--score/--no-score", help="With the scorecard, or quickly without.")
    ] = True,
    device: Device = None,
    algorithm: Held = None,
) -> None:
    """Write a page that shows a model's attention beside the algorithm's, to open in a browser."""
    check_outputs(None, out)
    listing.check_model(name, algorithm=algorithm)
    with shown("dashboard", True):
        model = _load(name, device)
        from mtd_lens.questions.score import score
        from mtd_lens.views.dashboard import dashboard

        page = dashboard(model, seed=seed, algorithm=algorithm, n_sequences=sequences)
        if scored:
            page = page.with_scorecard(score(model, seed=seed, algorithm=algorithm))
        page.to_html(out)
    _say_written(out)


@app.command()
def weights(name: Model, seed: Seed = 0, json: Json = None, device: Device = None) -> None:
    """Hold a model's parameters against the construction, on no data."""
    check_outputs(json)
    listing.check_model(name)
    with shown("weights", True):
        model = _load(name, device)
        from mtd_lens.questions.read_weights import read_weights

        found = read_weights(model, seed=seed)
    _finish(found, json=json)


def _with_settings(command: Command) -> Command:
    """``command``, with an option for every training setting in place of ``**settings``."""
    signature, said = inspect.signature(command), descriptions()
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = []
    for name, known in SETTINGS.items():
        default = getattr(TrainingConfig, name, None)
        shown = False if default is None else str(default)
        option = typer.Option(option_of(name), help=said[name], show_default=shown)
        kind: Any = known.type
        hint: Any = Annotated[kind | None, option]
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        )
    command.__signature__ = signature.replace(parameters=own + options)  # type: ignore[attr-defined]
    return command


@app.command()
@_with_settings
def train(
    task: Annotated[
        str | None, typer.Argument(help="A task's name, or its JSON file; not needed to resume.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New folder of the run.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings in TOML; options given here go before them."),
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option("--stop-after", help="Stop after this step, to be resumed later.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too.")
    ] = False,
    **settings: Any,
) -> None:
    """Train a model from scratch; a run that was stopped goes on with --resume."""
    if task is not None:
        listing.check_task(task)
    given = {} if config is None else read_settings(config)
    given |= {name: value for name, value in settings.items() if value is not None}
    try:
        with shown("train", True):
            with part("loading torch"):
                from mtd_lens.training.loop import train_or_resume

            run = train_or_resume(
                task, given, out, resume, stop_after=stop_after, tensorboard=tensorboard
            )
    except (Stopped, KeyboardInterrupt) as stopped:
        say(str(stopped) or "training was stopped before its first step.")
        raise typer.Exit(getattr(stopped, "exit_status", Interrupted.exit_status)) from None
    for row in run.metrics[-1:]:
        print("   ".join(f"{name} {value:.5g}" for name, value in row.items()))
    _say_written(run.folder)
    say(f"score it with: mtd-lens score {shlex.quote(str(run.folder))}")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A training run, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Copy a checkpoint without its optimiser state, small enough to share."""
    with shown("export", True), part(f"copying {path}"):
        from mtd_lens.training.run_folder import export_checkpoint

        written = export_checkpoint(path, out)
    _say_written(written)


def main() -> None:
    """Run the command line; without arguments, show its help."""
    given = sys.argv[1:]
    out, err = Output(sys.stdout, BrokenPipeError), Output(sys.stderr, OSError)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = app(given or ["--help"], standalone_mode=False) or (0 if given else 2)
            out.flush()
        except (KeyboardInterrupt, typer.Abort):
            status = 130
        except (ProbesError, MemoryError) as error:
            status = say(f"{type(error).__name__}: {error}")
        except Exception as error:
            if not hasattr(error, "format_message"):  # what the parser of arguments refuses has one
                raise
            status = say(f"{type(error).__name__}: {error.format_message()}")
    sys.exit(status)


def _load(name: str, device: str | None) -> "HookedModel":
    """The model of that name, or in that folder."""
    with part(f"loading {name}"):
        from mtd_lens.registry import load_model

        return load_model(name, device=device)


def _finish(
    result: Any, *, json: Path | None, html: Path | None = None, figure: Path | None = None
) -> None:
    """Write the files that were asked for, and print a result whether or not that succeeds."""
    try:
        with shown("writing", True):
            if json:
                result.to_json(json)
            if html:
                result.to_html(html)
            if figure:
                result.plot(figure)
    finally:
        print(result.text(width_of(sys.stdout)))
    _say_written(json, html, figure)


def _say_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            say(f"wrote {path}")
