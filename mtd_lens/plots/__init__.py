"""Figures fit for a paper, each with the data behind it.

Drawn through matplotlib's figure objects alone: pyplot is never imported, and no figure stays open.
matplotlib is imported when a figure is asked for, pandas when its data are written.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["plot_attention"],
        "cells": ["LOWEST_SCORE"],
        "comparisons": ["plot_comparisons"],
        "latents": ["plot_latents"],
        "localization": ["plot_localization"],
        "outputs": ["check_figure_path", "svg_text"],
        "predictions": ["plot_predictions"],
        "scatter": ["plot_scatter"],
        "scorecards": ["plot_scorecard"],
        "simplex": ["plot_simplex"],
        "style": ["SHOWN"],
        "training": ["plot_training"],
    },
)
