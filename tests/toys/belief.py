"""Belief states of a hidden Markov model with two states: a variable of the whole prefix.

Nothing is known that computes them exactly, so no claim has a ceiling.
"""

from dataclasses import dataclass, field

import torch

import probes
from mtd_lens.algorithms import Intervenable
from mtd_lens.architectures import build_trainable, size_for
from mtd_lens.claims import Claim
from mtd_lens.contracts import LAST, Algorithm, Analysis, Family, Reference
from mtd_lens.hooked import ModelInfo, assemble, randomized
from mtd_lens.measures import Interchange, Prediction, Probe
from mtd_lens.spaces import Tokens, at_every_position, every_prediction

STAY = torch.tensor([[0.95, 0.05], [0.10, 0.90]], dtype=torch.float64)  # [state, next state]
EMIT = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)  # [state, token]
START = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
WINDOW = 2


@dataclass(frozen=True)
class BeliefBatch:
    tokens: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True)
class BeliefTask:
    seq_len: int
    name: str | None = None
    family: str = "belief"

    @property
    def inputs(self):
        return Tokens(EMIT.shape[1])

    outputs = inputs

    def sample(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        state, states, tokens = START.multinomial(n, True, generator=generator), [], []
        for _ in range(self.seq_len):
            states.append(state)
            tokens.append(EMIT[state].multinomial(1, generator=generator)[:, 0])
            state = STAY[state].multinomial(1, generator=generator)[:, 0]
        return BeliefBatch(torch.stack(tokens, 1), torch.stack(states, 1))

    def to_json(self):
        return {"family": self.family, "seq_len": self.seq_len, "name": self.name}


@dataclass(frozen=True)
class Filter(Intervenable):
    """The forward algorithm: what is believed of the state, and of the next token."""

    task: BeliefTask
    interventions: dict = field(default_factory=dict)
    variables = ("belief", "prediction")
    probabilities = variables
    parameters = {}  # noqa: RUF012

    def query_positions(self, length):
        return tuple(range(WINDOW - 1, length))

    def run(self, tokens):
        belief, found = START.expand(len(tokens), 2), []
        for t in range(tokens.shape[1]):
            joint = belief * EMIT[:, tokens[:, t]].T
            now = joint / joint.sum(-1, keepdim=True)
            found.append(now)
            belief = now @ STAY
        belief = self.held("belief", torch.stack(found, 1)[:, WINDOW - 1 :])
        return {
            "belief": belief,
            "prediction": self.held("prediction", belief @ STAY @ EMIT),
        }


def control(causal_model, tokens, variable, seed):
    """An arbitrary belief for every window of tokens, through the same algorithm."""
    positions = causal_model.query_positions(tokens.shape[1])
    windows = probes.token_windows(tokens, positions, WINDOW)
    decoys = probes.random_simplex_map(windows, 2, seed)
    return causal_model.do(belief=decoys).run(tokens)[variable]


def stationary(task, tokens):
    return (START @ EMIT).expand(len(tokens), -1)


def filtered(task, tokens):
    return Filter(task).run(tokens)["prediction"][:, -1]


def claims(task):
    return [
        Claim(
            "belief.interchange",
            "Swapping a layer's output at the last query acts as swapping the belief.",
            Interchange("belief", "hook_attn_out", LAST),
        ),
        Claim(
            "belief.probe",
            "The belief can be read linearly from a layer at every position.",
            Probe("belief", control, WINDOW),
        ),
        Claim("prediction.estimator", "Predictions follow the belief.", Prediction(stationary)),
    ]


def analyse(model, causal_model, tokens, fit_tokens, batch):
    found = causal_model.run(tokens)
    latents = {"filter": found["belief"]}
    predictions = {
        "model": every_prediction(model, tokens, causal_model.task.outputs)[:, WINDOW - 1 :],
        "filter": found["prediction"],
    }
    if batch is not None:
        states = torch.eye(2, dtype=torch.float64)[batch.states[:, : tokens.shape[1]]]
        latents["truth"] = states[:, WINDOW - 1 :]
    return Analysis(
        latent="belief",
        components=("state 0", "state 1"),
        latents=at_every_position(latents, WINDOW - 1),
        predictions=at_every_position(predictions, WINDOW - 1),
    )


def untrained(task, dtype=torch.float32):
    trained = build_trainable("attn-only", size_for(task, 2, 32, 2), seed=0)
    info = ModelInfo(task, f"{task.name}/random")
    return randomized(assemble(trained.architecture, trained.weights(), info, dtype), 0, info.name)


FAMILY = Family(
    name="belief",
    task_from_json=lambda data: BeliefTask(data["seq_len"], data["name"]),
    shortest=lambda task: WINDOW,
    algorithms=(Algorithm("filter", lambda task, tokens, predicted: Filter(task), claims),),
    truth=lambda task, batch: (STAY @ EMIT)[batch.states[:, -1]],
    references=lambda task, fit_tokens, fit_target, tokens, target_first: {
        "stationary": Reference(stationary(task, tokens)),
        "filter": Reference(filtered(task, tokens)),
    },
    drawn=("stationary", "filter"),
    presets={"belief-t16": lambda: BeliefTask(16, "belief-t16")},
    variants={"random": untrained},
    resized=lambda task, length: BeliefTask(length),
    analyse=analyse,
)
