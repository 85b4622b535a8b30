from .attention import Attention as Attention, Pattern as Pattern, signed_shares as signed_shares
from .content import Content as Content, Prediction as Prediction
from .interchange import N_SELECTION_PAIRS as N_SELECTION_PAIRS, Interchange as Interchange
from .pairs import Pairs as Pairs, draw_pairs as draw_pairs, prediction_with as prediction_with
from .probe import Probe as Probe
from .probe_given_query import ProbeGivenQuery as ProbeGivenQuery
from .tables import (
    has_tables as has_tables,
    relative_patterns as relative_patterns,
    relative_scores as relative_scores,
    table_path as table_path,
)
