"""The commands.

Exit status: 0 for a finished run whatever the verdicts, 2 for bad input, 130 and 143 for training
that SIGINT or SIGTERM stopped.

Files are written before anything is printed, and nobody who reads what is printed can make a run
fail: see :class:`~mtd_lens.printing.Output`.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mtd_lens.printing import Output, say
from mtd_lens.training.config import SETTINGS, TrainingConfig, descriptions, option_of
from mtd_lens.training.signals import Interrupted, Stopped

if TYPE_CHECKING:
    from probes.subject import HookedModel

app = typer.Typer(name="mtd-lens", add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Argument(help="A model's name, TASK/VARIANT; see `mtd-lens models`.")]
Sequences = Annotated[
    int | None, typer.Option("--sequences", help="Number of sequences.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a self-contained page.")]
Figure = Annotated[Path | None, typer.Option("--figure", help="Draw it, as PNG or SVG.")]
Device = Annotated[str | None, typer.Option("--device", help="For example cpu or cuda.")]
Held = Annotated[
    str | None,
    typer.Option("--algorithm", help="What the model is held against, such as one-step."),
]
Command = TypeVar("Command", bound=Callable[..., None])


def _print_version(show: bool) -> bool:
    if show:
        from importlib import metadata

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
    from mtd_lens.registry import list_models

    print("\n".join(list_models()))


@app.command()
def tasks() -> None:
    """List the tasks that can be loaded by name."""
    from mtd_lens.registry import list_tasks, load_task
    from mtd_lens.results.forms import text_table

    loaded = {name: load_task(name) for name in list_tasks()}
    rows = [[name, task.family, repr(task)] for name, task in loaded.items()]
    print(text_table(["task", "family", "what it is"], rows, left=(0, 1, 2)))


@app.command()
def score(
    name: Model,
    sequences: Sequences = None,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
    device: Device = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="What a supported claim's interval must lie above."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out slow tests, such as scrubbing, and which of like algorithms it is.",
        ),
    ] = False,
    algorithm: Held = None,
) -> None:
    """Score a model: does each layer compute its part of the algorithm?"""
    model = _model(name, device, json, html)
    from mtd_lens.questions.score import score

    given = _given(n_sequences=sequences, threshold=threshold, algorithm=algorithm)
    _finish(score(model, seed=seed, quick=quick, progress=True, **given), json=json, html=html)


@app.command()
def compare(
    name: Model,
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Context lengths, separated by commas.")
    ] = None,
    sequences: Sequences = None,
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
    device: Device = None,
) -> None:
    """Hold a model's predictions and the reference estimators against the truth."""
    chosen = None if lengths is None else _integers(lengths)
    model = _model(name, device, json, figure=figure)
    from mtd_lens.questions.compare import compare

    given = _given(n_sequences=sequences, lengths=chosen)
    _finish(compare(model, seed=seed, progress=True, **given), json=json, figure=figure)


@app.command()
def compete(
    name: Model,
    sequences: Sequences = None,
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
    model = _model(name, device, json, html, figure=figure)
    from mtd_lens.questions.compete import compete

    given = _given(n_sequences=sequences)
    found = compete(model, seed=seed, progress=True, **given)
    _finish(found, json=json, html=html, figure=figure)


@app.command()
def localize(
    name: Model,
    sequences: Sequences = None,
    seed: Seed = 0,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="What the interval of a found set must lie above."),
    ] = None,
    json: Json = None,
    figure: Figure = None,
    device: Device = None,
    algorithm: Held = None,
) -> None:
    """Find where in a model each variable of the algorithm lives."""
    model = _model(name, device, json, figure=figure)
    from mtd_lens.questions.localize import localize

    given = _given(n_sequences=sequences, threshold=threshold, algorithm=algorithm)
    _finish(localize(model, seed=seed, progress=True, **given), json=json, figure=figure)


@app.command()
def fit(
    name: Model,
    sequences: Sequences = None,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
    figure: Figure = None,
    device: Device = None,
    form: Annotated[
        str | None,
        typer.Option("--form", help="Of the table of evidence, such as windows or pairs."),
    ] = None,
) -> None:
    """Read an algorithm off a model's predictions: a table of evidence, summed over positions."""
    model = _model(name, device, json, html, figure=figure)
    from mtd_lens.questions.fit_algorithm import fit_algorithm

    found = fit_algorithm(
        model, seed=seed, progress=True, **_given(n_sequences=sequences, form=form)
    )
    _finish(found, json=json, html=html, figure=figure)


@app.command()
def dashboard(
    name: Model,
    out: Annotated[Path, typer.Option("--out", help="The page to write, such as page.html.")],
    sequences: Annotated[
        int | None,
        typer.Option("--sequences", help="Number of sequences to look at.", show_default=False),
    ] = None,
    seed: Seed = 0,
    scored: Annotated[
        bool, typer.Option("--score/--no-score", help="With the scorecard, or quickly without.")
    ] = True,
    device: Device = None,
    algorithm: Held = None,
) -> None:
    """Write a page that shows a model's attention beside the algorithm's, to open in a browser."""
    model = _model(name, device, out)
    from mtd_lens.questions.score import score
    from mtd_lens.views.dashboard import dashboard

    held = _given(algorithm=algorithm)
    page = dashboard(model, seed=seed, **held, **_given(n_sequences=sequences))
    if scored:
        page = page.with_scorecard(score(model, seed=seed, progress=True, **held))
    page.to_html(out)
    _say_written(out)


@app.command()
def weights(name: Model, seed: Seed = 0, json: Json = None, device: Device = None) -> None:
    """Hold a model's parameters against the construction, on no data."""
    model = _model(name, device, json)
    from mtd_lens.questions.read_weights import read_weights

    _finish(read_weights(model, seed=seed), json=json)


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
    task: Annotated[str | None, typer.Argument(help="A task's name; not needed to resume.")] = None,
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
    try:
        from mtd_lens.training.config import read_settings
        from mtd_lens.training.loop import train_or_resume

        given = ({} if config is None else read_settings(config)) | _given(**settings)
        run = train_or_resume(
            task, given, out, resume, stop_after=stop_after, progress=True, tensorboard=tensorboard
        )
    except (Stopped, KeyboardInterrupt) as stopped:
        say(str(stopped) or "training was stopped before its first step.")
        raise typer.Exit(getattr(stopped, "exit_status", Interrupted.exit_status)) from None
    for row in run.metrics[-1:]:
        print("   ".join(f"{name} {value:.5g}" for name, value in row.items()))
    _say_written(run.folder)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A training run, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Copy a checkpoint without its optimiser state, small enough to share."""
    from mtd_lens.training.run_folder import export_checkpoint

    _say_written(export_checkpoint(path, out))


def main() -> None:
    """Run the command line; without arguments, show its help."""
    from mtd_lens.errors import ProbesError

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


def _model(
    name: str, device: str | None, *outputs: Path | None, figure: Path | None = None
) -> "HookedModel":
    """The model of that name, after the paths of all outputs, so that no work is lost on them."""
    from mtd_lens.registry import load_model
    from probes.files import check_output_paths

    check_output_paths(*outputs, figure)
    if figure:
        from mtd_lens.views.plots import check_figure_path

        check_figure_path(figure)
    return load_model(name, device=device)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the defaults of the others are the function's own."""
    return {name: value for name, value in options.items() if value is not None}


def _finish(
    result: Any, *, json: Path | None, html: Path | None = None, figure: Path | None = None
) -> None:
    """Write the files that were asked for, and print a result whether or not that succeeds."""
    try:
        if json:
            result.to_json(json)
        if html:
            result.to_html(html)
        if figure:
            result.plot(figure)
    finally:
        print(result)
    _say_written(json, html, figure)


def _say_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            say(f"wrote {path}")


def _integers(text: str) -> list[int]:
    from mtd_lens.errors import ArgumentError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"--lengths takes integers separated by commas, such as 16,32,64; got {text!r}."
        ) from None
