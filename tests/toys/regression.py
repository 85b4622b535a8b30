"""In-context linear regression (Garg et al. 2022): vectors in, one number out, at every other one.

A sequence is ``x_1, y_1, x_2, y_2, …, x_k``: vectors of ``dim`` components and one more, which
holds the numbers ``y_i = ⟨w, x_i⟩``; w is drawn for each sequence.
"""

from dataclasses import dataclass, field

import torch

from mtd_lens.algorithms import Intervenable
from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import eye, for_block, zeros
from mtd_lens.claims import Claim
from mtd_lens.contracts import LAST, Algorithm, Analysis, Examples, Family, Reference
from mtd_lens.hooked import ModelInfo, assemble, randomized
from mtd_lens.measures import Interchange, Pattern, Prediction
from mtd_lens.spaces import Vectors, every_prediction


@dataclass(frozen=True)
class RegressionBatch:
    tokens: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class RegressionTask:
    dim: int
    n_pairs: int
    name: str | None = None
    family: str = "regression"

    @property
    def seq_len(self):
        return 2 * self.n_pairs + 1

    @property
    def inputs(self):
        return Vectors(self.dim + 1)

    @property
    def outputs(self):
        return Vectors(1)

    def sample(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(n, self.dim, 1, generator=generator, dtype=torch.float64)
        x = torch.randn(n, self.n_pairs + 1, self.dim, generator=generator, dtype=torch.float64)
        tokens = zeros(n, self.seq_len, self.dim + 1)
        tokens[:, ::2, :-1], tokens[:, 1::2, -1:] = x, (x @ w)[:, :-1]
        return RegressionBatch(tokens, w[..., 0])

    def to_json(self):
        return {"family": self.family, "dim": self.dim, "n_pairs": self.n_pairs, "name": self.name}


def split(tokens):
    """x ``[sequence, pair + 1, component]`` and y ``[sequence, pair, 1]``."""
    return tokens[:, ::2, :-1], tokens[:, 1::2, -1:]


@dataclass(frozen=True)
class OneStep(Intervenable):
    """One step of gradient descent from 0: ``Σ_i η⟨x, x_i⟩ y_i`` over the pairs before."""

    task: RegressionTask
    step_size: float
    interventions: dict = field(default_factory=dict)
    variables = ("products", "prediction")

    @property
    def parameters(self):
        return {"step_size": self.step_size}

    def query_positions(self, length):
        return tuple(range(2, length, 2))

    def run(self, tokens):
        x, y = split(tokens)
        products = self.step_size * (x[:, 1:] @ x[:, :-1].transpose(1, 2)).tril()
        products = self.held("products", products)
        return {"products": products, "prediction": self.held("prediction", products @ y)}


def fit(task, tokens, predictions):
    """The step size of least squared error, in closed form."""
    unit = OneStep(task, 1.0).run(tokens)["prediction"][:, -1]
    return OneStep(task, max(float((unit * predictions).sum() / unit.square().sum()), 1e-3))


def construct(task, causal_model=None, dtype=torch.float32):
    """Layer 0 puts each x beside its y, layer 1 sums the y by their products with the query's x."""
    d, length = task.dim, task.seq_len
    step_size = 1 / task.n_pairs if causal_model is None else causal_model.step_size
    layout = Layout({"x": d, "y": 1, "position": length, "paired": d, "output": 1})
    width = max(d, length)
    W_E, W_pos, W_U = zeros(d + 1, layout.size), zeros(length, layout.size), zeros(layout.size, 1)
    W_E[:d, layout["x"]], W_E[d:, layout["y"]] = eye(d), eye(1)
    W_pos[:, layout["position"]], W_U[layout["output"]] = eye(length), eye(1)
    weights = {"embed.W_E": W_E, "pos_embed.W_pos": W_pos, "unembed.W_U": W_U}
    for layer, (query, key, value, output) in enumerate(
        (("position", "position", "x", "paired"), ("x", "paired", "y", "output"))
    ):
        W_Q, W_K, W_V = (zeros(1, layout.size, width) for _ in range(3))
        W_O = zeros(1, width, layout.size)
        for matrix, name in ((W_K, key), (W_V, value)):
            size = layout[name].stop - layout[name].start
            matrix[0, layout[name], :size] = eye(size)
        size = layout[output].stop - layout[output].start
        W_O[0, :size, layout[output]] = eye(size)
        if layer == 0:  # a y attends to the x before it, an x to nothing
            before = torch.diag((torch.arange(1, length) % 2).double(), -1)
            W_Q[0, layout[query], :length] = before
        else:
            W_Q[0, layout[query], :d] = step_size * eye(d)
        weights |= for_block(layer, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)
    architecture = Architecture(
        "linear", "logits", 2, 1, layout.size, width, length, d + 1, n_outputs=1, reads_vectors=True
    )
    return assemble(architecture, weights, ModelInfo(task, f"{task.name}/constructed"), dtype)


def null(model, task, seed=0):
    """Random weights; untrained linear attention is scaled to outputs as large as the numbers."""
    random = randomized(model, seed, "null")
    tokens = task.sample(64, 0).tokens.float()
    with torch.no_grad():
        random.unembed.W_U.mul_(tokens[:, 1::2, -1].std() / random(tokens)[:, -1].std())
    return random


def least_squares(tokens):
    x, y = split(tokens)
    return torch.linalg.lstsq(x[:, :-1], y, driver="gelsd").solution.transpose(1, 2) @ x[:, -1:].mT


def references(task, fit_tokens, fit_target, tokens, target_first):
    one = fit(task, fit_tokens, fit_target)
    return {
        "zero": Reference(zeros(len(tokens), 1)),
        "one step": Reference(one.run(tokens)["prediction"][:, -1], one.parameters),
        "least squares": Reference(least_squares(tokens)[..., 0]),
    }


def truth(task, batch):
    return (batch.tokens[:, -1, :-1] * batch.weights).sum(-1, keepdim=True)


def examples(task, n, seed, with_truth):
    batch = task.sample(n, seed)
    targets = torch.cat([split(batch.tokens)[1], truth(task, batch)[:, None]], 1)[:, 1:]
    return Examples(batch.tokens, targets, None, tuple(range(2, task.seq_len, 2)))


def yardsticks(task, n, seed):
    batch = task.sample(n, seed)
    return batch.tokens, {"error from truth": truth(task, batch)}


def analyse(model, causal_model, tokens, fit_tokens, batch):
    predictions = {"model": every_prediction(model, tokens, causal_model.task.outputs)}
    predictions["one step"] = torch.full_like(predictions["model"], torch.nan)
    predictions["one step"][:, 2::2] = causal_model.run(tokens)["prediction"]
    return Analysis("next number", ("y",), predictions, predictions)


def claims(task):
    keys = range(1, task.seq_len, 2)
    return [
        Claim(
            "products.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the products.",
            Interchange("products", "attn.hook_pattern", LAST),
        ),
        Claim(
            "products.attention",
            "At every query a head's pattern is, up to one factor, the products.",
            Pattern("products", keys),
        ),
        Claim(
            "prediction.estimator",
            "Predictions are those of one step.",
            Prediction(lambda task, tokens: zeros(len(tokens), 1)),
        ),
    ]


FAMILY = Family(
    name="regression",
    task_from_json=lambda data: RegressionTask(data["dim"], data["n_pairs"], data["name"]),
    shortest=lambda task: 3,
    algorithms=(Algorithm("one step", fit, claims, construct),),
    truth=truth,
    references=references,
    drawn=("zero", "one step", "least squares"),
    presets={"regression-d3-k8": lambda: RegressionTask(3, 8, "regression-d3-k8")},
    variants={
        "constructed": construct,
        "random": lambda task, dtype: null(construct(task, dtype=dtype), task),
    },
    null=null,
    examples=examples,
    yardsticks=yardsticks,
    analyse=analyse,
)
