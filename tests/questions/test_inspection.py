"""Inspections: the model's own attention, the nearest heads, what is cut, and bad input."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from conftest import stock, transition

import mtd_lens
from mtd_lens.contracts import AnalyticPattern
from mtd_lens.hooked import randomized
from mtd_lens.measures import signed_shares
from mtd_lens.questions import inspect as inspection


@pytest.fixture
def _no_type_checker():
    """What is tested here is what users see, who have none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, beta=6.0, dtype=torch.float64)


@pytest.fixture(scope="module")
def found(model):
    return mtd_lens.inspect(model, n_sequences=5, seed=2)


def test_attention_is_the_models(model, found):
    _, cache = model.run_with_cache(found.tokens)
    assert found.attention.shape == (3, 3, 5, 14, 14)
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)
        assert torch.allclose(found.attention[layer].double(), pattern, atol=1e-7)


def test_sequences_are_the_tasks(task, found):
    batch = task.sample(5, seed=2)
    assert torch.equal(found.tokens, batch.tokens)
    assert torch.equal(found.analysis.latents["truth"][:, -1], batch.weights)
    assert found.parameters["beta"] == pytest.approx(6.0, rel=1e-6)
    assert found.n_cut == 0
    assert found.token_names == ("0", "1", "2", "3")


def test_nearest_heads_of_a_construction_are_the_patterns(found):
    """In each layer, the heads together carry the layer's own pattern at every query."""
    for layer, pattern in enumerate(found.analysis.patterns):
        heads = found.nearest_heads[pattern.name]
        distances = found.distances(pattern).gather(1, heads[:, None])[:, 0, 3:]
        assert distances[layer].max() < 1e-3
        others = [other for other in range(3) if other != layer]
        assert (distances[others].mean(-1) > 0.1).all()


def test_distances_are_total_variations(found):
    pattern = found.analysis.patterns[1]
    distances = found.distances(pattern)
    assert distances[..., :3].isnan().all()
    by_hand = [
        float((found.attention[2, 1, n, 7] - pattern.values[n, 7]).abs().sum() / 2)
        for n in range(5)
    ]
    assert float(distances[2, 1, 7]) == pytest.approx(sum(by_hand) / 5, abs=1e-6)


def test_heads_are_chosen_on_other_sequences(task, model):
    """The same heads whatever is shown, since none of what is shown was used."""
    one, two = (mtd_lens.inspect(model, task.sample(2, seed=s).tokens) for s in (8, 9))
    for name, heads in one.nearest_heads.items():
        assert torch.equal(heads, two.nearest_heads[name])


def test_long_contexts_are_cut_and_causal():
    long = mtd_lens.MTDTask(transition(4, seed=5), order=3, seq_len=300)
    model = stock(long, "attn-only", d_model=8, n_heads=2)
    found = mtd_lens.inspect(model, n_sequences=1)
    assert found.tokens.shape == (1, inspection.MAX_POSITIONS)
    assert found.n_cut == 300 - inspection.MAX_POSITIONS
    whole = long.sample(1, seed=0).tokens
    assert torch.equal(found.tokens, whole[:, : inspection.MAX_POSITIONS])
    with torch.no_grad():
        at_end = model(whole).softmax(-1)[:, inspection.MAX_POSITIONS - 1]
    assert torch.allclose(found.analysis.predictions["model"][:, -1], at_end, atol=1e-9)


def test_many_heads_are_cut_further(monkeypatch, task):
    monkeypatch.setattr(inspection, "MAX_ENTRIES", 500)
    model = stock(task, "attn-only", d_model=8, n_heads=2)
    found = mtd_lens.inspect(model, n_sequences=2)
    length = found.tokens.shape[1]
    assert 4 < length < 14
    assert 2 * (2 * 3 + 3) * length * (length - 1) / 2 <= 500
    monkeypatch.setattr(inspection, "MAX_ENTRIES", 100)
    with pytest.raises(mtd_lens.ArgumentError, match="only 3 positions would be left"):
        mtd_lens.inspect(model, n_sequences=2)


def test_tokens_longer_than_the_task_are_cut_to_it(task):
    longer = mtd_lens.MTDTask(task.transition, task.order, 40)
    model = stock(longer, "attn-only", d_model=8, n_heads=2)
    found = mtd_lens.inspect(model, longer.sample(2, seed=0).tokens, task=task)
    assert found.tokens.shape[1] == task.seq_len
    assert found.n_cut == 40 - task.seq_len
    for heads in found.nearest_heads.values():
        assert heads.shape == (3, task.seq_len)


def test_models_that_look_ahead_are_refused(task):
    model = stock(task, "attn-only", d_model=8, n_heads=2)
    model.cfg.attention_dir = "bidirectional"
    with pytest.raises(mtd_lens.ModelError, match="inspect shows causal attention"):
        mtd_lens.inspect(model)


def test_the_largest_seed(model):
    assert mtd_lens.inspect(model, n_sequences=1, seed=2**62).seed == 2**62


def test_fitting_never_sees_the_sequences_that_are_shown(task, model, monkeypatch):
    seen = []
    sample = type(task).sample

    def watched(*arguments, **named):
        seen.append(sample(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr(type(task), "sample", watched)
    found = mtd_lens.inspect(model, n_sequences=4, seed=5)
    drawn = [batch.tokens for batch in seen if len(batch.tokens) == inspection.N_FIT_SEQUENCES]
    assert drawn
    assert not (drawn[0][:, None] == found.tokens).all(-1).any()


def test_the_model_is_left_as_it_was(task):
    model = randomized(stock(task, "gpt", d_model=8, n_heads=2), 0, "mine").train()
    calls = []
    model.add_hook("blocks.1.attn.hook_pattern", lambda value, hook: calls.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = mtd_lens.inspect(model, n_sequences=1, name="theirs")
    assert found.model == "theirs"
    assert model.training
    assert calls
    assert len(model.hook_dict["blocks.1.attn.hook_pattern"].fwd_hooks) == 1
    assert not model.hook_dict["blocks.0.attn.hook_pattern"].fwd_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_sequences": 0}, mtd_lens.ArgumentError, "n_sequences"),
        ({"n_sequences": 17}, mtd_lens.ArgumentError, "17 sequences are more.*Show at most 16"),
        ({"name": 5}, mtd_lens.ArgumentError, "name must be a text; got 5"),
        ({"name": "a\ud800"}, mtd_lens.ArgumentError, "cannot be shown"),
        ({"seed": -1}, mtd_lens.ArgumentError, "seed"),
        ({"token_names": ["a", "b"]}, mtd_lens.ArgumentError, "2 entries for a vocabulary of 4"),
        ({"token_names": "abcd"}, mtd_lens.ArgumentError, "must list a text for each token"),
        ({"token_names": [1, 2, 3, 4]}, mtd_lens.ArgumentError, r"token_names\[0\] must be a text"),
        ({"tokens": torch.zeros(2, 14)}, mtd_lens.DataError, "integer tensor"),
        ({"tokens": torch.zeros(14).long()}, mtd_lens.DataError, "sequence, position"),
        ({"tokens": torch.full((1, 14), 9)}, mtd_lens.DataError, "must lie in 0 … 3"),
        ({"tokens": torch.zeros(1, 3).long()}, mtd_lens.TokensError, "order \\+ 1 = 4"),
        ({"tokens": torch.zeros(17, 14).long()}, mtd_lens.ArgumentError, "at most 16"),
        ({"task": "mtd-q5-m3-t64"}, mtd_lens.ModelError, "token"),
    ],
)
def test_bad_input(model, arguments, error, message):
    with pytest.raises(error, match=message):
        mtd_lens.inspect(model, **arguments)


@pytest.mark.usefixtures("_no_type_checker")
def test_too_many_sequences_are_refused_before_anything_else():
    with pytest.raises(mtd_lens.ArgumentError, match=r"128 sequences are more.*Show at most 16"):
        mtd_lens.inspect("no model", n_sequences=128)


@pytest.mark.usefixtures("_no_type_checker")
def test_distances_are_from_patterns_not_from_names(found):
    listed = r"patterns \(0: 'responsibilities', 1: 'uniform average', 2: 'mixture weights'\)"
    with pytest.raises(
        mtd_lens.ArgumentError, match=f"got 'uniform average'. Give one of.*{listed}"
    ):
        found.distances("uniform average")
    with pytest.raises(mtd_lens.ArgumentError, match="here there are none"):
        replace(found, analysis=None, nearest_heads={}).distances(0)


def vector_model(sign=1.0):
    """A construction on vectors, the queries of its last layer with a sign of their own."""
    model = mtd_lens.load_model("ar-d3-t16/constructed-one-step")
    with torch.no_grad():
        model.blocks[1].attn.W_Q.mul_(sign)
        model.blocks[1].attn.b_Q.mul_(sign)
    return model


def test_attention_without_a_softmax_keeps_its_sign():
    model = vector_model()
    found = mtd_lens.inspect(model, n_sequences=3)
    _, cache = model.run_with_cache(found.tokens)
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)
        for query in range(1, 16):
            raw = pattern[..., query, :]
            total = raw.abs().sum(-1, keepdim=True)
            expected = torch.where(total > 0, raw / total.clamp_min(1e-30), 0.0)
            assert torch.allclose(found.attention[layer][..., query, :], expected, atol=1e-6)
    products = found.analysis.patterns[1]
    assert found.attention.min() < -0.1
    assert products.values.nan_to_num().min() < -0.1
    assert torch.allclose(products.values[:, 1:].abs().sum(-1), torch.ones(()).double())
    assert found.distances(products)[1, 0, 1:].max() < 1e-5


def test_a_pattern_of_opposite_sign_is_far():
    """As far as can be: at every key the two have opposite signs."""
    negated = mtd_lens.inspect(vector_model(-1.0), n_sequences=3)
    distances = negated.distances(negated.analysis.patterns[1])[1, 0, 1:]
    assert torch.allclose(distances, torch.ones(()), atol=1e-5)


def test_distances_of_signed_shares_lie_between_0_and_1(found):
    generator = torch.Generator().manual_seed(3)
    attention, values = (
        signed_shares(torch.randn(shape, generator=generator).pow(3).tril())
        for shape in (found.attention.shape, found.attention.shape[2:])
    )
    values[:, 4] = 0.0
    attention[1, 2], attention[1, 1] = values, -values
    signed = replace(found, attention=attention)
    distances = signed.distances(AnalyticPattern("signed", "x", values))
    assert distances.min() >= 0
    assert distances.max() <= 1 + 1e-6
    assert distances[1, 2].abs().max() < 1e-6
    expected = torch.ones(14).index_fill(0, torch.tensor(4), 0.0)
    assert torch.allclose(distances[1, 1], expected, atol=1e-6)


@pytest.mark.usefixtures("_no_type_checker")
def test_no_model():
    with pytest.raises(mtd_lens.ModelError, match="load_model"):
        mtd_lens.inspect("mtd-q5-m3-t64/constructed-absolute")
