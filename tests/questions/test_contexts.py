"""Answers do not depend on the contexts that questions are asked in, nor on the type of a seed."""

import contextlib
import threading

import numpy as np
import pytest
import torch

import mtd_lens
import probes
from mtd_lens.architectures import Size, build_trainable
from mtd_lens.hooked import ModelInfo, assemble

SMALL = {"n_sequences": 64}
QUESTIONS = {
    "score": lambda m, **k: mtd_lens.score(m, **SMALL, **k).to_json(),
    "localize": lambda m, **k: mtd_lens.localize(m, **SMALL, **k).to_json(),
    "align": lambda m, **k: mtd_lens.align(
        m, "mixture_weights", 1, steps=2, **SMALL, **k
    ).to_json(),
    "compare": lambda m, **k: mtd_lens.compare(m, lengths=[6], **SMALL, **k).to_json(),
    "inspect": lambda m, **k: mtd_lens.inspect(m, n_sequences=1, **k).to_json(),
    "dashboard": lambda m, **k: mtd_lens.dashboard(m, n_sequences=1, **k).to_html(),
    "read_weights": lambda m, **k: mtd_lens.read_weights(m, n_random=1, **k).to_json(),
}
CONTEXTS = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def made():
    """A model with LayerNorm and MLPs, in float32, of which autocast would change the figures."""
    task = mtd_lens.MTDTask([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]], 2, 6)
    trained = build_trainable("gpt", Size(3, 6, 2, d_model=8, n_heads=2), seed=3)
    info = ModelInfo(task, "small")
    return assemble(trained.architecture, trained.weights(), info, torch.float32)


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def answers(model):
    return {name: ask(model) for name, ask in QUESTIONS.items()}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_do_not_depend_on_the_context(question, context, model, answers):
    with CONTEXTS[context]():
        assert QUESTIONS[question](model) == answers[question]
        assert torch.is_inference_mode_enabled() == (context == "inference mode")
        assert torch.is_autocast_enabled("cpu") == (context == "autocast")


def test_predictions_do_not_depend_on_the_context(model):
    tokens = mtd_lens.task_of(model).sample(3, seed=0).tokens
    expected = mtd_lens.model_predictions(model, tokens)
    for context in CONTEXTS.values():
        with context():
            assert torch.equal(mtd_lens.model_predictions(model, tokens), expected)


@pytest.mark.parametrize("question", QUESTIONS)
def test_models_made_in_inference_mode_are_answered_too_where_no_gradient_is_taken(
    question, answers
):
    with torch.inference_mode():
        model = made()
        if question == "align":
            with pytest.raises(mtd_lens.ModelError, match="were made in inference mode"):
                QUESTIONS[question](model)
        else:
            assert QUESTIONS[question](model) == answers[question]


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("question", QUESTIONS)
def test_seeds_of_numpy_are_seeds(question, model):
    ask = QUESTIONS[question]
    assert ask(model, seed=np.int64(3)) == ask(model, seed=3)


def test_autocast_is_on_where_it_was_after_an_error(model):
    with contextlib.suppress(mtd_lens.MTDLensError), torch.autocast("cpu", dtype=torch.bfloat16):
        mtd_lens.score(model, n_sequences=3)
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_another_threads_hooks_are_not_copied_into_the_null():
    """A scorecard beside a thread that reads the same model is the one without it."""
    task = mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)
    model, tokens = mtd_lens.construct(task, 2.0), task.sample(20, 0).tokens
    alone, errors, done = mtd_lens.score(model, n_sequences=64).to_dict(), [], threading.Event()

    def read():
        while not done.is_set():
            try:
                probes.read_activations(
                    model, tokens, {"it": probes.Site("blocks.0.hook_attn_out")}
                )
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert mtd_lens.score(model, n_sequences=64).to_dict() == alone
    finally:
        done.set()
        reader.join()
    assert errors == []


def test_probabilities_off_the_simplex_are_normalised():
    task = mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)
    model, generator = mtd_lens.construct(task, 2.0, read_out="probs"), torch.Generator()
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator.manual_seed(0))
    raw = model(task.sample(64, 0).tokens)[:, -1]
    assert (raw < 0).any()  # else nothing is shown here
    found = mtd_lens.model_predictions(model, task.sample(64, 0).tokens)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(64, dtype=torch.float64))
    mtd_lens.score(model, n_sequences=64)


def test_the_largest_seed_and_one_above():
    task = mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)
    model = mtd_lens.construct(task, 2.0)
    mtd_lens.score(model, n_sequences=64, seed=2**62)
    with pytest.raises(mtd_lens.ArgumentError, match=f"from 0 to {2**62}; got {2**62 + 1}"):
        mtd_lens.score(model, n_sequences=64, seed=2**62 + 1)
