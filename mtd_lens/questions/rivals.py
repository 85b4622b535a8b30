"""Which algorithm: is one of the rivals nearer to a model's predictions than the algorithm?"""

import torch

import probes
from mtd_lens import verdicts
from mtd_lens.contracts import Algorithm
from mtd_lens.questions.estimators import Distances
from mtd_lens.results.scorecard import ClaimResult
from mtd_lens.verdicts import Verdict
from probes.statistics.intervals import CONFIDENCE

TEST = "algorithm"


def nearest_algorithm(
    algorithm: Algorithm, variable: str, found: Distances, seed: int
) -> ClaimResult:
    """The claim that the algorithm is nearer to a model than every rival.

    Rivals are the references that do not contain the algorithm as a special case. Differences are
    paired over sequences, and their intervals corrected for the number of rivals (Bonferroni). The
    score, of the rival that is nearest, is ``(rival - own) / (rival + own)`` of mean divergences: 1
    where the model predicts as the algorithm, 0 where the two are as near, -1 where it predicts as
    the rival.

    Args:
        algorithm: That the model is held against.
        variable: The prediction's name.
        found: Divergences of every reference from the model.
        seed: Of the resampling.
    """
    claim = f"{variable}.{TEST}"
    statement = f"Predictions at the last query are nearer to {algorithm.name} than to any rival."
    rivals = [n for n in found if n != algorithm.name and n not in algorithm.containing]
    if algorithm.name not in found or not rivals:
        return ClaimResult.not_made(
            claim, statement, "no rival, or no reference of the algorithm's name"
        )
    own = found[algorithm.name][0]
    others = torch.stack([found[name][0] for name in rivals])
    confidence = 1 - (1 - CONFIDENCE) / len(rivals)
    scores = probes.ratio_intervals(2 * own.expand_as(others), own + others, seed, confidence)
    rows = [
        probes.Interval(*(1.0 if value.isnan() else float(value) for value in figures))
        for figures in zip(*scores, strict=True)
    ]
    # Of rivals that are nearer than the algorithm, one of which that is certain.
    nearest = min(range(len(rivals)), key=lambda i: (rows[i].high >= 0, rows[i].score))
    verdict = _verdict(algorithm.name, dict(zip(rivals, rows, strict=True)), rivals[nearest])
    return ClaimResult(
        id=claim, statement=statement, layer=None, site="output at the last query",
        **vars(rows[nearest]), null=None, null_high=None, ceiling=None, threshold=0.0,
        verdict=verdict.name, reason=verdict.reason, floor=verdict.floor,
        details={"nearest_rival": rivals[nearest]}
        | {f"beside {name}": row.score for name, row in zip(rivals, rows, strict=True)},
    )  # fmt: skip


def _verdict(own: str, scores: dict[str, probes.Interval], nearest: str) -> Verdict:
    if scores[nearest].high < 0:
        reason = (
            f"{nearest} is nearer than {own}: {scores[nearest]}, corrected for {len(scores)} rivals"
        )
        return Verdict(verdicts.REFUTED, reason, 0.0)
    alike = [name for name, score in scores.items() if score.low <= 0]
    if alike:
        reason = (
            f"{own} cannot be told from {', '.join(alike)} by these predictions; more sequences, "
            "or a task on which they differ more, may tell"
        )
        return Verdict(verdicts.NOT_DIAGNOSTIC, reason, 0.0)
    reason = f"{own} is nearer than each of {len(scores)} rivals; {nearest} comes nearest to it"
    return Verdict(verdicts.SUPPORTED, reason, 0.0)
