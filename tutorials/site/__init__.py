"""What makes the site: results pages and model cards, the README's pictures, notebooks' outputs.

Run from the repository's root:

    python -m tutorials.site.results      # measures trained models, and writes pages and cards
    python -m tutorials.site.notebooks    # runs the notebooks, in place
    python -m tutorials.site.pictures     # makes the README's pictures
"""

from pathlib import Path

TUTORIALS = Path(__file__).parent.parent
RESULTS = TUTORIALS / "results"
NOTEBOOKS = TUTORIALS / "notebooks"
PICTURES = TUTORIALS / "pictures"
TEMPLATES = Path(__file__).parent / "templates"
