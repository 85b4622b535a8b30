"""Read an algorithm off a model's own predictions: a table of evidence, summed over positions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.contracts import CausalModel, Task, last_prediction
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.experiment import Experiment, asked, check_room, check_sampling
from mtd_lens.questions.estimators import references_of
from mtd_lens.questions.evidence import evidence_of, position_weights, resemblances, some
from mtd_lens.results.fitted import CONTROL, FITTED, REFERENCE, FittedAlgorithm, Misfit
from mtd_lens.spaces import last_predictions
from mtd_lens.vocabulary import Vocabulary
from probes import Interval, checks
from probes.statistics.intervals import CONFIDENCE
from probes.subject import HookedModel

N_SEQUENCES = 24_576

OWN_SEED = 2_000_003
"""Added to the seed: what is scored with an algorithm are other sequences than it was fitted to."""

MAX_NUMBERS = 2**16
"""The most general table of at most so many numbers is fitted, unless one is asked for."""

N_OF_NULL = 6_144
"""Sequences for a random model: that it is not followed is seen on fewer."""

N_FOR_REFERENCES = 4_096
"""Sequences of the fit that the references' few parameters are fitted to."""

N_SHOWN = 256
"""Windows whose evidence figures show."""

ITSELF = "itself, fitted to other sequences"
SHUFFLED, RANDOM = "shuffled context", "a random model"

@dataclass(frozen=True)
class _Followed:
    """What a model predicts after sequences for fits, and after those that are held out."""

    task: Any
    fit_tokens: Tensor
    fit_target: Tensor
    tokens: Tensor
    target: Tensor

    @classmethod
    def of(cls, experiment: Experiment, model: HookedModel, tokens: Tensor) -> "_Followed":
        """Two thirds of the sequences for fits; all on the CPU."""
        found = last_predictions(model, tokens.to(experiment.device), experiment.task.outputs)
        n_fit, target = 2 * len(tokens) // 3, found.cpu()
        return cls(experiment.task, tokens[:n_fit], target[:n_fit], tokens[n_fit:], target[n_fit:])

    def misfit(self, fitted: CausalModel | Tensor) -> Float[Tensor, " sequence"]:
        """``D(model ‖ prediction)`` of each sequence that is held out."""
        if not isinstance(fitted, Tensor):
            fitted = last_prediction(fitted, self.tokens)
        found: Tensor = self.task.outputs.divergence(self.target, fitted)
        return found

    def without_evidence(self, fitted: CausalModel) -> Float[Tensor, " sequence"]:
        """The same of predictions that know nothing of the context."""
        name = fitted.variables[1]
        total = fitted.run(self.tokens[:1])[name][:, -1:]
        return self.misfit(fitted.do(**{name: torch.zeros_like(total)}))

    def shuffled(self, n_kept: int, seed: int) -> "_Followed":
        """The same predictions, after other orders of all tokens but the last few."""
        generator = torch.Generator().manual_seed(seed)

        def mixed(tokens: Tensor) -> Tensor:
            ranks = torch.rand(tokens[:, :-n_kept].shape, generator=generator).argsort(1)
            return torch.cat([tokens[:, :-n_kept].gather(1, ranks), tokens[:, -n_kept:]], 1)

        return replace(self, fit_tokens=mixed(self.fit_tokens), tokens=mixed(self.tokens))


@asked
def fit_algorithm(
    model: HookedModel,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    form: str | None = None,
    progress: bool = False,
) -> FittedAlgorithm:
    """Fit the general additive algorithm of a task to a model's own predictions at the last query.

    On mixtures: the weights of lags are ``softmax(Σ_k w_k h(window_k))`` with a free table h and
    free weights of positions w, of which one step of mirror descent (``h = β γ / n``) and the
    product of likelihoods (``τ log p``) are special cases. Two thirds of the sequences are for
    fits, an eighth of these says when to stop; all figures are of the last third. Beside it stand
    every reference estimator, fitted to the same predictions (the first 4,096 of them, for at most
    five parameters), and what must not do as well: the same fit to sequences whose tokens before
    the query's own are shuffled, to a random model, and of smaller tables.

    Args:
        model: A hooked model.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64; a table of many windows needs thousands.
        seed: Of everything random.
        name: What the result calls the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        form: Of the table: on mixtures ``"windows"`` (evidence for each lag from a token and its m
            parents), ``"pairs"`` (sums over lags of a token and one parent) or ``"own pairs"`` (for
            each lag that pair alone); by default the first of them that has at most 65,536 numbers.
        progress: Show a progress bar on standard error once two seconds have passed.

    Returns:
        The fitted table and weights, how far the model's predictions are from theirs and from each
        reference's and control's, in nats, and what the table resembles.

    Raises:
        ArgumentError: Too few sequences, a form that there is not or whose table is too large, or a
            vocabulary that does not fit.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, no task is known, or its family has no such
            form of algorithm.
    """
    from tqdm.auto import tqdm

    n_sequences = check_sampling(n_sequences)
    progress = checks.flag(progress, "progress", ArgumentError)
    experiment = Experiment.of(model, task, seed, name=name, vocabulary=vocabulary)
    task, seed, additive = experiment.task, experiment.seed, experiment.family.additive
    if additive is None:
        raise ModelError(
            f"the family {experiment.family.name!r} has no additive form that could be fitted. "
            "Choose a model on a task of another, such as mtd-q5-m3-t32/trained-gpt-3l-s0."
        )
    sizes = additive.sizes(task)
    if form is None:
        form = next((f for f, size in sizes.items() if size <= MAX_NUMBERS), list(sizes)[-1])
    checks.choice(form, "form of a table", sizes, ArgumentError)
    check_room(n_sequences, task.seq_len)
    smaller = list(sizes)[list(sizes).index(form) + 1 :]
    bar = tqdm(
        total=5 + len(smaller), desc="fits", disable=None if progress else True, delay=2,
        leave=False,
    )  # fmt: skip

    def fit(form: str, tokens: Tensor, target: Tensor) -> Any:
        found = additive.fit(task, form, tokens, target)
        bar.update()
        return found

    with bar:
        tokens = task.sample(n_sequences, OWN_SEED + seed).tokens
        followed = _Followed.of(experiment, experiment.model, tokens)
        fitted = fit(form, followed.fit_tokens, followed.fit_target)
        algorithm = additive.algorithm(fitted)
        half = len(followed.fit_tokens) // 2
        other_fits = [
            fit(form, followed.fit_tokens[part], followed.fit_target[part])
            for part in (slice(half), slice(half, None))
        ]
        mixed = followed.shuffled(algorithm.query(task).count, OWN_SEED + seed)
        shuffled = fit(form, mixed.fit_tokens, mixed.fit_target)
        tables = {f"{f} alone": fit(f, followed.fit_tokens, followed.fit_target) for f in smaller}
        random = _Followed.of(experiment, experiment.null(), tokens[:N_OF_NULL])
        of_random = fit(form, random.fit_tokens, random.fit_target)
        few = followed.fit_tokens[:N_FOR_REFERENCES], followed.fit_target[:N_FOR_REFERENCES]
        references = references_of(experiment.family, task, *few, followed.tokens, True)

    own, nothing = followed.misfit(fitted), followed.without_evidence(fitted)
    rows = _Rows(own, nothing, len(references), seed)
    misfits = [rows.row(algorithm.name, FITTED, own, fitted.parameters)]
    for name, reference in references.items():
        misfits.append(
            rows.row(name, REFERENCE, followed.misfit(reference.prediction), reference.parameters)
        )
    misfits.append(rows.row(SHUFFLED, CONTROL, mixed.misfit(shuffled)))
    for name, table in tables.items():
        misfits.append(rows.row(name, CONTROL, followed.misfit(table)))
    alone = _Rows(random.misfit(of_random), random.without_evidence(of_random), 1, seed)
    misfits.append(replace(alone.row(RANDOM, CONTROL, alone.own), beyond=None))

    evidence = evidence_of(fitted, followed.tokens)
    halves = [evidence_of(each, followed.tokens) for each in other_fits]
    weights, slope = position_weights(fitted, followed.fit_tokens, followed.fit_target, seed)
    alike = resemblances(evidence, additive.rules(task, followed.tokens), N_SHOWN, seed)
    (again,) = resemblances(halves[0], {ITSELF: halves[1]}, N_SHOWN, seed)
    return FittedAlgorithm(
        **experiment.head | {"n_sequences": n_sequences, "parameters": fitted.parameters},
        table_form=form,
        table=fitted.table,
        position_weights=weights,
        slope=slope,
        misfits=tuple(misfits),
        resemblances=(*alike, again),
        shown=some(evidence, N_SHOWN),
        described=task.to_json(),
    )


@dataclass(frozen=True)
class _Rows:
    """What rows of misfits are held against: the fitted algorithm's own, and no evidence."""

    own: Float[Tensor, " sequence"]
    nothing: Float[Tensor, " sequence"]
    n_references: int
    seed: int

    def row(
        self, name: str, kind: str, values: Tensor, parameters: Mapping[str, float] | None = None
    ) -> Misfit:
        """A row with its intervals."""
        corrected = 1 - (1 - CONFIDENCE) / self.n_references
        beyond = probes.mean_intervals(values - self.own, self.seed, corrected)
        explained = probes.ratio_intervals(values, self.nothing, self.seed)
        return Misfit(
            name=name,
            kind=kind,
            divergence=probes.mean_interval(values, self.seed),
            explained=None if explained[0].isnan() else Interval(*map(float, explained)),
            beyond=None if kind == FITTED else Interval(*map(float, beyond)),
            parameters=dict(parameters or {}),
        )
