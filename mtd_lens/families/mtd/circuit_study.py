"""How score and value of one attention layer make the correction, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

import probes
from mtd_lens.contracts import last_prediction
from mtd_lens.families.mtd.causal_model import MTDCausalModel, fit_one_step
from mtd_lens.families.mtd.circuit import (
    COVARIANCE,
    FIRST,
    Circuit,
    ScoreTable,
    interval,
)
from mtd_lens.families.mtd.circuit_codes import (
    Figures,
    pair_codes,
    pair_figures,
    product_figures,
    with_errors,
)
from mtd_lens.families.mtd.circuit_forms import ADDITIVE, JOINT, LAST, SHUFFLED, Basis
from mtd_lens.families.mtd.fused_model import FusedCausalModel, fit_fused
from mtd_lens.families.mtd.score_claims import COMPETING
from mtd_lens.families.mtd.score_form import ANY
from mtd_lens.measures.mean_pattern import PATTERN
from mtd_lens.measures.writing import at
from mtd_lens.trial import Trial
from probes.subject import subject_of

N_AGAIN = 10
"""Draws of the endings that fits are made on, for standard errors of codes."""


def value_figures(circuit: Circuit) -> Figures:
    """What remains with fitted values, and each sequence's own pattern; by the covariance alone."""
    found: Figures = {}
    for kind in (LAST, ADDITIVE, JOINT, SHUFFLED):
        values = circuit.fitted_values(kind)
        found[kind] = {
            "output": circuit.share(circuit.scores, values),
            COVARIANCE: circuit.covariance(circuit.scores, values),
        }
    return found


def joint_figures(circuit: Circuit, other: Tensor | None = None) -> Figures:
    """Score and value together, each alone, and nulls.

    Args:
        circuit: Of a model.
        other: Another model's table of scores, as null.
    """
    own_scores, own_values = circuit.scores, circuit.values
    table = circuit.score_table(COMPETING)
    fitted, additive = circuit.fitted_scores(table), circuit.fitted_values(ADDITIVE)
    free = circuit.fitted_scores(circuit.score_table(ANY))
    q = circuit.basis.task.n_tokens
    shifted = [[(a + s) % q for a in range(q)] for s in range(1, q)]
    relabelled = [circuit.covariance(circuit.fitted_scores(table, r), additive) for r in shifted]
    found = {
        "first order, own parts": circuit.kept(
            circuit.with_output(circuit.output(own_scores, own_values, FIRST))
        ),
        "covariance, own parts": circuit.covariance(own_scores, own_values),
        "mean values": circuit.share(own_scores, circuit.mean(own_values)),
        "mean scores": circuit.share(circuit.mean_scores, own_values),
        "scores competing": circuit.share(fitted, own_values),
        "scores any": circuit.share(free, own_values),
        "values additive": circuit.share(own_scores, additive),
        "both": circuit.share(fitted, additive),
        "both, scores any": circuit.share(free, additive),
        "both, covariance": circuit.covariance(fitted, additive),
        "both, scores any, covariance": circuit.covariance(free, additive),
        "parents relabelled": max(relabelled),
    }
    if table.shape[-1] > 1:
        turned = circuit.fitted_scores(table.roll(1, -1))
        found["another head's table"] = circuit.covariance(turned, additive)
    if other is not None:
        found["another model's table"] = circuit.covariance(circuit.fitted_scores(other), additive)
    return found


def mlp_figures(circuit: Circuit) -> Figures:
    """What the layer's MLP adds at the last query; only distances where there is none."""
    alike = circuit.alike
    task = circuit.basis.task
    sites = {name: circuit.site(name) for name in ("attn_out", "mlp_out")}
    runs = {"natural": [alike.natural(on_fit) for on_fit in (True, False)]}
    found: Figures = {}
    if subject_of(alike.trial.model).has_mlp:
        own = {
            on_fit: {k: at(alike.trial, alike.rows(on_fit), s) for k, s in sites.items()}
            for on_fit in (True, False)
        }
        mean = {
            on_fit: {k: alike.mean(own[True][k], on_fit) for k in sites} for on_fit in (True, False)
        }

        def held(on_fit: bool, **held_at: Mapping[bool, Mapping[str, Tensor]]) -> Tensor:
            writes = [(sites[k], which[on_fit][k]) for k, which in held_at.items()]
            return alike.written({0: writes}, on_fit)[0]

        runs["MLP at its mean"] = [held(f, mlp_out=mean) for f in (True, False)]
        runs["through the MLP alone"] = [held(f, attn_out=mean, mlp_out=own) for f in (True, False)]
    for name, (on_fit, on_test) in runs.items():
        fitted: dict[str, MTDCausalModel | FusedCausalModel] = {
            "one step": fit_one_step(task, alike.fit, on_fit),
            "first order": fit_fused(task, alike.fit, on_fit),
        }
        kl = {
            k: probes.kl_divergence(on_test.double(), last_prediction(model, alike.test))
            for k, model in fitted.items()
        }
        found[name] = {
            "kept": circuit.kept(on_test),
            **{f"KL to {k}": float(v.mean()) for k, v in kl.items()},
            **{f"beta, {k}": v.parameters["beta"] for k, v in fitted.items()},
            "nearer to one step": interval(kl["one step"], kl["first order"]),
        }
    return found


def carrying(circuit: Circuit) -> list[int]:
    """Heads with at least a quarter of the effect of the head that brings in most."""
    hook = f"blocks.{circuit.layer}.{PATTERN}"
    n_heads = circuit.scores.shape[-1]
    lost = circuit.alike.lost({h: probes.Site(hook, circuit.last, h) for h in range(n_heads)})
    most = max(lost.values())
    return [h for h, share in lost.items() if share >= most / 4] or list(lost)


def score_table(trial: Trial) -> ScoreTable:
    """What the form of competing lags gives each product of a pair and a parent.

    Args:
        trial: Of an experiment with the algorithm ``fused``.
    """
    return Circuit.of(trial, Basis.of(trial.task)).score_table(COMPETING)


def measure(trial: Trial, other: ScoreTable | None = None) -> Figures:
    """All figures of a model.

    Args:
        trial: Of an experiment with the algorithm ``fused``.
        other: Another model's table of scores, as null.
    """
    circuit = Circuit.of(trial, Basis.of(trial.task))
    heads, transition = carrying(circuit), circuit.basis.task.transition
    circuits = drawn_again(circuit)
    return {
        "layer": circuit.layer,
        "values": value_figures(circuit),
        "together": joint_figures(circuit, other),
        "pair": with_errors([pair_figures(*pair_codes(c, heads), transition) for c in circuits]),
        "product": products(circuits),
        "mlp": mlp_figures(circuit),
    }


def drawn_again(circuit: Circuit) -> list[Circuit]:
    """The circuit, and again with its forms fitted on endings that are drawn from its own."""
    again = (circuit.basis.again(seed) for seed in range(N_AGAIN))
    return [circuit, *(replace(circuit, basis=basis) for basis in again)]


def products(circuits: Sequence[Circuit]) -> Figures:
    """What ``product_figures`` says, by the form of scores, with standard errors."""
    return {
        form: with_errors([product_figures(c, form) for c in circuits]) for form in (COMPETING, ANY)
    }
