"""What no linter says of the tree. That imports go down, import-linter does (`make lint`)."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("mtd_lens", "probes", "tests", "tutorials")
MAX_LINES = 400


def test_modules_stay_small():
    modules = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in modules}
    assert len(lengths) > 100
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
