from .causal_model import (
    AutoregressiveCausalModel as AutoregressiveCausalModel,
    best_step_size as best_step_size,
    fit_step_size as fit_step_size,
)
from .constructions import (
    ablate_autoregressive as ablate_autoregressive,
    construct_autoregressive as construct_autoregressive,
)
from .estimators import (
    autoregressive_gradient_descent as autoregressive_gradient_descent,
    autoregressive_least_squares as autoregressive_least_squares,
    trigonometric_rule as trigonometric_rule,
)
from .family import FAMILY as FAMILY
from .squares_model import LeastSquaresCausalModel as LeastSquaresCausalModel
from .task import (
    AutoregressiveBatch as AutoregressiveBatch,
    AutoregressiveTask as AutoregressiveTask,
)
