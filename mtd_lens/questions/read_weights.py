"""Hold a model's parameters against the analytic construction, on no data."""

from mtd_lens.contracts import Task
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.hooked import reads_logits
from mtd_lens.results.weights import WeightReading
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.progress import steps
from probes.subject import HookedModel, subject_of
from probes.twins import through

N_RANDOM = 20
"""Random models that every figure stands beside."""


@asked
def read_weights(
    model: HookedModel,
    task: Task | str | None = None,
    *,
    n_random: int = N_RANDOM,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    progress: bool | None = None,
) -> WeightReading:
    """Hold a model's parameters against the analytic construction, without running any data.

    What is read is the family's affair; for MTD tasks see
    :func:`mtd_lens.families.mtd.weight_space.weight_findings`.

    Args:
        model: A HookedTransformer, or a bridge that has an exact twin; it is not changed.
        task: What it is held against, or its name; by default the task that the model knows.
        n_random: Random models for the nulls.
        seed: Of the first random model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Returns:
        All findings; scores are 1 where the weights are the construction's.

    Raises:
        ModelError: The model does not fit the task, no task is known, or its family says nothing
            of what parameters should be; or it is not made of TransformerLens's blocks and has no
            exact twin.
        ArgumentError: A number or seed that cannot be used, or a vocabulary that does not fit.
    """
    n_random = checks.integer(n_random, "n_random", 1, ArgumentError)
    experiment = Experiment.of(model, task, seed, vocabulary=vocabulary)
    task, family = experiment.task, experiment.family
    if family.weights is None:
        raise ModelError(
            f"the family {family.name!r} says nothing of what parameters should be. Choose a model "
            "on a task of another, such as mtd-q5-m3-t32/trained-disentangled-3l-s0."
        )
    if not subject_of(model := experiment.model).resumes:
        raise ModelError(
            "read_weights reads the weights of TransformerLens's blocks, and this model is seen "
            f"through {through(model) or 'blocks of another kind'}. Ask score or localize, which "
            "need no weights."
        )
    logits = reads_logits(model)
    findings = family.weights(experiment.model, task, logits)
    seeds = range(experiment.seed, experiment.seed + n_random)
    nulls = [
        family.weights(experiment.null(number), task, logits)
        for number in steps(seeds, "random models")
    ]
    return WeightReading(
        **experiment.head | {"divergence": ""},
        n_random=n_random,
        findings=tuple(found.beside(null) for found, *null in zip(findings, *nulls, strict=True)),
    )
