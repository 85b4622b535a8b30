"""A task family in one file: the next token repeats the one two back, nine times out of ten.

The guide to adding a family goes through it.
"""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import one_hot

from mtd_lens.algorithms import Intervenable
from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.claims import Claim
from mtd_lens.contracts import LAST, Algorithm, Family, Reference
from mtd_lens.hooked import ModelInfo, assemble, randomized
from mtd_lens.measures import Interchange, Prediction
from mtd_lens.spaces import Tokens

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

    @property
    def inputs(self):
        return Tokens(self.n_tokens)

    outputs = inputs

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
class ToyModel(Intervenable):
    task: ToyTask
    interventions: dict = field(default_factory=dict)
    variables = ("copied", "prediction")
    parameters = {"sureness": SURE}  # noqa: RUF012

    def query_positions(self, length):
        return tuple(range(1, length))

    def run(self, tokens):
        q = self.task.n_tokens
        copied = self.held("copied", one_hot(tokens[:, :-1], q).double())
        prediction = self.held("prediction", SURE * copied + (1 - SURE) / q)
        return {"copied": copied, "prediction": prediction}


def construct(task, dtype=torch.float32):
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


def uniform(task, tokens):
    return torch.full((len(tokens), task.n_tokens), 1 / task.n_tokens, dtype=torch.float64)


def repeated(task, tokens):
    return ToyModel(task).run(tokens)["prediction"][:, -1]


def claims(task):
    return [
        Claim(
            "copied.interchange",
            "Swapping the layer's output swaps the copied token.",
            Interchange("copied", "hook_attn_out", LAST),
        ),
        Claim("copied.attention", "A head attends to the token one back.", lambda trial: []),
        Claim("prediction.copying", "Predictions repeat.", Prediction(uniform)),
    ]


def references(task, fit_tokens, fit_target, tokens, target_first):
    return {
        "uniform": Reference(uniform(task, tokens)),
        "copying": Reference(repeated(task, tokens), {"sureness": SURE}),
    }


COPYING = Algorithm(
    name="copying",
    fit=lambda task, tokens, predictions: ToyModel(task),
    claims=claims,
    construct=lambda task, causal_model: construct(task),
)

FAMILY = Family(
    name="toy",
    task_from_json=lambda data: ToyTask(data["n_tokens"], data["seq_len"]),
    shortest=lambda task: 2,
    algorithms=(COPYING,),
    truth=lambda task, batch: repeated(task, batch.tokens),
    references=references,
    presets={"toy-q4-t9": lambda: ToyTask(4, 9, "toy-q4-t9")},
    variants={
        "constructed": construct,
        "random": lambda task, dtype: randomized(construct(task, dtype), 0, "random"),
    },
    resized=lambda task, length: ToyTask(task.n_tokens, length),
)
