"""Settings of a training run: one dataclass, its checks, and its TOML form."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from mtd_lens.architectures import ARCHITECTURES, MAX_LAYERS, VECTOR_ARCHITECTURES
from mtd_lens.errors import ArgumentError, nearest
from probes import checks

LOSSES = {
    "next-token": "cross-entropy of the next token at every query position",
    "distribution": "cross-entropy from the next token's true distribution (given the latent "
    "variables) at every query position: the same minimum, with less noise",
    "last-squared-error": "squared error of the distribution after the last position, the paper's",
    "squared-error": "squared error of the next vector at every query position",
}
VECTOR_LOSS = "squared-error"
DTYPES = ("float32", "float64")
POSITIVE = (
    "steps",
    "batch_size",
    "d_model",
    "n_heads",
    "log_every",
    "evaluate_every",
    "evaluation_sequences",
    "checkpoint_every",
    "threads",
)
OPTIONS = {
    "architecture": "--arch",
    "n_layers": "--layers",
    "steps": "--steps",
    "seed": "--seed",
    "loss": "--loss",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "warmup_steps": "--warmup-steps",
    "dtype": "--dtype",
}
"""Settings that decide the weights and have an option on the command line."""

ALWAYS_SHOWN = ("architecture", "n_layers", "steps", "seed", "learning_rate")

BOOKKEEPING = frozenset(
    {
        "log_every",
        "evaluate_every",
        "evaluation_sequences",
        "checkpoint_every",
        "keep_checkpoints",
        "device",
        "threads",
    }
)
"""Settings that may change when a run is resumed; of them, device and threads touch rounding."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Fresh sequences are drawn at every step.

    Attributes:
        architecture: ``"disentangled"``, ``"attn-only"`` or ``"gpt"``; on vectors ``"linear"``,
            ``"linear-augmented"``, ``"softmax"`` or ``"softmax-augmented"``.
        n_layers: Depth, from 1 to 6.
        d_model: Width of a stock model.
        n_heads: Heads of a stock model.
        seed: Of initial weights and data.
        steps: Optimiser steps.
        batch_size: Sequences a step (and a process, where several train together).
        loss: ``"next-token"``, ``"distribution"`` or ``"last-squared-error"``; on vectors
            ``"squared-error"``.
        learning_rate: After the warm-up; falls to 0 along a cosine.
        warmup_steps: Over which the learning rate rises from 0.
        weight_decay: Of AdamW.
        beta1: Of AdamW.
        beta2: Of AdamW.
        clip_norm: Gradients longer than this are scaled to it.
        log_every: Steps a row of the metrics.
        evaluate_every: Steps between comparisons with the reference predictions.
        evaluation_sequences: Held-out sequences of such a comparison.
        checkpoint_every: Steps between checkpoints; a multiple of ``log_every``.
        keep_checkpoints: How many of the last checkpoints stay; 0 keeps all.
        dtype: ``"float32"`` or ``"float64"``.
        device: For example ``"cpu"`` or ``"cuda"``.
        threads: On a CPU, by default as many as torch uses; runs are bit-identical only for the
            same number.

    Raises:
        ArgumentError: A field out of its range.
    """

    architecture: str = "attn-only"
    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    seed: int = 0
    steps: int = 20_000
    batch_size: int = 128
    loss: str = "next-token"
    learning_rate: float = 3e-3
    warmup_steps: int = 1_000
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    log_every: int = 50
    evaluate_every: int = 500
    evaluation_sequences: int = 1_024
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        known = (*ARCHITECTURES, *VECTOR_ARCHITECTURES)
        checks.choice(self.architecture, "architecture", known, ArgumentError)
        checks.choice(self.loss, "loss", LOSSES, ArgumentError)
        if self.reads_vectors != (self.loss == VECTOR_LOSS):
            which = "vectors" if self.reads_vectors else "tokens"
            fitting = [name for name in LOSSES if self.reads_vectors == (name == VECTOR_LOSS)]
            raise ArgumentError(
                f"the architecture {self.architecture!r} predicts {which}, for which the loss "
                f"{self.loss!r} is not defined. Use --loss {' or '.join(fitting)}."
            )
        checks.choice(self.dtype, "dtype", DTYPES, ArgumentError)
        checks.seed(self.seed, ArgumentError)
        checks.integer(self.n_layers, "n_layers", 1, ArgumentError, MAX_LAYERS)
        for name in ("warmup_steps", "keep_checkpoints"):
            checks.integer(getattr(self, name), name, 0, ArgumentError)
        for name in POSITIVE:
            checks.integer(getattr(self, name), name, 1, ArgumentError)
        for name in ("learning_rate", "clip_norm"):
            checks.number(getattr(self, name), name, 0, 1e6, ArgumentError)
        for name in ("weight_decay", "beta1", "beta2"):
            high = 1e6 if name == "weight_decay" else 1 - 1e-9
            checks.number(getattr(self, name), name, 0, high, ArgumentError, low_included=True)
        if not isinstance(self.device, str):
            raise ArgumentError(f"device must be a string such as 'cpu'; got {self.device!r}.")
        if self.d_model % self.n_heads:
            raise ArgumentError(
                f"n_heads must divide d_model; got {self.n_heads} heads and d_model {self.d_model}."
            )
        if self.checkpoint_every % self.log_every:
            raise ArgumentError(
                f"checkpoint_every must be a multiple of log_every, {self.log_every}; got "
                f"{self.checkpoint_every}. log_every can be set in a file (--config)."
            )

    @property
    def reads_vectors(self) -> bool:
        """The architecture reads and predicts vectors, not tokens."""
        return self.architecture in VECTOR_ARCHITECTURES

    def to_json(self) -> dict[str, Any]:
        """Plain data, as a checkpoint's manifest holds it."""
        return asdict(self)

    def command(self, task: str, out: str) -> list[str]:
        """The words of the command that trains the same weights; bookkeeping is left out.

        Args:
            task: The task's name.
            out: The folder of the run.

        Raises:
            ArgumentError: A setting that decides the weights has no option of its own.
        """
        words = ["mtd-lens", "train", task]
        for name, value in self.to_json().items():
            if name in OPTIONS:
                if name in ALWAYS_SHOWN or value != getattr(TrainingConfig, name):
                    words += [OPTIONS[name], str(value)]
            elif name not in BOOKKEEPING and value != getattr(TrainingConfig, name):
                raise ArgumentError(f"{name} has no option; give it in a file, --config FILE.toml.")
        return [*words, "--out", out]

    def changed(self, settings: Mapping[str, Any]) -> "TrainingConfig":
        """A copy with some settings changed; those that are None are left as they are.

        Args:
            settings: New values, by name of the field.

        Raises:
            ArgumentError: A field out of its range.
        """
        return replace(self, **{name: v for name, v in settings.items() if v is not None})


FIELDS = tuple(entry.name for entry in fields(TrainingConfig))


def read_settings(path: Any) -> dict[str, Any]:
    """Settings in a TOML file, ``name = value`` with the names of :class:`TrainingConfig`.

    Raises:
        ArgumentError: No such file, no TOML, or a name that is not known, with its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the settings in {path} cannot be read: {error}.") from error
    for name in settings:
        if name not in FIELDS:
            line = _line_of(name, text)
            raise ArgumentError(
                f"{path}, line {line}: unknown setting {name!r}. {nearest(name, FIELDS)}"
            )
    return settings


def _line_of(name: str, text: str) -> int:
    """The line on which a key or table of that name begins."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[.\]=]""")
    return next((i for i, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
