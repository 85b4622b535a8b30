"""What is known of one step's chains in models of known truth, by their construction."""

from known_truth.models import Claims, named

PATH = "path_to_mean_responsibility"
GENERIC_PATH = named("responsibilities", PATH)
PATHS = GENERIC_PATH | named("responsibilities", f"{PATH}_given_query")
GENERIC_JOINT = named("mean_responsibility", "joint")
JOINTS = GENERIC_JOINT | named("mean_responsibility", "joint_given_query")
TO_WEIGHTS = named("mean_responsibility", "path_to_mixture_weights")
WEIGHTS_LAST = named("mixture_weights", "joint")
ALL = PATHS | JOINTS | TO_WEIGHTS | WEIGHTS_LAST
NONE: Claims = frozenset()

PART = GENERIC_PATH | GENERIC_JOINT | TO_WEIGHTS
"""What is lost where several layers make the mean: what each holds at the last query is a part of
it, and the rest goes around. Given the query, the layer that reads the mean holds all."""

WHOLE = (
    "whole, absolute",
    "whole, relative",
    "β doubled",
    "layers between",
    "noise heads",
    "rotated",
    "γ mixed",
    "stored, never used",
    "first five beside",
    "identity beside",
)
SPREAD = ("60/40", "50/50", "overshoot", "first five and the rest", "interleaved")
WRONG_MEANS = ("last 16", "last 8", "last 4", "last 2", "first five only")
INERT = ("β = 0", "stored only", "identity only", "uniform tokens")
OTHER_GAMMA = ("transition transposed", "transition rows shifted")
OTHER_ALGORITHMS = ("Bayes on a grid", "product of likelihoods", "exact Bayes")

Entry = tuple[Claims, Claims, str]

CHAINS: dict[str, Entry] = {
    **dict.fromkeys(WHOLE, (ALL, NONE, "one layer a stage, each reading the one before")),
    **dict.fromkeys(SPREAD, (ALL - PART, PART, "a part of the mean goes around its layer")),
    **dict.fromkeys(WRONG_MEANS, (NONE, ALL, "the mean of the wrong positions")),
    **dict.fromkeys(INERT, (NONE, ALL, "nothing acts on the prediction")),
    **dict.fromkeys(OTHER_GAMMA, (NONE, ALL, "other responsibilities")),
    **dict.fromkeys(OTHER_ALGORITHMS, (NONE, PATHS, "layer 0 attends to no content")),
    "lags permuted": (NONE, ALL, "each lag has the weight of the next one"),
    "60/40, read out in halves": (NONE, ALL, "half of the mixture is read out beside each layer"),
    "γ in halves": (ALL - PATHS, PATHS, "the other half of γ is not swapped"),
    "all in halves": (NONE, ALL, "half of everything goes around"),
    "gated": (
        ALL - PART - WEIGHTS_LAST,
        GENERIC_JOINT,
        "another query's code does not match the keys; that of the base's own query does",
    ),
    "signed": (
        ALL - PART - WEIGHTS_LAST,
        GENERIC_JOINT,
        "another query's signs do not match the keys; those of the base's own query do",
    ),
    "γ looked up": (ALL - PATHS, PATHS, "what is swapped are tokens, of which an MLP makes γ"),
    "exact Bayes in halves": (NONE, ALL, "no layer carries more than half"),
}
"""By model: claims that hold, claims that do not, and why. Of others, nothing is known."""
