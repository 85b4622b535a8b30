"""What the README shows, run from top to bottom."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHIPPED = (ROOT / "tutorials" / "guides" / "tasks-and-models.md").read_text()
MAX_LINES = 180


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    """As it stands, but for the length of the training run and its folder."""
    names = {"step": 0}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        shortened = block.replace("steps=8000", "steps=2").replace("runs/gpt", f"{tmp_path}/run")
        shortened = shortened.replace("fit_algorithm(gpt)", "fit_algorithm(gpt, n_sequences=2048)")
        exec(shortened, names)
    assert (names["run"].step, names["run"].model.cfg.d_mlp) == (2, 256)
    pattern = names["cache"]["blocks.2.attn.hook_pattern"][0, 0, -1, -3:].flip(0)
    weights = names["algorithm"].run(names["tokens"])["mixture_weights"][0, -1]
    assert torch.allclose(pattern.double(), weights, atol=1e-5)
    assert names["card"]["mixture_weights.interchange"].verdict == "supported"
    assert "runs none" in names["found"].conclusion


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= MAX_LINES
    places = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", README)
    assert len(places) > 15
    for place in places:
        assert (ROOT / "".join(place)).exists(), place


def test_its_first_screen_says_what_how_and_what_came_out():
    screen = "\n".join(README.splitlines()[:45])
    for part in ("make demo", "make test", "story.svg", "**The question.**", "**How we know.**"):
        assert part in screen


def test_the_guide_names_every_task_model_and_part():
    import mtd_lens

    for part in mtd_lens.PARTS:
        assert f'"{part}"' in SHIPPED
    for name in mtd_lens.list_tasks():
        assert f"`{name}`" in SHIPPED
    trained = expanded(re.findall(r"`((?:mtd|ngram|ar)-[^`\s]+/trained-[^`\s]+)`", SHIPPED))
    for name in mtd_lens.list_models():
        variant = name.split("/")[1]
        assert f"`{variant}`" in SHIPPED or name.split("@")[0] in trained
    assert trained <= set(mtd_lens.list_models())


def expanded(names):
    """``a-{b,c}`` stands for ``a-b`` and ``a-c``."""
    found = set()
    for name in names:
        parts = [part.split(",") for part in re.split(r"[{}]", name)]
        found |= {"".join(choice) for choice in itertools.product(*parts)}
    return found


def test_braces_expand():
    assert expanded(["a-{b,c}-s{0,1}"]) == {"a-b-s0", "a-b-s1", "a-c-s0", "a-c-s1"}


def test_the_demo_is_the_one_that_is_shown():
    makefile = (ROOT / "Makefile").read_text()
    [models] = re.findall(r"^MODELS \?= (.+)$", makefile, re.MULTILINE)
    section = README.split("## What the demo says")[1].split("\n## ")[0]
    shown = re.findall(r"`([^`\n]+)`[^`>]*:\n\n((?:> .+\n)+)", section)
    assert [name for name, _ in shown] == models.split()
    for name, quoted in shown:
        [path] = ROOT.glob(f"mtd_lens/families/*/models/{name}/measurements.json")
        measured = json.loads(path.read_text())["scorecard"]["conclusion"]
        for sentence in re.split(r"(?<=\.) ", " ".join(quoted.replace("> ", "").split())):
            assert sentence.lower() in measured.lower()
