"""Read an algorithm off a model's own predictions: a table of evidence, summed over positions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.contracts import Algorithm, CausalModel, Task, last_prediction
from mtd_lens.defaults import FIT
from mtd_lens.errors import no_additive_form
from mtd_lens.experiment import Experiment, asked, check_room, check_sampling
from mtd_lens.questions.estimators import references_of
from mtd_lens.questions.evidence import evidence_of, position_weights, resemblances, some
from mtd_lens.results.fitted import CONTROL, FITTED, REFERENCE, FittedAlgorithm, Misfit
from mtd_lens.spaces import last_predictions
from mtd_lens.vocabulary import Vocabulary
from probes import Interval
from probes.progress import part, step as progress_step
from probes.statistics.intervals import CONFIDENCE
from probes.subject import HookedModel

N_SEQUENCES = FIT.default

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

    def shuffled(self, algorithm: Algorithm, seed: int) -> "_Followed":
        """The same predictions, after other orders of all tokens but the query's own."""
        n_own = 0 if algorithm.query is None else algorithm.query(self.task).count
        generator = torch.Generator().manual_seed(seed)

        def mixed(tokens: Tensor) -> Tensor:
            context, own = tokens.split([tokens.shape[1] - n_own, n_own], 1)
            order = torch.rand(context.shape, generator=generator).argsort(1)
            return torch.cat([context.gather(1, order), own], 1)

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
    progress: bool | None = None,
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
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

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
    n_sequences = check_sampling(n_sequences)
    experiment = Experiment.of(model, task, seed, name=name, vocabulary=vocabulary)
    tested, seed, additive = experiment.task, experiment.seed, experiment.family.additive
    if additive is None:
        raise no_additive_form(experiment.family.name)
    sizes = additive.sizes(tested)
    form = additive.check(tested, default_form(sizes) if form is None else form)
    check_room(n_sequences, tested.seq_len)
    smaller = list(sizes)[list(sizes).index(form) + 1 :]

    def fit(form: str, tokens: Tensor, target: Tensor) -> Any:
        found = additive.fit(tested, form, tokens, target)
        progress_step()
        return found

    with part("fits", total=5 + len(smaller)):
        tokens = tested.sample(n_sequences, OWN_SEED + seed).tokens
        followed = _Followed.of(experiment, experiment.model, tokens)
        given = followed.fit_tokens, followed.fit_target
        fitted = fit(form, *given)
        algorithm = additive.algorithm(fitted)
        halves = [fit(form, *half) for half in zip(*(x.chunk(2) for x in given), strict=True)]
        mixed = followed.shuffled(algorithm, OWN_SEED + seed)
        controls = {SHUFFLED: mixed.misfit(fit(form, mixed.fit_tokens, mixed.fit_target))}
        controls |= {f"{name} alone": followed.misfit(fit(name, *given)) for name in smaller}
        random = _Followed.of(experiment, experiment.null(), tokens[:N_OF_NULL])
        of_random = fit(form, random.fit_tokens, random.fit_target)
        few = (each[:N_FOR_REFERENCES] for each in given)
        references = references_of(experiment.family, tested, *few, followed.tokens, True)

    own = followed.misfit(fitted)
    beside = _Beside(own, followed.without_evidence(fitted), len(references), seed)
    alone = _Beside(random.misfit(of_random), random.without_evidence(of_random), 1, seed)
    misfits = [
        beside.row(algorithm.name, FITTED, own, fitted.parameters),
        *(
            beside.row(name, REFERENCE, followed.misfit(found.prediction), found.parameters)
            for name, found in references.items()
        ),
        *(beside.row(name, CONTROL, values) for name, values in controls.items()),
        replace(alone.row(RANDOM, CONTROL, alone.own), beyond=None),
    ]
    evidence, *others = (evidence_of(each, followed.tokens) for each in (fitted, *halves))
    weights, slope = position_weights(fitted, *given, seed)
    return FittedAlgorithm(
        **experiment.head | {"n_sequences": n_sequences, "parameters": fitted.parameters},
        table_form=form,
        table=fitted.table,
        position_weights=weights,
        slope=slope,
        misfits=tuple(misfits),
        resemblances=(
            *resemblances(evidence, additive.rules(tested, followed.tokens), N_SHOWN, seed),
            *resemblances(others[0], {ITSELF: others[1]}, N_SHOWN, seed),
        ),
        shown=some(evidence, N_SHOWN),
        described=tested.to_json(),
    )


def default_form(sizes: Mapping[str, int]) -> str:
    """The first form of at most ``MAX_NUMBERS`` numbers, or else the last one.

    Args:
        sizes: By form, how many numbers, the most general one first.
    """
    return next((form for form, size in sizes.items() if size <= MAX_NUMBERS), list(sizes)[-1])


@dataclass(frozen=True)
class _Beside:
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
