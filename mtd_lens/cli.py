"""The commands. Exit status: 0 for a finished run whatever the verdicts, 2 for bad input."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    name="mtd-lens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="A model's name, TASK/VARIANT; see `mtd-lens models`.")]
Sequences = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--sequences", help="Number of sequences.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Json = Annotated[Optional[Path], typer.Option("--json", help="Write the result as JSON.")]  # noqa: UP045
Html = Annotated[Optional[Path], typer.Option("--html", help="Write a self-contained page.")]  # noqa: UP045
Device = Annotated[Optional[str], typer.Option("--device", help="For example cpu or cuda.")]  # noqa: UP045


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
        Optional[float],  # noqa: UP045
        typer.Option("--threshold", help="What a supported claim's interval must lie above."),
    ] = None,
) -> None:
    """Score a model: does each layer compute its part of the algorithm?"""
    _check_paths(json, html)
    from mtd_lens.questions import score as scoring
    from mtd_lens.registry import load_model

    n_sequences = scoring.N_SEQUENCES if sequences is None else sequences
    scoring.check_sampling(n_sequences, seed)
    card = scoring.score(
        load_model(name, device=device),
        n_sequences=n_sequences,
        seed=seed,
        threshold=scoring.THRESHOLD if threshold is None else threshold,
        progress=True,
    )
    print(card)
    if json:
        card.to_json(json)
    if html:
        card.to_html(html)
    _say_written(json, html)


@app.command()
def compare(
    name: Model,
    lengths: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--lengths", help="Context lengths, separated by commas."),
    ] = None,
    sequences: Sequences = None,
    seed: Seed = 0,
    json: Json = None,
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--figure", help="Draw divergence against length, as PNG or SVG."),
    ] = None,
    device: Device = None,
) -> None:
    """Hold a model's predictions and the reference estimators against the truth."""
    _check_paths(json, figure)
    from mtd_lens.questions import compare as comparison
    from mtd_lens.views import plots

    if figure:
        plots.check_figure_path(figure)
    from mtd_lens.registry import load_model

    chosen = None if lengths is None else _integers(lengths)
    result = comparison.compare(
        load_model(name, device=device),
        lengths=chosen,
        n_sequences=comparison.N_SEQUENCES if sequences is None else sequences,
        seed=seed,
        progress=True,
    )
    print(result)
    if json:
        result.to_json(json)
    if figure:
        result.plot(figure)
    _say_written(json, figure)


@app.command()
def localize(
    name: Model,
    sequences: Sequences = None,
    seed: Seed = 0,
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--threshold", help="What the interval of a found set must lie above."),
    ] = None,
    json: Json = None,
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--figure", help="Draw the maps of every variable, as PNG or SVG."),
    ] = None,
    device: Device = None,
) -> None:
    """Find where in a model each variable of the algorithm lives."""
    _check_paths(json, figure)
    from mtd_lens.questions import localize as localization
    from mtd_lens.views import plots

    if figure:
        plots.check_figure_path(figure)
    from mtd_lens.registry import load_model

    found = localization.localize(
        load_model(name, device=device),
        n_sequences=localization.N_SEQUENCES if sequences is None else sequences,
        seed=seed,
        threshold=localization.THRESHOLD if threshold is None else threshold,
        progress=True,
    )
    print(found)
    if json:
        found.to_json(json)
    if figure:
        found.plot(figure)
    _say_written(json, figure)


@app.command()
def dashboard(
    name: Model,
    out: Annotated[Path, typer.Option("--out", help="The page to write, such as page.html.")],
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--sequences", help="Number of sequences to look at.", show_default=False),
    ] = None,
    seed: Seed = 0,
    scored: Annotated[
        bool, typer.Option("--score/--no-score", help="With the scorecard, or quickly without.")
    ] = True,
    device: Device = None,
) -> None:
    """Write a page that shows a model's attention beside the algorithm's, to open in a browser."""
    _check_paths(out)
    from mtd_lens.questions import inspect as inspection, score as scoring
    from mtd_lens.registry import load_model
    from mtd_lens.views import dashboard as dashboards

    number = inspection.N_SEQUENCES if sequences is None else sequences
    n_sequences = inspection.checked_number(number)
    model = load_model(name, device=device)
    page = dashboards.dashboard(model, n_sequences=n_sequences, seed=seed)
    if scored:
        page = page.with_scorecard(scoring.score(model, seed=seed, progress=True))
    page.to_html(out)
    _say_written(out)


@app.command()
def weights(name: Model, seed: Seed = 0, json: Json = None, device: Device = None) -> None:
    """Hold a model's parameters against the construction, on no data."""
    _check_paths(json)
    from mtd_lens.contracts import ReadableFamily
    from mtd_lens.errors import ModelError
    from mtd_lens.questions.score import task_for
    from mtd_lens.registry import family_of, load_model

    model = load_model(name, device=device)
    task = task_for(model, None)
    family = family_of(task)
    if not isinstance(family, ReadableFamily):
        raise ModelError(
            f"the family {family.name!r} says nothing of what parameters should be. "
            "Choose a model on a task of another, such as mtd-q5-m3-t32/trained-disentangled-3l-s0."
        )
    reading = family.read_weights(model, task, seed=seed)
    print(reading)
    if json:
        reading.to_json(json)
    _say_written(json)


@app.command()
def train(
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A task's name; not needed to resume."),
    ] = None,
    arch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--arch",
            help="disentangled, attn-only or gpt; on vectors linear or softmax, or either with "
            "-augmented.",
        ),
    ] = None,
    layers: Annotated[Optional[int], typer.Option("--layers", help="Depth, 1 to 6.")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option("--steps", help="Optimiser steps.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option("--seed", help="Of weights and data.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option("--out", help="New folder of the run.")] = None,  # noqa: UP045
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--resume", help="Go on with the run in this folder."),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--config", help="Settings in TOML; options given here go before them."),
    ] = None,
    loss: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--loss",
            help="next-token, distribution or last-squared-error; on vectors squared-error.",
        ),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch-size", help="Sequences a step."),
    ] = None,
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--learning-rate", help="After the warm-up."),
    ] = None,
    warmup_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--warmup-steps", help="Over which the learning rate rises."),
    ] = None,
    checkpoint_every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--checkpoint-every", help="Steps between checkpoints."),
    ] = None,
    keep_checkpoints: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--keep-checkpoints", help="Last checkpoints that stay; 0 keeps all."),
    ] = None,
    dtype: Annotated[Optional[str], typer.Option("--dtype", help="float32 or float64.")] = None,  # noqa: UP045
    device: Device = None,
    stop_after: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--stop-after", help="Stop after this step, to be resumed later."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too.")
    ] = False,
) -> None:
    """Train a model from scratch; a run that was stopped goes on with --resume."""
    from mtd_lens.training import loop as training
    from mtd_lens.training.config import read_settings

    given = {
        "architecture": arch,
        "n_layers": layers,
        "steps": steps,
        "seed": seed,
        "loss": loss,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "checkpoint_every": checkpoint_every,
        "keep_checkpoints": keep_checkpoints,
        "dtype": dtype,
        "device": device,
    }
    from_file = {} if config is None else read_settings(config)
    given = {**from_file, **{name: value for name, value in given.items() if value is not None}}
    try:
        run = training.train_or_resume(
            task, given, out, resume, stop_after=stop_after, progress=True, tensorboard=tensorboard
        )
    except KeyboardInterrupt:
        print(f"stopped; go on with: mtd-lens train --resume {out or resume}", file=sys.stderr)
        raise typer.Exit(130) from None
    for row in run.metrics[-1:]:
        print("   ".join(f"{name} {value:.5g}" for name, value in row.items()))
    print(f"wrote {run.folder}", file=sys.stderr)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A training run, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Copy a checkpoint without its optimiser state, small enough to share."""
    from mtd_lens.training.run_folder import export_checkpoint

    _say_written(export_checkpoint(path, out))


def main() -> None:
    """Run the command line."""
    from mtd_lens.errors import ProbesError

    try:
        app()
    except ProbesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def _check_paths(*paths: Path | None) -> None:
    """Refuse outputs that cannot be written, before any work."""
    from mtd_lens.results.forms import check_output_paths

    check_output_paths(*paths)


def _say_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            print(f"wrote {path}", file=sys.stderr)


def _integers(text: str) -> list[int]:
    from mtd_lens.errors import ArgumentError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"--lengths takes integers separated by commas, such as 16,32,64; got {text!r}."
        ) from None
