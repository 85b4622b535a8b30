from . import patching as patching
from . import statistics as statistics
from .alignment import (
    Alignment as Alignment,
)
from .alignment import (
    fit_alignment as fit_alignment,
)
from .alignment import (
    random_subspace as random_subspace,
)
from .capture import (
    last_outputs as last_outputs,
)
from .capture import (
    read_activations as read_activations,
)
from .capture import (
    run_and_capture as run_and_capture,
)
from .circuits import (
    WeightFinding as WeightFinding,
)
from .circuits import (
    centred as centred,
)
from .circuits import (
    direct_patterns as direct_patterns,
)
from .circuits import (
    fit_scale as fit_scale,
)
from .circuits import (
    has_tables as has_tables,
)
from .circuits import (
    key_softmax_divergence as key_softmax_divergence,
)
from .circuits import (
    mean_token_patterns as mean_token_patterns,
)
from .circuits import (
    position_scores as position_scores,
)
from .circuits import (
    relative_scores as relative_scores,
)
from .circuits import (
    table_path as table_path,
)
from .circuits import (
    token_outputs as token_outputs,
)
from .circuits import (
    token_scores as token_scores,
)
from .controls import (
    one_hot_windows as one_hot_windows,
)
from .controls import (
    random_simplex_map as random_simplex_map,
)
from .controls import (
    random_wave_map as random_wave_map,
)
from .controls import (
    raw_features as raw_features,
)
from .controls import (
    token_windows as token_windows,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    MTDLensError as MTDLensError,
)
from .errors import (
    OutputPathError as OutputPathError,
)
from .errors import (
    SiteError as SiteError,
)
from .interchange import (
    Interchanged as Interchanged,
)
from .interchange import (
    check_editable as check_editable,
)
from .interchange import (
    run_interchange as run_interchange,
)
from .linear import RidgeProbe as RidgeProbe
from .linear import fit_ridge as fit_ridge
from .patching.activations import ablate as ablate
from .patching.activations import patch_activations as patch_activations
from .patching.grid import Grid as Grid
from .patching.paths import patch_paths as patch_paths
from .sites import Band as Band
from .sites import Site as Site
from .sites import check_hooks as check_hooks
from .statistics.divergences import (
    kl_divergence as kl_divergence,
)
from .statistics.divergences import (
    squared_error as squared_error,
)
from .statistics.divergences import (
    total_variation as total_variation,
)
from .statistics.intervals import (
    Interval as Interval,
)
from .statistics.intervals import (
    mean_interval as mean_interval,
)
from .statistics.intervals import (
    mean_intervals as mean_intervals,
)
from .statistics.intervals import (
    one_minus_ratio as one_minus_ratio,
)
from .statistics.intervals import (
    ratio_intervals as ratio_intervals,
)
from .statistics.significance import (
    adjust_p_values as adjust_p_values,
)
from .statistics.significance import (
    sign_flip_p_values as sign_flip_p_values,
)
from .subject import HookedModel as HookedModel
from .subject import Subject as Subject
from .subject import subject_of as subject_of
