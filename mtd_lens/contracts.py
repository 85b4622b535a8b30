"""The protocols that a task family fills in.

A family is one folder under ``mtd_lens/families`` whose ``__init__`` holds a ``FAMILY``. Nothing
else in the package names it: the registry finds the folder, and scoring, reports and commands work
through the protocols below. Predictions are compared by the family's own ``divergence``, so they
may be probabilities (KL, nats) or vectors (squared error).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


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

    family: str
    name: str | None

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary; for vectors, their components."""

    @property
    def seq_len(self) -> int:
        """Length of a sequence."""

    def sample(self, n: int, seed: int) -> Batch:
        """The ``n`` sequences that a seed draws."""

    def to_json(self) -> dict[str, Any]:
        """Plain data from which the family can make the task again."""


@runtime_checkable
class VectorTask(Task, Protocol):
    """A task whose tokens are vectors, and whose prediction is the next one.

    Wherever tokens are ``[sequence, position]``, its are floating-point ``[sequence, position,
    component]``; predictions are compared by squared error.
    """

    @property
    def dim(self) -> int:
        """Components of a vector, ``n_tokens`` as well."""


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
    """

    variables: tuple[str, ...]

    @property
    def parameters(self) -> Mapping[str, float]:
        """What was fitted to the model under test."""

    def do(self, **values: Tensor) -> "CausalModel":
        """The model in which variables are held at values; NaN entries are left to their cause."""

    def run(self, tokens: Tensor) -> Mapping[str, Tensor]:
        """``[sequence, query, …]``: every variable by name, at the ``query_positions``."""

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions at which the variables are defined, for sequences of ``length``."""


@dataclass(frozen=True)
class Trial:
    """One model under test with everything a claim may look at.

    Attributes:
        model: A hooked model.
        task: The task it is tested on.
        causal_model: The algorithm, its parameters fitted to the model that the scorecard is for.
        fit_tokens: ``[sequence, position]``: for fitting and for every choice (layer, head).
        tokens: ``[sequence, position]``: for scores alone.
        seed: Of pairs, controls and resampling.
    """

    model: Any
    task: Any
    causal_model: Any
    fit_tokens: Tensor
    tokens: Tensor
    seed: int


@dataclass(frozen=True)
class Measurement:
    """What a claim's test found at one layer; the score is ``1 - E[numerator]/E[denominator]``.

    Attributes:
        layer: Block index; None for the model's output.
        site: Hook, heads and positions, in words.
        selection: The score on the fit split, by which the claim's layer is chosen.
        numerator: ``[row]``: discrepancy of the model, one value an evaluation sequence (for scores
            read from parameters, one value a row compared).
        denominator: ``[row]``: discrepancy of the reference.
        control: ``[row]`` both: numerator and denominator of the control task, if there is one.
        exact: True for scores read from parameters, which sequences do not make uncertain.
        details: Further figures for the report.
    """

    layer: int | None
    site: str
    selection: float
    numerator: Float[Tensor, " row"]
    denominator: Float[Tensor, " row"]
    control: tuple[Tensor, Tensor] | None = None
    exact: bool = False
    details: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A statement about a model and the test that decides it.

    Attributes:
        id: ``variable.test``.
        statement: The claim in one sentence.
        measure: The test: one measurement for every layer that it can be made at; none where the
            claim does not apply (the variable does not vary).
    """

    id: str
    statement: str
    measure: Callable[[Trial], Sequence[Measurement]]


@dataclass(frozen=True)
class Estimate:
    """A reference estimator beside a model's predictions, or beside the truth.

    Attributes:
        name: Of the estimator.
        divergence: One value a sequence: ``divergence(estimator ‖ model)`` in a scorecard,
            ``divergence(truth ‖ estimator)`` in a comparison.
        parameters: What was fitted on the fit split, such as the step size.
    """

    name: str
    divergence: Float[Tensor, " sequence"]
    parameters: Mapping[str, float]


@runtime_checkable
class Family(Protocol):
    """Everything the package needs to know about a kind of task.

    Attributes:
        name: As in ``Task.family``.
        divergence: Name and unit of the divergence between predictions.
        edited_hooks: Hooks within a block that the claims edit; checked before a run. Claims do
            without ``"hook_mlp_out"`` where a model's blocks have no MLP.

    Parameters of the methods:
        - ``task``: A task of the family.
        - ``model``: A hooked model.
        - ``causal_model``: The algorithm, fitted to a model.
        - ``trial``: A model under test with everything that a claim may look at.
        - ``tokens``: ``[sequence, position]``.
        - ``data``: What ``Task.to_json`` returned.
        - ``seed``: Of random weights or of sequences.
        - ``length``: Tokens in the context.
        - ``n_sequences``: How many to draw.
    """

    name: str
    divergence: str
    edited_hooks: tuple[str, ...]

    def shortest(self, task: Any) -> int:
        """The fewest tokens from which the next one can be predicted in context."""

    def presets(self) -> Mapping[str, Callable[[], Any]]:
        """The loaders of the family's named tasks."""

    def task_from_json(self, data: Mapping[str, Any]) -> Any:
        """The task that ``Task.to_json`` described."""

    def variants(self) -> Mapping[str, Callable[..., Any]]:
        """The builders ``(task, dtype) -> model`` of the models that every task has."""

    def check_model(self, model: Any, task: Any) -> None:
        """Check that ``model`` can be run on ``task``.

        Raises:
            ModelError: It cannot.
        """

    def fit_causal_model(self, model: Any, task: Any, tokens: Tensor) -> Any:
        """The causal model whose free parameters follow the model's predictions on ``tokens``."""

    def null(self, model: Any, task: Any, seed: int) -> Any:
        """A model of the same architecture with random weights."""

    def ceiling(self, task: Any, causal_model: Any) -> Any:
        """A model that computes the causal model exactly."""

    def claims(self, task: Any) -> Sequence[Claim]:
        """What a scorecard tests."""

    def estimates(self, trial: Trial) -> Sequence[Estimate]:
        """The reference estimators against the model's predictions, on ``trial.tokens``."""

    def contenders(
        self, task: Any, model: Any, length: int, n_sequences: int, seed: int
    ) -> Sequence[Estimate]:
        """The estimators and the model against the truth, on contexts of ``length``."""


@dataclass(frozen=True)
class Examples:
    """What a model is trained on.

    Attributes:
        inputs: ``[sequence, position]``: what the model reads.
        targets: ``[sequence, query]``: the next token at the last ``query`` positions; of vectors
            ``[sequence, query, component]``.
        truth: ``[sequence, query, token]``: the next token's distribution given the latent
            variables; None where it was not asked for, or where tokens are vectors.
    """

    inputs: Tensor
    targets: Tensor
    truth: Tensor | None


@runtime_checkable
class TrainableFamily(Protocol):
    """What a family adds so that models can be trained on its tasks; a Family may do without."""

    def examples(self, task: Any, n: int, seed: int, *, with_truth: bool) -> Examples:
        """Draw fresh examples."""

    def yardsticks(
        self, task: Any, n: int, seed: int
    ) -> tuple[Tensor, Mapping[str, Float[Tensor, "sequence token"]]]:
        """Held-out sequences, and predictions at their end that training is followed against."""

    def discrepancy(
        self, reference: Tensor, output: Float[Tensor, "sequence outcome"]
    ) -> Float[Tensor, " sequence"]:
        """Divergence of a model's raw output at the last position from reference predictions."""


@dataclass(frozen=True)
class Carrier:
    """Where in a model a variable of the causal model may be sought.

    Attributes:
        variable: Of the causal model.
        kinds: Kinds of sites, as the last part of a hook's name: ``"z"`` (heads' outputs) and
            ``"mlp_out"`` for what is written to the residual stream, ``"pattern"`` for what is
            attended with.
        queries: At which query positions (an index into the variable's query axis). Positions
            that only pass on what was computed from the variable are left out, so that later
            layers are not taken for its own.
    """

    variable: str
    kinds: tuple[str, ...]
    queries: slice


@runtime_checkable
class LocalizableFamily(Family, Protocol):
    """What a family adds so that its variables can be sought in any model; a Family may do without.

    Each carrier's interchange is followed to the prediction at the last query.
    """

    def carriers(self, task: Any) -> Sequence[Carrier]:
        """Where each variable may be sought, in causal order."""

    def predicted(self, model: Any, output: Float[Tensor, "sequence outcome"]) -> Tensor:
        """A model's prediction from its raw output at the last position."""

    def divergences(self, reference: Tensor, prediction: Tensor) -> Float[Tensor, " sequence"]:
        """Divergence of predictions from reference predictions, in the family's unit."""

    def control(self, task: Any, tokens: Tensor, variable: str, seed: int) -> Tensor:
        """The variable's control task: an arbitrary function of the tokens of the same shape."""


@runtime_checkable
class ReadableFamily(Protocol):
    """What a family adds so that parameters alone can be read; a Family may do without."""

    def read_weights(self, model: Any, task: Any, *, seed: int) -> Any:
        """Findings with ``to_json`` and a text form, each beside random models'."""


@dataclass(frozen=True)
class AnalyticPattern:
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
class Analysis:
    """What the algorithm, the estimators and a model say of some sequences, at every position.

    Sources are named as in a comparison (``"one step"``, ``"exact Bayes"``, …), and ``"model"`` and
    ``"truth"``; the truth is there only where the latent variables are known.

    Attributes:
        patterns: The algorithm's own attention, in causal order.
        latent: What is inferred in context, in words: ``"mixture weights"``.
        components: Name of each component of the latent: ``"lag 1"``, ….
        latents: By source, ``[sequence, position, component]``; NaN where it is not defined. Where
            what is inferred is the prediction itself, ``predictions``.
        predictions: By source, ``[sequence, position, outcome]``: of what follows each position;
            NaN where it is not defined.
    """

    patterns: tuple[AnalyticPattern, ...]
    latent: str
    components: tuple[str, ...]
    latents: Mapping[str, Float[Tensor, "sequence position component"]]
    predictions: Mapping[str, Float[Tensor, "sequence position outcome"]]

    @property
    def predicts_latent(self) -> bool:
        """Whether what is inferred is the prediction itself."""
        return self.latents is self.predictions


@runtime_checkable
class InspectableFamily(Family, Protocol):
    """What a family adds so that single sequences can be looked at; a Family may do without."""

    def patterns(self, causal_model: Any, tokens: Tensor) -> Sequence[AnalyticPattern]:
        """The attention that computes each variable exactly, in causal order."""

    def analyse(
        self, model: Any, causal_model: Any, tokens: Tensor, fit_tokens: Tensor, batch: Any
    ) -> Analysis:
        """The algorithm beside the model on ``tokens``; ``fit_tokens`` are for fitting.

        ``batch`` is what the task sampled the tokens with, or None for tokens of the user's own;
        its sequences may go on after ``tokens`` end.
        """
