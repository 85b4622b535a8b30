"""What a scorecard comes to, in two or three sentences."""

import re
from collections.abc import Iterable, Mapping, Sequence

from mtd_lens.results.scorecard import ClaimResult, MatrixEntry
from mtd_lens.verdicts import NOT_APPLICABLE, NOT_DIAGNOSTIC, PARTIAL, REFUTED, SUPPORTED

CARRIES = ("interchange", "interchange_given_query", "injection")
"""Tests of whether a layer carries a variable, the strictest first."""

BY_SWAPS = "by swaps, which need not tell the two apart, "
"""Begins what layers carry where a rival is nearer to the predictions than the algorithm."""

WRITES = {"hook_attn_out": "attention output", "hook_mlp_out": "MLP output"}
"""Hooks in words; others by their own name."""


def conclusion(
    variables: Sequence[str], results: Sequence[ClaimResult], matrix: Iterable[MatrixEntry]
) -> str:
    """How many claims hold, where each variable is carried, and what the predictions are those of.

    Args:
        variables: Of the causal model, in order; the last one is the prediction.
        results: Of every claim.
        matrix: Of every claim at every layer.
    """
    tested = [result for result in results if result.verdict != NOT_APPLICABLE]
    supported = sum(result.verdict == SUPPORTED for result in tested)
    by_id = {result.id: result for result in results}
    *inner, prediction = variables
    entries = list(matrix)
    places = [text for name in inner if (text := _carried(name, by_id, entries))]
    carried, predicted = "; ".join(places), _predicted(prediction, by_id)
    sentences = [carried, predicted]
    swapped = [r for name, r in by_id.items() if name.rpartition(".")[2] in CARRIES]
    found = any(result.verdict in (SUPPORTED, PARTIAL) for result in swapped)
    if found and _has_nearer_rival(prediction, by_id):
        sentences = [predicted, f"{BY_SWAPS}{carried}"]
    told = [f"{text[0].upper()}{text[1:]}." for text in sentences if text]
    return " ".join([f"{supported} of {len(tested)} claims supported.", *told])


def _carried(
    variable: str, results: Mapping[str, ClaimResult], matrix: Sequence[MatrixEntry]
) -> str | None:
    """Where a variable is carried, and whether anything else passes there."""
    words = f"the {variable.replace('_', ' ')}"
    found = [r for test in CARRIES if (r := results.get(f"{variable}.{test}"))]
    found = [r for r in found if r.verdict != NOT_APPLICABLE]
    if not found:
        return None
    for verdict in (SUPPORTED, PARTIAL):
        for result in found:
            if result.verdict == verdict:
                whole = words if verdict == SUPPORTED else f"part of {words}"
                if _is_given_query(result):  # the whole last stream would pass there, too
                    whole += " or a consequence"
                return _at(result, f"carries {whole}") + _passes(result, results, matrix)
    scrubbed = [r for n, r in results.items() if n.startswith(f"{variable}.scrubbing")]
    passed = next((r for r in scrubbed if r.verdict == SUPPORTED), None)
    refuted = all(result.verdict == REFUTED for result in found)
    if passed is not None:
        return _at(passed, f"passes nothing but {words}{', and little of it' if refuted else ''}")
    if refuted:
        return f"no single layer carries {words}"
    return f"whether a layer carries {words} was not decided"


def _at(result: ClaimResult, does: str) -> str:
    """``given the query's own tokens, layer 2's attention output carries …``."""
    match = re.match(r"blocks\.\d+\.(\S+)", result.site or "")
    hook = match[1].rstrip(",") if match else "activation"
    words = WRITES.get(hook) or f"attention {hook.rpartition('hook_')[2].replace('_', ' ')}"
    where = f"layer {result.layer}'s {words} {does}"
    if result.id.endswith(".injection"):
        return f"{where} where the algorithm's own value is written into it"
    return f"given the query's own tokens, {where}" if _is_given_query(result) else where


def _is_given_query(result: ClaimResult) -> bool:
    return result.id.endswith("given_query")


def _passes(
    result: ClaimResult, results: Mapping[str, ClaimResult], matrix: Sequence[MatrixEntry]
) -> str:
    """Whether anything but the variable passes at the layer that carries it."""
    variable = result.id.rpartition(".")[0]
    for entry in matrix:
        if entry.claim.startswith(f"{variable}.scrubbing") and entry.layer == result.layer:
            scrubbed = results[entry.claim]
            if scrubbed.verdict == NOT_DIAGNOSTIC:
                return ""
            return " and nothing else" if entry.low > scrubbed.threshold else ", among other things"
    return ""


def _has_nearer_rival(prediction: str, results: Mapping[str, ClaimResult]) -> bool:
    """Whether predictions are like those of the algorithm's group, and most like a rival's."""
    wanted = {"estimator": SUPPORTED, "algorithm": REFUTED}
    found = {test: results.get(f"{prediction}.{test}") for test in wanted}
    return all(result and result.verdict == wanted[test] for test, result in found.items())


def _predicted(prediction: str, results: Mapping[str, ClaimResult]) -> str | None:
    """What the predictions are those of."""
    group, one = (results.get(f"{prediction}.{test}") for test in ("estimator", "algorithm"))
    if group is None or group.verdict == NOT_APPLICABLE:
        return None
    if group.verdict != SUPPORTED:
        return f"that it predicts like the algorithm's group is {group.verdict.replace('_', ' ')}"
    if one is None or one.verdict == NOT_APPLICABLE:
        return "it predicts like the algorithm's group"
    return f"it predicts like the algorithm's group: {one.reason}"
