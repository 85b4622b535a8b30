"""Models with a vocabulary of their own are asked as models of the task's tokens."""

import base64
import warnings

import numpy as np
import pytest
import torch
from conftest import transition
from own_vocabulary import TASK, VOCABULARIES, random_model, spread
from random_models import two_layers

import mtd_lens
from mtd_lens.hooked import HookedTransformer
from mtd_lens.vocabulary import Translated, Vocabulary, translated

IDS, N_IDS = (17, 3, 90, 41, 8), 120
NAME = "mtd-q5-m3-t32/trained-gpt-3l-s0"
BIAS = -2.0
ROUNDING = 1e-4
"""Of single sequences' figures, in units of their mean: sums of float32 in another order."""


def leaves(value, path=""):
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from leaves(inner, f"{path}.{name}")
    else:
        yield path, value


def check_same(found, expected, *, but=(), tolerance=1e-6):
    """Every figure and every verdict, but for what stands under some names."""
    one, two = (dict(leaves(result.to_dict())) for result in (found, expected))
    assert set(two) <= set(one)
    for path, value in two.items():
        if any(name in path for name in but):
            continue
        if path.endswith(".base64"):  # float32, of every sequence
            rows = (np.frombuffer(base64.b64decode(text), "<f4") for text in (one[path], value))
            np.testing.assert_allclose(*rows, rtol=ROUNDING, atol=ROUNDING, err_msg=path)
        elif isinstance(value, float):
            assert one[path] == pytest.approx(value, rel=tolerance, abs=tolerance), path
        else:
            assert one[path] == value, path


# ------------------------------------------------------------------------------ against plain twins


@pytest.fixture(scope="module")
def twins():
    """A trained model, and the same with ids of its own among others."""
    plain = mtd_lens.load_model(NAME, dtype=torch.float64)
    return plain, spread(plain, IDS, N_IDS, bias=BIAS), Vocabulary(IDS)


FITTED = ("step_size",)
"""Of four steps: their sizes share a flat valley of the loss; their divergence does not."""


def test_a_scorecard_is_the_plain_twins(twins):
    """The nulls' figures too: the task's rows are drawn as those of a model that has no others."""
    plain, own, vocabulary = twins
    expected = mtd_lens.score(plain, n_sequences=64, name="x")
    found = mtd_lens.score(own, "mtd-q5-m3-t32", n_sequences=64, name="x", vocabulary=vocabulary)
    check_same(found, expected, but=FITTED)
    assert expected.outside_mass is None
    assert "outside_mass" not in expected.to_dict()

    task = mtd_lens.task_of(plain)
    with torch.no_grad():
        logits = plain(task.sample(64, seed=0).tokens[32:])[:, -1]
    others = (N_IDS - len(IDS)) * torch.tensor(BIAS).double().exp()
    by_hand = (others / (others + logits.exp().sum(1))).mean()
    assert found.outside_mass == pytest.approx(float(by_hand), rel=1e-9)
    assert 0.1 < found.outside_mass < 0.9
    said = f"all others together a probability of {found.outside_mass:.3g}, on average"
    assert said in str(found)
    assert said in found.to_html()
    assert found.to_dict()["outside_mass"] == found.outside_mass
    assert mtd_lens.Scorecard.from_json(found.to_json()).outside_mass == found.outside_mass


def test_other_answers_are_the_plain_twins(twins):
    plain, own, vocabulary = twins
    task = mtd_lens.task_of(plain)
    given = {"task": task, "vocabulary": vocabulary}
    check_same(
        mtd_lens.compare(own, n_sequences=64, name="x", **given),
        mtd_lens.compare(plain, n_sequences=64, name="x"),
        but=FITTED,
    )
    check_same(
        mtd_lens.read_weights(own, n_random=2, **given),
        mtd_lens.read_weights(plain, n_random=2),
        but=("model",),
    )
    one, two = mtd_lens.inspect(own, name="x", **given), mtd_lens.inspect(plain, name="x")
    assert torch.allclose(one.attention, two.attention)
    for pattern in two.analysis.patterns:
        assert torch.equal(one.nearest_heads[pattern.name], two.nearest_heads[pattern.name])
    for source, values in two.analysis.predictions.items():
        assert torch.allclose(one.analysis.predictions[source], values, equal_nan=True), source
    tokens = task.sample(8, seed=1).tokens
    assert torch.allclose(
        mtd_lens.model_predictions(own, tokens, **given), mtd_lens.model_predictions(plain, tokens)
    )


@pytest.mark.slow
def test_searches_are_the_plain_twins(twins):
    plain, own, vocabulary = twins
    given = {"task": mtd_lens.task_of(plain), "vocabulary": vocabulary}
    check_same(
        mtd_lens.localize(own, n_sequences=64, name="x", **given),
        mtd_lens.localize(plain, n_sequences=64, name="x"),
    )
    asked = {"variable": "mean_responsibility", "layer": 2, "n_sequences": 64, "steps": 20}
    one = mtd_lens.align(own, **asked, **given)
    two = mtd_lens.align(plain, **asked)
    for name, score in two.scores.items():
        assert one.scores[name].score == pytest.approx(score.score, abs=1e-4), name


def test_a_prefix_that_nothing_attends_to_changes_nothing():
    """Positions, captures and edits are those of the task's sequence.

    What is hidden takes one component more, of which probes know, and nulls.
    """
    plain = mtd_lens.load_model("mtd-q5-m3-t32/trained-attn-only-3l-s0", dtype=torch.float64)
    own = spread(plain, IDS, N_IDS, before=3)
    vocabulary = Vocabulary(IDS, bos=0, prefix=(1, 2))
    found = mtd_lens.score(own, "mtd-q5-m3-t32", n_sequences=64, name="x", vocabulary=vocabulary)
    expected = mtd_lens.score(plain, n_sequences=64, name="x")
    assert len(found) == len(expected) == 17
    for claim, twin in zip(found, expected, strict=True):
        assert (claim.id, claim.layer, claim.site) == (twin.id, twin.layer, twin.site)
        if "probe" not in claim.id:
            assert claim.score == pytest.approx(twin.score, abs=1e-6), claim.id
            assert claim.verdict == twin.verdict, claim.id


@pytest.fixture(scope="module")
def trained():
    """A model that learned a task through ids of its own, and its part that is the task's."""
    task = mtd_lens.MTDTask(transition(3, seed=8, concentration=0.3), order=2, seq_len=16)
    longer = mtd_lens.MTDTask(task.transition, 2, 17)
    ids = torch.tensor([4, 9, 2])
    shape = {
        **{"n_layers": 2, "d_model": 32, "n_heads": 2, "d_head": 16, "n_ctx": 16},
        **{"attn_only": True, "act_fn": "gelu", "device": "cpu", "default_prepend_bos": False},
    }
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, twin = (HookedTransformer({**shape, "d_vocab": n}) for n in (12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(300):
        batch = ids[longer.sample(64, seed=step).tokens]
        found = model(batch[:, :-1]).log_softmax(-1).gather(-1, batch[:, 1:, None])
        optimizer.zero_grad()
        (-found.mean()).backward()
        optimizer.step()
    rows = {"embed.W_E": ids, "unembed.W_U": (slice(None), ids), "unembed.b_U": ids}
    weights = model.state_dict()
    twin.load_state_dict({n: w[rows[n]] if n in rows else w for n, w in weights.items()})
    return model.eval().double(), twin.eval().double(), task, Vocabulary(ids.tolist())


def test_a_model_that_was_trained_through_its_own_ids_is_scored_as_its_twin(trained):
    model, twin, task, vocabulary = trained
    asked = {"n_sequences": 256, "quick": True, "name": "x"}
    found = mtd_lens.score(model, task, vocabulary=vocabulary, **asked)
    expected = mtd_lens.score(twin, task, **asked)
    check_same(found, expected, but=FITTED)
    divergence = {row.name: row.divergence for row in found.estimators}
    assert divergence["one step"] < 0.7 * divergence["uniform"]  # it infers weights in context
    assert 0 < found.outside_mass < 0.01  # it learned that no other id comes


# --------------------------------------------------------------------------------- a language model


def _of_gpt2(theirs, n_heads):
    """The weights of a GPT-2 of transformers by their TransformerLens names."""
    state = theirs.transformer.state_dict()
    found = {"embed.W_E": state["wte.weight"], "unembed.W_U": state["wte.weight"].T}
    found["pos_embed.W_pos"] = state["wpe.weight"]
    norms = {"ln_final": "ln_f"}
    for n in range(len(theirs.transformer.h)):
        here, there = f"blocks.{n}", f"h.{n}"
        norms |= {f"{here}.ln1": f"{there}.ln_1", f"{here}.ln2": f"{there}.ln_2"}
        weights = state[f"{there}.attn.c_attn.weight"].unflatten(1, (3, n_heads, -1))
        biases = state[f"{there}.attn.c_attn.bias"].unflatten(0, (3, n_heads, -1))
        for index, name in enumerate("QKV"):
            found[f"{here}.attn.W_{name}"] = weights[:, index].transpose(0, 1)
            found[f"{here}.attn.b_{name}"] = biases[index]
        out = state[f"{there}.attn.c_proj.weight"]
        found[f"{here}.attn.W_O"] = out.unflatten(0, (n_heads, -1))
        found[f"{here}.attn.b_O"] = state[f"{there}.attn.c_proj.bias"]
        for name, part in (("in", "c_fc"), ("out", "c_proj")):
            found[f"{here}.mlp.W_{name}"] = state[f"{there}.mlp.{part}.weight"]
            found[f"{here}.mlp.b_{name}"] = state[f"{there}.mlp.{part}.bias"]
    for here, there in norms.items():
        found |= {f"{here}.w": state[f"{there}.weight"], f"{here}.b": state[f"{there}.bias"]}
    return found


def test_a_language_model_of_a_configuration_is_asked():
    """GPT-2's architecture as transformers has it, with random weights, beside its own outputs."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": 200}
        known = {"bos_token_id": 199, "eos_token_id": 199}
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **known)).eval()
        model = HookedTransformer(
            {
                **{"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 64},
                **{"n_ctx": 24, "d_vocab": 200, "act_fn": "gelu_new", "normalization_type": "LN"},
                **{"device": "cpu", "default_prepend_bos": False},
            }
        ).eval()
    model.load_state_dict(_of_gpt2(theirs, n_heads=2), strict=False)
    task = mtd_lens.MTDTask(transition(3, seed=8), order=2, seq_len=20, name="text")
    vocabulary = Vocabulary({0: 31, 1: 7, 2: 150}, bos=199, prefix=(50, 51))
    tokens = task.sample(64, seed=0).tokens
    with torch.no_grad():
        rows = [[199, 50, 51, *({0: 31, 1: 7, 2: 150}[t] for t in row)] for row in tokens.tolist()]
        expected = theirs(torch.tensor(rows)).logits[:, -1].double().softmax(-1)
    asked = expected[:, [31, 7, 150]]
    found = mtd_lens.model_predictions(model, tokens, task, vocabulary=vocabulary)
    assert torch.allclose(found, asked / asked.sum(1, keepdim=True), atol=1e-6)
    card = mtd_lens.score(model, task, n_sequences=64, quick=True, vocabulary=vocabulary)
    assert card.outside_mass == pytest.approx(float(1 - asked[32:].sum(1).mean()), abs=1e-6)
    assert card.outside_mass > 0.9
    assert card["prediction.estimator"].verdict == "refuted"


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([1, 2, 2],), "tokens 1 and 2 both have id 2"),
        (([1, 2.0],), "ids of the vocabulary must be a list of integers from 0"),
        (([1, True],), "ids of the vocabulary must be a list of integers from 0"),
        (([1, -2],), "-2 is outside"),
        (("123",), "ids of the vocabulary must be a list of integers"),
        (({0: 5, 2: 6},), r"must map every token 0 … 1 to an id; it maps \[0, 2\]"),
        (({"a": 5},), "tokens of the vocabulary must be a list of integers"),
        (([1, 2], -1), "bos must be an integer of at least 0; got -1"),
        (([1, 2], None, 3), "prefix must be a list of integers"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(given, said):
    with pytest.raises(mtd_lens.ArgumentError, match=said):
        Vocabulary(*given)


QUESTIONS = {
    "score": lambda model, **given: mtd_lens.score(model, **given),
    "compare": lambda model, **given: mtd_lens.compare(model, **given),
    "localize": lambda model, **given: mtd_lens.localize(model, **given),
    "align": lambda model, **given: mtd_lens.align(model, "mean_responsibility", 1, **given),
    "inspect": lambda model, **given: mtd_lens.inspect(model, **given),
    "dashboard": lambda model, **given: mtd_lens.dashboard(model, **given),
    "read_weights": lambda model, **given: mtd_lens.read_weights(model, **given),
}


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (Vocabulary([1, 2, 3]), "has 3 ids, but the task has 4 tokens"),
        (Vocabulary([1, 2, 3, 7]), "ids of the vocabulary must lie in 0 … 6, .*; got 7"),
        (Vocabulary([1, 2, 3, 4], bos=9), "bos and prefix must lie in 0 … 6, .*; got 9"),
        (
            Vocabulary([1, 2, 3, 4], 0, [0, 0]),
            "put 3 ids before the task's 4 tokens, .* context is 6",
        ),
        ([1, 2, 3, 4], r"vocabulary must be .*Use mtd_lens.Vocabulary\(ids\)"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused_before_any_work(
    question, vocabulary, said, monkeypatch
):
    monkeypatch.setattr(mtd_lens.MTDTask, "sample", None)
    with pytest.raises(mtd_lens.ArgumentError, match=said):
        QUESTIONS[question](random_model("gpt"), task=TASK, vocabulary=vocabulary)


def test_lengths_leave_room_for_what_comes_before():
    vocabulary = VOCABULARIES["bos and prefix"]
    with pytest.raises(mtd_lens.ArgumentError, match=r"a context length must be .* 3 to 4; got 5"):
        mtd_lens.compare(random_model("gpt"), TASK, [5], vocabulary=vocabulary)
    found = mtd_lens.compare(random_model("gpt"), TASK, [3, 4], 64, vocabulary=vocabulary)
    assert found.lengths == (3, 4)


def test_vectors_have_no_vocabulary():
    model = mtd_lens.load_model("ar-d3-t16/constructed-one-step")
    with pytest.raises(mtd_lens.ArgumentError, match="the task's tokens are vectors"):
        mtd_lens.score(model, vocabulary=Vocabulary([0, 1, 2]))
    with pytest.raises(mtd_lens.ArgumentError, match="the model reads vectors"):
        mtd_lens.score(model, TASK, vocabulary=VOCABULARIES["ids"])


def test_a_bidirectional_model_has_nothing_before_its_sequence():
    model = two_layers(attention_dir="bidirectional")
    task = mtd_lens.MTDTask(transition(3, seed=8), order=2, seq_len=8)
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"attention is bidirectional\. Leave them out"
    ):
        mtd_lens.score(model, task, vocabulary=Vocabulary([0, 1, 2], bos=4))
    assert isinstance(translated(model, task, Vocabulary([0, 1, 2])), Translated)
