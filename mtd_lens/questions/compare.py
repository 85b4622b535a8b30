"""Predictions against the truth, at several context lengths: reference estimators and a model."""

from collections.abc import Iterable

from mtd_lens.contracts import Task
from mtd_lens.defaults import COMPARE
from mtd_lens.errors import ArgumentError
from mtd_lens.experiment import Experiment, asked, check_room, check_sampling
from mtd_lens.questions.estimators import from_truth, means
from mtd_lens.results.comparison import Comparison
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.progress import steps
from probes.subject import HookedModel, subject_of

N_SEQUENCES = COMPARE.default


@asked
def compare(
    model: HookedModel,
    task: Task | str | None = None,
    lengths: Iterable[int] | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Hold a model's predictions and every reference estimator's against the truth.

    Step sizes are fitted, at each length, on as many further sequences.

    Args:
        model: A hooked model.
        task: What it is tested on, or its name; by default the task that the model knows.
        lengths: Numbers of context tokens, up to the model's context; by default the task's
            ``seq_len`` and its halves.
        n_sequences: A length; at least 64.
        seed: Of the sequences and of resampling.
        name: What the result calls the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Returns:
        Mean divergences in nats, with intervals, of every estimator and the model at each length.

    Raises:
        ArgumentError: Lengths that the task or the model cannot take, too few sequences, or a
            vocabulary that does not fit.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, or no task is known.
    """
    n_sequences = check_sampling(n_sequences)
    experiment = Experiment.of(model, task, seed, name=name, vocabulary=vocabulary)
    seed = experiment.seed
    chosen = _checked_lengths(experiment, lengths)
    check_room(2 * n_sequences, max(chosen, default=0))
    family, known = experiment.family, experiment.task
    rows = [
        means(from_truth(family, known, experiment.model, length, n_sequences, seed), seed)
        for length in steps(chosen, "lengths")
    ]
    return Comparison(
        **experiment.head | {"n_sequences": n_sequences},
        lengths=chosen,
        rows=tuple(rows),
        drawn=family.drawn,
    )


def _checked_lengths(experiment: Experiment, lengths: Iterable[int] | None) -> tuple[int, ...]:
    family, task = experiment.family, experiment.task
    shortest, longest = family.shortest(task), subject_of(experiment.model).n_ctx
    if family.resized is None:
        shortest = longest = task.seq_len
    if lengths is None:
        halves = [task.seq_len // 2**power for power in (3, 2, 1, 0)]
        return tuple(length for length in dict.fromkeys(halves) if length >= shortest)
    chosen = checks.listed(lengths, "lengths", "at least one context length", ArgumentError)
    if not chosen:
        raise ArgumentError(f"lengths must list at least one context length; got {lengths!r}.")
    return tuple(
        checks.integer(length, "a context length", shortest, ArgumentError, maximum=longest)
        for length in chosen
    )
