"""What every family of token tasks needs: categorical draws, and checks of tokens and models."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.errors import ModelError, TaskError, TokensError
from mtd_lens.shapes import Predictions, Tokens
from probes.subject import subject_of

INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})

CONCENTRATIONS = (1e-3, 1e6)
"""Range in which Dirichlet draws are sound in float64."""


def draw(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Categorical draws by inversion; an outcome of probability 0 is never drawn.

    Args:
        probabilities: ``[…, outcome]``.
        uniforms: ``[…]``, in [0, 1).

    Returns:
        ``[…]``: an outcome for each uniform.
    """
    cumulative = probabilities.cumsum(-1)
    scaled = uniforms[..., None] * cumulative[..., -1:]
    return (cumulative <= scaled).sum(-1)


def check_name(name: Any) -> str | None:
    """A task's name, or None.

    Raises:
        TaskError: It is no string, or holds a slash.
    """
    if name is not None and (not isinstance(name, str) or "/" in name):
        raise TaskError(f"a task's name must be a string without a slash; got {name!r}.")
    return name


def check_tokens(
    tokens: Any, n_tokens: int, shortest: tuple[str, int], max_length: int | None = None
) -> Tokens:
    """``tokens`` as int64, after every check that concerns a single sequence's form.

    Args:
        tokens: ``[sequence, position]``, any integer dtype.
        n_tokens: Size of the vocabulary.
        shortest: The fewest positions, in words and as a number.
        max_length: A model's context, if one is involved.

    Raises:
        TokensError: Not an integer tensor of rank 2, out of the vocabulary, too short or too long.
    """
    if not isinstance(tokens, Tensor) or tokens.dtype not in INTEGERS or tokens.is_sparse:
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TokensError(
            f"tokens must be a torch tensor of integers, [sequence, position]; got {kind}. "
            "Convert them with torch.as_tensor(tokens).long()."
        )
    if tokens.ndim != 2:
        raise TokensError(
            f"tokens must have two axes, [sequence, position]; got shape {tuple(tokens.shape)}. "
            "Use tokens[None] for a single sequence."
        )
    words, fewest = shortest
    if tokens.shape[1] < fewest or tokens.shape[0] < 1:
        raise TokensError(
            f"tokens must hold at least one sequence of at least {words} = {fewest} "
            f"positions; got shape {tuple(tokens.shape)}."
        )
    if max_length is not None and tokens.shape[1] > max_length:
        raise TokensError(
            f"sequences of {tokens.shape[1]} tokens are longer than the model's context of "
            f"{max_length}. Cut them, or build the model on a task with a larger seq_len."
        )
    tokens = tokens.long()  # a narrow dtype cannot hold every n_tokens to compare with
    outside = (tokens < 0) | (tokens >= n_tokens)
    if outside.any():
        row, position = outside.nonzero()[0].tolist()
        raise TokensError(
            f"tokens must lie in 0 … {n_tokens - 1}; sequence {row}, position {position} "
            f"holds {int(tokens[row, position])}."
        )
    return tokens


def check_model(model: Any, task: Any) -> None:
    """Raise an error if a HookedTransformer cannot be run on a token task.

    Raises:
        ModelError: The model is none or reads vectors, or its vocabulary, context or depth does not
            do.
    """
    cfg: Any = getattr(model, "cfg", None)
    if not hasattr(cfg, "d_vocab") or not hasattr(model, "hook_dict"):
        raise ModelError(
            f"a model under test must be a HookedTransformer; got {type(model).__name__}."
        )
    size = subject_of(model).vector_size
    if size is not None:
        raise ModelError(
            f"the task's tokens are numbers of a vocabulary, but this model reads vectors of "
            f"{size} components. Use a model of token numbers, or the task it was made for."
        )
    if cfg.d_vocab != task.n_tokens or cfg.d_vocab_out != task.n_tokens:
        raise ModelError(
            f"the task has {task.n_tokens} tokens, but the model reads {cfg.d_vocab} and "
            f"predicts {cfg.d_vocab_out}. Use a model with d_vocab = d_vocab_out = "
            f"{task.n_tokens}, or the task it was made for."
        )
    if cfg.n_ctx < task.seq_len:
        raise ModelError(
            f"the task's sequences have {task.seq_len} tokens, but the model's context is "
            f"{cfg.n_ctx}. Use a task with a shorter seq_len, or a longer context."
        )
    if cfg.n_layers < 1:
        raise ModelError("the model has no layers, so there is nothing to test.")


def last_predictions(model: Any, tokens: Tokens) -> Predictions:
    """A model's distribution of the token after the last position, whatever its read-out.

    Raises:
        ModelError: The model's output is not finite.
    """
    from mtd_lens.hooked import probabilities

    return probabilities(model, check_outputs(probes.last_outputs(model, tokens)))


def predictions(model: Any, tokens: Tokens) -> Float[Tensor, "sequence position token"]:
    """After every position; a read-out off the simplex is clamped and normalised.

    Raises:
        ModelError: The model's output is not finite.
    """
    from mtd_lens.hooked import probabilities

    with torch.no_grad():
        found = probabilities(model, check_outputs(model(tokens))).clamp_min(0)
    return found / found.sum(-1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)


def check_outputs(output: Float[Tensor, "sequence *position token"]) -> Tensor:
    """A model's outputs, after checking that they are finite.

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
