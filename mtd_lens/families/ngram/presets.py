"""Named n-gram tasks."""

from mtd_lens.families.ngram.task import NGramTask

SHAPES = {
    "ngram-q3-s12-t32": (3, (1, 2), 2, 32),
    "ngram-q3-s12-t100": (3, (1, 2), 2, 100),  # that of Chen et al. 2024
    "ngram-q3-s13-t60": (3, (1, 3), 3, 60),
}
"""Tokens, parents, window and length of each; rows are ~ Dirichlet(0.1)."""

PRESETS = {name: NGramTask(*shape, name=name) for name, shape in SHAPES.items()}
