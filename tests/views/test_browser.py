"""Dashboards in a real browser, headless Chromium, with the network cut off."""

import re

import pytest
from browsing import CHARTS, HOSTILE, wait_for_charts


def colours(page, selector):
    """Number of distinct colours on each canvas."""
    return page.eval_on_selector_all(
        selector,
        """(canvases) => canvases.map((canvas) => {
            const { width, height } = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            return new Set(new Uint32Array(pixels.buffer)).size;
        })""",
    )


def picture(page, box):
    return page.eval_on_selector(f"{box} canvas", "(canvas) => canvas.toDataURL()")


def pictures(page):
    wait_for_charts(page)
    return [picture(page, box) for box in CHARTS]


@pytest.mark.parametrize("name", ["stock.html", "construction.html", "long.html"])
def test_every_canvas_is_drawn(open_page, name):
    page = open_page(name)
    wait_for_charts(page)
    drawn = colours(page, "canvas")
    heads = page.locator("#heads button").count()
    assert len(drawn) == heads + len(CHARTS)
    assert min(drawn) > 1
    assert heads == {"stock.html": 15, "construction.html": 12, "long.html": 9}[name]


@pytest.mark.parametrize(
    ("name", "what", "heads", "rows"),
    [
        (
            "ngram.html",
            "Prediction of the next token",
            6,
            {"model", "kernel", "maximum likelihood", "exact Bayes", "truth"},
        ),
        (
            "vectors.html",
            "Prediction of the next vector",
            6,
            {"model", "one step", "least squares", "truth"},
        ),
    ],
)
def test_pages_of_other_families(open_page, name, what, heads, rows):
    """What is inferred is the prediction: one table. Vectors are no shares to be shaded."""
    page = open_page(name)
    wait_for_charts(page)
    assert page.locator("#heads button").count() == heads
    assert min(colours(page, "#model-map canvas")) > 1
    assert page.locator("#latent-table").count() == 0
    assert page.locator(f"h3:has-text('{what}')").count() == 1
    table = page.locator("#prediction-table")
    assert set(table.locator("tbody th").all_inner_texts()) == rows
    shaded = table.locator("td").evaluate_all(
        "(cells) => cells.filter((cell) => cell.style.getPropertyValue('--share')).length"
    )
    assert (shaded > 0) == (name == "ngram.html")
    assert ("shares of its magnitude" in page.inner_text("body")) == (name == "vectors.html")
    before = table.inner_text()
    page.select_option("#sequence", "1")
    assert table.inner_text() != before


def coloured(page, selector):
    """Pixels of each canvas that are clearly blue, and clearly orange."""
    return page.eval_on_selector_all(
        selector,
        """(canvases) => canvases.map((canvas) => {
            const { width, height } = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const found = [0, 0];
            for (let at = 0; at < pixels.length; at += 4) {
                if (pixels[at + 3] < 255) continue;
                if (pixels[at + 2] > pixels[at] + 60) found[0] += 1;
                if (pixels[at] > pixels[at + 2] + 60) found[1] += 1;
            }
            return found;
        })""",
    )


def test_negative_attention_is_orange(open_page):
    """In the construction's second layer, whose patterns are inner products of both signs."""
    page = open_page("vectors.html")
    page.click("#heads button:has-text('L1 nearest')")
    wait_for_charts(page)
    for box in ("#model-map", "#analytic-map"):
        [[blue, orange]] = coloured(page, f"{box} canvas")
        assert min(blue, orange) > 100
    [[blue, orange]] = coloured(page, "#heads button:has-text('L1 nearest') canvas")
    assert min(blue, orange) > 5
    scale = page.inner_text("#scale")
    assert page.inner_text("#bar-low").startswith("−")
    assert "0.000 on average over queries (0: the same, 1: no key in common with the same" in scale
    cells = page.eval_on_selector_all(
        "#model-row .colored-tokens span span",
        "(cells) => cells.map((cell) => getComputedStyle(cell).backgroundColor)",
    )
    shades = [tuple(map(float, re.findall(r"[\d.]+", cell)[:3])) for cell in cells]
    values = page.evaluate("attention(1, 0)[15]")
    largest = max(map(abs, values))
    assert min(values) < 0 < max(values)
    for (red, _, blue), value in zip(shades, values, strict=True):
        if abs(value) > largest / 4:
            assert (red > blue) == (value < 0)


def test_attention_with_a_softmax_is_never_orange(open_page):
    page = open_page("stock.html")
    wait_for_charts(page)
    shown = coloured(page, "#heads canvas") + coloured(page, "#model-map canvas")
    assert all(blue > 0 and orange == 0 for blue, orange in shown)
    assert "no key in common)" in page.inner_text("#scale")


def test_vectors_have_their_positions_beside_them(open_page):
    page = open_page("vectors.html")
    wait_for_charts(page)
    row = page.inner_text("#model-row").replace("\xa0", " ")
    for position in (0, 9, 15):
        assert f"{position}: {page.evaluate(f'shownNames()[{position}]')}" in row
    tokens = open_page("ngram.html")
    wait_for_charts(tokens)
    assert ":" not in tokens.inner_text("#model-row")


def test_another_sequence_changes_everything(open_page):
    page = open_page("stock.html")
    before = pictures(page)
    tokens = page.inner_text("#model-row")
    table = page.inner_text("#latent-table")
    thumbnail = picture(page, "#heads button:first-child")
    assert page.locator("figure:visible").count() == 1
    page.select_option("#sequence", "2")
    after = pictures(page)
    assert all(one != two for one, two in zip(before, after, strict=True))
    assert page.inner_text("#model-row") != tokens
    assert page.inner_text("#latent-table") != table
    assert picture(page, "#heads button:first-child") != thumbnail
    assert page.locator("figure:visible").get_attribute("data-sequence") == "2"


def test_another_head_or_pattern_changes_the_maps(open_page):
    page = open_page("stock.html")
    before = pictures(page)
    page.click("#heads button:has-text('L1H2')")
    after = pictures(page)
    assert page.inner_text("#model-title") == "Model: L1H2"
    assert before[0] != after[0]
    assert before[2] != after[2]
    page.select_option("#pattern", label="responsibilities")
    compared = pictures(page)
    assert compared[1] != after[1]
    assert page.inner_text("#analytic-title") == "Algorithm: responsibilities"


def test_the_keyboard_is_enough(open_page):
    page = open_page("stock.html")
    wait_for_charts(page)
    page.click("#heads button:has-text('L0 nearest')")
    assert page.inner_text("#model-title") == "Model: L0 nearest"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#model-title") == "Model: L1H3"
    assert page.evaluate("document.activeElement.textContent") == "L1H3"
    page.focus("#query")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#query-value").startswith("position 62,")
    page.focus("#sequence")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("state.sequence") == 1


def test_tables_hold_the_query_that_is_chosen(open_page):
    page = open_page("construction.html")
    wait_for_charts(page)
    page.fill("#query", "9")
    cells = page.eval_on_selector_all(
        "#latent-table tbody tr:nth-child(2) td", "(cells) => cells.map((c) => c.textContent)"
    )
    expected = page.evaluate("DATA.latents['one step'][0][9].map((value) => value.toFixed(3))")
    assert cells == expected
    page.fill("#query", "1")
    assert "it has no evidence yet" in page.inner_text("#analytic-row")
    assert set(page.inner_text("#latent-table tbody").split()) >= {"–"}


def test_the_construction_is_the_algorithm(open_page):
    """In every layer the nearest heads differ from the layer's pattern nowhere."""
    page = open_page("construction.html")
    for layer in range(3):
        page.click(f"#heads button:has-text('L{layer} nearest')")
        assert "the algorithm's" in page.inner_text("#scale")
        assert "0.000 on average" in page.inner_text("#scale")
    assert page.inner_text("#scorecard-heading") == "Scorecard"
    assert "mixture_weights.interchange" in page.inner_text("section .mtd-lens")


def test_hostile_tokens_are_text(open_page):
    page = open_page("stock.html")
    wait_for_charts(page)
    assert HOSTILE in page.inner_text("#model-row")
    assert HOSTILE in page.inner_text("#prediction-table")
    assert page.locator("script").count() == 3
    assert page.locator("img").count() == 0
    page.hover("#model-row .colored-tokens span span >> nth=0")
    page.wait_for_timeout(100)
    assert page.locator("script").count() == 3


def test_light_and_dark(open_page):
    shade = "getComputedStyle(document.body).backgroundColor"
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 18, 18)")):
        page = open_page("construction.html", color_scheme=scheme)
        assert page.evaluate(shade) == background
        page.click("#theme")
        assert page.evaluate(shade) != background
        page.click("#theme")
        assert page.evaluate(shade) == background


@pytest.mark.parametrize("name", ["stock.html", "construction.html"])
def test_a_narrow_window_does_not_scroll_sideways(open_page, name):
    page = open_page(name, viewport={"width": 400, "height": 800})
    wait_for_charts(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_notebook_cell_draws_it(open_page):
    page = open_page("cell.html")
    frame = page.frame_locator("iframe")
    frame.locator("#difference-map canvas").wait_for()
    assert frame.locator("#heads button").count() == 15


def test_long_contexts_are_cut_with_a_note(open_page):
    page = open_page("long.html")
    wait_for_charts(page)
    assert "The first 256 of 260 positions are shown" in page.inner_text(".note")
    options = page.locator("#window option").all_inner_texts()
    assert options == ["0 to 95", "96 to 191", "160 to 255"]
    assert page.input_value("#window") == "160"
    before = pictures(page)
    page.select_option("#window", label="0 to 95")
    assert pictures(page)[0] != before[0]


def test_short_contexts_have_no_choice_of_positions(open_page):
    page = open_page("construction.html")
    assert not page.is_visible("#window")
    assert page.locator(".note").count() == 0


def test_replaced_charts_are_freed(open_page):
    page = open_page("construction.html")
    wait_for_charts(page)
    page.evaluate("window.kept = Object.values(charts)")
    assert page.evaluate("kept.length") == len(CHARTS)
    n_canvases = page.locator("canvas").count()
    for sequence in (1, 2, 3):
        page.select_option("#sequence", str(sequence))
        wait_for_charts(page)
    assert page.evaluate("kept.every((chart) => chart.ctx === null)")
    assert page.locator("canvas").count() == n_canvases
