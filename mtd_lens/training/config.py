"""Settings of a training run, named once: checks, files and the command's options read them."""

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mtd_lens.errors import ArgumentError, nearest
from probes import checks, files
from probes.errors import InputPathError

LOSSES = {
    "next-token": "cross-entropy of the next token at every query position",
    "distribution": "cross-entropy from the next token's true distribution (given the latent "
    "variables) at every query position: the same minimum, with less noise",
    "last-squared-error": "squared error of the distribution after the last position, the paper's",
    "squared-error": "squared error of the next vector at every query position",
}
VECTOR_LOSS = "squared-error"
DTYPES = ("float32", "float64")
MAX_THREADS = 4_096
"""With far more, libraries under torch end the process."""


def _setting(
    default: Any,
    check: Callable[[Any, str], object],
    *,
    option: str | None = None,
    always_shown: bool = False,
    bookkeeping: bool = False,
) -> Any:
    """A field with what is known of it beside its description; a default may be a function."""
    known: dict[str, Any] = {"check": check, "option": option}
    known |= {"always_shown": always_shown, "bookkeeping": bookkeeping}
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata=known)


def _integer(low: int, high: int | None = None) -> Callable[[Any, str], object]:
    return lambda value, name: checks.integer(value, name, low, ArgumentError, high)


def _number(high: float, *, low_included: bool = False) -> Callable[[Any, str], object]:
    return lambda value, name: checks.number(
        value, name, 0, high, ArgumentError, low_included=low_included
    )


def _one_of(names: Collection[str]) -> Callable[[Any, str], object]:
    return lambda value, name: checks.choice(value, name, names, ArgumentError)


def _architecture(value: object, name: str) -> str:
    from mtd_lens.architectures import ARCHITECTURES, VECTOR_ARCHITECTURES

    return checks.choice(value, name, (*ARCHITECTURES, *VECTOR_ARCHITECTURES), ArgumentError)


def _layers(value: object, name: str) -> int:
    from mtd_lens.architectures import MAX_LAYERS

    return checks.integer(value, name, 1, ArgumentError, MAX_LAYERS)


def _width(value: object, name: str) -> int:
    from mtd_lens.architectures import MAX_WIDTH

    return checks.integer(value, name, 1, ArgumentError, MAX_WIDTH)


def _device(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"{name} must be a string such as 'cpu'; got {value!r}.")
    return value


def _threads() -> int:
    import torch

    return torch.get_num_threads()


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

    architecture: str = _setting("attn-only", _architecture, option="--arch", always_shown=True)
    n_layers: int = _setting(3, _layers, option="--layers", always_shown=True)
    d_model: int = _setting(64, _width)
    n_heads: int = _setting(4, _width)
    seed: int = _setting(0, _integer(0, checks.MAX_SEED), always_shown=True)
    steps: int = _setting(20_000, _integer(1), always_shown=True)
    batch_size: int = _setting(128, _integer(1))
    loss: str = _setting("next-token", _one_of(LOSSES))
    learning_rate: float = _setting(3e-3, _number(1e6), always_shown=True)
    warmup_steps: int = _setting(1_000, _integer(0))
    weight_decay: float = _setting(0.0, _number(1e6, low_included=True))
    beta1: float = _setting(0.9, _number(1 - 1e-9, low_included=True))
    beta2: float = _setting(0.98, _number(1 - 1e-9, low_included=True))
    clip_norm: float = _setting(1.0, _number(1e6))
    log_every: int = _setting(50, _integer(1), bookkeeping=True)
    evaluate_every: int = _setting(500, _integer(1), bookkeeping=True)
    evaluation_sequences: int = _setting(1_024, _integer(1), bookkeeping=True)
    checkpoint_every: int = _setting(1_000, _integer(1), bookkeeping=True)
    keep_checkpoints: int = _setting(2, _integer(0), bookkeeping=True)
    dtype: str = _setting("float32", _one_of(DTYPES))
    device: str = _setting("cpu", _device, bookkeeping=True)
    threads: int = _setting(_threads, _integer(1, MAX_THREADS), bookkeeping=True)

    def __post_init__(self) -> None:
        for entry in fields(self):
            plain = entry.metadata["check"](getattr(self, entry.name), entry.name)
            object.__setattr__(self, entry.name, plain)
        if self.reads_vectors != (self.loss == VECTOR_LOSS):
            which = "vectors" if self.reads_vectors else "tokens"
            fitting = [name for name in LOSSES if self.reads_vectors == (name == VECTOR_LOSS)]
            raise ArgumentError(
                f"the architecture {self.architecture!r} predicts {which}, for which the loss "
                f"{self.loss!r} is not defined. Use --loss {' or '.join(fitting)}."
            )
        if self.d_model % self.n_heads:
            raise ArgumentError(
                f"n_heads must divide d_model; got {self.n_heads} heads and d_model {self.d_model}."
            )
        if self.checkpoint_every % self.log_every:
            raise ArgumentError(
                f"checkpoint_every must be a multiple of log_every, {self.log_every}; got "
                f"{self.checkpoint_every}. Change one of them, such as --log-every."
            )

    @property
    def reads_vectors(self) -> bool:
        """The architecture reads and predicts vectors, not tokens."""
        from mtd_lens.architectures import VECTOR_ARCHITECTURES

        return self.architecture in VECTOR_ARCHITECTURES

    def to_json(self) -> dict[str, Any]:
        """Plain data, as a checkpoint's manifest holds it."""
        return asdict(self)

    def command(self, task: str, out: str) -> list[str]:
        """The words of the command that trains the same weights; bookkeeping is left out.

        Args:
            task: The task's name.
            out: The folder of the run.
        """
        words = ["mtd-lens", "train", task]
        for name in (name for name in SETTINGS if name not in BOOKKEEPING):
            value, shown = getattr(self, name), SETTINGS[name].metadata["always_shown"]
            if shown or value != SETTINGS[name].default:
                words += [option_of(name), str(value)]
        return [*words, "--out", out]

    def changed(self, settings: Mapping[str, Any]) -> "TrainingConfig":
        """A copy with some settings changed; those that are None are left as they are.

        Args:
            settings: New values, by name of the field.

        Raises:
            ArgumentError: A field out of its range.
        """
        for name in checks.mapping(settings, "settings", ArgumentError):
            checks.choice(name, "setting", SETTINGS, ArgumentError)
        return replace(self, **{name: v for name, v in settings.items() if v is not None})


SETTINGS = {entry.name: entry for entry in fields(TrainingConfig)}

BOOKKEEPING = frozenset(name for name, known in SETTINGS.items() if known.metadata["bookkeeping"])
"""Settings that may change when a run is resumed; of them, device and threads touch rounding."""


def option_of(name: str) -> str:
    """A setting's option on the command line."""
    return SETTINGS[name].metadata["option"] or f"--{name.replace('_', '-')}"


def descriptions() -> dict[str, str]:
    """What the docstring of :class:`TrainingConfig` says of each setting, without marks of code."""
    text = inspect.getdoc(TrainingConfig) or ""
    attributes = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", attributes, re.MULTILINE)
    return {name: " ".join(re.sub('``"?|"``', "", said).split()) for name, said in entries}


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings in a TOML file, ``name = value`` with the names of :class:`TrainingConfig`.

    Raises:
        ArgumentError: No such file, no TOML, or a name that is not known, with its line.
    """
    try:
        text = files.read_text(path)
        settings = tomllib.loads(text)
    except InputPathError as error:
        raise ArgumentError(f"{error} Give a TOML file of settings.") from error
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"the settings in {path} cannot be read as TOML: {error}.") from error
    for name in settings:
        if name not in SETTINGS:
            line = _line_of(name, text)
            raise ArgumentError(
                f"{path}, line {line}: unknown setting {name!r}. {nearest(name, SETTINGS)}"
            )
    return settings


def _line_of(name: str, text: str) -> int:
    """The line on which a key or table of that name begins."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[.\]=]""")
    return next((i for i, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
