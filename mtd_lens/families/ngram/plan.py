"""What the analytic constructions share: the plan, the selector, the classifier.

Every gap between scores leaves at least the margin of :mod:`mtd_lens.architectures.writing`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Architecture, Form, Layout, ReadOut
from mtd_lens.architectures.writing import MARGIN, eye, for_block, zeros
from mtd_lens.families.ngram.task import NGramTask

N_LAYERS = 2

MAX_PARAMETERS = 2**27
"""Of a construction: half a gigabyte in float32, and twice that while it is built in float64."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """What a construction computes; anything but the defaults breaks one of its parts.

    Attributes:
        task: The task.
        sharpness: Layer 1 attends with ``softmax(sharpness · match)``.
        read_out: How the output is read.
        copies: False has block 0's heads attend to all positions so far alike.
        looks_ahead: False has the selector's query look at the parents of the current token, not of
            the next.
        votes: Which subspace layer 1's values copy: the token, or that of the nearest copy.
        match: Of the tuple of parents, or the share of their single ``"tokens"`` that match.
        prior: What is added to the count of every token: layer 1 attends to position 0 as if
            ``n_tokens · prior`` matches were there, whose value is uniform. 0 for no prior.
    """

    task: NGramTask
    sharpness: float
    read_out: ReadOut = "log_probs"
    copies: bool = True
    looks_ahead: bool = True
    votes: str = "token"
    match: str = "tuple"
    prior: float = 0.0

    @property
    def n_features(self) -> int:
        """Entries of the key feature, and of the query's."""
        task = self.task
        return task.n_rows if self.match == "tuple" else len(task.parents) * task.n_tokens

    @property
    def copy_gap(self) -> float:
        """How far the scores of other keys lie below that of the token which a head copies."""
        return MARGIN if self.copies else 0.0

    @property
    def match_gap(self) -> float:
        """How far keys without evidence lie below others, which are at most the sharpness."""
        return MARGIN + self.sharpness


def lay_out(plan: Plan, place: dict[str, int]) -> Layout:
    """The residual stream: token, place, a copy for each lag, key and query feature, prediction."""
    task = plan.task
    copies = {copy_of(lag): task.n_tokens for lag in range(1, task.window + 1)}
    computed = {"key": plan.n_features, "query": plan.n_features, "output": task.n_tokens}
    if plan.prior:
        computed["vote"] = task.n_tokens
    return Layout({copy_of(0): task.n_tokens} | place | copies | computed)


def copy_of(lag: int) -> str:
    """The subspace of the token ``lag`` positions back."""
    return "token" if lag == 0 else f"lag {lag}"


def architecture(plan: Plan, layout: Layout, form: Form) -> Architecture:
    """The shape of a construction: two layers, as many heads as the window has lags, ReLU MLPs."""
    task = plan.task
    return Architecture(
        form=form,
        read_out=plan.read_out,
        n_layers=N_LAYERS,
        n_heads=task.window,
        d_model=layout.size,
        d_head=d_head(plan, form),
        n_ctx=task.seq_len,
        n_tokens=task.n_tokens,
        d_mlp=d_mlp(plan),
        activation="relu",
    )


def d_mlp(plan: Plan) -> int:
    """Neurons: one for each entry of both features; for a prior one a token, and position 0's."""
    return 2 * plan.n_features + (plan.task.n_tokens + 1 if plan.prior else 0)


def d_head(plan: Plan, form: Form) -> int:
    """Width of heads: a match and a flag, a token, or a position."""
    task = plan.task
    return max(plan.n_features + 1, task.n_tokens, task.seq_len if form == "absolute" else 1)


def n_parameters(plan: Plan, form: Form) -> int:
    """How many a construction has, with all that its heads and MLPs leave at 0."""
    task, absolute = plan.task, form == "absolute"
    q, n_heads, width = task.n_tokens, task.window, d_head(plan, form)
    d_model = lay_out(plan, {"place": task.seq_len if absolute else 1}).size
    attention = n_heads * (4 * d_model * width + 3 * width) + d_model
    tables = 0 if absolute else 2 * n_heads * task.seq_len * width
    mlp = 2 * d_model * d_mlp(plan) + d_mlp(plan) + d_model
    embeddings = (2 * q + task.seq_len) * d_model + q
    return N_LAYERS * (attention + tables + mlp) + embeddings


def embed_tokens(plan: Plan, layout: Layout) -> Weights:
    """One-hot tokens."""
    q = plan.task.n_tokens
    W_E = zeros(q, layout.size)
    W_E[:, layout["token"]] = eye(q)
    return {"embed.W_E": W_E}


def move_copies(plan: Plan, layout: Layout, form: Form) -> tuple[Tensor, Tensor]:
    """``W_V`` and ``W_O`` of the copier: head h writes the token that it reads into lag h."""
    q, n_heads, width = plan.task.n_tokens, plan.task.window, d_head(plan, form)
    W_V, W_O = zeros(n_heads, layout.size, width), zeros(n_heads, width, layout.size)
    for head, lag in enumerate(range(1, n_heads + 1)):
        W_V[head, layout["token"], :q] = eye(q)
        W_O[head, :q, layout[copy_of(lag)]] = eye(q)
    return W_V, W_O


def select(plan: Plan, layout: Layout) -> Weights:
    """Block 0's MLP: a key and a query neuron for each entry of the features, 1 where it is there.

    For a tuple of parents a neuron sums the entries that it has in the copies, less all but one of
    their number. The query's parents are those of the next token: each copy one lag nearer.
    """
    task, q, n = plan.task, plan.task.n_tokens, plan.n_features
    nearer = 1 if plan.looks_ahead else 0
    W_in, W_out = zeros(layout.size, d_mlp(plan)), zeros(d_mlp(plan), layout.size)
    b_in = zeros(d_mlp(plan))
    entries = torch.arange(n)
    for index, lag in enumerate(task.parents):
        of_lag, digit = entries, entries // q ** (len(task.parents) - 1 - index) % q
        if plan.match == "tokens":
            of_lag, digit = index * q + torch.arange(q), torch.arange(q)
        W_in[layout[copy_of(lag)].start + digit, of_lag] = 1.0
        W_in[layout[copy_of(lag - nearer)].start + digit, n + of_lag] = 1.0
    if plan.match == "tuple":
        b_in[: 2 * n] = 1.0 - len(task.parents)
    W_out[:n, layout["key"]] = eye(n)
    W_out[n : 2 * n, layout["query"]] = eye(n)
    return for_block(0, "mlp", W_in=W_in, b_in=b_in, W_out=W_out)


def vote(plan: Plan, layout: Layout, weights: Weights) -> Weights:
    """The selector with what a prior needs at position 0, and nothing new anywhere else.

    There every token is voted for alike in place of the own one, and the key is none.

    Args:
        plan: What to build.
        layout: Of the residual stream, with one-hot positions.
        weights: Of the selector.
    """
    if not plan.prior:
        return weights
    q, n, first = plan.task.n_tokens, plan.n_features, layout["position"].start
    tokens = torch.arange(q) + 2 * n
    W_in, b_in, W_out = (weights[f"blocks.0.mlp.{name}"] for name in ("W_in", "b_in", "W_out"))
    W_in[first, :n] = -1.0
    W_in[layout["token"], tokens] = eye(q)
    W_in[first, 2 * n :] = 1.0
    b_in[tokens] = -1.0
    W_out[tokens, layout["vote"]] = -eye(q)
    W_out[-1, layout["vote"]] = 1 / q
    return weights


def classify(plan: Plan, layout: Layout, form: Form, preamble: slice) -> Weights:
    """Block 1's head 0: the pattern is the match over evidence positions; values copy the token.

    Args:
        plan: What to build.
        layout: Of the residual stream.
        form: Of the construction.
        preamble: The components that are 1 at the first ``window`` positions and 0 at others.
    """
    task = plan.task
    q, n, width = task.n_tokens, plan.n_features, d_head(plan, form)
    W_Q, W_K, W_V = (zeros(1, layout.size, width) for _ in range(3))
    W_O, b_Q = zeros(1, width, layout.size), zeros(1, width)
    most = 1 if plan.match == "tuple" else len(task.parents)
    W_Q[0, layout["query"], :n] = plan.sharpness / most * eye(n)
    W_K[0, layout["key"], :n] = eye(n)
    b_Q[0, n] = 1.0
    W_K[0, preamble, n] = -plan.match_gap
    W_V[0, layout[plan.votes], :q] = eye(q)
    if plan.prior:
        W_V[0, layout["vote"], :q] = eye(q)
        W_K[0, preamble.start, n] = plan.sharpness + math.log(q * plan.prior)
    W_O[0, :q, layout["output"]] = eye(q)
    return for_block(1, "attn", W_Q=W_Q, b_Q=b_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def unembed(plan: Plan, layout: Layout) -> Weights:
    """The averaged one-hot tokens are the prediction."""
    W_U = zeros(layout.size, plan.task.n_tokens)
    W_U[layout["output"]] = eye(plan.task.n_tokens)
    return {"unembed.W_U": W_U}
