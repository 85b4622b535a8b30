from . import (
    claims as claims,
    contracts as contracts,
    errors as errors,
    families as families,
    hooked as hooked,
    measures as measures,
    registry as registry,
)
from .additive import Additive as Additive
from .claims import (
    Claim as Claim,
    Code as Code,
    Measurement as Measurement,
    NotApplicable as NotApplicable,
    QueryTokens as QueryTokens,
)
from .contracts import (
    Algorithm as Algorithm,
    Analysis as Analysis,
    AnalyticPattern as AnalyticPattern,
    CausalModel as CausalModel,
    Family as Family,
    Task as Task,
)
from .errors import (
    ArgumentError as ArgumentError,
    CheckpointError as CheckpointError,
    DataError as DataError,
    MemoryLimitError as MemoryLimitError,
    ModelError as ModelError,
    MTDLensError as MTDLensError,
    OutputPathError as OutputPathError,
    ProbesError as ProbesError,
    SiteError as SiteError,
    TaskError as TaskError,
    TokensError as TokensError,
    TrainingError as TrainingError,
    UnknownNameError as UnknownNameError,
)
from .experiment import (
    Experiment as Experiment,
    model_predictions as model_predictions,
)
from .families.autoregressive.causal_model import (
    AutoregressiveCausalModel as AutoregressiveCausalModel,
    best_step_size as best_step_size,
    fit_step_size as fit_step_size,
)
from .families.autoregressive.constructions import (
    ablate_autoregressive as ablate_autoregressive,
    construct_autoregressive as construct_autoregressive,
)
from .families.autoregressive.estimators import (
    autoregressive_gradient_descent as autoregressive_gradient_descent,
    autoregressive_least_squares as autoregressive_least_squares,
    trigonometric_rule as trigonometric_rule,
)
from .families.autoregressive.squares_model import (
    LeastSquaresCausalModel as LeastSquaresCausalModel,
)
from .families.autoregressive.task import (
    AutoregressiveBatch as AutoregressiveBatch,
    AutoregressiveTask as AutoregressiveTask,
)
from .families.mtd.additive_model import AdditiveCausalModel as AdditiveCausalModel
from .families.mtd.analysis import implied_weights as implied_weights
from .families.mtd.causal_model import (
    MTDCausalModel as MTDCausalModel,
    best_beta as best_beta,
    fit_beta as fit_beta,
)
from .families.mtd.constructions import (
    PARTS as PARTS,
    ablate_construction as ablate_construction,
)
from .families.mtd.estimators import (
    lag_likelihoods as lag_likelihoods,
    log_likelihood as log_likelihood,
    predict as predict,
    responsibilities as responsibilities,
)
from .families.mtd.fused_model import (
    FusedCausalModel as FusedCausalModel,
    best_fused_beta as best_fused_beta,
)
from .families.mtd.fused_weights import construct_fused as construct_fused
from .families.mtd.iterative import (
    expectation_maximization as expectation_maximization,
    maximum_likelihood as maximum_likelihood,
    mirror_descent as mirror_descent,
)
from .families.mtd.posterior import (
    gibbs_posterior as gibbs_posterior,
    posterior_mean as posterior_mean,
)
from .families.mtd.posterior_model import PosteriorCausalModel as PosteriorCausalModel
from .families.mtd.posterior_weights import construct_posterior as construct_posterior
from .families.mtd.task import MTDBatch as MTDBatch, MTDTask as MTDTask
from .families.mtd.two_pass_model import TwoPassCausalModel as TwoPassCausalModel
from .families.mtd.two_pass_weights import construct_two_pass as construct_two_pass
from .families.ngram.causal_model import (
    NGramCausalModel as NGramCausalModel,
    best_sharpness as best_sharpness,
)
from .families.ngram.constructions import (
    NGRAM_PARTS as NGRAM_PARTS,
    ablate_ngram as ablate_ngram,
    construct_ngram as construct_ngram,
)
from .families.ngram.counts_model import NGramCountsModel as NGramCountsModel
from .families.ngram.estimators import (
    ngram_bayes as ngram_bayes,
    ngram_counts as ngram_counts,
    ngram_kernel as ngram_kernel,
    ngram_maximum_likelihood as ngram_maximum_likelihood,
    ngram_truth as ngram_truth,
)
from .families.ngram.task import NGramBatch as NGramBatch, NGramTask as NGramTask
from .hooked.info import task_of as task_of
from .questions.align import align as align
from .questions.compare import compare as compare
from .questions.compare_scorecards import compare_scorecards as compare_scorecards
from .questions.compete import compete as compete
from .questions.construct import construct as construct
from .questions.fit_algorithm import fit_algorithm as fit_algorithm
from .questions.inspect import inspect as inspect
from .questions.localize import localize as localize
from .questions.read_weights import read_weights as read_weights
from .questions.score import score as score
from .registry import (
    DEFAULT_MODEL as DEFAULT_MODEL,
    DEFAULT_TASK as DEFAULT_TASK,
    list_models as list_models,
    list_tasks as list_tasks,
    load_checkpoint as load_checkpoint,
    load_model as load_model,
    load_task as load_task,
    register_family as register_family,
    register_model as register_model,
    register_task as register_task,
)
from .results.alignment import AlignmentReport as AlignmentReport
from .results.comparison import Comparison as Comparison
from .results.competition import Competition as Competition
from .results.fitted import FittedAlgorithm as FittedAlgorithm
from .results.inspection import Inspection as Inspection
from .results.localization import Localization as Localization
from .results.scorecard import Scorecard as Scorecard
from .results.scorecard_comparison import ScorecardComparison as ScorecardComparison
from .results.weights import WeightReading as WeightReading
from .training.config import TrainingConfig as TrainingConfig
from .training.loop import Run as Run, train as train
from .training.run_folder import export_checkpoint as export_checkpoint
from .trial import Trial as Trial
from .views.dashboard import Dashboard as Dashboard, dashboard as dashboard
from .views.plots import (
    plot_alignment as plot_alignment,
    plot_attention as plot_attention,
    plot_comparisons as plot_comparisons,
    plot_competition as plot_competition,
    plot_fitted as plot_fitted,
    plot_latents as plot_latents,
    plot_localization as plot_localization,
    plot_predictions as plot_predictions,
    plot_scatter as plot_scatter,
    plot_scorecard as plot_scorecard,
    plot_scorecard_comparison as plot_scorecard_comparison,
    plot_simplex as plot_simplex,
    plot_training as plot_training,
    plot_weights as plot_weights,
)
from .vocabulary import Vocabulary as Vocabulary
