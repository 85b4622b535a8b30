"""A task family in one file: the next token repeats the one two back, nine times out of ten.

The test of the contracts copies it into a folder of its own; nothing else in the package knows it.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.functional import one_hot

import probes
from mtd_lens import measures
from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.contracts import Claim, Estimate, Measurement
from mtd_lens.hooked import ModelInfo, assemble, probabilities, randomized

SURE = 0.9


@dataclass(frozen=True)
class ToyBatch:
    tokens: torch.Tensor


@dataclass(frozen=True)
class ToyTask:
    n_tokens: int
    seq_len: int
    name: str | None = None
    family: str = "toy"

    def sample(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(self.n_tokens, (n, self.seq_len), generator=generator)
        repeats = torch.rand((n, self.seq_len), generator=generator) < SURE
        for t in range(2, self.seq_len):
            tokens[:, t] = torch.where(repeats[:, t], tokens[:, t - 2], tokens[:, t])
        return ToyBatch(tokens)

    def to_json(self):
        return {"family": "toy", "n_tokens": self.n_tokens, "seq_len": self.seq_len}


@dataclass(frozen=True)
class ToyModel:
    task: ToyTask
    held: dict = field(default_factory=dict)
    variables = ("copied", "prediction")
    parameters = {"sureness": SURE}  # noqa: RUF012

    def query_positions(self, length):
        return tuple(range(1, length))

    def do(self, **values):
        return ToyModel(self.task, {**self.held, **values})

    def run(self, tokens):
        copied = one_hot(tokens[:, :-1], self.task.n_tokens).double()
        if "copied" in self.held:
            copied = torch.where(self.held["copied"].isnan(), copied, self.held["copied"])
        return {"copied": copied, "prediction": SURE * copied + (1 - SURE) / self.task.n_tokens}


def construct(task, dtype):
    q, length = task.n_tokens, task.seq_len
    layout = Layout({"token": q, "position": length, "output": q})
    weights = {
        "embed.W_E": torch.zeros(q, layout.size),
        "pos_embed.W_pos": torch.zeros(length, layout.size),
        "blocks.0.attn.W_Q": torch.zeros(1, layout.size, length),
        "blocks.0.attn.W_K": torch.zeros(1, layout.size, length),
        "blocks.0.attn.W_V": torch.zeros(1, layout.size, length),
        "blocks.0.attn.W_O": torch.zeros(1, length, layout.size),
        "unembed.W_U": torch.zeros(layout.size, q),
        "unembed.b_U": torch.full((q,), (1 - SURE) / q),
    }
    weights["embed.W_E"][:, layout["token"]] = torch.eye(q)
    weights["pos_embed.W_pos"][:, layout["position"]] = torch.eye(length)
    weights["blocks.0.attn.W_Q"][0, layout["position"]] = 100 * torch.eye(length).roll(-1, 1)
    weights["blocks.0.attn.W_K"][0, layout["position"]] = torch.eye(length)
    weights["blocks.0.attn.W_V"][0, layout["token"], :q] = torch.eye(q)
    weights["blocks.0.attn.W_O"][0, :q, layout["output"]] = torch.eye(q)
    weights["unembed.W_U"][layout["output"]] = SURE * torch.eye(q)
    architecture = Architecture("absolute", "log_probs", 1, 1, layout.size, length, length, q)
    return assemble(architecture, weights, ModelInfo(task, "toy"), dtype)


def predictions(model, tokens):
    return probabilities(model, probes.last_outputs(model, tokens))


def measure_copying(trial):
    model, tokens = trial.model, trial.tokens
    exact = trial.causal_model.run(tokens)["prediction"][:, -1]
    uniform = torch.full_like(exact, 1 / trial.task.n_tokens)
    numerator = probes.kl_divergence(exact, predictions(model, tokens))
    return [Measurement(None, "output", 0.0, numerator, probes.kl_divergence(exact, uniform))]


class ToyFamily:
    name = "toy"
    divergence = "KL, nats"
    edited_hooks = ("hook_attn_out",)

    def shortest(self, task):
        return 2

    def presets(self):
        return {"toy-q4-t9": lambda: ToyTask(4, 9, "toy-q4-t9")}

    def task_from_json(self, data):
        return ToyTask(data["n_tokens"], data["seq_len"])

    def variants(self):
        return {
            "constructed": construct,
            "random": lambda task, dtype: randomized(construct(task, dtype), 0, "random"),
        }

    def check_model(self, model, task):
        pass

    def fit_causal_model(self, model, task, tokens):
        return ToyModel(task)

    def null(self, model, task, seed):
        return randomized(model, seed, "null")

    def ceiling(self, task, causal_model):
        return construct(task, torch.float32)

    def claims(self, task):
        return [
            Claim(
                "copied.interchange",
                "Swapping the layer's output swaps the copied token.",
                partial(
                    measures.measure_interchange,
                    variable="copied",
                    hook="hook_attn_out",
                    prediction=probabilities,
                    divergence=probes.kl_divergence,
                    last_only=True,
                ),
            ),
            Claim(
                "copied.attention",
                "A head attends to the token one back.",
                lambda trial: [],
            ),
            Claim("prediction.copying", "Predictions repeat.", measure_copying),
        ]

    def estimates(self, trial):
        model = predictions(trial.model, trial.tokens)
        uniform = torch.full_like(model, 0.25)
        return [Estimate("uniform", probes.kl_divergence(uniform, model), {})]

    def contenders(self, task, model, length, n_sequences, seed):
        tokens = task.sample(n_sequences, seed).tokens[:, :length]
        truth = ToyModel(task).run(tokens)["prediction"][:, -1]
        divergence = probes.kl_divergence(truth, predictions(model, tokens))
        return [Estimate("model", divergence, {})]


FAMILY = ToyFamily()
