"""Conclusions in words, and which of like algorithms is nearest."""

import pytest
import torch

from mtd_lens.families.mtd.family import ONE_STEP
from mtd_lens.questions.conclusion import conclusion
from mtd_lens.questions.rivals import nearest_algorithm
from mtd_lens.results.scorecard import ClaimResult, MatrixEntry

VARIABLES = ("mean_value", "prediction")


def result(claim, verdict, layer=2, hook="hook_attn_out", reason="", score=0.9):
    return ClaimResult(
        claim, "", layer, f"blocks.{layer}.{hook} at position 3", score, score - 0.05, score + 0.05,
        0.0, 0.1, 1.0, 0.8, verdict, reason=reason,
    )  # fmt: skip


def entry(claim, layer, low):
    return MatrixEntry(claim=claim, layer=layer, site="", score=low + 0.1, low=low, high=low + 0.2)


@pytest.mark.parametrize(
    ("results", "matrix", "expected"),
    [
        (
            [result("mean_value.interchange", "supported")],
            [],
            "1 of 1 claims supported. Layer 2's attention output carries the mean value.",
        ),
        (
            [
                result("mean_value.interchange", "refuted"),
                result("mean_value.interchange_given_query", "supported", 1),
                result("mean_value.scrubbing_given_query", "supported", 1),
            ],
            [entry("mean_value.scrubbing_given_query", 1, 0.85)],
            "Given the query's own tokens, layer 1's attention output carries the mean value or "
            "a consequence and nothing else.",
        ),
        (
            [
                result("mean_value.interchange", "supported", hook="hook_mlp_out"),
                result("mean_value.scrubbing", "partial"),
            ],
            [entry("mean_value.scrubbing", 2, 0.3)],
            "Layer 2's MLP output carries the mean value, among other things.",
        ),
        (
            [result("mean_value.interchange", "partial", hook="attn.hook_pattern")],
            [],
            "Layer 2's attention pattern carries part of the mean value.",
        ),
        (
            [
                result("mean_value.interchange", "refuted"),
                result("mean_value.scrubbing", "supported", 0),
            ],
            [],
            "Layer 0's attention output passes nothing but the mean value, and little of it.",
        ),
        (
            [result("mean_value.interchange", "refuted")],
            [],
            "No single layer carries the mean value.",
        ),
        (
            [result("mean_value.interchange", "inconclusive")],
            [],
            "Whether a layer carries the mean value was not decided.",
        ),
        (
            [result("mean_value.injection", "supported", 1)],
            [],
            "Layer 1's attention output carries the mean value where the algorithm's own value is "
            "written into it.",
        ),
    ],
)
def test_what_holds_is_said(results, matrix, expected):
    assert expected in conclusion(VARIABLES, results, matrix)


def test_predictions_are_of_a_group_or_of_one():
    group = result("prediction.estimator", "supported", None)
    one = result("prediction.algorithm", "refuted", None, reason="EM is nearer")
    assert conclusion(VARIABLES, [group, one], []).endswith(
        "It predicts like the algorithm's group: EM is nearer."
    )
    held = result("mean_value.interchange", "supported")
    assert conclusion(VARIABLES, [held, group, one], []) == (
        "2 of 3 claims supported. It predicts like the algorithm's group: EM is nearer. By swaps, "
        "which need not tell the two apart, layer 2's attention output carries the mean value."
    )
    alike = result("prediction.algorithm", "not_diagnostic", None, reason="EM cannot be told")
    assert conclusion(VARIABLES, [held, group, alike], []).endswith("EM cannot be told.")
    assert conclusion(VARIABLES, [group], []).endswith("It predicts like the algorithm's group.")
    lost = result("prediction.estimator", "refuted", None)
    assert "is refuted" in conclusion(VARIABLES, [lost, one], [])
    assert ClaimResult.not_made("prediction.estimator", "", "").reason == ""


def distances(**means):
    """Divergences of 200 sequences, each estimator's with noise of its own."""
    generator = torch.Generator().manual_seed(0)
    return {
        name.replace("_", " "): (
            mean * (1 + 0.5 * torch.rand(200, generator=generator, dtype=torch.float64)),
            {},
        )
        for name, mean in means.items()
    }


@pytest.mark.parametrize(
    ("means", "verdict", "reason"),
    [
        (
            {"one_step": 0.1, "EM": 0.3, "exact_Bayes": 0.2},
            "supported",
            "exact Bayes comes nearest",
        ),
        ({"one_step": 0.3, "EM": 0.1, "exact_Bayes": 0.2}, "refuted", "EM is nearer than one step"),
        ({"one_step": 0.1, "EM": 0.1, "uniform": 9.0}, "not_diagnostic", "cannot be told from EM"),
    ],
)
def test_which_algorithm(means, verdict, reason):
    found = nearest_algorithm(ONE_STEP, "prediction", distances(**means), 0)
    assert found.id == "prediction.algorithm"
    assert found.verdict in (verdict, "refuted" if verdict == "not_diagnostic" else verdict)
    if found.verdict == verdict:
        assert reason in found.reason


def test_algorithms_that_contain_it_are_no_rivals():
    means = distances(one_step=0.1, uniform=0.5) | {
        "2 steps, free": (torch.full((200,), 0.01, dtype=torch.float64), {})
    }
    found = nearest_algorithm(ONE_STEP, "prediction", means, 0)
    assert found.verdict == "supported"
    alone = nearest_algorithm(ONE_STEP, "prediction", {"one step": means["one step"]}, 0)
    assert alone.verdict == "not_applicable"


def test_equal_predictions_are_told_apart_by_nothing():
    same = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = nearest_algorithm(ONE_STEP, "prediction", {"one step": (same, {}), "EM": (same, {})}, 0)
    assert (found.verdict, found.score) == ("not_diagnostic", 0)
