"""The one decision table, line by line."""

import pytest

from mtd_lens.verdicts import IN_WORDS, decide
from probes import Interval


def at(low, high):
    return Interval((low + high) / 2, float(low), float(high))


ONE = at(1.0, 1.0)
LOW = {"a random model": at(-0.1, 0.1)}


@pytest.mark.parametrize(
    ("score", "beside", "ceiling", "dose", "refuted", "verdict", "reason"),
    [
        (at(0.9, 0.95), LOW, ONE, None, None, "supported", "above 0.8 and above what a random"),
        (at(0.9, 0.95), LOW, None, None, None, "supported", "above 0.8"),
        (at(0.9, 0.95), LOW, ONE, at(0.9, 1.1), None, "supported", "at a dose of 1.000"),
        (at(0.9, 0.95), LOW, ONE, at(0.75, 0.9), None, "partial", "the dose is 0.825"),
        (at(0.9, 0.95), LOW, ONE, at(1.2, 1.3), None, "partial", "not within 0.8 to 1.25"),
        (at(0.9, 0.95), LOW, ONE, None, "p.e", "partial", "p.e is refuted"),
        (at(0.7, 0.9), LOW, ONE, None, None, "partial", "does not lie above 0.8"),
        (at(0.2, 0.3), LOW, ONE, None, None, "partial", "above what a random model may reach"),
        (at(0.02, 0.08), LOW, ONE, None, None, "refuted", "no higher than what a random model"),
        (at(0.05, 0.2), LOW, ONE, None, None, "inconclusive", "holds what a random model"),
        (at(-0.1, 0.2), {}, ONE, None, None, "inconclusive", "holds the reference's score of 0"),
        (at(-9, -8), {"x": at(-20, -19)}, ONE, None, None, "refuted", "the reference's score"),
        (at(0.9, 0.95), {"x": at(0.7, 0.85)}, ONE, None, None, "not_diagnostic", "x scores 0.775"),
        (at(-0.7, -0.6), {"x": at(0.7, 0.85)}, ONE, None, None, "not_diagnostic", "reaches 0.8"),
        (at(0.1, 0.2), LOW, at(0.3, 0.5), None, None, "not_diagnostic", "the construction itself"),
        (
            at(0.9, 0.95),
            LOW | {"y": at(0.5, 0.7)},
            ONE,
            None,
            None,
            "supported",
            "what y may reach",
        ),
        (at(0.6, 0.95), LOW | {"y": at(0.5, 0.7)}, ONE, None, None, "inconclusive", "what y may"),
    ],
)
def test_each_line(score, beside, ceiling, dose, refuted, verdict, reason):
    found = decide(score, beside, ceiling, 0.8, dose, refuted)
    assert found.name == verdict
    assert reason in found.reason
    assert found.floor >= 0


def test_every_verdict_has_words():
    assert all(IN_WORDS.values())
