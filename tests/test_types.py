"""What a type checker sees of the public names, from a script of a user's."""

import re
import subprocess
import sys

import pytest

SCRIPT = """
import mtd_lens

model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
reveal_type(model)
card = mtd_lens.score(model, n_sequences=64)
reveal_type(card)
reveal_type(card.claims)
reveal_type(card["prediction.estimator"].verdict)
reveal_type(mtd_lens.localize(model))
"""


@pytest.mark.slow
def test_a_script_of_a_users_is_typed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert [text.replace("builtins.", "") for text in revealed] == [
        "probes.subject.HookedModel",
        "mtd_lens.results.scorecard.Scorecard",
        "tuple[mtd_lens.results.scorecard.ClaimResult, ...]",
        "str",
        "mtd_lens.results.localization.Localization",
    ], done.stdout
    assert "Any" not in "".join(revealed)
    assert done.returncode == 0, done.stdout
