"""Train a transformer on any task; a run can be killed at any moment and resumed exactly."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mtd_lens import checkpoints
from mtd_lens.architectures import (
    ARCHITECTURES,
    VECTOR_ARCHITECTURES,
    Trainable,
    build_trainable,
    size_for,
)
from mtd_lens.contracts import Examples, Task
from mtd_lens.errors import ArgumentError, CheckpointError, ModelError, TrainingError
from mtd_lens.experiment import versions
from mtd_lens.registry import family_of, load_checkpoint, load_task, task_from_json
from mtd_lens.spaces import Vectors
from mtd_lens.training import run_folder
from mtd_lens.training.config import VECTOR_LOSS, TrainingConfig
from mtd_lens.training.objective import loss_of, schedule
from mtd_lens.training.processes import Processes, own_modes, processes_on
from mtd_lens.training.signals import KINDS, Signals, caught
from mtd_lens.training.state import expected_state, load_state, state_of
from probes import checks, files
from probes.memory import check_memory, within_memory
from probes.progress import note, part, shown, steps, tell

CHUNK_TOKENS = 2**18
"""Sequences for many steps are drawn at once, about this many tokens: a draw costs mostly calls."""

LESS = "Lower batch_size, d_model, n_layers or evaluation_sequences."

SHOWN = 2
"""So many figures of a step stand beside its progress; the metrics have all."""

YARDSTICK_SEED = 2**40
"""Of the held-out sequences, the same for every run; training draws from hashed seeds."""


@dataclass(frozen=True)
class Run:
    """A finished or stopped training run.

    Attributes:
        folder: Of its checkpoints and metrics.
        step: The last step taken.
        metrics: The rows of ``metrics.jsonl``.
        model: The HookedTransformer of the last checkpoint.
    """

    folder: Path
    step: int
    metrics: list[dict[str, Any]]
    model: Any

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, step={self.step})"


def train(
    task: Task | str | os.PathLike[str],
    config: TrainingConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    stop_after: int | None = None,
    progress: bool | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train a model from scratch on fresh sequences, writing checkpoints and metrics to a folder.

    Several processes started by ``torchrun`` train one model together. At SIGINT (Ctrl-C) and
    SIGTERM the running step is finished and saved first, unless a second one comes; handlers of the
    caller's own are left in charge.

    Args:
        task: The task, its name, or its JSON file.
        config: Every setting of the run.
        out: Its folder: new or empty, or with ``resume`` that of an unfinished run.
        resume: Go on from the last checkpoint; on a CPU the result is bit-identical to that of a
            run that was never stopped. A folder without a run starts one.
        stop_after: Stop, with a checkpoint, after this step, a multiple of ``log_every``; the
            schedule stays that of the run.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).
        tensorboard: Also write the metrics for TensorBoard.

    Returns:
        The finished or stopped run, with the model of its last checkpoint.

    Raises:
        ArgumentError: A task or setting out of its range.
        TrainingError: The folder holds a run already, or another one; the loss is not finite.
        CheckpointError: The last checkpoint is damaged.
        OutputPathError: The folder cannot be written to.
        ModelError: The family of the task has no examples to train on.
        MemoryLimitError: The model or its batches do not fit into memory.
        KeyboardInterrupt: SIGINT came; the message says where the run stands. SIGTERM raises a
            SystemExit.
    """
    task = load_task(task) if isinstance(task, str | os.PathLike) else task
    family = family_of(task)
    if not isinstance(config, TrainingConfig):
        raise ArgumentError(f"config must be a TrainingConfig; got {type(config).__name__}.")
    if family.examples is None or family.yardsticks is None:
        raise ModelError(f"the family {family.name!r} has no examples to train on.")
    if config.reads_vectors != isinstance(task.inputs, Vectors):
        has = "tokens" if config.reads_vectors else "vectors"
        fitting = ARCHITECTURES if config.reads_vectors else VECTOR_ARCHITECTURES
        raise ArgumentError(
            f"the task's sequences are of {has}, which the architecture {config.architecture!r} "
            f"does not read. Use one of {', '.join(fitting)}."
        )
    resume = checks.flag(resume, "resume", ArgumentError)
    tensorboard = checks.flag(tensorboard, "tensorboard", ArgumentError)
    last = config.steps
    if stop_after is not None:
        last = checks.integer(stop_after, "stop_after", 1, ArgumentError, config.steps)
        if last % config.log_every and last != config.steps:
            raise ArgumentError(
                f"stop_after must be a multiple of log_every, {config.log_every}; got {last}."
            )
    folder = files.checked_path(out, ArgumentError, "{} cannot be the folder of a run")
    if tensorboard:
        _summary_writer_class()
    with ExitStack() as stack:
        stack.enter_context(within_memory(LESS))
        processes = stack.enter_context(processes_on(config.device))
        wanted = progress if processes.is_main else False
        stack.enter_context(shown("train", wanted, ArgumentError))
        stack.enter_context(own_modes(processes.device, config.threads))
        where = partial(run_folder.how_to_go_on, folder, config.steps)
        signals = stack.enter_context(caught(where, several=processes.count > 1))
        trainer, main = _Trainer(task, config, processes, family), processes.is_main
        made, resumed = False, resume and (folder / run_folder.RUN).exists()
        if resumed:
            run_folder.check_same_run(folder, trainer.description)
        elif main:
            made = run_folder.start_run(folder, trainer.description)
        processes.wait()
        if main:
            stack.enter_context(run_folder.alone(folder))
            if not resumed:
                stack.enter_context(run_folder.removed_if_empty(folder, made))
        step = trainer.restore(folder)
        if main:
            run_folder.tidy_run(folder, step)
            if resumed:
                on = "is finished" if step == config.steps else f"goes on from step {step}"
                tell(f"{run_folder.standing(folder, config.steps)}; it {on}")
        processes.wait()
        trainer.run(folder, step, last, signals, tensorboard=tensorboard)
        processes.wait()
        rows = run_folder.read_metrics(folder)
        return Run(folder, max(step, last), rows, load_checkpoint(folder))


def train_or_resume(
    task: Task | str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    resume: str | os.PathLike[str] | None,
    **options: Any,
) -> Run:
    """Start a run in ``out``, or go on with the one in the folder ``resume``.

    Args:
        task: The task, its name, or its JSON file; None to resume on the run's own.
        settings: Fields of :class:`TrainingConfig`; to resume, those left out are the run's.
        out: A new folder, to start.
        resume: A run's folder, to go on.
        **options: As for ``train``.

    Raises:
        TrainingError: Neither or both folders are given, or the run is another one.
    """
    if out is not None and resume is None:
        if task is None:
            raise TrainingError("a new run needs a task. `mtd-lens tasks` lists them.")
        return train(task, TrainingConfig().changed(settings), out, **options)
    if resume is None or out is not None:
        raise TrainingError(
            "give either a new folder (--out DIR) or a run to resume (--resume DIR)."
        )
    there, config = run_folder.read_run(resume)
    if task is None:
        task = task_from_json(there["task"], str(resume))
    return train(task, config.changed(settings), resume, resume=True, **options)


class _Trainer:
    """A model, its optimiser, and where the data come from."""

    def __init__(
        self, task: Task, config: TrainingConfig, processes: Processes, family: Any
    ) -> None:
        self.task, self.config, self.family = task, config, family
        self.processes, self.losses = processes, list[float]()
        self.description = run_folder.describe_run(task, config, processes.count)
        size = size_for(task, config.n_layers, config.d_model, config.n_heads)
        shapes = build_trainable(config.architecture, size, seed=None)
        check_memory(_least_memory(shapes, config), "this training", LESS, processes.device)
        self.model: Trainable = build_trainable(config.architecture, size, config.seed)
        self.model.to(processes.device, getattr(torch, config.dtype))
        self.distributed = processes.shared(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def run(
        self,
        folder: Path,
        step: int,
        last: int,
        signals: Signals,
        *,
        tensorboard: bool,
    ) -> None:
        """Take the steps after ``step`` up to ``last``."""
        config, main = self.config, self.processes.is_main
        with part("computing what it is held against"):
            yardsticks = self._yardsticks() if main else None
        started, losses, latest = time.perf_counter(), self.losses, dict[str, float]()
        with ExitStack() as stack:
            writer = None
            if tensorboard and main:
                logs = str(folder / run_folder.TENSORBOARD)
                writer = stack.enter_context(_summary_writer_class()(logs, purge_step=step))
            stack.enter_context(signals.deferred())
            for examples in steps(self._batches(step, last), "steps", config.steps, step):
                step += 1
                losses.append(self._step(step, examples, folder))
                came = self.processes.largest(signals.number)
                due = step % config.log_every == 0 or step == last
                row: dict[str, Any] = {}
                if due or came:
                    here = torch.tensor(losses, dtype=torch.float64, device=self.processes.device)
                    mean = self.processes.mean(here)
                    losses = [] if due else mean.tolist()
                    row |= {"loss": float(mean.mean())} if due else {}
                if yardsticks and (step % config.evaluate_every == 0 or step == config.steps):
                    row |= self._evaluate(folder, step, *yardsticks)
                latest |= row
                note(", ".join(f"{name} {latest[name]:.4f}" for name in list(latest)[:SHOWN]))
                if row and main:
                    seconds = round(time.perf_counter() - started, 1)
                    run_folder.append_metrics(folder, {"step": step, **row, "seconds": seconds})
                if writer:
                    for name, value in row.items():
                        writer.add_scalar(name, value, step)
                if main and (step % config.checkpoint_every == 0 or step == last or came):
                    self._save(folder, step, row, losses)
                if came:
                    self.processes.wait()  # or the launcher would end the process that still saves
                    raise KINDS[came]

    def _step(self, step: int, examples: Examples, folder: Path) -> float:
        """One step of the optimiser; returns the loss before it."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(config, step)
        loss = loss_of(config.loss, self.distributed(examples.inputs), examples)
        value = loss.item()
        if not math.isfinite(value):
            raise run_folder.diverged(folder, f"the loss is {value} at step {step}")
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        return value

    def _batches(self, step: int, last: int) -> Iterator[Examples]:
        """Examples of the steps after ``step``; those of a step depend on seed and step alone."""
        config, device = self.config, self.processes.device
        with_truth = config.loss not in ("next-token", VECTOR_LOSS)
        batch = config.batch_size
        in_chunk = max(1, CHUNK_TOKENS // (batch * self.task.seq_len))
        while step < last:
            chunk, offset = divmod(step, in_chunk)
            seeds = [config.seed, self.processes.index, chunk]
            seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]) >> 1
            drawn = self.family.examples(self.task, batch * in_chunk, seed, with_truth)
            for index in range(offset, min(in_chunk, offset + last - step)):
                rows = slice(batch * index, batch * (index + 1))
                truth = drawn.truth[rows].to(device) if drawn.truth is not None else None
                inputs, targets = (x[rows].to(device) for x in (drawn.inputs, drawn.targets))
                yield Examples(inputs, targets, truth, drawn.queries)
            step += in_chunk - offset

    def _yardsticks(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        n, device = self.config.evaluation_sequences, self.processes.device
        tokens, found = self.family.yardsticks(self.task, n, YARDSTICK_SEED)
        return tokens.to(device), {name: value.to(device) for name, value in found.items()}

    def _evaluate(
        self, folder: Path, step: int, tokens: Tensor, yardsticks: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Mean divergence of the predictions at the last query from each reference."""
        with torch.no_grad():
            output = self.model(tokens)[:, -1].to(torch.float64)
        if not output.isfinite().all():
            raise run_folder.diverged(folder, f"predictions are not finite after step {step}")
        outputs = self.task.outputs
        return {
            name: float(outputs.divergence(reference, outputs.trained(output)).mean())
            for name, reference in yardsticks.items()
        }

    def _save(
        self, folder: Path, step: int, metrics: Mapping[str, float], losses: list[float]
    ) -> None:
        """A checkpoint of this step, with the losses since the last row; older ones go."""
        target = folder / checkpoints.folder_name(step)
        weights = dict(self.model.named_parameters())
        for name, value in weights.items():
            if not value.isfinite().all():
                raise run_folder.diverged(folder, f"{name} is not finite after step {step}")
        known = {"step": step, "metrics": dict(metrics), "losses": losses, "versions": versions()}
        state = state_of(self.model, self.optimizer)
        checkpoints.save_checkpoint(
            target,
            self.description | known,
            {checkpoints.MODEL: weights, checkpoints.STATE: state},
        )
        run_folder.prune_checkpoints(folder, self.config.keep_checkpoints)

    def restore(self, folder: Path) -> int:
        """Weights and optimiser of the last checkpoint; returns its step, 0 where there is none."""
        found = run_folder.last_checkpoint(folder, self.description)
        if found is None:
            return 0
        manifest, weights = checkpoints.read_manifest(found), dict(self.model.named_parameters())
        read = checkpoints.read_tensors
        try:
            self.model.load(read(found, manifest, checkpoints.MODEL, weights))
            state = read(found, manifest, checkpoints.STATE, expected_state(self.model))
            load_state(self.model, self.optimizer, state, manifest["step"])
            self.losses = [
                checks.number(loss, "a loss", -math.inf, math.inf, ModelError)
                for loss in checks.listed(
                    manifest.get("losses", []), "losses", "numbers", ModelError
                )
            ]
        except (ModelError, TypeError) as error:
            raise CheckpointError(
                f"{found} cannot be resumed: {error} Remove it to resume from the one before."
            ) from error
        return int(manifest["step"])


def _least_memory(shapes: Trainable, config: TrainingConfig) -> int:
    """Bytes that training takes at the very least: what can be told without a step.

    Weights, gradients and two moments; and of the larger of batch and held-out sequences, the last
    stream and one layer's attention.
    """
    made, length = shapes.architecture, shapes.size.n_ctx
    n_weights = sum(weight.numel() for weight in shapes.parameters())
    n_sequences = max(config.batch_size, config.evaluation_sequences)
    n_kept = n_sequences * length * (made.d_model + made.n_heads * length)
    return (4 * n_weights + n_kept) * getattr(torch, config.dtype).itemsize


def _summary_writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArgumentError(
            "writing for TensorBoard needs the package tensorboard. Install it with "
            "`pip install tensorboard`, or leave the option out; metrics.jsonl has everything."
        ) from error
    return SummaryWriter
