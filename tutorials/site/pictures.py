"""Pictures of README and guides: a scorecard's figure, and a dashboard as a browser shows it.

Needs a Chromium on the PATH; run with ``make pictures``.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import mtd_lens
from tutorials.site import PICTURES

SCORED = "mtd-q5-m3-t32/trained-disentangled-3l-s0"
SHOWN = "mtd-q5-m3-t64/trained-attn-only-3l-s0"
WIDTH, HEIGHT = 1180, 1260


def main() -> None:
    """Make both pictures."""
    found = shutil.which("chromium")
    if found is None:
        sys.exit("no Chromium on the PATH; install one first (apt-get install chromium).")
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    card = mtd_lens.score(mtd_lens.load_model(SCORED))
    mtd_lens.plot_scorecard(card, PICTURES / "scorecard.png")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "dashboard.html"
        mtd_lens.dashboard(mtd_lens.load_model(SHOWN)).to_html(path)
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
        page.goto(path.as_uri())
        page.wait_for_selector("#difference-map canvas")
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / "dashboard.png")
        browser.close()


if __name__ == "__main__":
    main()
