"""The reference estimators that a model's predictions are held against, fitted to follow a target.

======================  ==========================================================================
uniform                 1/m for every lag
one step                mirror descent from the uniform point
k steps                 k steps of the same size, k = 2 … 5
k steps, free           k steps, each of its own size
k steps, prefix         k steps, each of its own size, whose gradients a causal network can form:
                        position k's term uses position k's own weights; k = 2, 3
product of likelihoods  the posterior of the one lag that explains all evidence, with a temperature
EM                      as many steps as follow the target best, at most 10
maximum likelihood      where EM would end
exact Bayes             the posterior mean
======================  ==========================================================================

The sizes of three or more free steps are poorly determined one by one, since nearby steps can
stand in for each other: their divergence says more than their values.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import optimize
from torch import Tensor

import probes
from mtd_lens.algorithms import AT_BOUND
from mtd_lens.contracts import Reference
from mtd_lens.families.mtd import estimators, iterative
from mtd_lens.families.mtd.posterior import posterior_with_error
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.shapes import Likelihoods, Predictions, Tokens, Weights, WeightsPerQuery
from probes.statistics.divergences import kl_of_distributions

MAX_MIRROR_STEPS = 5
MAX_PREFIX_STEPS = 3
MAX_EM_STEPS = 10

CONTAIN_ONE_STEP = (
    *(f"{k} steps, free" for k in range(2, MAX_MIRROR_STEPS + 1)),
    *(f"{k} steps, prefix" for k in range(2, MAX_PREFIX_STEPS + 1)),
)
"""Estimators of which one step is a special case, with all sizes but the first at 0."""

STEP_SPAN = (1e-2, 1e3)
"""Step sizes are sought between these multiples of the stable one."""

EXPONENTS = (1e-3, 1e1)
"""Of likelihoods in their product, inverse temperatures, between which one is sought."""

_STOPPING = {"ftol": 1e-8, "gtol": 1e-7, "maxiter": 60}
"""Of the loss as a share of the tied one: the valley of free step sizes is flat."""

_SLOPES = (0.0, 0.75, -0.75)
"""Starts for free step sizes: by how much the last one exceeds the tied one, as a share of it."""

Fitted = dict[str, float]
Steps = Callable[[Likelihoods, Iterable[Tensor]], WeightsPerQuery]


def reference_weights(
    task: MTDTask,
    fit_tokens: Int[Tensor, "fit position"],
    fit_target: Float[Tensor, "fit token"],
    tokens: Tokens,
    *,
    target_first: bool,
) -> dict[str, tuple[Weights, Fitted]]:
    """Every reference estimator's weights on ``tokens``, with what was fitted.

    Step sizes and the number of EM steps are fitted on the fit split, to follow ``fit_target``.
    Free step sizes follow it at least as well as the best common one.

    Args:
        task: The task.
        fit_tokens: For fitting.
        fit_target: Predictions to follow at the last query: a model's, or the truth.
        tokens: For the weights that are returned.
        target_first: Fit KL(target ‖ estimator), or else KL(estimator ‖ target).

    Returns:
        By name: weights ``[sequence, lag]``, and fitted parameters: ``step_size``, or
        ``step_size_1``, ``step_size_2``, … where steps are free, and ``exponent`` of likelihoods,
        each with a flag ``…_at_bound`` if it lies at the end of its range; ``n_steps`` of EM;
        ``standard_error`` of a sampled posterior mean.
    """
    split = _fit_split(task, fit_tokens, fit_target, target_first)
    likelihoods = estimators.lag_likelihoods(task, tokens)

    def stepped(steps: Steps, fit: _Fit) -> tuple[Weights, Fitted]:
        return _last(steps(likelihoods, fit.step_sizes.to(likelihoods.device))), fit.parameters()

    found = {"uniform": (estimators.uniform_weights(task, tokens), Fitted())}
    for n_steps in range(1, MAX_MIRROR_STEPS + 1):
        tied = _fit_tied(split, iterative.mirror_steps, n_steps)
        label = "one step" if n_steps == 1 else f"{n_steps} steps"
        found[label] = stepped(iterative.mirror_steps, tied)
        if n_steps > 1:
            free = _fit_free(split, iterative.mirror_steps, tied)
            found[f"{label}, free"] = stepped(iterative.mirror_steps, free)
    for n_steps in range(2, MAX_PREFIX_STEPS + 1):
        tied = _fit_tied(split, iterative.prefix_steps, n_steps)
        free = _fit_free(split, iterative.prefix_steps, tied)
        found[f"{n_steps} steps, prefix"] = stepped(iterative.prefix_steps, free)
    powers = replace(split, log_bounds=_logs(EXPONENTS), fitted="exponent")
    found["product of likelihoods"] = stepped(_product, _fit_tied(powers, _product, 1))
    losses = [float(split.loss(w)) for w in iterative.em_path(split.likelihoods, MAX_EM_STEPS)]
    n_steps = 1 + losses.index(min(losses))
    em_weights = iterative.em_path(likelihoods, n_steps)[-1]
    found["EM"] = (em_weights, {"n_steps": float(n_steps)})
    found["maximum likelihood"] = (iterative.maximum_likelihood(task, tokens), {})
    mean, error = posterior_with_error(task, tokens)
    sampled = float(error.max()) > 0
    found["exact Bayes"] = (mean, {"standard_error": float(error.max())} if sampled else {})
    return found


def tied_step_size(task: MTDTask, tokens: Tokens, predictions: Predictions, n_steps: int) -> float:
    """The step size with which ``n_steps`` of mirror descent follow a model's predictions best.

    Minimises the mean KL(estimator ‖ model) at the last query, in nats.
    """
    split = _fit_split(task, tokens, predictions, target_first=False)
    return float(_fit_tied(split, iterative.mirror_steps, n_steps).step_sizes[0])


def references(
    task: MTDTask, fit_tokens: Tensor, fit_target: Tensor, tokens: Tensor, target_first: bool
) -> dict[str, Reference]:
    """Every reference estimator's prediction after ``tokens``; see :func:`reference_weights`."""
    found = reference_weights(task, fit_tokens, fit_target, tokens, target_first=target_first)
    return {
        name: Reference(estimators.predict(task, tokens, weights), fitted)
        for name, (weights, fitted) in found.items()
    }


@dataclass(frozen=True)
class _FitSplit:
    """All that a fit looks at, computed once.

    Attributes:
        likelihoods: ``[sequence, evidence, lag]``.
        rows: ``[sequence, lag, token]``: what the last query's next token may be drawn from.
        target: Predictions to follow.
        target_first: Which way round the divergence is.
        log_bounds: Of log step sizes.
        fitted: What a step size is called.
    """

    likelihoods: Likelihoods
    rows: Float[Tensor, "sequence lag token"]
    target: Predictions
    target_first: bool
    log_bounds: tuple[float, float]
    fitted: str = "step_size"

    def loss(self, weights: Weights) -> Float[Tensor, ""]:
        """Mean divergence between the target and the predictions with ``weights``, in nats."""
        prediction = torch.einsum("nl,nlb->nb", weights, self.rows)
        pair = (self.target, prediction) if self.target_first else (prediction, self.target)
        return kl_of_distributions(*pair).mean()

    def loss_of_steps(self, steps: Steps, step_sizes: Tensor) -> Float[Tensor, ""]:
        """The loss after steps of these sizes; differentiable in them."""
        return self.loss(_last(steps(self.likelihoods, step_sizes.to(self.likelihoods.device))))


@dataclass(frozen=True)
class _Fit:
    """Fitted step sizes, whether they are one number, and what they were fitted on."""

    step_sizes: Float[Tensor, " step"]
    tied: bool
    split: _FitSplit

    def parameters(self) -> Fitted:
        """By name, with a flag for each that lies at the end of its range."""
        values = self.step_sizes.tolist()
        named = (
            {self.split.fitted: values[0]}
            if self.tied
            else {f"{self.split.fitted}_{i}": value for i, value in enumerate(values, start=1)}
        )
        parameters = {}
        for name, value in named.items():
            parameters[name] = value
            if min(abs(math.log(value) - bound) for bound in self.split.log_bounds) < AT_BOUND:
                parameters[f"{name}_at_bound"] = 1.0
        return parameters


def _fit_split(task: MTDTask, tokens: Tokens, target: Predictions, target_first: bool) -> _FitSplit:
    stable = 1 / ((tokens.shape[1] - task.order) * task.order**2)  # Theorem 2
    return _FitSplit(
        likelihoods=estimators.lag_likelihoods(task, tokens),
        rows=estimators.parent_rows(task, tokens)[:, -1],
        target=target.to(torch.float64),
        target_first=target_first,
        log_bounds=_logs(stable * factor for factor in STEP_SPAN),
    )


def _fit_tied(split: _FitSplit, steps: Steps, n_steps: int) -> _Fit:
    """The common step size of least loss."""

    def objective(log_step: float) -> float:
        return float(split.loss_of_steps(steps, _vector([math.exp(log_step)] * n_steps)))

    result = optimize.minimize_scalar(
        objective, bounds=split.log_bounds, method="bounded", options={"xatol": 1e-4}
    )
    return _Fit(_vector([math.exp(result.x)] * n_steps), True, split)


def _fit_free(split: _FitSplit, steps: Steps, tied: _Fit) -> _Fit:
    """Step sizes of less loss than the tied ones, by L-BFGS-B; or else the tied ones.

    In units of the tied size the valley is straight, since what counts most is the sum. It can have
    one optimum where sizes rise and one where they fall, so the search starts on both sides too.
    """
    unit = tied.step_sizes.numpy()
    low, high = (math.exp(bound) / unit[0] for bound in split.log_bounds)
    scale = max(float(split.loss_of_steps(steps, tied.step_sizes)), probes.statistics.NEGLIGIBLE)

    @torch.enable_grad()  # callers who only look at models often have gradients switched off
    def objective(multiples: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(multiples * unit).requires_grad_()
        loss = split.loss_of_steps(steps, point) / scale
        (gradient,) = torch.autograd.grad(loss, point)
        return float(loss.detach()), gradient.numpy() * unit

    best = np.ones(len(unit))
    least = objective(best)[0]
    for slope in _SLOPES:
        start = np.clip(1 + np.linspace(-slope, slope, len(unit)), low, high)
        result = optimize.minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(low, high)] * len(unit),
            options=_STOPPING,
        )
        if result.fun < least:
            best, least = result.x, result.fun
    return _Fit(_vector(best * unit), False, split)


def _product(likelihoods: Likelihoods, exponents: Iterable[Tensor]) -> WeightsPerQuery:
    """Every lag's product of likelihoods over all evidence, to a power, normalised over lags."""
    (exponent,) = exponents
    logs = likelihoods.clamp_min(torch.finfo(likelihoods.dtype).tiny).log()
    return (exponent * logs.sum(1, keepdim=True)).softmax(-1)


def _logs(bounds: Iterable[float]) -> tuple[float, float]:
    low, high = map(math.log, bounds)
    return low, high


def _vector(values: Sequence[float] | np.ndarray) -> Float[Tensor, " step"]:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _last(weights: WeightsPerQuery) -> Weights:
    return weights[:, -1]
