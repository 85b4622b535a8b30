"""Train a transformer on any task; a run can be killed at any moment and resumed exactly."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
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
from mtd_lens.training.processes import Processes, processes_on
from probes import checks

CHUNK_TOKENS = 2**18
"""Sequences for many steps are drawn at once, about this many tokens: a draw costs mostly calls."""

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

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
    task: Task | str,
    config: TrainingConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    stop_after: int | None = None,
    progress: bool = False,
    tensorboard: bool = False,
) -> Run:
    """Train a model from scratch on fresh sequences, writing checkpoints and metrics to a folder.

    Several processes started by ``torchrun`` train one model together.

    Args:
        task: The task, or its name.
        config: Every setting of the run.
        out: Its folder: new or empty, or with ``resume`` that of an unfinished run.
        resume: Go on from the last checkpoint; on a CPU the result is bit-identical to that of a
            run that was never stopped. A folder without a run starts one.
        stop_after: Stop, with a checkpoint, after this step, a multiple of ``log_every``; the
            schedule stays that of the run.
        progress: Show a progress bar on standard error.
        tensorboard: Also write the metrics for TensorBoard.

    Returns:
        The finished or stopped run, with the model of its last checkpoint.

    Raises:
        ArgumentError: A task or setting out of its range.
        TrainingError: The folder holds a run already, or another one; the loss is not finite.
        CheckpointError: The last checkpoint is damaged.
        OutputPathError: The folder cannot be written to.
        ModelError: The family of the task has no examples to train on.
    """
    task = load_task(task) if isinstance(task, str) else task
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
    progress = checks.flag(progress, "progress", ArgumentError)
    tensorboard = checks.flag(tensorboard, "tensorboard", ArgumentError)
    last = config.steps
    if stop_after is not None:
        last = checks.integer(stop_after, "stop_after", 1, ArgumentError, config.steps)
        if last % config.log_every and last != config.steps:
            raise ArgumentError(
                f"stop_after must be a multiple of log_every, {config.log_every}; got {last}."
            )
    folder = run_folder.checked_folder(out)
    if tensorboard:
        _summary_writer_class()
    with _threads(config), processes_on(config.device) as processes:
        trainer = _Trainer(task, config, processes, family)
        main = processes.is_main
        if resume and (folder / run_folder.RUN).exists():
            run_folder.check_same_run(folder, trainer.description)
        elif main:
            run_folder.start_run(folder, trainer.description)
        processes.wait()
        with run_folder.alone(folder) if main else nullcontext():
            step = trainer.restore(folder)
            if main:
                run_folder.tidy_run(folder, step)
            processes.wait()
            trainer.run(folder, step, last, progress=progress, tensorboard=tensorboard)
            processes.wait()
    return Run(folder, max(step, last), run_folder.read_metrics(folder), load_checkpoint(folder))


def train_or_resume(
    task: Task | str | None,
    settings: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    resume: str | os.PathLike[str] | None,
    **options: Any,
) -> Run:
    """Start a run in ``out``, or go on with the one in the folder ``resume``.

    Args:
        task: The task, or its name; None to resume on the run's own.
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
        self.processes = processes
        self.description = run_folder.describe_run(task, config, processes.count)
        size = size_for(task, config.n_layers, config.d_model, config.n_heads)
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

    def run(self, folder: Path, step: int, last: int, *, progress: bool, tensorboard: bool) -> None:
        """Take the steps after ``step`` up to ``last``."""
        from tqdm.auto import tqdm

        config, main = self.config, self.processes.is_main
        yardsticks = self._yardsticks() if main else None
        logs = str(folder / "tensorboard")
        writer = _summary_writer_class()(logs, purge_step=step) if tensorboard and main else None
        started, losses = time.perf_counter(), []
        bar = tqdm(
            total=config.steps,
            initial=step,
            disable=not (progress and main),
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )
        for examples in self._batches(step, last):
            step += 1
            losses.append(self._step(step, examples, folder))
            bar.update()
            row: dict[str, Any] = {}
            if step % config.log_every == 0 or step == last:
                here = torch.tensor(losses, dtype=torch.float64, device=self.processes.device)
                row["loss"] = float(self.processes.mean(here).mean())
                losses = []
            if not main:
                continue
            if yardsticks and (step % config.evaluate_every == 0 or step == config.steps):
                row |= self._evaluate(*yardsticks)
                bar.set_postfix({name: f"{value:.4f}" for name, value in row.items()})
            if row:
                seconds = round(time.perf_counter() - started, 1)
                run_folder.append_metrics(folder, {"step": step, **row, "seconds": seconds})
            if writer:
                for name, value in row.items():
                    writer.add_scalar(name, value, step)
            if step % config.checkpoint_every == 0 or step == last:
                self._save(folder, step, row)
        bar.close()
        if writer:
            writer.close()

    def _step(self, step: int, examples: Examples, folder: Path) -> float:
        """One step of the optimiser; returns the loss before it."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(config, step)
        with torch.enable_grad():  # the caller may have switched gradients off
            loss = loss_of(config.loss, self.distributed(examples.inputs), examples)
        value = loss.item()
        if not math.isfinite(value):
            kept = checkpoints.checkpoints_in(folder)
            raise TrainingError(
                f"the loss is {value} at step {step}. The last good checkpoint is "
                f"{kept[-1] if kept else 'none'}. Start again with a lower learning_rate or "
                "clip_norm, or more warmup_steps."
            )
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

    def _evaluate(self, tokens: Tensor, yardsticks: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean divergence of the predictions at the last query from each reference."""
        with torch.no_grad():
            output = self.model(tokens)[:, -1].to(torch.float64)
        outputs = self.task.outputs
        return {
            name: float(outputs.divergence(reference, outputs.trained(output)).mean())
            for name, reference in yardsticks.items()
        }

    def _save(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint of this step; older ones go."""
        target = folder / checkpoints.folder_name(step)
        weights = dict(self.model.named_parameters())
        for name, value in weights.items():
            if not value.isfinite().all():
                raise TrainingError(
                    f"{name} is not finite after step {step}; no checkpoint was written. Start "
                    "again with a lower learning_rate."
                )
        state = {
            f"{name}/{key}": value
            for name, parameter in weights.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        checkpoints.save_checkpoint(
            target,
            {**self.description, "step": step, "metrics": dict(metrics), "versions": versions()},
            {checkpoints.MODEL: weights, checkpoints.STATE: state},
        )
        run_folder.prune_checkpoints(folder, self.config.keep_checkpoints)

    def restore(self, folder: Path) -> int:
        """Weights and optimiser of the last checkpoint; returns its step, 0 where there is none."""
        found = run_folder.last_checkpoint(folder, self.description)
        if found is None:
            return 0
        manifest = checkpoints.read_manifest(found)
        weights = checkpoints.read_tensors(found, manifest, checkpoints.MODEL)
        state = checkpoints.read_tensors(found, manifest, checkpoints.STATE)
        try:
            self.model.load(weights)
        except ModelError as error:
            raise CheckpointError(
                f"{found} cannot be resumed: {error} Remove it to resume from the one before."
            ) from error
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.model.named_parameters()):
            for key in ADAM_STATE:
                value = state.get(f"{name}/{key}")
                if value is None or (key != "step" and value.shape != parameter.shape):
                    raise CheckpointError(
                        f"{found} lacks the optimiser's {key} of {name}. Remove it to resume from "
                        "the checkpoint before."
                    )
                moments.setdefault(index, {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return int(manifest["step"])


def schedule(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step, from 1, as a fraction of its highest: warm-up, then a cosine."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def loss_of(
    kind: str, output: Float[Tensor, "batch pos token"], examples: Examples
) -> Float[Tensor, ""]:
    """A loss of :data:`mtd_lens.training.config.LOSSES`, from the model's output."""
    output = examples.at_queries(output)
    if kind == "next-token":
        return functional.cross_entropy(output.flatten(0, 1), examples.targets.flatten())
    if kind == VECTOR_LOSS:
        return (output - examples.targets.to(output)).square().sum(-1).mean()
    assert examples.truth is not None
    truth = examples.truth.to(output)
    if kind == "distribution":
        return -(truth * output.log_softmax(-1)).sum(-1).mean()
    return (output[:, -1].softmax(-1) - truth[:, -1]).square().sum(-1).mean()


def _summary_writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArgumentError(
            "writing for TensorBoard needs the package tensorboard. Install it with "
            "`pip install tensorboard`, or leave the option out; metrics.jsonl has everything."
        ) from error
    return SummaryWriter


@contextmanager
def _threads(config: TrainingConfig) -> Iterator[None]:
    """As many threads as the run is to use, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
