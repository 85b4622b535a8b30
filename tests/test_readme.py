"""What the README shows, run from top to bottom."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_python_of_the_readme_runs():
    names = {"step": 0}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    pattern = names["cache"]["blocks.2.attn.hook_pattern"][0, 0, -1, -3:].flip(0)
    weights = names["algorithm"].run(names["tokens"])["mixture_weights"][0, -1]
    assert torch.allclose(pattern.double(), weights, atol=1e-5)
    assert names["card"]["mixture_weights.interchange"].verdict == "supported"
    names["loss"].backward()


def test_the_commands_and_parts_that_it_names_exist():
    import mtd_lens

    for part in mtd_lens.PARTS:
        assert f'"{part}"' in README
    for name in mtd_lens.list_tasks():
        assert f"`{name}`" in README
    for variant in {name.split("/")[1] for name in mtd_lens.list_models()}:
        assert f"`{variant}`" in README
