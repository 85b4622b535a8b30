"""What a scorecard tests of a model on an autoregressive task."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Claim
from mtd_lens.contracts import BUT_LAST, EVERY, LAST, Carrier
from mtd_lens.families.autoregressive.causal_model import AutoregressiveCausalModel, corrections
from mtd_lens.families.autoregressive.squares_model import LeastSquaresCausalModel
from mtd_lens.families.autoregressive.task import AutoregressiveTask, Vectors
from mtd_lens.measures import Injection, Interchange, Pattern, Prediction, Probe

WINDOW = 2
"""Vectors of which the augmented token is a function."""


def claims(task: AutoregressiveTask, n_steps: int = 1) -> list[Claim]:
    """The claims of so many steps of gradient descent, in causal order.

    Of several steps each has the inner products anew in a pattern of its own: no claim says that
    swapping one layer's would swap them all.

    Args:
        task: The task.
        n_steps: How many steps.
    """
    swapped = Claim(
        "inner_products.interchange",
        "Swapping a layer's attention pattern at the last query acts as swapping the products.",
        Interchange("inner_products", "attn.hook_pattern", LAST, linear=True),
    )
    steps = "one step" if n_steps == 1 else f"{n_steps} steps"
    return [
        *augmented(task, linear=n_steps == 1),
        *([swapped] if n_steps == 1 else []),
        Claim(
            "inner_products.attention",
            "At every query a head's pattern is, up to one factor, the products with its keys.",
            Pattern("inner_products", range(1, task.seq_len), EVERY),
        ),
        *(
            Claim(
                f"{correction}.interchange",
                "Swapping a layer's output before the last position acts as swapping what step "
                f"{step} takes from the residuals.",
                Interchange(correction, "hook_attn_out", BUT_LAST, linear=True),
            )
            for step, correction in enumerate(corrections(n_steps), start=1)
        ),
        predicted(f"{steps} of gradient descent"),
    ]


def least_squares_claims(task: AutoregressiveTask) -> list[Claim]:
    """The claims of least squares, in causal order."""
    return [
        *augmented(task, linear=False),
        Claim(
            "estimate.interchange",
            "Swapping a layer's output at the last query acts as swapping the estimated matrix.",
            Interchange("estimate", "hook_attn_out", LAST, linear=True),
        ),
        Claim(
            "estimate.probe",
            "The estimated matrix can be read linearly from a layer at the last query.",
            Probe("estimate", control_task, WINDOW, LAST),
        ),
        predicted("least squares"),
    ]


def augmented(task: AutoregressiveTask, *, linear: bool) -> list[Claim]:
    """Claims of the augmented token.

    Args:
        task: The task.
        linear: Whether it has doses. Predictions of several steps are of so high a degree in it
            that between the doses that are tried no interpolation holds.
    """
    return [
        Claim(
            "augmented_token.interchange",
            "Swapping a layer's output before the last position acts as swapping (s_t, s_{t-1}).",
            Interchange("augmented_token", "hook_attn_out", BUT_LAST, linear=linear),
        ),
        Claim(
            "augmented_token.injection",
            "(s_t, s_{t-1}) written linearly into a layer acts as swapping it.",
            Injection("augmented_token", "hook_attn_out", BUT_LAST),
            slow=True,
        ),
        Claim(
            "augmented_token.probe",
            "The vector and the one before it can be read linearly from a layer at every position.",
            Probe("augmented_token", control_task, WINDOW),
        ),
    ]


def predicted(algorithm: str) -> Claim:
    """The claim of the predictions.

    Args:
        algorithm: Whose they are like, in words.
    """
    return Claim(
        "prediction.estimator",
        f"Predictions at the last query are like those of {algorithm}.",
        Prediction(without_evidence),
    )


def carriers(task: AutoregressiveTask, n_steps: int = 1) -> tuple[Carrier, ...]:
    """Augmented tokens and corrections are written, inner products attended with.

    What is written is sought at all positions but the last query: there, a later layer holds what
    was computed from all of them.

    Args:
        task: The task.
        n_steps: How many steps.
    """
    written = ("z", "mlp_out")
    return (
        Carrier("augmented_token", written, BUT_LAST),
        Carrier("inner_products", ("pattern",), LAST),
        *(Carrier(correction, written, BUT_LAST) for correction in corrections(n_steps)),
    )


def least_squares_carriers(task: AutoregressiveTask) -> tuple[Carrier, ...]:
    """Augmented tokens and, at the last query, the estimate are written."""
    return carriers(task)[0], Carrier("estimate", ("z", "mlp_out"), LAST)


def without_evidence(
    task: AutoregressiveTask, tokens: Vectors
) -> Float[Tensor, "sequence component"]:
    """The zero vector."""
    return torch.zeros_like(tokens[:, -1])


def control_task(
    causal_model: AutoregressiveCausalModel | LeastSquaresCausalModel,
    tokens: Vectors,
    variable: str,
    seed: int,
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: waves of the last two vectors through the same algorithm.

    An arbitrary function of the two stands in for the augmented token, so that the control of a
    product is a product of controls.
    """
    windows = probes.token_windows(tokens, tuple(range(1, tokens.shape[1])), WINDOW)
    decoys = probes.random_wave_map(
        windows, WINDOW * tokens.shape[2], seed, window_size(causal_model.task)
    )
    return causal_model.do(augmented_token=decoys).run(tokens)[variable]


def window_size(task: AutoregressiveTask) -> float:
    """Root mean square of the norm of two vectors in a row, over a sequence's queries.

    W keeps norms, and every step adds ``dim · noise²`` to the mean square: over windows ``t = 1 …
    T-1`` two vectors have seen ``T - 1`` steps on average.
    """
    first = 1.0 if task.ensemble == "orthogonal" else task.dim / 2
    steps = task.seq_len - 1
    return math.sqrt(WINDOW * first + steps * task.dim * task.noise**2)
