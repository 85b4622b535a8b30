"""Tasks and models that the tests share. Transitions are asymmetric on purpose."""

import jaxtyping
import numpy as np
import pytest
import torch

import mtd_lens


@pytest.fixture(autouse=True)
def _unchanged_random_state():
    """No code of ours may touch the process's random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global random state was changed"


@pytest.fixture
def _no_type_checker():
    """Users have none: what they get must be our own errors, not those of the tests' checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def transition(q: int, seed: int, concentration: float = 1.0, zeros: float = 0.0) -> np.ndarray:
    """Rows from a Dirichlet distribution, a share of entries set to exactly 0."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(q, concentration), q)
    rows[rng.random((q, q)) < zeros] = 0.0
    rows[np.arange(q), rng.integers(q, size=q)] += 0.2  # no row is left empty
    return rows / rows.sum(1, keepdims=True)


@pytest.fixture(scope="session")
def task() -> "mtd_lens.MTDTask":
    return mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=14, name="small")


@pytest.fixture(scope="session")
def tokens(task) -> torch.Tensor:
    return task.sample(12, seed=1).tokens


def stock(task, kind, **shape):
    """A model of a stock architecture with its initial weights, in float64."""
    from mtd_lens.architectures import Size, build_trainable
    from mtd_lens.hooked import ModelInfo, assemble

    trained = build_trainable(kind, Size(task.n_tokens, task.seq_len, 3, **shape), seed=3)
    return assemble(trained.architecture, trained.weights(), ModelInfo(task, "x"), torch.float64)
