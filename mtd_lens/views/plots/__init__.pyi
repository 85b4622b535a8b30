from .attention import plot_attention as plot_attention
from .cells import LOWEST_SCORE as LOWEST_SCORE
from .comparisons import plot_comparisons as plot_comparisons
from .competition import plot_competition as plot_competition
from .fitted import plot_fitted as plot_fitted
from .latents import plot_latents as plot_latents
from .localization import plot_localization as plot_localization
from .outputs import check_figure_path as check_figure_path, svg_text as svg_text
from .predictions import plot_predictions as plot_predictions
from .ranges import plot_alignment as plot_alignment, plot_weights as plot_weights
from .scatter import plot_scatter as plot_scatter
from .scorecard_comparisons import plot_scorecard_comparison as plot_scorecard_comparison
from .scorecards import plot_scorecard as plot_scorecard
from .simplex import plot_simplex as plot_simplex
from .training import plot_training as plot_training
