"""Measure the package's trained models, and write the results pages and the model cards.

    python tutorials/make_results.py            # everything, about a minute a model on one core
    python tutorials/make_results.py ngram      # one family
    python tutorials/make_results.py --page     # only the pages, from figures measured before

Writes ``tutorials/results*.md``, ``tutorials/results/`` (data as JSON, figures) and, beside each
checkpoint, ``card.md``. No measured number of the pages is typed.
"""

import argparse

from autoregressive_results import AUTOREGRESSIVE
from model_pages import HERE, data_file
from mtd_results import MTD
from ngram_results import NGRAM

from mtd_lens.results import forms as render

RESULTS = {results.family: results for results in (MTD, NGRAM, AUTOREGRESSIVE)}


def main() -> None:
    """Measure, unless told not to, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*", help=f"of {', '.join(RESULTS)}; by default all")
    parser.add_argument("--page", action="store_true", help="write the pages only")
    parser.add_argument("--missing", action="store_true", help="measure only what was not yet")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.family if name not in RESULTS]
    if unknown:
        parser.error(f"no results of {', '.join(unknown)}; families are {', '.join(RESULTS)}")
    for name in arguments.family or RESULTS:
        results = RESULTS[name]
        if not arguments.page:
            results.studies(missing=arguments.missing)
            wanted = [
                n for n in results.names() if not (arguments.missing and data_file(n).exists())
            ]
            results.measure_all(wanted, arguments.processes)
        models = results.read()
        results.draw(models)
        for path, text in results.pages(models).items():
            render.write_text(path, text)
        print(f"wrote {HERE / results.page}", flush=True)


if __name__ == "__main__":
    main()
