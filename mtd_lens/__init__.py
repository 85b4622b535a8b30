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
        "comparison": ["Comparison", "compare"],
        "contracts": ["CausalModel", "Claim", "Family", "Measurement", "Task", "Trial"],
        "errors": [
            "ArgumentError",
            "DataError",
            "MTDLensError",
            "ModelError",
            "OutputPathError",
            "SiteError",
            "TaskError",
            "TokensError",
            "UnknownNameError",
        ],
        "families.mtd.causal_model": ["MTDCausalModel", "best_beta", "fit_beta"],
        "families.mtd.claims": ["model_predictions"],
        "families.mtd.constructions": ["PARTS", "ablate_construction", "construct"],
        "families.mtd.estimators": [
            "expectation_maximization",
            "lag_likelihoods",
            "log_likelihood",
            "maximum_likelihood",
            "mirror_descent",
            "predict",
            "responsibilities",
        ],
        "families.mtd.posterior": ["gibbs_posterior", "posterior_mean"],
        "families.mtd.task": ["MTDBatch", "MTDTask"],
        "hooked": ["task_of"],
        "registry": [
            "DEFAULT_MODEL",
            "DEFAULT_TASK",
            "list_models",
            "list_tasks",
            "load_model",
            "load_task",
            "register_model",
            "register_task",
        ],
        "scorecard": ["Scorecard"],
        "scoring": ["score"],
    },
)
