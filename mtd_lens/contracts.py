"""What a task family is made of: tasks, algorithms, claims, and the record that holds them.

A family is one :class:`Family`, a record of functions, of which most are optional: what is left out
is refused by what needs it, with a message that says so. It lives in a folder of
``mtd_lens.families`` or in any package, which registers it (see :mod:`mtd_lens.registry`). Nothing
else names it: questions, results and commands work through the records below.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mtd_lens.additive import Additive
from mtd_lens.algorithms import BUT_LAST as BUT_LAST, EVERY as EVERY, LAST as LAST
from mtd_lens.claims import Claim, Code, QueryTokens, Record
from mtd_lens.errors import ArgumentError, shown
from mtd_lens.head_scores import HeadScores
from mtd_lens.spaces import Space
from probes import checks
from probes.circuits import WeightFinding
from probes.subject import HookedModel


@runtime_checkable
class Batch(Protocol):
    """Sampled sequences, with whatever latent variables the task has beside them."""

    @property
    def tokens(self) -> Tensor: ...  # noqa: D102


@runtime_checkable
class Task(Protocol):
    """A distribution over sequences.

    Attributes:
        family: Name of its family.
        name: Registry name, if it has one.

    Parameters of the methods:
        - ``n``: How many sequences.
        - ``seed``: Of the draw.
    """

    @property
    def family(self) -> str: ...  # noqa: D102

    @property
    def name(self) -> str | None: ...  # noqa: D102

    @property
    def seq_len(self) -> int:
        """Length of a sequence."""

    @property
    def inputs(self) -> Space:
        """What its sequences are made of."""

    @property
    def outputs(self) -> Space:
        """What is predicted."""

    def sample(self, n: int, seed: int) -> Batch:
        """The ``n`` sequences that a seed draws."""

    def to_json(self) -> dict[str, Any]:
        """Plain data from which the family can make the task again."""


@runtime_checkable
class CausalModel(Protocol):
    """The high-level algorithm that a model is held against.

    Attributes:
        variables: Names, in causal order; the last one is the prediction.
        parameters: Free parameters that were fitted to the model under test.

    Parameters of the methods:
        - ``tokens``: ``[sequence, position]``.
        - ``length``: Of the sequences.
        - ``**values``: Tensors by variable, ``[sequence, query, …]``.

    One that can predict at the last query for less work than ``run`` may have a method
    ``last_prediction(tokens)`` that does.
    """

    @property
    def variables(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def parameters(self) -> Mapping[str, float]:
        """What was fitted to the model under test."""

    def do(self, **values: Tensor) -> "CausalModel":
        """The model in which variables are held at values; NaN entries are left to their cause."""

    def run(self, tokens: Tensor) -> Mapping[str, Tensor]:
        """``[sequence, query, …]``: every variable by name, at the ``query_positions``."""

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions at which the variables are defined, for sequences of ``length``."""


def last_prediction(causal_model: CausalModel, tokens: Tensor) -> Tensor:
    """What an algorithm predicts at the last query, ``[sequence, outcome]``.

    Args:
        causal_model: The algorithm.
        tokens: ``[sequence, position]``.

    Raises:
        ArgumentError: It is no causal model.
        TokensError: Tokens that do not fit its task.
    """
    if not isinstance(causal_model, CausalModel):
        raise ArgumentError(f"causal_model must be a causal model; got {shown(causal_model)}.")
    own = getattr(causal_model, "last_prediction", None)
    return causal_model.run(tokens)["prediction"][:, -1] if own is None else own(tokens)


@dataclass(frozen=True)
class Carrier(Record):
    """Where in a model a variable of the causal model may be sought.

    Attributes:
        variable: Of the causal model.
        kinds: Kinds of sites, as the last part of a hook's name: ``"z"`` (heads' outputs) and
            ``"mlp_out"`` for what is written to the residual stream, ``"pattern"`` for what is
            attended with.
        queries: At which query positions (an index into the variable's query axis). Positions
            that only pass on what was computed from the variable are left out, so that later
            layers are not taken for its own.
        classes: ``position -> class``, in words, where different sites may carry the variable at
            different positions; None where all are alike.
    """

    variable: str
    kinds: tuple[str, ...]
    queries: slice
    classes: Callable[[int], str] | None = None


@dataclass(frozen=True)
class AnalyticPattern(Record):
    """The attention of a head that carried out one part of the algorithm exactly.

    Attributes:
        name: In words, such as ``"uniform average"``.
        variable: Of the causal model: what such a head computes or attends with.
        values: ``[sequence, query, key]``, rows sum to 1; NaN at queries where the algorithm says
            nothing.
    """

    name: str
    variable: str
    values: Float[Tensor, "sequence query key"]


@dataclass(frozen=True)
class Analysis(Record):
    """What the algorithm, the estimators and a model say of some sequences, at every position.

    Sources are named as in a comparison, the algorithm's own as the algorithm is, and ``"model"``
    and ``"truth"``; the truth is there only where the latent variables are known.

    Attributes:
        latent: What is inferred in context, in words: ``"mixture weights"``.
        components: Name of each component of the latent: ``"lag 1"``, ….
        latents: By source, ``[sequence, position, component]``; NaN where it is not defined. Where
            what is inferred is the prediction itself, ``predictions``.
        predictions: By source, ``[sequence, position, outcome]``: of what follows each position;
            NaN where it is not defined.
        patterns: The algorithm's own attention, in causal order.
        scores: What the model's heads score keys by at the last query, where that can be fitted.
    """

    latent: str
    components: tuple[str, ...]
    latents: Mapping[str, Float[Tensor, "sequence position component"]]
    predictions: Mapping[str, Float[Tensor, "sequence position outcome"]]
    patterns: tuple[AnalyticPattern, ...] = ()
    scores: HeadScores | None = None

    @property
    def predicts_latent(self) -> bool:
        """Whether what is inferred is the prediction itself."""
        return self.latents is self.predictions


@dataclass(frozen=True)
class Reference(Record):
    """A reference estimator's predictions.

    Attributes:
        prediction: ``[sequence, outcome]``: after the last position.
        parameters: What was fitted, such as the step size, with a flag ``…_at_bound`` where it lies
            at the end of its range.
    """

    prediction: Float[Tensor, "sequence outcome"]
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """What a model is trained on.

    Attributes:
        inputs: ``[sequence, position]``: what the model reads.
        targets: ``[sequence, query]``: the next token at each query; of vectors
            ``[sequence, query, component]``.
        truth: ``[sequence, query, token]``: the next token's distribution given the latent
            variables; None where it was not asked for, or where vectors are predicted.
        queries: Positions of the queries; None for the last ones, as many as there are targets.
    """

    inputs: Tensor
    targets: Tensor
    truth: Tensor | None
    queries: tuple[int, ...] | None = None

    def at_queries(self, output: Float[Tensor, "batch pos outcome"]) -> Tensor:
        """``[batch, query, outcome]``: a model's output where there are targets."""
        checks.tensor(output, "output", "batch, pos, outcome", ArgumentError)
        n_queries = self.targets.shape[1]
        return output[:, -n_queries:] if self.queries is None else output[:, list(self.queries)]


@dataclass(frozen=True)
class Algorithm(Record):
    """A way to solve a family's tasks, which models are held against.

    Attributes:
        name: In words, such as ``"one step"``: of its row in comparisons and its source in figures.
        fit: ``(task, tokens, predictions) -> causal model``: the one whose free parameters follow
            ``predictions``, ``[sequence, outcome]``, after ``tokens``.
        claims: ``task -> claims``: what a scorecard tests.
        construct: ``(task, causal model) -> model``: a model that computes the causal model
            exactly, the ceiling of every claim. Without one, claims have no ceiling, and say so.
        carriers: ``task -> carriers``: where its variables may be sought, in causal order.
        control: ``(causal model, tokens, variable, seed) -> values``: a variable's control task, an
            arbitrary function of the tokens of the same shape.
        patterns: ``(causal model, tokens) -> patterns``: the attention that computes each variable
            exactly, in causal order.
        query: ``task -> query tokens``: which tokens belong to the query itself; without it no
            claim is tested given the query.
        codes: ``task -> codes``: in what form, other than plainly, its variables may be held.
        statistic: The variable that, at the last query and with the query's own tokens, settles
            what it predicts: all that it keeps of the evidence. Without one, rivals are told apart
            by predictions alone.
        containing: Names of the family's references that have this algorithm as a special case,
            such as two steps of any sizes for one step: they are no rivals.
        id: What it is asked for by, such as ``"one-step"``; by default its name with hyphens in
            place of spaces.

    Raises:
        ArgumentError: A name or id that is no text, or none that can be shown.
    """

    name: str
    fit: Callable[[Any, Tensor, Tensor], CausalModel]
    claims: Callable[[Any], Sequence[Claim]]
    construct: Callable[[Any, Any], HookedModel] | None = None
    carriers: Callable[[Any], Sequence[Carrier]] | None = None
    control: Callable[[Any, Tensor, str, int], Tensor] | None = None
    patterns: Callable[[Any, Tensor], Sequence[AnalyticPattern]] | None = None
    query: Callable[[Any], QueryTokens] | None = None
    codes: Callable[[Any], Sequence[Code]] | None = None
    statistic: str = ""
    containing: tuple[str, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.text(self.name, "an algorithm's name", ArgumentError)
        if checks.text(self.id, "an algorithm's id", ArgumentError) == "":
            object.__setattr__(self, "id", self.name.replace(" ", "-"))


@dataclass(frozen=True)
class Family(Record):
    """Everything that the package needs to know about a kind of task.

    Attributes:
        name: As in ``Task.family``.
        task_from_json: ``data -> task``: the task that ``Task.to_json`` described.
        shortest: ``task -> length``: the fewest tokens from which the next one can be predicted in
            context.
        algorithms: What models are held against; the first one unless another is asked for.
        truth: ``(task, batch) -> [sequence, outcome]``: the best prediction after the last position
            for who knows the latent variables.
        references: ``(task, fit_tokens, fit_target, tokens, target_first) -> by name, references``:
            estimators whose parameters are fitted on ``fit_tokens`` to follow ``fit_target``,
            ``[sequence, outcome]``, and what they predict after ``tokens``. Minimised is
            ``D(target ‖ estimator)`` with ``target_first``, or else ``D(estimator ‖ target)``. The
            first algorithm's own bears its name. Another one's may be missing: a scorecard then
            has its causal model's predictions in that row.
        drawn: Of these, those that figures draw, in order; tables have all.
        presets: By name, loaders of named tasks.
        variants: By name, builders ``(task, dtype=…) -> model`` of the models that tasks have.
        has_variant: ``(task, variant) -> whether``: which tasks have which of them; by default
            every task has all.
        resized: ``(task, length) -> task`` with sequences of another length.
        construct: ``(task, …) -> model``: the analytic construction of one of its algorithms, with
            options that say which and how; what ``mtd_lens.construct`` calls.
        null: ``(model, task, seed) -> model``: the same architecture with random weights; by
            default :func:`mtd_lens.hooked.randomized`.
        examples: ``(task, n, seed, with_truth) -> examples``: fresh ones, to train on.
        yardsticks: ``(task, n, seed) -> (tokens, by name, [sequence, outcome])``: held-out
            sequences, and predictions at their end that training is followed against.
        analyse: ``(model, causal model, tokens, fit_tokens, batch) -> analysis``: the algorithm
            beside the model on ``tokens``; ``fit_tokens`` are for fitting. ``batch`` is what the
            task sampled the tokens with, or None for tokens of the user's own; its sequences may go
            on after ``tokens`` end.
        weights: ``(model, task, reads_logits) -> findings``: what parameters alone show of the
            algorithm, on no data; ``reads_logits`` says whether the linear part of the read-out
            gives logits, not probabilities.
        additive: How ``fit_algorithm`` reads an algorithm of sums of evidence off a model.

    Raises:
        ArgumentError: A name that is no text, no algorithm, or two of the same id.
    """

    name: str
    task_from_json: Callable[[Mapping[str, Any]], Task]
    shortest: Callable[[Any], int]
    algorithms: tuple[Algorithm, ...]
    truth: Callable[[Any, Any], Tensor]
    references: Callable[[Any, Tensor, Tensor, Tensor, bool], Mapping[str, Reference]]
    drawn: tuple[str, ...] = ()
    presets: Mapping[str, Callable[[], Task]] = field(default_factory=dict)
    variants: Mapping[str, Callable[..., HookedModel]] = field(default_factory=dict)
    has_variant: Callable[[Any, str], bool] | None = None
    resized: Callable[[Any, int], Task] | None = None
    construct: Callable[..., HookedModel] | None = None
    null: Callable[[HookedModel, Any, int], HookedModel] | None = None
    examples: Callable[[Any, int, int, bool], Examples] | None = None
    yardsticks: Callable[[Any, int, int], tuple[Tensor, Mapping[str, Tensor]]] | None = None
    analyse: Callable[[Any, Any, Tensor, Tensor, Any], Analysis] | None = None
    weights: Callable[[HookedModel, Any, bool], Sequence[WeightFinding]] | None = None
    additive: Additive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.text(self.name, "a family's name", ArgumentError)
        made = "mtd_lens.Algorithm records"
        if not checks.listed(self.algorithms, "algorithms", made, ArgumentError, Algorithm):
            raise ArgumentError(f"the family {self.name!r} names no algorithm. Give at least one.")
        ids = [algorithm.id for algorithm in self.algorithms]
        if len(set(ids)) < len(ids):
            raise ArgumentError(
                f"algorithms of the family {self.name!r} must differ in their ids; got "
                f"{', '.join(ids)}."
            )

    def variants_of(self, task: Any) -> dict[str, Callable[..., HookedModel]]:
        """The builders of the models that a task has, by name.

        Args:
            task: Of the family.

        Raises:
            ArgumentError: Something else.
        """
        if getattr(task, "family", None) != self.name:
            raise ArgumentError(
                f"expected a task of the family {self.name!r}; got {shown(task)}. Ask the task's "
                "own family."
            )
        has = self.has_variant or (lambda task, variant: True)
        return {name: build for name, build in self.variants.items() if has(task, name)}

    def algorithm(self, id: str | Algorithm | None = None) -> Algorithm:
        """The algorithm that is asked for.

        Args:
            id: Of one of them, or an algorithm of the caller's own; the first one by default.

        Raises:
            ArgumentError: No algorithm of the family has it; the message lists the nearest.
        """
        if isinstance(id, Algorithm):
            return id
        if id is None:
            return self.algorithms[0]
        known = {algorithm.id: algorithm for algorithm in self.algorithms}
        checks.choice(id, f"{self.name} algorithm", known, ArgumentError)
        return known[id]
