"""The numbers of every question stay what they were; see ``compare.py``."""

import numpy as np
import pytest
from cases import CASES
from compare import VALLEY, VALLEY_WITHIN, WITHIN, compact, compared, stored
from record import record

PARAMETERS = [
    pytest.param(case, id=case.model, marks=[pytest.mark.slow] * case.slow) for case in CASES
]


@pytest.mark.parametrize("case", PARAMETERS)
def test_the_numbers_are_the_stored_ones(case):
    found = compared(case.model, stored(case), compact(record(case)), WITHIN)
    assert {each.command for each in found} == set(case.commands)
    assert all(each.agrees for each in found), "\n".join(
        row for each in found for row in each.rows()
    )


def test_every_command_is_asked_of_every_family_and_kind():
    asked = {}
    for case in CASES:
        family = case.model.split("-")[0]
        kind = case.model.split("/")[1].split("-")[0]
        for command in case.commands:
            asked.setdefault(command.split()[0], set()).update([family, kind])
    kinds = {"constructed", "trained", "random"}
    assert asked.pop("read_weights") == {"mtd"} | kinds
    assert set(asked) == {"score", "localize", "align", "compare", "inspect", "patch"}
    assert all(found == {"mtd", "ngram", "ar"} | kinds for found in asked.values()), asked
    assert len({case.seed for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [CASES[2], CASES[-1]], ids=lambda case: case.model)
def test_a_change_of_any_stored_number_is_noticed(case):
    for command, values in stored(case).items():
        for path, old in values.items():
            more = 2 * (VALLEY_WITHIN if VALLEY.search(path) else WITHIN)
            if isinstance(old, np.ndarray):
                new = old + more * np.maximum(1, np.abs(old))
            elif isinstance(old, int | float) and not isinstance(old, bool):
                new = old + more * max(1, abs(old))
            else:
                new = "something else"
            [found] = compared("", {command: {path: old}}, {command: {path: new}}, WITHIN)
            assert len(found.apart) == 1
