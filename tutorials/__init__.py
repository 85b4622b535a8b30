"""Notebooks, guides, scripts and results, and the generators of what is made of them."""
