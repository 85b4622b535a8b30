"""Which heads' outputs carry the evidence? Activation patching of every head.

Clean and corrupted sequences end in the same tokens, so that they differ in the inferred mixture
weights alone, not in what the last layer reads. The metric is the log-probability of the token that
the algorithm makes more likely in the clean sequence.

    python find_responsibility_heads.py [MODEL] [FIGURE]
"""

import sys

import torch

import mtd_lens
import probes

DEFAULT = "mtd-q5-m3-t32/trained-disentangled-3l-s0"


def main(name: str = DEFAULT, figure: str | None = None) -> None:
    """Run the experiment on a model of the package."""
    model = mtd_lens.load_model(name)
    task = mtd_lens.task_of(model)

    clean = task.sample(128, seed=0).tokens
    corrupted = task.sample(128, seed=1).tokens
    corrupted[:, -task.order :] = clean[:, -task.order :]

    # The algorithm says which next token the clean evidence favours.
    algorithm = mtd_lens.MTDCausalModel(task, mtd_lens.best_beta(task))
    favoured, disfavoured = (
        algorithm.run(tokens)["prediction"][:, -1].log() for tokens in (clean, corrupted)
    )
    answer = (favoured - disfavoured).argmax(-1, keepdim=True)

    def log_probability(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, answer)[:, 0]

    by_head = probes.patch_activations(model, clean, corrupted, "z", log_probability, by="head")
    print(by_head.to_dataframe().to_string(index=False, float_format="{:.3f}".format))

    # Responsibilities live at the evidence positions, so their heads matter there, not at the end.
    before = range(task.seq_len - 1)
    early = probes.patch_activations(
        model, clean, corrupted, "z", log_probability, by="head", positions=before
    )
    labels, effect = early.top(1)[0]
    print(f"\nbefore the last position, {labels} carries most: {effect:.2f} of the clean effect")
    print(f"runs: {by_head.engine}")

    if figure:
        by_head.plot(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
