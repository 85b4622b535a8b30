"""How fast HookedTransformers run, by version of transformer-lens.

    python tests/benchmarks/hooked.py                              as installed here
    python tests/benchmarks/hooked.py PYTHON PYTHON [--rounds 5]   of two environments, by turns

Three layers, d_model 128, 4 heads, LayerNorm and MLPs, random weights, 4 sequences of 32 positions.
Times are one thread's own, and rounds alternate between the environments, so that a busy machine
tells little between them; a round takes the fastest of several calls, and the table has the median
over rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

import probes
from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig

CALLS = 15
BATCH, LENGTH, VOCABULARY = 4, 32, 16


def build() -> Any:
    """The model that is timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        cfg = HookedTransformerConfig(
            n_layers=3, d_model=128, n_heads=4, d_head=32, n_ctx=LENGTH, d_vocab=VOCABULARY,
            d_mlp=512, act_fn="gelu", default_prepend_bos=False, device="cpu",
        )  # fmt: skip
        return HookedTransformer(cfg).eval()


def timed() -> dict[str, float]:
    """Milliseconds of each thing, the fastest of several calls."""
    torch.set_num_threads(1)
    model = build()
    clean, corrupted = torch.randint(VOCABULARY, (2, BATCH, LENGTH))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0] - logits[:, 1]

    def backward() -> None:
        model(clean).square().sum().backward()

    def grid(accelerate: bool) -> Callable[[], Any]:
        return lambda: probes.patch_activations(
            model, clean, corrupted, "z", metric, by=["head"], accelerate=accelerate
        )

    with torch.no_grad():
        found = {
            "forward": fastest(lambda: model(clean)),
            "run_with_cache": fastest(lambda: model.run_with_cache(clean)),
            "patched grid, resumed": fastest(grid(True)),
            "patched grid, hooked loop": fastest(grid(False)),
        }
    return found | {"forward and backward": fastest(backward)}


def fastest(call: Callable[[], Any]) -> float:
    """Milliseconds of processor time of the fastest of a few calls."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main() -> None:
    """Time here, or by turns in the environments whose Pythons are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one round, as JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps({"version": version("transformer-lens"), "times": timed()}))
        return
    pythons = options.pythons or [sys.executable]
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for python in pythons:
            command = [python, __file__, "--json"]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(text.splitlines()[-1])
            rounds.setdefault(found["version"], []).append(found["times"])
    print(f"{'ms':<28}" + "".join(f"{name:>10}" for name in rounds))
    for what in next(iter(rounds.values()))[0]:
        medians = [statistics.median(each[what] for each in found) for found in rounds.values()]
        print(f"{what:<28}" + "".join(f"{median:>10.2f}" for median in medians))


if __name__ == "__main__":
    main()
