"""Dashboards: seconds to make, size, and seconds until the patterns are drawn in Chromium.

Beside them, what CircuitsVis alone makes of the attention of one sequence. Run with ``make bench``;
without a Chromium, the drawing is left out. Nothing here is an assertion.
"""

import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import circuitsvis
import torch

import mtd_lens
from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig
from mtd_lens.printing import text_table

REPETITIONS = 5
LENGTHS = (64, 256)

PATIENCE = 30
"""Seconds until a page is given up."""


def model_of(length: int) -> tuple[Any, Any]:
    """A random model of 3 layers and 4 heads, and its task."""
    transition = mtd_lens.load_task("mtd-q5-m3-t64").transition
    task = mtd_lens.MTDTask(transition, order=3, seq_len=length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        shape = {"n_layers": 3, "n_heads": 4, "d_model": 64, "d_head": 16, "d_vocab": 5}
        config = HookedTransformerConfig(
            **shape, n_ctx=length, act_fn="relu", default_prepend_bos=False
        )
        return HookedTransformer(config), task


def first_drawn(browser: Any, path: Path, selector: str) -> str:
    """Seconds from opening a page until a canvas of this selector is there."""
    from playwright.sync_api import TimeoutError

    times = []
    for _ in range(REPETITIONS):
        page = browser.new_page()
        start = time.perf_counter()
        try:
            page.goto(path.as_uri())
            page.wait_for_selector(selector, timeout=1e3 * PATIENCE)
        except TimeoutError:
            return f"> {PATIENCE}"
        finally:
            page.close()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):.2f}"


def measure(folder: Path, browser: Any) -> list[list[str]]:
    rows = []
    for length in LENGTHS:
        model, task = model_of(length)
        ours, theirs = folder / f"ours-{length}.html", folder / f"theirs-{length}.html"
        mtd_lens.dashboard(model, task=task, n_sequences=1).to_html()  # imports
        times = []
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            page = mtd_lens.dashboard(model, task=task)
            page.to_html(ours)
            times.append(time.perf_counter() - start)
        attention = page.inspection.attention[:, :, 0].flatten(0, 1)
        tokens = [str(token) for token in page.inspection.tokens[0].tolist()]
        view = circuitsvis.attention.attention_heads(attention, tokens)
        theirs.write_text(view.local_src, "utf-8")
        for name, path, selector, made in (
            ("dashboard, 4 sequences", ours, "#difference-map canvas", statistics.median(times)),
            ("circuitsvis.attention_heads, 1 sequence", theirs, "canvas >> nth=12", None),
        ):
            drawn = first_drawn(browser, path, selector) if browser else "–"
            rows.append(
                [
                    f"T={length}",
                    name,
                    "–" if made is None else f"{made:.2f}",
                    f"{path.stat().st_size / 1e6:.2f}",
                    drawn,
                ]
            )
    return rows


def main() -> None:
    header = ["context", "page", "made, s", "size, MB", "drawn, s"]
    found = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder:
        if found is None:
            rows = measure(Path(folder), None)
        else:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=found, args=["--no-sandbox", "--disable-gpu"]
                )
                rows = measure(Path(folder), browser)
    print("3 layers, 4 heads; medians of 5")
    print(text_table(header, rows, left=(0, 1)))


if __name__ == "__main__":
    main()
