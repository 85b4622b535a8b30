"""Test algorithmic claims about transformers: what a layer computes, and what would follow from it.

>>> import mtd_lens
>>> model = mtd_lens.load_model("mtd-q5-m3-t64/constructed-absolute")
>>> print(mtd_lens.score(model))  # doctest: +SKIP

Names are imported when they are first used: ``import mtd_lens`` loads neither torch nor
transformer_lens.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment": ["AlignmentReport", "align"],
        "comparison": ["Comparison", "compare"],
        "contracts": [
            "Analysis",
            "AnalyticPattern",
            "CausalModel",
            "Claim",
            "Family",
            "Measurement",
            "Task",
            "Trial",
        ],
        "dashboards": ["Dashboard", "dashboard"],
        "errors": [
            "ArgumentError",
            "CheckpointError",
            "DataError",
            "MTDLensError",
            "ModelError",
            "OutputPathError",
            "SiteError",
            "TaskError",
            "TokensError",
            "TrainingError",
            "UnknownNameError",
        ],
        "families.autoregressive.causal_model": [
            "AutoregressiveCausalModel",
            "best_step_size",
            "fit_step_size",
        ],
        "families.autoregressive.constructions": [
            "ablate_autoregressive",
            "construct_autoregressive",
        ],
        "families.autoregressive.estimators": [
            "autoregressive_gradient_descent",
            "autoregressive_least_squares",
            "trigonometric_rule",
        ],
        "families.autoregressive.task": ["AutoregressiveBatch", "AutoregressiveTask"],
        "families.mtd.analysis": ["implied_weights"],
        "families.mtd.causal_model": ["MTDCausalModel", "best_beta", "fit_beta"],
        "families.mtd.claims": ["model_predictions"],
        "families.mtd.constructions": ["PARTS", "ablate_construction", "construct"],
        "families.mtd.estimators": [
            "lag_likelihoods",
            "log_likelihood",
            "predict",
            "responsibilities",
        ],
        "families.mtd.iterative": [
            "expectation_maximization",
            "maximum_likelihood",
            "mirror_descent",
        ],
        "families.mtd.posterior": ["gibbs_posterior", "posterior_mean"],
        "families.mtd.task": ["MTDBatch", "MTDTask"],
        "families.mtd.weight_space": ["WeightReading", "read_weights"],
        "families.ngram.causal_model": ["NGramCausalModel", "best_sharpness"],
        "families.ngram.constructions": ["NGRAM_PARTS", "ablate_ngram", "construct_ngram"],
        "families.ngram.estimators": [
            "ngram_bayes",
            "ngram_counts",
            "ngram_kernel",
            "ngram_maximum_likelihood",
            "ngram_truth",
        ],
        "families.ngram.task": ["NGramBatch", "NGramTask"],
        "hooked": ["task_of"],
        "inspection": ["Inspection", "inspect"],
        "localization": ["localize"],
        "localization_result": ["Localization"],
        "plots": [
            "plot_attention",
            "plot_comparisons",
            "plot_latents",
            "plot_localization",
            "plot_predictions",
            "plot_scatter",
            "plot_scorecard",
            "plot_simplex",
            "plot_training",
        ],
        "registry": [
            "DEFAULT_MODEL",
            "DEFAULT_TASK",
            "list_models",
            "list_tasks",
            "load_checkpoint",
            "load_model",
            "load_task",
            "register_model",
            "register_task",
        ],
        "run_folder": ["export_checkpoint"],
        "scorecard": ["Scorecard"],
        "scoring": ["score"],
        "training": ["Run", "train"],
        "training_config": ["TrainingConfig"],
    },
)
