"""The tutorials' scripts, run as a user does, and what they ought to show."""

import re
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "tutorials" / "scripts"


def run(name, capsys, *arguments):
    runpy.run_path(str(FOLDER / name))["main"](*arguments)
    return capsys.readouterr().out


def test_every_script_is_run_here():
    assert {path.name for path in FOLDER.glob("*.py")} == {
        "find_responsibility_heads.py",
        "path_patch_layers.py",
        "interchange_counterfactual.py",
        "score_your_gpt2.py",
    }


@pytest.mark.parametrize(
    "model", ["mtd-q5-m3-t32/constructed-relative", "mtd-q5-m3-t32/trained-disentangled-3l-s0"]
)
def test_find_responsibility_heads(model, capsys, tmp_path):
    figure = tmp_path / "heads.png"
    out = run("find_responsibility_heads.py", capsys, model, str(figure))
    assert "{'layer': 0, 'head': 0} carries most" in out
    assert "resumed from the edited position" in out
    assert figure.stat().st_size > 10_000


def test_path_patch_layers(capsys):
    out = run("path_patch_layers.py", capsys)
    ((direct, through_mean),) = re.findall(
        r"to layer 2 head 0, q +layer 0: +(\S+) +layer 1: +(\S+)", out
    )
    assert abs(float(direct)) < 0.01
    assert float(through_mean) > 0.95


def test_interchange_counterfactual(capsys):
    out = run("interchange_counterfactual.py", capsys)
    scores = [float(x) for x in re.findall(r"layer \d: (-?\d\.\d+)", out)]
    assert scores[2] > 0.9
    assert max(scores[:2]) < 0.2


@pytest.mark.slow
def test_score_your_gpt2(capsys):
    pytest.importorskip("transformer_lens.model_bridge.sources")
    with torch.random.fork_rng():
        out = run("score_your_gpt2.py", capsys, 20, 64)
    assert "after 20 steps" in out
    assert out.count("Runs went through an exact twin of the TransformerBridge.") == 2
    assert "resumed from the edited position, of an exact twin" in out
    assert len(re.findall(r"layer \d: head 0 -?\d\.\d+  head 1 -?\d\.\d+", out)) == 3
