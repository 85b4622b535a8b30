"""Measure the package's trained models, and write the results pages and the model cards.

    python -m tutorials.site.results            # everything, about a minute a model on one core
    python -m tutorials.site.results ngram      # one page
    python -m tutorials.site.results --page     # only the pages, from figures measured before

Writes pages and figures into ``tutorials/results/`` and, beside each checkpoint, ``card.md`` and
``measurements.json``; and of what was measured the story of README, home page and notebook 3, with
diagrams. No measured number of the pages is typed.
"""

import argparse
from collections.abc import Sequence

from probes import files
from tutorials.site.algorithms import ALGORITHMS
from tutorials.site.autoregressive import AUTOREGRESSIVE
from tutorials.site.fitted import FITTED_PAGE
from tutorials.site.mtd import MTD
from tutorials.site.ngram import NGRAM
from tutorials.site.pages import Page
from tutorials.site.paper import PAPER
from tutorials.site.standard import STANDARD
from tutorials.site.story import STORY

RESULTS = {results.family: results for results in (MTD, NGRAM, AUTOREGRESSIVE)}
"""Of a family's trained models, a page each."""

PAGES: dict[str, Page] = RESULTS | {
    page.family: page for page in (ALGORITHMS, FITTED_PAGE, STANDARD, PAPER, STORY)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, unless told not to, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help=f"of {', '.join(PAGES)}; by default all")
    parser.add_argument("--page", action="store_true", help="write the pages only")
    parser.add_argument("--missing", action="store_true", help="measure only what was not yet")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    unknown = [name for name in given.pages if name not in PAGES]
    if unknown:
        parser.error(f"no results of {', '.join(unknown)}; pages are {', '.join(PAGES)}")
    for name in given.pages or PAGES:
        results = PAGES[name]
        if not given.page:
            results.measure(missing=given.missing, processes=given.processes)
        models = results.read()
        results.draw(models)
        for path, text in results.pages(models).items():
            files.write_text(path, text)
        print(f"wrote {results.page}", flush=True)


if __name__ == "__main__":
    main()
