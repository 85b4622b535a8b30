"""Nothing but errors of our own comes of wrong values, whatever the door and the argument."""

import contextlib

import pytest

from tests.fuzz.calls import call, raw_errors, valid
from tests.fuzz.doors import Door, doors
from tests.fuzz.instances import AtWorkError

DOORS = doors()

pytestmark = pytest.mark.usefixtures("_no_type_checker")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", DOORS)
def test_wrong_values_are_refused_by_errors_of_our_own(name):
    with contextlib.suppress(AtWorkError):
        call(DOORS[name], valid(DOORS[name]))  # what is spoilt is valid before
    assert raw_errors(DOORS[name]) == {}


def test_doors_of_all_kinds_are_found():
    found = {
        "mtd_lens.score",  # a function
        "mtd_lens.Scorecard.from_json",  # a class method
        "mtd_lens.Scorecard.__getitem__",
        "mtd_lens.measures.Interchange.__call__",
        "mtd_lens.families.ngram.fit_sharpness",  # of a family's namespace alone
        "mtd_lens.contracts.Carrier",  # a class of a module
        "probes.Site",
        "probes.total_variation",
    }
    assert found <= set(DOORS)
    assert all(door.parameters for door in DOORS.values())


def careless(model, tokens):
    """A door without a check."""
    return tokens.shape


def test_a_door_without_checks_is_noticed():
    door = Door("careless", doors()["probes.last_outputs"].parameters[:2], careless)
    errors = raw_errors(door)
    assert "tokens = None" in errors
    assert "tokens = int64 tensor" not in errors
    assert errors["tokens = text"].startswith("AttributeError")
