"""What is released says in one way which version it is."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_version_has_its_day_and_its_list_of_changes():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    [day] = re.findall(r'^date-released: "(\d{4}-\d\d-\d\d)"$', citation, re.M)
    assert re.findall(r"^version: (.+)$", citation, re.M) == [version]
    released = re.findall(r"^## \[(\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == f"{version}] - {day}"
