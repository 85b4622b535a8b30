"""Posterior mean of the mixture weights under their Dirichlet prior.

The likelihood is a polynomial in λ of degree n, the number of evidence positions, so a
conical-product Gauss-Jacobi rule (Stroud 1971) integrates it exactly with ``⌈(n+2)/2⌉`` nodes a
dimension. Where such a rule is too large, a Rao-Blackwellised Gibbs sampler takes over, which
reports its Monte Carlo standard error.
"""

import math
from functools import partial

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.estimators import lag_likelihoods
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.shapes import Likelihoods, Weights, WeightsPerQuery
from probes import checks

METHODS = ("auto", "quadrature", "gibbs")

MAX_NODES = 200_000
"""``"auto"`` uses quadrature rules of at most this size."""

AUTO_TOLERANCE = 1e-6
"""Where the exact rule is larger, ``"auto"`` takes one whose last refinement changed less."""

_REFINEMENT = 4
_MIN_STEPS = 128
_MAX_ENTRIES = 2**24
_RENORMALISE_EVERY = 16


def posterior_mean(
    task: MTDTask,
    tokens: Tensor,
    method: str = "auto",
    *,
    n_nodes: int | None = None,
    standard_error: float | int = 1e-3,
    seed: int = 0,
) -> Weights:
    """The posterior mean ``E[λ | tokens]`` under ``λ ~ Dirichlet(concentration)``: exact Bayes.

    Predictions from it have the least expected KL of all. Quadrature is by conical products of
    Gauss-Jacobi rules (Stroud 1971).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        method: ``"quadrature"``, ``"gibbs"``, or ``"auto"``: the exact quadrature rule where it has
            at most 200,000 nodes; else one that is refined until it changes by less than 1e-6; else
            Gibbs.
        n_nodes: Nodes a dimension for ``"quadrature"``; by default as many as make it exact.
        standard_error: For Gibbs, run until every standard error is at most this.
        seed: For Gibbs.

    Returns:
        ``[sequence, lag]``, float64.

    Raises:
        ArgumentError: An unknown method, or a quadrature rule beyond 20 million nodes.
        TokensError: Tokens that do not fit the task or are impossible under it.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.posterior_mean(task, torch.tensor([[0, 1, 0]]))
        tensor([[0.4359, 0.5641]], dtype=torch.float64)
    """
    return posterior_with_error(
        task, tokens, method, n_nodes=n_nodes, standard_error=standard_error, seed=seed
    )[0]


def posterior_with_error(
    task: MTDTask,
    tokens: Tensor,
    method: str = "auto",
    *,
    n_nodes: int | None = None,
    standard_error: float | int = 1e-3,
    seed: int = 0,
) -> tuple[Weights, Weights]:
    """As ``posterior_mean``, together with its Monte Carlo standard error: 0 for quadrature."""
    checks.choice(method, "posterior method", METHODS, ArgumentError)
    likelihoods = lag_likelihoods(task, tokens)
    mean = None
    if method == "quadrature":
        exact = exact_nodes(likelihoods.shape[1])
        each = exact if n_nodes is None else checks.integer(n_nodes, "n_nodes", 1, ArgumentError)
        size = each ** (task.order - 1)
        if size > 100 * MAX_NODES:
            raise ArgumentError(
                f"the quadrature rule would have {size:,} nodes ({each} in each of "
                f"{task.order - 1} dimensions). Use method='gibbs', or a smaller n_nodes."
            )
        mean = _quadrature(likelihoods, task.concentration, each)
    elif method == "auto":
        mean = refined_quadrature(likelihoods, task.concentration)
    if mean is not None:
        return mean, torch.zeros_like(mean)
    return gibbs_posterior(task, tokens, standard_error=standard_error, seed=seed)


def refined_quadrature(
    likelihoods: Likelihoods, concentration: float, *, every_query: bool = False
) -> Float[Tensor, "sequence *query lag"] | None:
    """The posterior mean by the exact rule if it is small enough, else by a refined one.

    Args:
        likelihoods: ``[sequence, evidence, lag]``.
        concentration: Of the Dirichlet prior.
        every_query: Estimate from every prefix of the evidence, not from all of it alone.

    Returns:
        ``[sequence, lag]`` or, with ``every_query``, ``[sequence, query, lag]``; None if no rule
        of at most 200,000 nodes will do.
    """
    integrate = partial(_quadrature, likelihoods, concentration, every_query=every_query)
    dimensions = likelihoods.shape[-1] - 1
    exact = exact_nodes(likelihoods.shape[1])
    if exact**dimensions <= MAX_NODES:
        return integrate(exact)
    coarse, each = None, 3 * _REFINEMENT
    while each**dimensions <= MAX_NODES:
        fine = integrate(each)
        if coarse is not None and float((fine - coarse).abs().max()) <= AUTO_TOLERANCE:
            return fine
        coarse, each = fine, each + _REFINEMENT
    return None


def exact_nodes(n_evidence: int) -> int:
    """Nodes a dimension with which quadrature of the posterior mean is exact."""
    return math.ceil((n_evidence + 2) / 2)


def gibbs_posterior(
    task: MTDTask,
    tokens: Tensor,
    *,
    standard_error: float | int = 1e-3,
    n_chains: int = 16,
    n_burn_in: int = 100,
    max_steps: int = 100_000,
    seed: int = 0,
) -> tuple[Weights, Weights]:
    """Posterior mean by Gibbs sampling (lags given λ, then λ given lags) in parallel chains.

    What is averaged is ``E[λ | lags]``, not λ (Rao-Blackwell). The standard error is that of the
    mean over independent chains.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        standard_error: Stop when the largest standard error is at most this.
        n_chains: Independent chains a sequence.
        n_burn_in: Steps discarded at the start of each chain; more where the concentration is
            below 1, since the sampler then mixes more slowly.
        max_steps: Stop after this many steps in any case.
        seed: Of the sampler.

    Returns:
        The posterior mean and its Monte Carlo standard error, both ``[sequence, lag]``, float64.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: A setting out of its range.
    """
    standard_error = checks.number(standard_error, "standard_error", 0, math.inf, ArgumentError)
    n_chains = checks.integer(n_chains, "n_chains", 2, ArgumentError)
    n_burn_in = checks.integer(n_burn_in, "n_burn_in", 0, ArgumentError)
    max_steps = checks.integer(max_steps, "max_steps", 1, ArgumentError)
    seed = checks.seed(seed, ArgumentError)
    likelihoods = lag_likelihoods(task, tokens)
    n, n_evidence, m = likelihoods.shape
    # A small concentration makes λ stick to the corners: the sampler mixes more slowly.
    slowness = max(1.0, 1.0 / task.concentration)
    n_burn_in, check_at = round(n_burn_in * slowness), round(_MIN_STEPS * slowness)
    generator = torch.Generator(device=likelihoods.device).manual_seed(seed)
    weights = likelihoods.new_full((n, n_chains, m), 1 / m)
    total, n_kept = torch.zeros_like(weights), 0
    for step in range(n_burn_in + max_steps):
        cumulative = (likelihoods[:, None] * weights[:, :, None]).cumsum(-1)
        uniforms = torch.rand(
            cumulative.shape[:-1], generator=generator, dtype=weights.dtype, device=weights.device
        )
        above = uniforms[..., None] * cumulative[..., -1:] < cumulative
        at_most = above.sum(2).to(weights.dtype)  # how many lags drawn are at most g
        counts = at_most.diff(dim=-1, prepend=torch.zeros_like(at_most[..., :1]))
        shape = counts + task.concentration
        if step >= n_burn_in:
            total += shape / (n_evidence + m * task.concentration)
            n_kept += 1
            if n_kept == check_at:
                check_at *= 2
                error = (total / n_kept).std(1) / math.sqrt(n_chains)
                if float(error.max()) <= standard_error:
                    break
        weights = torch._sample_dirichlet(shape, generator=generator)
    means = total / n_kept
    return means.mean(1), means.std(1) / math.sqrt(n_chains)


def _quadrature(
    likelihoods: Likelihoods, concentration: float, n_nodes: int, *, every_query: bool = False
) -> Float[Tensor, "sequence *query lag"]:
    nodes, log_mass = simplex_rule(likelihoods.shape[-1], concentration, n_nodes)
    nodes, log_mass = nodes.to(likelihoods), log_mass.to(likelihoods)
    rows = max(1, _MAX_ENTRIES // len(nodes))
    integrate = _integrate_prefixes if every_query else _integrate
    return torch.cat([integrate(part, nodes, log_mass) for part in likelihoods.split(rows)])


def _integrate(likelihoods: Likelihoods, nodes: Tensor, log_mass: Tensor) -> Weights:
    """Posterior mean over the nodes of a rule; logarithms are taken once in 16 factors."""
    scaled = likelihoods / likelihoods.amax(-1, keepdim=True)
    log_posterior = log_mass.expand(len(scaled), -1).clone()
    for block in scaled.split(_RENORMALISE_EVERY, dim=1):
        product = torch.ones_like(log_posterior)
        for k in range(block.shape[1]):
            product *= block[:, k] @ nodes.T
        log_posterior += product.log()
    return log_posterior.softmax(-1) @ nodes


def _integrate_prefixes(
    likelihoods: Likelihoods, nodes: Tensor, log_mass: Tensor
) -> WeightsPerQuery:
    """Posterior mean over the nodes of a rule after each piece of evidence."""
    scaled = likelihoods / likelihoods.amax(-1, keepdim=True)
    log_posterior = log_mass.expand(len(scaled), -1).clone()
    means = []
    for k in range(scaled.shape[1]):
        log_posterior += (scaled[:, k] @ nodes.T).log()
        means.append(log_posterior.softmax(-1) @ nodes)
    return torch.stack(means, 1)


def simplex_rule(
    order: int, concentration: float, n_nodes: int
) -> tuple[Float[Tensor, "node lag"], Float[Tensor, " node"]]:
    """A conical-product Gauss-Jacobi rule for a symmetric Dirichlet distribution.

    Stick-breaking turns the simplex into a cube: ``λ_g = v_g Π_{h<g} (1 - v_h)`` with independent
    ``v_g ~ Beta(α, α (m - g))``, each integrated by a Gauss-Jacobi rule.

    Returns:
        Nodes ``[node, lag]`` on the simplex and the logarithm of their masses, which sum to 1.
    """
    sticks, log_masses = [], []
    for g in range(1, order):
        # Weight (1-x)^a (1+x)^b on [-1, 1], with v = (1+x)/2.
        x, mass = special.roots_jacobi(n_nodes, concentration * (order - g) - 1, concentration - 1)
        sticks.append(torch.from_numpy((1 + x) / 2))
        log_masses.append(torch.from_numpy(mass / mass.sum()).log())
    left = torch.ones(1, dtype=torch.float64)
    log_mass = torch.zeros(1, dtype=torch.float64)
    lags: list[Tensor] = []
    for stick, log_stick_mass in zip(sticks, log_masses, strict=True):
        lags = [lag.repeat_interleave(n_nodes) for lag in lags]
        lags.append((left[:, None] * stick).flatten())
        left = (left[:, None] * (1 - stick)).flatten()
        log_mass = (log_mass[:, None] + log_stick_mass).flatten()
    return torch.stack([*lags, left], -1), log_mass
