from .divergences import (
    kl_divergence as kl_divergence,
)
from .divergences import (
    squared_error as squared_error,
)
from .divergences import (
    total_variation as total_variation,
)
from .intervals import (
    NEGLIGIBLE as NEGLIGIBLE,
)
from .intervals import (
    Interval as Interval,
)
from .intervals import (
    mean_interval as mean_interval,
)
from .intervals import (
    mean_intervals as mean_intervals,
)
from .intervals import (
    one_minus_ratio as one_minus_ratio,
)
from .intervals import (
    ratio_intervals as ratio_intervals,
)
from .significance import (
    adjust_p_values as adjust_p_values,
)
from .significance import (
    sign_flip_p_values as sign_flip_p_values,
)
