"""What makes the site: results pages, model cards, the story, pictures, notebooks' outputs.

Run from the repository's root:

    python -m tutorials.site.results      # measures trained models, and writes of them
    python -m tutorials.site.notebooks    # runs the notebooks, in place
    python -m tutorials.site.pictures     # makes pictures of README and guides
"""

from pathlib import Path

TUTORIALS = Path(__file__).parent.parent
RESULTS = TUTORIALS / "results"
NOTEBOOKS = TUTORIALS / "notebooks"
PICTURES = TUTORIALS / "pictures"
TEMPLATES = Path(__file__).parent / "templates"
