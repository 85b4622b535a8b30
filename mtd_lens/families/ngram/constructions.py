"""The analytic two-layer models, whole and with one part broken."""

import math
from dataclasses import replace
from typing import Any, cast

import torch

from mtd_lens import hooked
from mtd_lens.architectures.layout import Form, ReadOut
from mtd_lens.architectures.writing import MARGIN
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.families.ngram.absolute import construct_absolute
from mtd_lens.families.ngram.causal_model import NGramCausalModel, best_sharpness
from mtd_lens.families.ngram.counts_model import NGramCountsModel
from mtd_lens.families.ngram.estimators import check_sharpness
from mtd_lens.families.ngram.plan import MAX_PARAMETERS, Plan, copy_of, n_parameters
from mtd_lens.families.ngram.relative import construct_relative
from mtd_lens.families.ngram.task import NGramTask, check_task
from mtd_lens.hooked import ModelInfo, info_of
from probes import checks
from probes.subject import HookedModel

FORMS = {"relative": construct_relative, "absolute": construct_absolute}
READ_OUTS = ("log_probs", "probs")
KERNELS = {"kernel": "tuple", "additive-kernel": "tokens"}
COUNTS = {"exact-bayes": None, "maximum-likelihood": 0.0}
"""By algorithm, the match of kernels and the concentration of those that count."""

LEAST_PRIOR = math.exp(-MARGIN / 2)
"""What stands for no prior, where a uniform prediction must be left if there is no match."""

NULL_SEED = 0

NGRAM_PARTS = {
    "copier": "layer 0's heads attend to all positions so far alike",
    "selector": "layer 0's MLP takes the parents of the current token for those of the next",
    "sharpness": "layer 1 multiplies the match by 0: it averages all evidence",
    "values": "layer 1 averages the tokens before those that matched",
}
"""What ``ablate_ngram`` can break, and how."""


def construct_ngram(
    task: NGramTask,
    sharpness: float | int | None = None,
    form: str = "absolute",
    read_out: str = "log_probs",
    dtype: torch.dtype = torch.float32,
    *,
    algorithm: str = "kernel",
) -> HookedModel:
    """A HookedTransformer that runs an algorithm exactly: by default a generalized induction head.

    Layer 0's heads copy the tokens at lags 1 to ``window``, its ReLU MLP selects the tuple of
    parents, and layer 1 attends with ``softmax(a · match)`` and averages the tokens there (Chen,
    Sheen, Wang & Yang 2024, arXiv 2409.10559: copier, selector, classifier). For exact Bayes the
    match is so sharp that it counts, and position 0, whose value is uniform, has the share of the
    prior.

    Args:
        task: Whose parents, window and context length the weights hold.
        sharpness: The inverse temperature a, from 0 to 100; None fits it to the task.
        form: ``"absolute"`` uses stock modules and one-hot positions; ``"relative"`` uses relative
            key tables, so that heads copy by offset.
        read_out: ``"log_probs"``: the output is log-probabilities, so that its softmax is the
            prediction and TransformerLens's loss is right; ``"probs"``: a linear read-out, the
            probabilities themselves.
        dtype: Of the parameters.
        algorithm: ``"kernel"``, or ``"additive-kernel"``, whose match is the share of parents that
            match; ``"exact-bayes"`` or ``"maximum-likelihood"``, which have neither a sharpness nor
            another form.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode. It predicts at positions
        ``t >= window``; before, there is no evidence.

    Raises:
        ArgumentError: No n-gram task, or one whose construction is too large for memory; an unknown
            form, read-out or algorithm, a sharpness out of range, a dtype that is not floating.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.NGramTask(3, parents=(1, 2), window=2, seq_len=16)
        >>> model = mtd_lens.construct_ngram(task, sharpness=5.0)
        >>> model(task.sample(4, seed=0).tokens).shape
        torch.Size([4, 16, 3])
    """
    checks.choice(form, "form", FORMS, ArgumentError)
    checks.choice(read_out, "read_out", READ_OUTS, ArgumentError)
    check_task(task)
    checks.choice(algorithm, "algorithm", {**KERNELS, **COUNTS}, ArgumentError)
    chosen = cast(Form, form), cast(ReadOut, read_out), dtype
    if algorithm in COUNTS:
        if sharpness is not None or form != "absolute":
            raise ArgumentError(
                f"{algorithm} has no sharpness, and stock modules alone (form='absolute'). Leave "
                "sharpness and form out, or use algorithm='kernel'."
            )
        return construct_causal(NGramCountsModel(task, COUNTS[algorithm]), *chosen)
    match = KERNELS[algorithm]
    _check_size(Plan(task, 0.0, match=match), chosen[0])
    a = best_sharpness(task, match) if sharpness is None else check_sharpness(sharpness)
    return construct_causal(NGramCausalModel(task, a, match=match), *chosen)


def construct_causal(
    causal_model: NGramCausalModel | NGramCountsModel,
    form: Form = "absolute",
    read_out: ReadOut = "log_probs",
    dtype: torch.dtype = torch.float32,
) -> HookedModel:
    """The construction that computes a causal model, its parameters included.

    Args:
        causal_model: What is to be computed.
        form: Of the construction, as ``construct_ngram`` has it.
        read_out: Likewise.
        dtype: Of the parameters.

    Raises:
        ArgumentError: A construction that is too large for memory.
    """
    task = causal_model.task
    if isinstance(causal_model, NGramCountsModel):
        prior = max(causal_model.concentration, LEAST_PRIOR)
        plan = Plan(task, MARGIN, read_out, prior=prior)
    else:
        plan = Plan(task, causal_model.sharpness, read_out, match=causal_model.match)
    _check_size(plan, form)
    name = None
    if causal_model.source != "kernel":
        kind = causal_model.source.lower().replace(" ", "-")
        name = f"{task.name or task.family}/constructed-{kind}-{form}"
    return _build(plan, form, dtype, name)


def _check_size(plan: Plan, form: Form) -> None:
    size = n_parameters(plan, form)
    if size > MAX_PARAMETERS:
        raise ArgumentError(
            f"the {form} construction on {plan.task!r} would have {size} parameters; that is too "
            f"large for memory, at most {MAX_PARAMETERS}. Use a task with fewer tokens or parents, "
            "a smaller window or a shorter seq_len."
        )


def ablate_ngram(model: HookedModel, part: str) -> HookedModel:
    """A new construction like ``model`` with one part broken: what a scorecard must notice.

    Args:
        model: A model from ``construct_ngram`` or ``load_model(".../constructed-…")``.
        part: ``"copier"``, ``"selector"``, ``"sharpness"`` or ``"values"``; see ``NGRAM_PARTS``.

    Raises:
        ArgumentError: An unknown part, or one that is broken already.
        ModelError: The model is not a construction of this family.
    """
    checks.choice(part, "part", NGRAM_PARTS, ArgumentError)
    info = info_of(model)
    if (
        info is None
        or not isinstance(info.blueprint, tuple)
        or not isinstance(info.blueprint[0], Plan)
    ):
        raise ModelError(
            "only an analytic n-gram construction can be ablated by part; this model is none. "
            "Build one with construct_ngram(task)."
        )
    plan, form = info.blueprint
    changes: dict[str, dict[str, Any]] = {
        "copier": {"copies": False},
        "selector": {"looks_ahead": False},
        "sharpness": {"sharpness": 0.0},
        "values": {"votes": copy_of(1)},
    }
    broken_plan = replace(plan, **changes[part])
    if broken_plan == plan:
        raise ArgumentError(f"the model's {part} is broken already. Start from a whole one.")
    weight = next(model.parameters())
    name = f"{info.name} without its {part}"
    return hooked.moved(_build(broken_plan, form, weight.dtype, name), weight.device)


def random_ngram(task: NGramTask, dtype: torch.dtype, form: str) -> HookedModel:
    """The construction's architecture with random weights."""
    name = f"{task.name or task.family}/random-{form}"
    return hooked.randomized(construct_ngram(task, 1.0, form, dtype=dtype), NULL_SEED, name)


def _build(plan: Plan, form: str, dtype: torch.dtype, name: str | None = None) -> HookedModel:
    architecture, weights = FORMS[form](plan)
    info = ModelInfo(
        task=plan.task,
        name=name or f"{plan.task.name or plan.task.family}/constructed-{form}",
        probabilities=plan.read_out == "probs",
        blueprint=(plan, form),
    )
    return hooked.assemble(architecture, weights, info, hooked.check_dtype(dtype))
