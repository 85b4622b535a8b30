"""What a dashboard says beside attention: swaps, scores, doses and verdicts, in a real browser."""

import re

import pytest
import torch
from browsing import wait_for_charts

import mtd_lens


def test_a_page_opens_on_the_head_that_is_the_algorithm_s(open_page):
    page = open_page("construction.html")
    wait_for_charts(page)
    assert re.fullmatch(r"Model: L2H\d", page.inner_text("#model-title"))
    assert page.inner_text("#analytic-title") == "Algorithm: mixture weights"
    assert " 0.000 on average" in page.inner_text("#scale")
    assert re.fullmatch(r"L\dH\d", page.inner_text("#heads [aria-pressed='true']"))


def test_a_colour_bar_says_where_colours_are_full(open_page):
    page = open_page("stock.html")
    wait_for_charts(page)
    end = page.evaluate("scaleOf(attention(state.layer, state.head), analytic(state.pattern))")
    low, middle, high = (page.inner_text(f"#bar-{at}") for at in ("low", "middle", "high"))
    assert (low.split()[0], middle, high.split()[0]) == (
        f"−{float(high.split()[0]):g}",
        "0",
        high.split()[0],
    )
    assert float(high.split()[0]) == pytest.approx(end, rel=0.06)
    shown = page.evaluate("getComputedStyle(find('bar')).backgroundImage")
    assert shown.index("rgb(213, 94, 0)") < shown.index("rgb(0, 114, 178)")


def test_swaps_given_the_query_end_as_the_algorithm_s_in_the_construction(open_page):
    page = open_page("construction.html")
    rows = page.evaluate("DATA.given.predictions")
    names = list(rows)
    algorithm = torch.tensor(rows[names[2]])
    assert names[2] == "algorithm, mean responsibility of the source"
    swapped = torch.tensor(rows["model, layer 1's attention output of the source"])
    assert torch.allclose(swapped, algorithm, atol=2e-3)
    assert not torch.allclose(torch.tensor(rows["model, sequence"]), algorithm, atol=2e-2)
    own = page.evaluate("DATA.given.n_own")
    sequence, source = page.evaluate("[DATA.tokens[0], DATA.given.sources[0]]")
    assert sequence[-own:] == source[-own:]
    assert source[:-own] == page.evaluate("DATA.tokens[1]")[:-own]
    before = page.inner_text("#given-table")
    assert page.inner_text("#given-source mark").split() == [f"{token}" for token in source[-own:]]
    page.select_option("#sequence", "1")
    assert page.inner_text("#given-table") != before


def test_scores_stand_beside_their_fitted_form(open_page):
    page = open_page("stock.html")
    wait_for_charts(page)
    bars = page.locator("#scores-chart rect.measured")
    assert bars.count() == page.evaluate("DATA.scores.keys.length")
    assert "R² on other sequences: 0." in page.inner_text("#scores-words")
    drawn = page.inner_html("#scores-chart")
    page.click("#heads button:has-text('L2H2')")
    assert page.inner_html("#scores-chart") != drawn
    page.click("#heads button:has-text('L2 nearest')")
    assert bars.count() == 0
    assert page.inner_text("#scores-words") == "Choose a single head."
    assert open_page("ngram.html").locator("#scores-heading").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_are_in_sight_on_a_phone(open_page, scheme):
    size = {"width": 390, "height": 844}
    page = open_page("construction.html", viewport=size, is_mobile=True, color_scheme=scheme)
    wait_for_charts(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".summary .verdict").first.bounding_box()
    assert box["y"] + box["height"] < 844  # before any scrolling
    verdicts = page.locator("td .verdict")
    assert verdicts.count() > 10
    for index in range(verdicts.count()):
        box = verdicts.nth(index).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    paper = page.evaluate("getComputedStyle(document.querySelector('.mtd-lens')).backgroundColor")
    assert paper == page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_doses_are_drawn_where_they_are(open_page):
    page = open_page("construction.html")
    circles = page.locator("svg.dose circle")
    assert circles.count() >= 3
    places = circles.evaluate_all("(all) => all.map((circle) => Number(circle.getAttribute('cx')))")
    assert places == pytest.approx([150] * len(places), abs=5)  # of a dose of 1


def test_names_stay_beside_the_figures_on_a_narrow_screen(browser, tmp_path):
    model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative")
    page_of = mtd_lens.score(model, n_sequences=64, quick=True).to_html(tmp_path / "card.html")
    assert "interchange_" in page_of
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((tmp_path / "card.html").as_uri())
    first = page.locator(".scroll").first
    name = first.locator("td.name").first
    before = name.bounding_box()
    assert before["width"] <= 0.45 * 390
    fading = "box => getComputedStyle(box).maskImage"
    assert "gradient" in first.evaluate(fading)
    first.evaluate("box => box.scrollLeft = box.scrollWidth")
    page.wait_for_function("box => box.scrollLeft > 100", arg=first.element_handle())
    after = name.bounding_box()
    assert after == before
    figures = first.locator("tr").nth(1).locator("td").last.bounding_box()
    assert figures["x"] + figures["width"] <= 390
    assert "gradient" not in first.evaluate(fading)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cells_of_layers_stand_out_the_more_the_better_they_score(browser, tmp_path, scheme):
    model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative")
    mtd_lens.score(model, n_sequences=64, quick=True).to_html(tmp_path / "card.html")
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto((tmp_path / "card.html").as_uri())
    cells = page.eval_on_selector_all(
        ".matrix td.cell[style]",
        """(cells) => cells.map((cell) => {
             const style = getComputedStyle(cell);
             return [Number(cell.textContent), style.backgroundColor, style.color];
           })""",
    )
    paper = 255 if scheme == "light" else 18
    low, high = [], []
    for score, background, ink in cells:
        *colour, alpha = [*map(float, re.findall(r"[\d.]+", background)), 1.0][:4]
        shown = [alpha * channel + (1 - alpha) * paper for channel in colour]
        assert abs(luminance(shown) - luminance(re.findall(r"[\d.]+", ink))) > 0.12
        if score <= 0:
            low.append(abs(luminance(shown) - luminance([paper] * 3)))
        elif score > 0.9:
            high.append(abs(luminance(shown) - luminance([paper] * 3)))
    assert max(low) < 0.001
    assert min(high) > 0.1
    context.close()


def luminance(rgb):
    red, green, blue = ((float(channel) / 255) ** 2.2 for channel in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
