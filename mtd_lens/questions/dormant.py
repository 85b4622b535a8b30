"""Whether a learned subspace works by pathways that lie dormant in natural runs.

A swap of a subspace can act as a variable's although the model does not use the variable there:
the subspace joins a direction that varies with the variable, and that nothing reads, to one that is
read, and in which natural runs hardly vary or vary with something else (Makelov et al. 2023, "Is
this the subspace you are looking for?"). Two signs of it are looked for, each of which a real
variable lacks:

- *The variable there is inert*: everything at the site is swapped, from sources that share the
  query's own tokens, and the model does no better than blind guessing. Without the query's tokens
  held, other variables at the site change as well, and the whole site says nothing.
- *The effect is out of the natural range*: along some principal directions of the site the swap
  shifts activations by far more than natural runs differ, and without those shifts the subspace no
  longer stands out.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.verdicts import ILLUSION, NOT_DIAGNOSTIC, REFERENCE, THRESHOLD, Verdict, decide
from probes.statistics import Interval
from probes.subspaces import Variation

FAR = 5.0
"""Standard deviations of natural runs that a swap's root mean square shift along a principal
direction may reach; those of independent runs differ by √2."""

MUST_NOT_PASS = {
    "random_rotation": "a random rotation",
    "random_weights": "a fit on random weights",
    "arbitrary_labels": "a fit to arbitrary labels",
    "wrong_source": "a wrong source",
    "other_variable": "the other variable's subspace",
}
"""By name in words, what stands beside a learned subspace and must score lower."""


def far_directions(
    variation: Variation, shift: Float[Tensor, "row position component"]
) -> tuple[Float[Tensor, "component direction"], float]:
    """Principal directions along which a swap leaves the natural range, and its largest shift.

    Args:
        variation: Of natural runs.
        shift: ``[row, position, component]``: what the swap adds to each base.

    Returns:
        ``[component, direction]``: orthonormal columns, none where it stays within ``FAR``; and the
        largest root mean square shift along any principal direction, in standard deviations.
    """
    sizes = variation.in_deviations(shift)
    return variation.directions[:, sizes > FAR], float(sizes.max())


def noise_subspace(
    differences: Float[Tensor, "row position component"],
    span: Float[Tensor, "component direction"],
    width: int,
    seed: int,
) -> Float[Tensor, "component width"]:
    """What a map from noise to a site's differences, fitted by least squares, writes to.

    Args:
        differences: ``[row, position, component]``: sources less bases.
        span: ``[component, direction]``: in which to stay.
        width: How many numbers of noise a row.
        seed: Of the noise.
    """
    flat = differences.flatten(0, -2).to(span) @ span
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(flat), width, generator=generator, dtype=span.dtype)
    return span @ torch.linalg.qr(torch.linalg.lstsq(noise, flat).solution.T).Q


def judged(
    scores: Mapping[str, Interval],
    furthest: float,
    *,
    given_query: bool,
    all_of_it: bool,
    threshold: float = THRESHOLD,
) -> Verdict:
    """The verdict on an alignment, with its reason in words.

    Args:
        scores: By name, as in ``AlignmentReport``.
        furthest: The largest shift along a principal direction, in natural standard deviations.
        given_query: Whether ``whole_site`` is of sources that share the query's own tokens.
        all_of_it: Whether the subspace holds every direction that was searched, so that a random
            rotation is the same.
        threshold: What a supported alignment's interval must lie above.
    """
    learned = scores["learned"]
    beside = {
        words: scores[name]
        for name, words in MUST_NOT_PASS.items()
        if name in scores and not (all_of_it and name == "random_rotation")
    }
    plain = decide(learned, beside, None, threshold)
    works = learned.low > threshold or learned.low > plain.floor
    signs = _signs(scores, furthest, given_query, plain.floor) if works else []
    if signs:
        reason = f"the subspace scores {learned}, but {' and '.join(signs)}"
        return Verdict(ILLUSION, reason, plain.floor)
    reason = plain.reason
    if plain.name == NOT_DIAGNOSTIC:
        reason += ": a subspace of this width tells nothing here"
    if works and all_of_it:
        reason += "; the subspace is all of the site that varies"
    elif works:
        reason += _beside_noise(scores)
    return Verdict(plain.name, reason, plain.floor)


def _signs(
    scores: Mapping[str, Interval], furthest: float, given_query: bool, floor: float
) -> list[str]:
    signs = []
    whole = scores.get("whole_site" if given_query else "whole_site_given_query")
    if whole is not None and whole.high <= REFERENCE:
        signs.append(
            f"the whole site, from sources that share the query's own tokens, scores {whole}, no "
            "better than blind guessing: the variable there is inert"
        )
    within = scores.get("within_range")
    if within is not None and within.low <= floor:
        signs.append(
            f"it shifts activations by up to {furthest:.0f} natural standard deviations, and "
            f"scores {within} without those shifts, no longer above {max(floor, 0):.3f}: the "
            "effect comes from directions that natural runs do not use"
        )
    return signs


def _beside_noise(scores: Mapping[str, Interval]) -> str:
    noise, learned = scores.get("noise"), scores["learned"]
    if noise is None:
        return ""
    beside = f"; a subspace of the same width fitted to noise scores {noise}"
    if noise.high >= learned.low:
        return f"{beside}, as much: that the subspace carries it shows only that the site is narrow"
    return beside
