from .additive_model import AdditiveCausalModel as AdditiveCausalModel
from .analysis import implied_weights as implied_weights
from .causal_model import (
    MTDCausalModel as MTDCausalModel,
    best_beta as best_beta,
    fit_beta as fit_beta,
)
from .constructions import (
    PARTS as PARTS,
    ablate_construction as ablate_construction,
    construct as construct,
)
from .estimators import (
    lag_likelihoods as lag_likelihoods,
    log_likelihood as log_likelihood,
    predict as predict,
    responsibilities as responsibilities,
)
from .family import FAMILY as FAMILY
from .fused_model import (
    FusedCausalModel as FusedCausalModel,
    best_fused_beta as best_fused_beta,
)
from .fused_weights import construct_fused as construct_fused
from .iterative import (
    expectation_maximization as expectation_maximization,
    maximum_likelihood as maximum_likelihood,
    mirror_descent as mirror_descent,
)
from .posterior import gibbs_posterior as gibbs_posterior, posterior_mean as posterior_mean
from .posterior_model import PosteriorCausalModel as PosteriorCausalModel
from .posterior_weights import construct_posterior as construct_posterior
from .task import MTDBatch as MTDBatch, MTDTask as MTDTask
from .two_pass_model import TwoPassCausalModel as TwoPassCausalModel
from .two_pass_weights import construct_two_pass as construct_two_pass
