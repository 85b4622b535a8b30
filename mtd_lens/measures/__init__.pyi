from .attention import Attention as Attention, Pattern as Pattern, signed_shares as signed_shares
from .chain import Chain as Chain, Path as Path
from .content import Content as Content, Prediction as Prediction
from .injection import Injection as Injection
from .interchange import Interchange as Interchange
from .mean_pattern import MeanPattern as MeanPattern
from .pairs import (
    N_SELECTION_PAIRS as N_SELECTION_PAIRS,
    Pairs as Pairs,
    pairs_of as pairs_of,
    prediction_with as prediction_with,
)
from .probe import Probe as Probe
from .probe_given_query import ProbeGivenQuery as ProbeGivenQuery
from .scrubbing import Scrubbing as Scrubbing
from .tables import (
    has_tables as has_tables,
    relative_patterns as relative_patterns,
    relative_scores as relative_scores,
    table_path as table_path,
)
