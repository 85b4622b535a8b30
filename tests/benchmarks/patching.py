"""Activation patching against ``transformer_lens.patching``: time, memory, growth with length.

Three layers, d_model 128, 4 heads, random weights. The library runs one forward pass a site, so its
time is taken on a part of the grid, evenly spread, and scaled up where the whole grid would take
minutes. Ours is the whole grid, checks included, but for batches of 256, where it is every eighth
position. Runs alternate, so that a busy machine slows both.
"""

import json
import statistics
import subprocess
import sys
import warnings
from typing import Any

import pandas as pd
import torch
from run import REPETITIONS, seconds

import probes
from mtd_lens.printing import text_table

N_LAYERS = 3
VOCABULARY = 16
SHAPES = {
    "attention only": {"attn_only": True, "normalization_type": None},
    "LayerNorm and MLPs": {"d_mlp": 512, "normalization_type": "LN"},
}
GRIDS = {"resid_pre by position": ("resid_pre", "position"), "z by head": ("z", "head")}
BATCHES = (1, 16, 256)
LENGTHS = (32, 64, 128, 256, 512)
MOST_SITES = {1: 384, 16: 96, 256: 6}
"""Sites on which the library is timed, by batch."""


def build(kind: str, length: int) -> Any:
    from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        cfg = HookedTransformerConfig(
            n_layers=N_LAYERS, d_model=128, n_heads=4, d_head=32, n_ctx=length, d_vocab=VOCABULARY,
            act_fn="gelu", default_prepend_bos=False, **SHAPES[kind],
        )  # fmt: skip
        return HookedTransformer(cfg).eval()


def tokens_of(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randint(VOCABULARY, (2, batch, length)))


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0] - logits[:, 1]


class Library:
    """The library's grid, or a part of it: clean cache and all."""

    def __init__(self, component: str, n_sites: int | None) -> None:
        from transformer_lens import patching

        patching.tqdm = lambda rows: rows
        self.patching, self.component, self.n_sites = patching, component, n_sites

    def sites(self, length: int) -> pd.DataFrame:
        size, name = (length, "pos") if self.component == "resid_pre" else (4, "head_index")
        rows = [[layer, index] for layer in range(N_LAYERS) for index in range(size)]
        step = max(1, len(rows) // (self.n_sites or len(rows)))
        return pd.DataFrame(rows[step // 2 :: step], columns=["layer", name])

    @torch.no_grad()
    def __call__(self, model: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
        _, cache = model.run_with_cache(clean)
        setter = (
            self.patching.layer_pos_patch_setter
            if self.component == "resid_pre"
            else self.patching.layer_head_vector_patch_setter
        )
        return self.patching.generic_activation_patch(
            model, corrupted, cache, lambda logits: metric(logits[:, -1]).mean(), setter,
            self.component, index_df=self.sites(clean.shape[1]),
        )  # fmt: skip


def ours(model: Any, clean: torch.Tensor, corrupted: torch.Tensor, grid: str) -> probes.Grid:
    component, by = GRIDS[grid]
    some = len(clean) > 16 and by == "position"
    positions = range(4, clean.shape[1], 8) if some else None
    return probes.patch_activations(
        model, clean, corrupted, component, metric, by=by, positions=positions
    )


def ratio(kind: str, grid: str, batch: int, length: int, repetitions: int) -> tuple[float, ...]:
    """Medians: our seconds, the library's for the whole grid, and their ratio pair by pair."""
    model, (clean, corrupted) = build(kind, length), tokens_of(batch, length)
    n_sites = MOST_SITES.get(batch, 24) * 128 // length
    library = Library(GRIDS[grid][0], None if grid == "z by head" else max(3, n_sites))
    found = ours(model, clean, corrupted, grid)
    factor = found.n_sites / len(library.sites(length))
    pairs = [
        (
            seconds(lambda: ours(model, clean, corrupted, grid)),
            factor * seconds(lambda: library(model, clean, corrupted)),
        )
        for _ in range(repetitions)
    ]
    fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    return fast, slow, statistics.median(b / a for a, b in pairs)


def peak(who: str, kind: str, batch: int) -> float:
    """Most memory of a process of its own during one grid, beyond the model, in MB."""
    command = [sys.executable, __file__, "peak", who, kind, str(batch)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def measure_peak(who: str, kind: str, batch: int) -> None:
    import resource

    model, (clean, corrupted) = build(kind, 128), tokens_of(batch, 128)
    with torch.no_grad():
        model(clean[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if who == "ours":
        ours(model, clean, corrupted, "resid_pre by position")
    else:
        Library("resid_pre", 3)(model, clean, corrupted)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    threads = torch.get_num_threads()
    print(f"\nPatching, T = 128; medians of {REPETITIONS} paired repetitions, {threads} threads")
    for kind in SHAPES:
        rows = []
        for grid in GRIDS:
            for batch in BATCHES:
                fast, slow, times = ratio(kind, grid, batch, 128, REPETITIONS)
                rows.append([kind, grid, str(batch), f"{fast:.2f}", f"{slow:.2f}", f"{times:.1f}"])
        header = ["model", "grid", "batch", "s", "s, transformer_lens.patching", "ratio"]
        print(text_table(header, rows, left=(0, 1)), flush=True)
    print("\nPeak memory beyond the model, resid_pre by position, T = 128")
    rows = []
    for kind in SHAPES:
        for batch in BATCHES[1:]:
            own, other = (peak(who, kind, batch) for who in ("ours", "library"))
            rows.append([kind, str(batch), f"{own:.0f}", f"{other:.0f}", f"{own / other:.2f}"])
    print(text_table(["model", "batch", "MB", "MB, library", "ratio"], rows))
    print("\nGrowth with length, attention only, resid_pre by position, 4 sequences")
    rows = []
    for length in LENGTHS:
        fast, slow, times = ratio("attention only", "resid_pre by position", 4, length, 3)
        runs = N_LAYERS * length * 4
        rows.append(
            [str(length), f"{fast:.2f}", f"{1e6 * fast / runs:.0f}", f"{1e6 * slow / runs:.0f}",
             f"{times:.1f}"]
        )  # fmt: skip
    header = ["T", "s", "µs a site and sequence", "µs, library", "ratio"]
    print(text_table(header, rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        measure_peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
