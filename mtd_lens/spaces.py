"""What flows into a model and out of it: tokens of a vocabulary, or vectors.

A space knows how its sequences are checked, what can be read from them linearly, what stands in for
a variable of theirs in a control task, and, where it is predicted, how predictions are read from a
model's output and compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

import probes
from mtd_lens.errors import ModelError, TokensError
from mtd_lens.hooked import probabilities
from mtd_lens.shapes import Tokens as TokenSequences
from probes.passes import alone
from probes.subject import HookedModel, subject_of

if TYPE_CHECKING:
    import mtd_lens.contracts

INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


@runtime_checkable
class Space(Protocol):
    """What sequences are made of, or what is predicted.

    Attributes:
        size: Tokens of the vocabulary, or components of a vector.
        unit: Of the divergence between predictions, with its name.

    Parameters of the methods:
        - ``tokens``: ``[sequence, position]``, or ``[sequence, position, component]`` of vectors.
        - ``shortest``: The fewest positions, in words and as a number.
        - ``max_length``: A model's context, if one is involved.
        - ``model``: Whose output is read.
        - ``output``: ``[…, outcome]``, raw.
        - ``reference``, ``prediction``: ``[…, outcome]``.
    """

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def unit(self) -> str: ...  # noqa: D102

    @property
    def names(self) -> tuple[str, ...]:
        """What each token, or component, is called."""

    def check(
        self, tokens: Tensor, shortest: tuple[str, int], max_length: int | None = None
    ) -> Tensor:
        """``tokens`` in the dtype that algorithms take, after every check; or a TokensError."""

    def prediction(self, model: HookedModel, output: Tensor) -> Tensor:
        """``[…, outcome]``, float64: what a model predicts, whatever its read-out."""

    def trained(self, output: Tensor) -> Tensor:
        """``[…, outcome]``, float64: what a model in training predicts, which has no read-out."""

    def divergence(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """``[…]``: of predictions from reference predictions, in ``unit``."""


@dataclass(frozen=True)
class Tokens:
    """Numbers of a vocabulary; predictions are distributions over it, compared by KL in nats.

    Attributes:
        size: Of the vocabulary.
        floor: Least probability that a prediction is held to have given; 0 for none.
    """

    size: int
    floor: float = 0.0

    unit = "KL, nats"

    @property
    def names(self) -> tuple[str, ...]:
        """The tokens' numbers."""
        return tuple(map(str, range(self.size)))

    def check(
        self, tokens: Tensor, shortest: tuple[str, int], max_length: int | None = None
    ) -> TokenSequences:
        """``tokens`` as int64, after every check that concerns a single sequence's form.

        Args:
            tokens: ``[sequence, position]``, any integer dtype.
            shortest: The fewest positions, in words and as a number.
            max_length: A model's context, if one is involved.

        Raises:
            TokensError: Not an integer tensor of rank 2, out of the vocabulary, too short or too
                long.
        """
        if not isinstance(tokens, Tensor) or tokens.dtype not in INTEGERS or tokens.is_sparse:
            kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TokensError(
                f"tokens must be a torch tensor of integers, [sequence, position]; got {kind}. "
                "Convert them with torch.as_tensor(tokens).long()."
            )
        if tokens.ndim != 2:
            raise TokensError(
                f"tokens must have two axes, [sequence, position]; got shape "
                f"{tuple(tokens.shape)}. Use tokens[None] for a single sequence."
            )
        words, fewest = shortest
        if tokens.shape[1] < fewest or tokens.shape[0] < 1:
            raise TokensError(
                f"tokens must hold at least one sequence of at least {words} = {fewest} "
                f"positions; got shape {tuple(tokens.shape)}."
            )
        _check_length(tokens, max_length, "tokens")
        tokens = tokens.long()  # a narrow dtype cannot hold every size to compare with
        outside = (tokens < 0) | (tokens >= self.size)
        if outside.any():
            row, position = outside.nonzero()[0].tolist()
            raise TokensError(
                f"tokens must lie in 0 … {self.size - 1}; sequence {row}, position {position} "
                f"holds {int(tokens[row, position])}."
            )
        return tokens

    def prediction(
        self, model: HookedModel, output: Float[Tensor, "*row token"]
    ) -> Float[Tensor, "*row token"]:
        """Probabilities of the next token, at least the floor.

        Args:
            model: Whose output is read.
            output: ``[…, token]``, raw.
        """
        return self._floored(_distributions(model, output))

    def trained(self, output: Float[Tensor, "*row token"]) -> Float[Tensor, "*row token"]:
        """Probabilities from the logits of a model in training.

        Args:
            output: ``[…, token]``, raw.
        """
        return self._floored(output.to(torch.float64).softmax(-1))

    def divergence(
        self, reference: Float[Tensor, "*row token"], prediction: Float[Tensor, "*row token"]
    ) -> Float[Tensor, "*row"]:
        """KL(reference ‖ prediction) in nats, of predictions that are at least the floor.

        Args:
            reference: ``[…, token]``, rows sum to 1.
            prediction: ``[…, token]``, rows sum to 1.
        """
        return probes.kl_divergence(reference, self._floored(prediction))

    def _floored(self, prediction: Tensor) -> Tensor:
        return prediction.clamp_min(self.floor) if self.floor else prediction


@dataclass(frozen=True)
class Vectors:
    """Vectors of real numbers; predictions are vectors, compared by squared error.

    Attributes:
        size: Components of a vector.
    """

    size: int

    unit = "squared error"

    @property
    def names(self) -> tuple[str, ...]:
        """The components, numbered."""
        return tuple(f"component {index}" for index in range(self.size))

    def check(
        self, tokens: Tensor, shortest: tuple[str, int], max_length: int | None = None
    ) -> Float[Tensor, "sequence position component"]:
        """``tokens`` as float64, after every check that concerns a single sequence's form.

        Args:
            tokens: ``[sequence, position, component]``, floating-point.
            shortest: The fewest positions, in words and as a number.
            max_length: A model's context, if one is involved.

        Raises:
            TokensError: Not a floating-point tensor of rank 3, of another size, too short or too
                long, or not finite.
        """
        if not isinstance(tokens, Tensor) or not tokens.is_floating_point():
            kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TokensError(
                f"this task's tokens are vectors: a floating-point tensor, [sequence, position, "
                f"component]; got {kind}."
            )
        if tokens.ndim != 3 or tokens.shape[2] != self.size:
            raise TokensError(
                f"tokens must have the axes [sequence, position, component], with {self.size} "
                f"components; got shape {tuple(tokens.shape)}. Use tokens[None] for a single "
                "sequence."
            )
        if tokens.shape[1] < shortest[1] or tokens.shape[0] < 1:
            raise TokensError(
                f"tokens must hold at least one sequence of at least {shortest[1]} positions; got "
                f"shape {tuple(tokens.shape)}."
            )
        _check_length(tokens, max_length, "vectors")
        if not tokens.isfinite().all():
            row, position = (~tokens.isfinite()).nonzero()[0, :2].tolist()
            raise TokensError(f"tokens must be finite; sequence {row}, position {position} is not.")
        return tokens.to(torch.float64)

    def prediction(
        self, model: HookedModel, output: Float[Tensor, "*row component"]
    ) -> Float[Tensor, "*row component"]:
        """The predicted vector, which is the output.

        Args:
            model: Whose output is read.
            output: ``[…, component]``, raw.
        """
        return output.double()

    def trained(self, output: Float[Tensor, "*row component"]) -> Float[Tensor, "*row component"]:
        """The same of a model in training.

        Args:
            output: ``[…, component]``, raw.
        """
        return output.double()

    def divergence(
        self,
        reference: Float[Tensor, "*row component"],
        prediction: Float[Tensor, "*row component"],
    ) -> Float[Tensor, "*row"]:
        """Squared error, summed over components.

        Args:
            reference: ``[…, component]``.
            prediction: ``[…, component]``.
        """
        return probes.squared_error(reference, prediction)


def check_model(model: object, task: "mtd_lens.contracts.Task") -> None:
    """Raise an error if a model cannot be run on a task.

    Args:
        model: The model.
        task: With ``inputs``, ``outputs`` and ``seq_len``.

    Raises:
        ModelError: It is no hooked model, reads or predicts something else, or has too short a
            context or no layers.
    """
    if not isinstance(model, HookedModel):
        raise ModelError(
            "a model under test must be a HookedTransformer, a TransformerBridge, or another model "
            f"with TransformerLens's hooks; got {type(model).__name__}."
        )
    subject = subject_of(model)
    inputs, outputs = task.inputs, task.outputs
    vectors, size = isinstance(inputs, Vectors), subject.vector_size
    if vectors and size is None:
        raise ModelError(
            f"the task's tokens are vectors of {inputs.size} components, but this model reads "
            "token numbers. Use a model whose embedding maps vectors linearly (with the attribute "
            "d_in)."
        )
    if not vectors and size is not None:
        raise ModelError(
            "the task's tokens are numbers of a vocabulary, but this model reads vectors of "
            f"{size} components. Use a model of token numbers, or the task it was made for."
        )
    reads = subject.n_inputs if size is None else size
    if (reads, subject.n_outputs) != (inputs.size, outputs.size):
        if vectors:
            raise ModelError(
                f"the task's vectors have {inputs.size} components"
                + (f", of which {outputs.size} are predicted" if outputs != inputs else "")
                + f", but the model reads {reads} and predicts {subject.n_outputs}. Use the task "
                "it was made for."
            )
        raise ModelError(
            f"the task has {inputs.size} tokens, but the model reads {reads} and predicts "
            f"{subject.n_outputs}. Use a model with d_vocab = d_vocab_out = {inputs.size}, or the "
            "task it was made for."
        )
    if subject.n_ctx < task.seq_len:
        unit = "vectors" if vectors else "tokens"
        raise ModelError(
            f"the task's sequences have {task.seq_len} {unit}, but the model's context is "
            f"{subject.n_ctx}. Use a task with a shorter seq_len, or a longer context."
        )
    if subject.n_layers < 1:
        raise ModelError("the model has no layers, so there is nothing to test.")


def last_predictions(
    model: HookedModel, tokens: Tensor, outputs: Space
) -> Float[Tensor, "sequence outcome"]:
    """A model's prediction of what comes after the last position, whatever its read-out.

    Args:
        model: The model.
        tokens: ``[sequence, position]``.
        outputs: What it predicts.

    Raises:
        ModelError: The model's output is not finite.
    """
    return outputs.prediction(model, check_outputs(probes.last_outputs(model, tokens)))


@alone
def every_prediction(
    model: HookedModel, tokens: Tensor, outputs: Space
) -> Float[Tensor, "sequence position outcome"]:
    """A model's prediction after every position.

    Args:
        model: The model.
        tokens: ``[sequence, position]``.
        outputs: What it predicts.

    Raises:
        ModelError: The model's output is not finite.
    """
    with torch.no_grad():
        output = check_outputs(model(tokens))
        if not isinstance(outputs, Tokens):
            return outputs.prediction(model, output)
        return _distributions(model, output)


def _distributions(model: HookedModel, output: Tensor) -> Tensor:
    """What a model predicts; outputs that are probabilities of their own may lie off the simplex.

    They are clamped and normalised; where nothing is left of them, they say nothing.
    """
    found = probabilities(model, output).clamp_min(0)
    total = found.sum(-1, keepdim=True)
    shares = found / total.clamp_min(torch.finfo(found.dtype).tiny)
    return torch.where(total > 0, shares, 1 / found.shape[-1])


def check_outputs(output: Float[Tensor, "sequence *position outcome"]) -> Tensor:
    """A model's outputs, after checking that they are finite.

    Args:
        output: ``[sequence, …, outcome]``.

    Raises:
        ModelError: They are not.
    """
    bad = (~output.isfinite()).any(-1).nonzero()
    if len(bad):
        row, *position = bad[0].tolist()
        where = f"sequence {row}" + "".join(f", position {index}" for index in position)
        raise ModelError(
            f"the model's outputs must be finite; on {where} they are "
            f"{output[tuple(bad[0])].tolist()}. Check its weights."
        )
    return output


def at_every_position(values: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
    """Values at queries, by source, with NaN before the first of them.

    Args:
        values: By source, ``[sequence, query, entry]``.
        first: Position of the first query.

    Returns:
        By source, ``[sequence, position, entry]``.
    """
    return {
        source: functional.pad(value, (0, 0, first, 0), value=torch.nan)
        for source, value in values.items()
    }


def _check_length(tokens: Tensor, max_length: int | None, unit: str) -> None:
    if max_length is not None and tokens.shape[1] > max_length:
        raise TokensError(
            f"sequences of {tokens.shape[1]} {unit} are longer than the model's context of "
            f"{max_length}. Cut them, or build the model on a task with a larger seq_len."
        )
