from . import patching as patching, statistics as statistics
from .alignment import (
    Alignment as Alignment,
    fit_alignment as fit_alignment,
    random_subspace as random_subspace,
)
from .capture import (
    last_outputs as last_outputs,
    read_activations as read_activations,
    run_and_capture as run_and_capture,
)
from .circuits import (
    WeightFinding as WeightFinding,
    centred as centred,
    direct_patterns as direct_patterns,
    fit_scale as fit_scale,
    key_softmax_divergence as key_softmax_divergence,
    mean_token_patterns as mean_token_patterns,
    position_scores as position_scores,
    token_outputs as token_outputs,
    token_scores as token_scores,
)
from .controls import (
    one_hot_windows as one_hot_windows,
    random_simplex_map as random_simplex_map,
    random_wave_map as random_wave_map,
    raw_features as raw_features,
    token_windows as token_windows,
)
from .errors import (
    DataError as DataError,
    MemoryLimitError as MemoryLimitError,
    OutputPathError as OutputPathError,
    ProbesError as ProbesError,
    SiteError as SiteError,
)
from .interchange import (
    Interchanged as Interchanged,
    check_editable as check_editable,
    run_interchange as run_interchange,
    run_written as run_written,
)
from .linear import (
    RidgeProbe as RidgeProbe,
    fit_ridge as fit_ridge,
    fit_ridges as fit_ridges,
    read_interval as read_interval,
)
from .patching.activations import ablate as ablate, patch_activations as patch_activations
from .patching.attribution import (
    Agreement as Agreement,
    agreement as agreement,
    attribute_patches as attribute_patches,
)
from .patching.grid import Grid as Grid
from .patching.paths import patch_paths as patch_paths
from .sites import Band as Band, Site as Site, check_hooks as check_hooks
from .statistics.divergences import (
    kl_divergence as kl_divergence,
    squared_error as squared_error,
    total_variation as total_variation,
)
from .statistics.intervals import (
    Interval as Interval,
    mean_interval as mean_interval,
    mean_intervals as mean_intervals,
    one_minus_ratio as one_minus_ratio,
    ratio_intervals as ratio_intervals,
)
from .statistics.significance import (
    adjust_p_values as adjust_p_values,
    sign_flip_p_values as sign_flip_p_values,
)
from .subject import HookedModel as HookedModel, Subject as Subject, subject_of as subject_of
