"""Does swapping a layer's activation change the output as the algorithm says? Interchange.

The causal model tells what the prediction ought to be if the mixture weights were another
sequence's; the network is asked by putting that sequence's attention pattern into it.

    python interchange_counterfactual.py [MODEL]
"""

import sys

import torch

import mtd_lens
import probes

DEFAULT = "mtd-q5-m3-t32/trained-disentangled-3l-s0"


def main(name: str = DEFAULT) -> None:
    """Run the experiment on a model of the package."""
    model = mtd_lens.load_model(name)
    task = mtd_lens.task_of(model)
    tokens = task.sample(256, seed=0).tokens
    source = torch.arange(len(tokens)).roll(1)  # each sequence's source is the one before it

    # What the algorithm predicts with the source's weights at the last query, the base's tokens.
    algorithm = mtd_lens.MTDCausalModel(task, mtd_lens.best_beta(task))
    weights = algorithm.run(tokens)["mixture_weights"]
    swapped = torch.full_like(weights, torch.nan)  # NaN: leave to its cause
    swapped[:, -1] = weights[source, -1]
    counterfactual = algorithm.do(mixture_weights=swapped).run(tokens)["prediction"][:, -1]

    # What the network predicts with the source's pattern at the last query, layer by layer.
    sites = {
        f"layer {layer}": probes.Site(f"blocks.{layer}.attn.hook_pattern", positions=[-1])
        for layer in range(model.cfg.n_layers)
    }
    runs = probes.run_interchange(model, tokens, source, sites)
    unpatched = probes.kl_divergence(counterfactual, runs.base.softmax(-1))
    for layer, outputs in runs.patched.items():
        patched = probes.kl_divergence(counterfactual, outputs.softmax(-1))
        print(f"{layer}: {probes.one_minus_ratio(patched, unpatched)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
