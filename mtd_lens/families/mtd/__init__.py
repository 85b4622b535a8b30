"""Mixture of Transition Distributions (D'Angelo & Flammarion 2026, arXiv 2604.10848)."""

from mtd_lens.families.mtd.family import MTDFamily

FAMILY = MTDFamily()
