from .divergences import (
    kl_divergence as kl_divergence,
    squared_error as squared_error,
    total_variation as total_variation,
)
from .intervals import (
    NEGLIGIBLE as NEGLIGIBLE,
    Interval as Interval,
    mean_interval as mean_interval,
    mean_intervals as mean_intervals,
    one_minus_ratio as one_minus_ratio,
    ratio_intervals as ratio_intervals,
)
from .significance import (
    adjust_p_values as adjust_p_values,
    sign_flip_p_values as sign_flip_p_values,
)
