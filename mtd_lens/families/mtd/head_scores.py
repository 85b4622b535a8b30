"""The scores of every head at the last query, beside what windows of keys and parents give."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import NotApplicable
from mtd_lens.families.mtd.score_form import CHUNK, OF_LAST, OWN, PAIRS, RIDGE, Products
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.head_scores import HeadScores
from mtd_lens.shapes import Tokens
from probes.capture import NaturalRuns
from probes.errors import SiteError
from probes.subject import HookedModel, subject_of

N_FIT = 256
"""Sequences to which forms are fitted."""

FIT_SEED = 7
"""Of these sequences, the same for all models."""

LEAST = 1e-3
"""Of the root mean square of scores; smaller ones hardly change a softmax."""

FORM = (
    "tables of a key's window with the query's own parent of its lag, of windows alone, and of a "
    "key's last token with any parent"
)


def head_scores(
    model: HookedModel, task: MTDTask, tokens: Tokens, other: Int[Tensor, "other whole"]
) -> HeadScores | None:
    """Scores of the keys whose windows end before the query's own tokens; see ``score_form``.

    Args:
        model: A hooked model.
        task: The task.
        tokens: ``[sequence, position]``: what is shown.
        other: ``[other, whole]``: whole sequences, on which the fit is tested.

    Returns:
        None where there are too many products to fit, too few keys, contexts of other lengths than
        the task's, or no scores to read.
    """
    if tokens.shape[1] != task.seq_len:
        return None
    try:
        products = Products(task)
        fit = task.sample(N_FIT, FIT_SEED).tokens.to(tokens.device)
        scores = [_scores(model, part, products) for part in (fit, other, tokens)]
    except (NotApplicable, SiteError):
        return None
    design = products.design(OWN, PAIRS, OF_LAST).to(tokens.device)
    n_coefficients = design.shape[1]
    squares, moments = torch.zeros(n_coefficients, n_coefficients), torch.zeros(())
    for part, scored in zip(fit.split(CHUNK), scores[0].split(CHUNK), strict=True):
        x = (products.of(part) @ design).flatten(0, 1)
        squares = squares.to(x) + x.T @ x
        moments = moments + x.T @ scored.flatten(0, 1)
    ridge = RIDGE * squares.diagonal().clamp_min(squares.diagonal().mean() * RIDGE)
    fitted = design @ torch.linalg.solve(squares + ridge.diag(), moments)
    of_other, of_shown = (products.of(part) @ fitted for part in (other, tokens))
    left = (scores[1] - of_other).square().sum((0, 1))
    total = scores[1].square().sum((0, 1))
    varies = total > LEAST**2 * scores[1][..., 0].numel()
    explained = torch.where(varies, 1 - left / total, torch.nan)
    layers = (subject_of(model).n_layers, -1)
    return HeadScores(
        form=FORM,
        keys=tuple(products.keys),
        measured=scores[2].movedim(-1, 0).unflatten(0, layers).float().cpu(),
        fitted=of_shown.movedim(-1, 0).unflatten(0, layers).float().cpu(),
        explained=explained.unflatten(0, layers).float().cpu(),
    )


def _scores(
    model: HookedModel, tokens: Tokens, products: Products
) -> Float[Tensor, "sequence key head"]:
    """Scores of all layers' heads, one after another, less their mean over keys."""
    last, keys = (tokens.shape[1] - 1,), products.keys
    n_layers = subject_of(model).n_layers
    sites = [probes.Site(f"blocks.{n}.attn.hook_attn_scores", last) for n in range(n_layers)]
    found = torch.cat(NaturalRuns(model, tokens).read(sites), 1)[:, :, 0, keys.start : keys.stop]
    found = found.double().mT
    return found - found.mean(1, keepdim=True)
