"""Does layer 0 speak to layer 2 directly, or through layer 1? Path patching.

In the algorithm, responsibilities (layer 0) reach the mixture weights (layer 2's attention) only as
their mean (layer 1): the direct path from layer 0 to layer 2's query should carry nothing, the one
from layer 1 everything.

    python path_patch_layers.py [MODEL]
"""

import sys

import torch

import mtd_lens
import probes

DEFAULT = "mtd-q5-m3-t32/constructed-relative"


def main(name: str = DEFAULT) -> None:
    """Run the experiment on a model of the package."""
    model = mtd_lens.load_model(name)
    task = mtd_lens.task_of(model)
    clean, corrupted = (task.sample(128, seed=seed).tokens for seed in (0, 1))
    corrupted[:, -task.order :] = clean[:, -task.order :]

    with torch.no_grad():
        target = model(clean)[:, -1].log_softmax(-1).exp()

    def closeness(logits: torch.Tensor) -> torch.Tensor:
        """Minus the KL divergence of the clean run's prediction, in nats."""
        return -probes.kl_divergence(target, logits.softmax(-1))

    for receiver in range(1, model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            for through in ("q", "k", "v"):
                grid = probes.patch_paths(
                    model,
                    clean,
                    corrupted,
                    (receiver, head),
                    closeness,
                    receiver_input=through,
                )
                by_layer = grid.effects.sum(1).tolist()  # summed over the layer's heads
                told = "   ".join(f"layer {n}: {x:6.3f}" for n, x in enumerate(by_layer))
                print(f"to layer {receiver} head {head}, {through}   {told}")


if __name__ == "__main__":
    main(*sys.argv[1:])
