"""What tests of pages in a browser share."""

HOSTILE = "</script><script>alert(1)</script>"
CHARTS = ("#model-map", "#analytic-map", "#difference-map")


def wait_for_charts(page):
    for box in CHARTS:
        page.wait_for_selector(f"{box} canvas")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
