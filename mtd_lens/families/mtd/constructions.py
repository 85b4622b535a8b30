"""The analytic three-layer models, whole and with one part broken."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from mtd_lens import hooked
from mtd_lens.architectures.layout import ReadOut
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.families.mtd.absolute import construct_absolute
from mtd_lens.families.mtd.causal_model import best_beta, check_beta
from mtd_lens.families.mtd.fused_model import best_fused
from mtd_lens.families.mtd.fused_weights import construct_fused
from mtd_lens.families.mtd.gated import construct_gated
from mtd_lens.families.mtd.plan import READ_OUTS, Plan, assembled
from mtd_lens.families.mtd.posterior_model import PosteriorCausalModel, product_of_likelihoods
from mtd_lens.families.mtd.posterior_weights import construct_posterior
from mtd_lens.families.mtd.relative import construct_relative
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.families.mtd.two_pass_model import best_two_passes
from mtd_lens.families.mtd.two_pass_weights import construct_two_pass
from mtd_lens.hooked import info_of
from probes import checks
from probes.subject import HookedModel

FORMS = {
    "relative": construct_relative,
    "absolute": construct_absolute,
    "gated": construct_gated,
}

Construct = Callable[[Any, str, torch.dtype], HookedModel]

OTHERS: Mapping[str, tuple[Callable[[MTDTask], Any], Construct]] = {
    "posterior": (PosteriorCausalModel, construct_posterior),
    "product-of-likelihoods": (product_of_likelihoods, construct_posterior),
    "two-pass": (best_two_passes, construct_two_pass),
    "fused": (best_fused, construct_fused),
}
"""By id, algorithms other than one step: a task's causal model, and what makes weights of it."""

ALGORITHMS = ("one-step", *OTHERS)

NULL_SEED = 0

WINDOW = 2
"""How many last positions the ``"average"`` ablation leaves to layer 1."""

PARTS = {
    "transition": "layer 0 scores content with another matrix (the transition, rows shifted by 1)",
    "average": f"layer 1 averages only the last {WINDOW} positions",
    "beta": "layer 2 multiplies the mean responsibility by 0: its weights stay uniform",
    "lag": "layer 2 gives each lag the weight of the next one",
}


def construct(
    task: MTDTask,
    beta: float | int | None = None,
    form: str = "absolute",
    read_out: str = "log_probs",
    dtype: torch.dtype = torch.float32,
    *,
    algorithm: str = "one-step",
) -> HookedModel:
    """A HookedTransformer that runs an algorithm exactly: by default one step of mirror descent.

    For one step, at every query position, layer 0 computes responsibilities, layer 1 their mean
    over the evidence, layer 2's attention pattern is ``softmax(β · mean)``, and the unembedding is
    the transition. For other algorithms see ``construct_posterior``, ``construct_two_pass`` and
    ``construct_fused``.

    Args:
        task: Whose transition, order and context length the weights hold.
        beta: β = η m n of the step, at least 0; None fits it to the task (see ``best_beta``).
        form: ``"absolute"`` uses stock modules, one-hot positions and ``order`` heads;
            ``"relative"`` uses relative key and value tables and one head (Proposition 3);
            ``"gated"`` stores the mean in a code of the query's own tokens, in stock modules with
            MLPs, so that it cannot be swapped between other queries.
        read_out: ``"log_probs"``: the output is log-probabilities, so that its softmax is the
            prediction and TransformerLens's loss is right; ``"probs"``: the paper's linear
            read-out, the probabilities themselves.
        dtype: Of the parameters.
        algorithm: ``"one-step"``; ``"posterior"``: exact Bayes, and ``"product-of-likelihoods"``:
            the posterior of a single lag, both in stock modules with MLPs; ``"two-pass"``:
            responsibilities computed anew under the weights so far, in five layers, with the sizes
            that are best on the task, one after the other; or ``"fused"``: one step to first order
            in two layers, with the β that is best so. Others than one step have neither β nor
            another form.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode. It predicts at positions
        ``t >= order - 1``; before, some lags have no token yet.

    Raises:
        ArgumentError: An unknown algorithm, form or read-out, a β out of range, a dtype that is not
            floating, or a task with too many tokens and lags for the MLPs or heads that it needs.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> model = mtd_lens.construct(task, beta=4.0)
        >>> model(task.sample(3, seed=0).tokens).shape
        torch.Size([3, 8, 2])
    """
    checks.choice(form, "form", FORMS, ArgumentError)
    checks.choice(read_out, "read_out", READ_OUTS, ArgumentError)
    check_task(task)
    checks.choice(algorithm, "algorithm", ALGORITHMS, ArgumentError)
    if algorithm in OTHERS:
        if beta is not None or form != "absolute":
            raise ArgumentError(
                f"beta and form are of one step; algorithm={algorithm!r} has stock modules alone. "
                "Leave both out, or use algorithm='one-step'."
            )
        causal_model, build = OTHERS[algorithm]
        return build(causal_model(task), read_out, dtype)
    beta = best_beta(task) if beta is None else check_beta(beta)
    return _build(Plan(task, beta, cast(ReadOut, read_out)), form, dtype)


def ablate_construction(model: HookedModel, part: str) -> HookedModel:
    """A new construction like ``model`` with one part broken: what a scorecard must notice.

    Args:
        model: A model from ``construct`` or ``load_model(".../constructed-…")``.
        part: ``"transition"``, ``"average"``, ``"beta"`` or ``"lag"``; see ``PARTS``.

    Raises:
        ArgumentError: An unknown part, or one that the task cannot show broken.
        ModelError: The model is not a construction.
    """
    checks.choice(part, "part", PARTS, ArgumentError)
    info = info_of(model)
    plan, form = info.blueprint if info and isinstance(info.blueprint, tuple) else (None, "")
    if info is None or not isinstance(plan, Plan):
        raise ModelError(
            "only an analytic construction of one step on an MTD task can be ablated by part; this "
            "model is none. Build one with construct(task)."
        )
    changes: dict[str, Any] = {
        "transition": {"content": plan.task.transition.roll(1, 0)},
        "average": {"window": WINDOW},
        "beta": {"beta": 0.0},
        "lag": {"lag_shift": 1},
    }
    task = plan.task
    unbroken = {
        "transition": torch.equal(changes["transition"]["content"], task.transition),
        "average": task.seq_len - task.order <= WINDOW,
        "beta": plan.beta == 0,
        "lag": False,
    }
    if task.order == 1 or unbroken[part]:
        raise ArgumentError(
            f"the task cannot show its {part} broken: the model would compute the same. Use a task "
            "of order 2 or more, with distinct rows and longer sequences."
        )
    weight = next(model.parameters())
    name = f"{info.name} without its {part}"
    return hooked.moved(
        _build(replace(plan, **changes[part]), form, weight.dtype, name), weight.device
    )


def random_construction(task: MTDTask, dtype: torch.dtype, form: str) -> HookedModel:
    """The construction's architecture with random weights."""
    name = f"{task.name or task.family}/random-{form}"
    return hooked.randomized(construct(task, 1.0, form, dtype=dtype), NULL_SEED, name)


def _build(plan: Plan, form: str, dtype: torch.dtype, name: str | None = None) -> HookedModel:
    architecture, weights = FORMS[form](plan)
    return assembled(plan.task, form, architecture, weights, (plan, form), dtype, name)
