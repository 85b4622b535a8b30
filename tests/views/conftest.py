"""A browser with the network cut off, and dashboards to open in it."""

import os
import shutil

import pytest
import torch
from browsing import HOSTILE
from conftest import stock, transition

import mtd_lens

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium on the PATH (one of {', '.join(BROWSERS)}); CHROMIUM names one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, task):
    """Files of dashboards, by name."""
    folder = tmp_path_factory.mktemp("pages")
    shipped = mtd_lens.load_model("mtd-q5-m3-t64/trained-attn-only-3l-s0")
    names = [HOSTILE, "<img src=x onerror=alert(2)>", "&lt;", "a b", "<!--"]
    made = mtd_lens.dashboard(shipped, token_names=names)
    made.to_html(folder / "stock.html")
    (folder / "cell.html").write_text(f"<!doctype html><body>{made._repr_html_()}</body>", "utf-8")
    construction = mtd_lens.construct(task, beta=6.0, dtype=torch.float64)
    mtd_lens.dashboard(
        construction, scorecard=mtd_lens.score(construction, n_sequences=64)
    ).to_html(folder / "construction.html")
    for file, name in (
        ("ngram.html", "ngram-q3-s12-t32/constructed-absolute"),
        ("vectors.html", "ar-d3-t16/constructed-one-step"),
    ):
        mtd_lens.dashboard(mtd_lens.load_model(name), n_sequences=2).to_html(folder / file)
    long = mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=260)
    long_model = stock(long, "attn-only", d_model=8, n_heads=2)
    mtd_lens.dashboard(long_model, n_sequences=1).to_html(folder / "long.html")
    return folder


@pytest.fixture
def open_page(browser, pages):
    """Open a page offline; afterwards nothing may have been logged, asked for or popped up."""
    complaints, contexts = [], []

    def opened(name, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        url = (pages / name).as_uri()
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if not request.url.startswith((url, "data:", "about:"))
                else None
            ),
        )
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
