"""In-context n-grams and generalized induction heads (Chen et al. 2024, arXiv 2409.10559)."""

from mtd_lens.families.ngram.family import NGramFamily

FAMILY = NGramFamily()
