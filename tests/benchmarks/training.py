"""Steps a second of training on a CPU, against the loop that one writes first.

The plain loop runs the same HookedTransformer (same architecture, initial weights, batch and
optimiser), draws a fresh batch at every step, and leaves the number of threads as it is. Rates are
steps after a warm-up; the two alternate, so that a busy machine slows both.

Ours runs no hooks, computes queries, keys and values by one product, adds the mask within the score
product, draws sequences for many steps at once, and updates all weights in one fused call; for a
disentangled model it also leaves out products with identity matrices and the empty part of the
stream, which is most of what its HookedTransformer computes.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mtd_lens
from mtd_lens.architectures import ARCHITECTURES, Size, build_trainable
from mtd_lens.hooked import ModelInfo, assemble
from mtd_lens.printing import text_table

REPETITIONS = 5
STEPS = 30
TASK = "mtd-q5-m3-t32"


class PlainLoop:
    """What one writes first: a model, an optimiser, a batch a step."""

    def __init__(self, config: Any) -> None:
        self.task = mtd_lens.load_task(TASK)
        self.longer = mtd_lens.MTDTask(self.task.transition, 3, self.task.seq_len + 1)
        size = Size(self.task.n_tokens, self.task.seq_len, config.n_layers)
        trained = build_trainable(config.architecture, size)
        self.model = assemble(trained.architecture, trained.weights(), ModelInfo(None, "plain"))
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batch_size = config.batch_size
        self.seeds = itertools.count()

    def steps(self, n: int) -> float:
        """Seconds for ``n`` steps."""
        start = time.perf_counter()
        for _ in range(n):
            tokens = self.longer.sample(self.batch_size, next(self.seeds)).tokens
            loss = torch.nn.functional.cross_entropy(
                self.model(tokens[:, :-1])[:, 3:].flatten(0, 1), tokens[:, 4:].flatten()
            )
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return time.perf_counter() - start


class OurRun:
    """``mtd_lens.train``, stopped and resumed; the time is that of its steps alone."""

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.folder, self.step = config, folder, 0

    def steps(self, n: int) -> float:
        """Seconds for ``n`` steps, by the run's own clock."""
        self.step += n
        run = mtd_lens.train(
            TASK, self.config, self.folder, resume=self.folder.exists(), stop_after=self.step
        )
        return float(run.metrics[-1]["seconds"])


def main() -> None:
    """Print the table."""
    rows = []
    for name in ARCHITECTURES:
        config = mtd_lens.TrainingConfig(
            architecture=name, log_every=5, checkpoint_every=10_000, evaluation_sequences=1
        )
        with tempfile.TemporaryDirectory() as folder:
            ours, plain = OurRun(config, Path(folder) / "run"), PlainLoop(config)
            ours.steps(5), plain.steps(5)
            pairs = [(ours.steps(STEPS), plain.steps(STEPS)) for _ in range(REPETITIONS)]
        fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append([name, f"{STEPS / fast:.1f}", f"{STEPS / slow:.1f}", f"{ratio:.2f}"])
    print(
        f"training, 3 layers, {TASK}, batch {config.batch_size}: medians of {REPETITIONS} "
        f"alternating runs of {STEPS} steps; plain loop with {torch.get_num_threads()} threads"
    )
    print(text_table(["architecture", "steps/s", "plain loop", "ratio"], rows))


if __name__ == "__main__":
    main()
