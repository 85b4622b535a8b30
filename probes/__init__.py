"""Instruments for testing what a hooked model computes.

They know activations, sites and statistics, and nothing of any task; they take any model with
TransformerLens's hooks.

>>> import probes
>>> sites = {"out": probes.Site("blocks.0.hook_attn_out", positions=[-1])}
>>> probes.read_activations(model, tokens, sites)["out"].shape  # doctest: +SKIP
torch.Size([128, 1, 64])

Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment": ["Alignment", "fit_alignment", "random_subspace"],
        "capture": ["last_outputs", "read_activations", "run_and_capture"],
        "controls": [
            "one_hot_windows",
            "random_simplex_map",
            "random_wave_map",
            "raw_features",
            "token_windows",
        ],
        "errors": ["DataError", "MTDLensError", "OutputPathError", "SiteError"],
        "grids": ["Grid"],
        "interchange": ["Interchanged", "check_editable", "run_interchange"],
        "linear": ["RidgeProbe", "fit_ridge"],
        "significance": ["adjust_p_values", "sign_flip_p_values"],
        "patching": ["ablate", "patch_activations"],
        "paths": ["patch_paths"],
        "sites": ["Band", "Site", "check_hooks"],
        "statistics": [
            "Interval",
            "kl_divergence",
            "mean_interval",
            "mean_intervals",
            "one_minus_ratio",
            "ratio_intervals",
            "squared_error",
            "total_variation",
        ],
        "weights": [
            "WeightFinding",
            "centred",
            "direct_patterns",
            "fit_scale",
            "has_tables",
            "key_softmax_divergence",
            "mean_token_patterns",
            "position_scores",
            "relative_scores",
            "table_path",
            "token_outputs",
            "token_scores",
        ],
    },
)
