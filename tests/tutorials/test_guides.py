"""The code of the guides, run as it stands."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mtd_lens import registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "tutorials"

GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("guides/*.md")}


def blocks_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


OTHER_VERSION = pytest.mark.skipif(
    int(version("transformer-lens").split(".")[0]) < 4, reason="is about transformer-lens 4"
)
RUN = [
    pytest.param(name, marks=OTHER_VERSION if name == "transformer-lens-4" else pytest.mark.slow)
    for name in GUIDES
    if name != "adding-a-family"
]


@pytest.mark.parametrize("name", RUN)
def test_the_python_of_the_guides_runs(name, tmp_path, monkeypatch):
    """As it stands, but for the length of the training run; comments say the verdicts."""
    monkeypatch.chdir(tmp_path)
    for table in ("_tasks", "_models"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    names = {}
    state = torch.get_rng_state()
    for block in blocks_of(GUIDES[name]):
        exec(block.replace("steps=16_000", "steps=2"), names)
        for expression, shown in re.findall(r"^(\S.*)  # (?:.*: )?('\w+')$", block, re.MULTILINE):
            assert repr(eval(expression, names)) == shown
    torch.set_rng_state(state)  # transformer_lens draws a new model's weights from it


def test_the_guide_to_families_shows_the_one_that_is_tested():
    toy = (ROOT / "tests" / "toys" / "copying.py").read_text(encoding="utf-8")
    blocks = blocks_of(GUIDES["adding-a-family"])
    assert len(blocks) == 4
    for block in blocks:
        assert block.strip() in toy
