from . import contracts as contracts
from . import errors as errors
from . import families as families
from . import hooked as hooked
from . import measures as measures
from . import registry as registry
from .contracts import (
    Analysis as Analysis,
)
from .contracts import (
    AnalyticPattern as AnalyticPattern,
)
from .contracts import (
    CausalModel as CausalModel,
)
from .contracts import (
    Claim as Claim,
)
from .contracts import (
    Family as Family,
)
from .contracts import (
    Measurement as Measurement,
)
from .contracts import (
    Task as Task,
)
from .contracts import (
    Trial as Trial,
)
from .errors import (
    ArgumentError as ArgumentError,
)
from .errors import (
    CheckpointError as CheckpointError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    ModelError as ModelError,
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
from .errors import (
    TaskError as TaskError,
)
from .errors import (
    TokensError as TokensError,
)
from .errors import (
    TrainingError as TrainingError,
)
from .errors import (
    UnknownNameError as UnknownNameError,
)
from .families.autoregressive.causal_model import (
    AutoregressiveCausalModel as AutoregressiveCausalModel,
)
from .families.autoregressive.causal_model import (
    best_step_size as best_step_size,
)
from .families.autoregressive.causal_model import (
    fit_step_size as fit_step_size,
)
from .families.autoregressive.constructions import (
    ablate_autoregressive as ablate_autoregressive,
)
from .families.autoregressive.constructions import (
    construct_autoregressive as construct_autoregressive,
)
from .families.autoregressive.estimators import (
    autoregressive_gradient_descent as autoregressive_gradient_descent,
)
from .families.autoregressive.estimators import (
    autoregressive_least_squares as autoregressive_least_squares,
)
from .families.autoregressive.estimators import (
    trigonometric_rule as trigonometric_rule,
)
from .families.autoregressive.task import (
    AutoregressiveBatch as AutoregressiveBatch,
)
from .families.autoregressive.task import (
    AutoregressiveTask as AutoregressiveTask,
)
from .families.mtd.analysis import implied_weights as implied_weights
from .families.mtd.causal_model import (
    MTDCausalModel as MTDCausalModel,
)
from .families.mtd.causal_model import (
    best_beta as best_beta,
)
from .families.mtd.causal_model import (
    fit_beta as fit_beta,
)
from .families.mtd.claims import model_predictions as model_predictions
from .families.mtd.constructions import (
    PARTS as PARTS,
)
from .families.mtd.constructions import (
    ablate_construction as ablate_construction,
)
from .families.mtd.constructions import (
    construct as construct,
)
from .families.mtd.estimators import (
    lag_likelihoods as lag_likelihoods,
)
from .families.mtd.estimators import (
    log_likelihood as log_likelihood,
)
from .families.mtd.estimators import (
    predict as predict,
)
from .families.mtd.estimators import (
    responsibilities as responsibilities,
)
from .families.mtd.iterative import (
    expectation_maximization as expectation_maximization,
)
from .families.mtd.iterative import (
    maximum_likelihood as maximum_likelihood,
)
from .families.mtd.iterative import (
    mirror_descent as mirror_descent,
)
from .families.mtd.posterior import (
    gibbs_posterior as gibbs_posterior,
)
from .families.mtd.posterior import (
    posterior_mean as posterior_mean,
)
from .families.mtd.task import MTDBatch as MTDBatch
from .families.mtd.task import MTDTask as MTDTask
from .families.mtd.weight_space import read_weights as read_weights
from .families.ngram.causal_model import (
    NGramCausalModel as NGramCausalModel,
)
from .families.ngram.causal_model import (
    best_sharpness as best_sharpness,
)
from .families.ngram.constructions import (
    NGRAM_PARTS as NGRAM_PARTS,
)
from .families.ngram.constructions import (
    ablate_ngram as ablate_ngram,
)
from .families.ngram.constructions import (
    construct_ngram as construct_ngram,
)
from .families.ngram.estimators import (
    ngram_bayes as ngram_bayes,
)
from .families.ngram.estimators import (
    ngram_counts as ngram_counts,
)
from .families.ngram.estimators import (
    ngram_kernel as ngram_kernel,
)
from .families.ngram.estimators import (
    ngram_maximum_likelihood as ngram_maximum_likelihood,
)
from .families.ngram.estimators import (
    ngram_truth as ngram_truth,
)
from .families.ngram.task import NGramBatch as NGramBatch
from .families.ngram.task import NGramTask as NGramTask
from .hooked import task_of as task_of
from .questions.align import align as align
from .questions.compare import compare as compare
from .questions.inspect import inspect as inspect
from .questions.localize import localize as localize
from .questions.score import score as score
from .registry import (
    DEFAULT_MODEL as DEFAULT_MODEL,
)
from .registry import (
    DEFAULT_TASK as DEFAULT_TASK,
)
from .registry import (
    list_models as list_models,
)
from .registry import (
    list_tasks as list_tasks,
)
from .registry import (
    load_checkpoint as load_checkpoint,
)
from .registry import (
    load_model as load_model,
)
from .registry import (
    load_task as load_task,
)
from .registry import (
    register_model as register_model,
)
from .registry import (
    register_task as register_task,
)
from .results.alignment import AlignmentReport as AlignmentReport
from .results.comparison import Comparison as Comparison
from .results.inspection import Inspection as Inspection
from .results.localization import Localization as Localization
from .results.scorecard import Scorecard as Scorecard
from .results.weights import WeightReading as WeightReading
from .training.config import TrainingConfig as TrainingConfig
from .training.loop import Run as Run
from .training.loop import train as train
from .training.run_folder import export_checkpoint as export_checkpoint
from .views.dashboard import Dashboard as Dashboard
from .views.dashboard import dashboard as dashboard
from .views.plots import (
    plot_attention as plot_attention,
)
from .views.plots import (
    plot_comparisons as plot_comparisons,
)
from .views.plots import (
    plot_latents as plot_latents,
)
from .views.plots import (
    plot_localization as plot_localization,
)
from .views.plots import (
    plot_predictions as plot_predictions,
)
from .views.plots import (
    plot_scatter as plot_scatter,
)
from .views.plots import (
    plot_scorecard as plot_scorecard,
)
from .views.plots import (
    plot_simplex as plot_simplex,
)
from .views.plots import (
    plot_training as plot_training,
)
