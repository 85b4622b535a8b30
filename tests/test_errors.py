"""Bad input: one row each, with the part of the message that names the offence."""

import re

import jaxtyping
import pytest
import torch

import mtd_lens
from mtd_lens import MTDLensError

GOOD = [[0.5, 0.5], [0.25, 0.75]]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _no_type_checker():
    """Users have none: what they get must be our own errors, not those of the tests' checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def accepted(rows, *arguments, kind=MTDLensError):
    """Of rows of a call and a message, those not refused with that message, and what came instead.

    Every row is tried, so that one failure does not hide another.
    """
    found = {}
    for name, (call, message) in rows.items():
        try:
            found[name] = f"no error, but {call(*arguments)!r}"
        except Exception as error:
            if not isinstance(error, kind) or not re.search(message, str(error)):
                found[name] = repr(error)
    return found


def tokens_of(task):
    return task.sample(4, seed=0).tokens


def impossible(task):
    """A task in which token 0 never follows anything, and sequences that hold it."""
    rows = [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.3, 0.7]]
    task = mtd_lens.MTDTask(rows, 2, 6)
    return task, torch.tensor([[2, 2, 1, 1, 1, 1], [2, 2, 1, 1, 0, 1]])


def make(transition=GOOD, order=2, seq_len=8, concentration=1.0):
    return mtd_lens.MTDTask(transition, order, seq_len, concentration)


TASKS = {
    "row sum": (lambda: make([[0.5, 0.5], [0.2, 0.7]]), r"row 1 sums to 0\.9.*Divide each row"),
    "negative": (lambda: make([[1.2, -0.2], [0.5, 0.5]]), r"entry \[0, 1\] is -0\.2"),
    "nan": (lambda: make([[0.5, 0.5], [NAN, 0.5]]), r"finite; entry \[1, 0\] is nan"),
    "infinite": (lambda: make([[0.5, 0.5], [INFINITY, 0.5]]), r"entry \[1, 0\] is inf"),
    "not square": (lambda: make([[0.5, 0.5]]), r"square.*\(1, 2\)"),
    "vector": (lambda: make([0.5, 0.5]), r"square.*\(2,\)"),
    "empty": (lambda: make([]), r"square"),
    "text": (lambda: make("pi"), r"matrix of numbers; got str"),
    "ragged": (lambda: make([[1.0], [0.5, 0.5]]), r"matrix of numbers"),
    "order 0": (lambda: make(order=0), r"order must be an integer of at least 1; got 0"),
    "order of seq_len": (lambda: make(order=8), r"order 8 and seq_len 8"),
    "order 1.5": (lambda: make(order=1.5), r"order must be an integer.*got 1\.5"),
    "seq_len text": (lambda: make(seq_len="8"), r"seq_len must be an integer.*got '8'"),
    "concentration 0": (lambda: make(concentration=0), r"concentration must be a number.*got 0"),
    "concentration nan": (
        lambda: make(concentration=NAN),
        r"concentration must be a number.*got nan",
    ),
    "concentration text": (
        lambda: make(concentration="1"),
        r"concentration must be a number.*got '1'",
    ),
    "no sequences": (lambda: make().sample(0), r"at least 1; got 0"),
    "half a sequence": (lambda: make().sample(1.5), r"at least 1; got 1\.5"),
    "negative seed": (lambda: make().sample(1, seed=-1), r"seed must be an integer.*got -1"),
    "huge entry": (lambda: make([[10**400]]), r"matrix of numbers"),
    "complex": (lambda: make(torch.eye(2) * 1j), r"complex"),
    "name": (lambda: mtd_lens.MTDTask(GOOD, 2, 8, name="a/b"), r"without a slash"),
    "no json": (lambda: mtd_lens.MTDTask.from_json(None), r"to_json returns; got None"),
    "other json": (lambda: mtd_lens.MTDTask.from_json({"family": "ngram"}), r"to_json returns"),
    "seed text": (lambda: make().sample(1, seed="a"), r"seed must be an integer.*got 'a'"),
    "seed huge": (lambda: make().sample(1, seed=2**70), r"seed must be an integer"),
    "concentration tiny": (lambda: make(concentration=1e-320), r"concentration"),
    "json": (lambda: mtd_lens.MTDTask.from_json({"order": 1}), r"missing: \['seq_len', 'trans"),
}


def test_tasks():
    assert accepted(TASKS) == {}


TOKENS = {
    "too large": (
        lambda t: t.index_fill(1, torch.tensor([2]), 4),
        r"0 … 3; sequence 0, position 2",
    ),
    "negative": (lambda t: t - 5, r"0 … 3; sequence 0, position 0"),
    "float": (lambda t: t.float(), r"integers.*got torch\.float32"),
    "boolean": (lambda t: t > 1, r"integers.*got torch\.bool"),
    "list": (lambda t: t.tolist(), r"integers.*got list"),
    "one axis": (lambda t: t[0], r"two axes.*\(14,\)"),
    "three axes": (lambda t: t[None], r"two axes.*\(1, 4, 14\)"),
    "too short": (lambda t: t[:, :3], r"order \+ 1 = 4 positions; got shape \(4, 3\)"),
    "none": (lambda t: t[:0], r"at least one sequence"),
}
FUNCTIONS = {
    "responsibilities": mtd_lens.responsibilities,
    "log_likelihood": mtd_lens.log_likelihood,
    "mirror_descent": lambda task, tokens: mtd_lens.mirror_descent(task, tokens, 0.1),
    "expectation_maximization": mtd_lens.expectation_maximization,
    "maximum_likelihood": mtd_lens.maximum_likelihood,
    "posterior_mean": mtd_lens.posterior_mean,
    "gibbs_posterior": mtd_lens.gibbs_posterior,
    "causal model": lambda task, tokens: mtd_lens.MTDCausalModel(task, 1.0).run(tokens),
}


def test_tokens(task):
    for spoilt, (spoil, message) in TOKENS.items():
        rows = {f"{name}: {spoilt}": (function, message) for name, function in FUNCTIONS.items()}
        assert accepted(rows, task, spoil(tokens_of(task)), kind=mtd_lens.TokensError) == {}


def test_impossible_sequences(task):
    message = r"sequence 1 is impossible.*position 4"
    rows = {name: (function, message) for name, function in FUNCTIONS.items()}
    assert accepted(rows, *impossible(task), kind=mtd_lens.TokensError) == {}


ARGUMENTS = {
    "off the simplex": (
        lambda task, t: mtd_lens.responsibilities(task, t, torch.full((4, 3), 0.5)),
        r"simplex.*sum of 1\.5",
    ),
    "negative weights": (
        lambda task, t: mtd_lens.log_likelihood(task, t, torch.tensor([1.5, -0.5, 0.0])),
        r"simplex.*1\.5, -0\.5",
    ),
    "nan weights": (
        lambda task, t: mtd_lens.predict(task, t, torch.full((4, 3), NAN)),
        r"simplex.*nan",
    ),
    "weights of another order": (
        lambda task, t: mtd_lens.predict(task, t, torch.full((4, 2), 0.5)),
        r"shape \(4, 3\), one entry a lag; got \(4, 2\)",
    ),
    "weights as a list": (
        lambda task, t: mtd_lens.responsibilities(task, t, [1.0, 0.0, 0.0]),
        r"floating-point tensor",
    ),
    "weights that exclude a token": (
        lambda task, t: mtd_lens.responsibilities(
            *impossible_under_weights(), torch.tensor([1.0, 0.0])
        ),
        r"impossible under these weights.*position 3",
    ),
    "step 0": (lambda task, t: mtd_lens.mirror_descent(task, t, 0), r"positive and finite"),
    "step nan": (lambda task, t: mtd_lens.mirror_descent(task, t, NAN), r"positive and finite"),
    "step text": (lambda task, t: mtd_lens.mirror_descent(task, t, "big"), r"step_size"),
    "steps a query": (
        lambda task, t: mtd_lens.mirror_descent(task, t, torch.ones(5)),
        r"5 entries for 1 queries",
    ),
    "no steps": (
        lambda task, t: mtd_lens.mirror_descent(task, t, 0.1, 0),
        r"n_steps must be an integer of at least 1; got 0",
    ),
    "EM without steps": (
        lambda task, t: mtd_lens.expectation_maximization(task, t, -1),
        r"n_steps must be an integer of at least 1; got -1",
    ),
    "method": (
        lambda task, t: mtd_lens.posterior_mean(task, t, "quadratur"),
        r"method 'quadratur'.*quadrature",
    ),
    "nodes": (
        lambda task, t: mtd_lens.posterior_mean(task, t, "quadrature", n_nodes=0),
        r"n_nodes.*got 0",
    ),
    "huge step": (lambda task, t: mtd_lens.mirror_descent(task, t, 1e308, 3), r"overflows"),
    "gap": (lambda task, t: mtd_lens.maximum_likelihood(task, t, gap=NAN), r"gap"),
    "weights of the wrong length": (
        lambda task, t: mtd_lens.log_likelihood(task, t, torch.tensor([0.5, 0.5])),
        r"shape \(3,\)",
    ),
    "held off the simplex": (
        lambda task, t: mtd_lens.MTDCausalModel(task, 1.0).do(
            mixture_weights=torch.tensor([5.0, -3.0, -1.0])
        ),
        r"simplex",
    ),
    "held at a list": (
        lambda task, t: mtd_lens.MTDCausalModel(task, 1.0).do(mixture_weights=[1.0, 0.0, 0.0]),
        r"floating-point tensor",
    ),
    "causal model of nothing": (lambda task, t: mtd_lens.MTDCausalModel("x", 1.0), r"MTDTask"),
    "targets": (
        lambda task, t: mtd_lens.fit_beta(task, t, torch.ones(3, 4)),
        r"targets.*\(3, 4\)",
    ),
    "beta bounds": (
        lambda task, t: mtd_lens.fit_beta(task, t, torch.full((4, 4), 0.25), (10.0, 1.0)),
        r"increasing",
    ),
    "half precision": (
        lambda task, t: mtd_lens.construct(
            mtd_lens.MTDTask(GOOD, 2, 8), 9e3, dtype=torch.float8_e4m3fn
        ),
        r"one of torch\.float64",
    ),
    "predictions of a long context": (
        lambda task, t: mtd_lens.model_predictions(
            mtd_lens.construct(task, 1.0), torch.cat([t, t], 1)
        ),
        r"28 tokens are longer than the model's context of 14",
    ),
    "gibbs": (
        lambda task, t: mtd_lens.gibbs_posterior(task, t, standard_error=0.0),
        r"standard_error must be a number above 0",
    ),
    "variable": (
        lambda task, t: mtd_lens.MTDCausalModel(task, 1.0).do(mixture_weight=t),
        r"'mixture_weight'.*mixture_weights",
    ),
    "intervention": (
        lambda task, t: (
            mtd_lens.MTDCausalModel(task, 1.0)
            .do(mixture_weights=torch.full((9, 1, 3), 1 / 3))
            .run(t)
        ),
        r"mixture_weights has shape \(9, 1, 3\).*\(4, 11, 3\)",
    ),
    "beta": (lambda task, t: mtd_lens.MTDCausalModel(task, -1.0), r"beta.*got -1"),
    "construct beta": (lambda task, t: mtd_lens.construct(task, NAN), r"beta.*got nan"),
    "form": (lambda task, t: mtd_lens.construct(task, 1.0, "absolut"), r"'absolut'.*absolute"),
    "read-out": (
        lambda task, t: mtd_lens.construct(task, 1.0, read_out="prob"),
        r"'prob'.*probs",
    ),
    "dtype": (
        lambda task, t: mtd_lens.construct(task, 1.0, dtype=torch.int64),
        r"floating-point torch dtype.*got torch\.int64",
    ),
    "not a task": (lambda task, t: mtd_lens.construct(3, 1.0), r"expected a task; got int"),
    "part": (
        lambda task, t: mtd_lens.ablate_construction(mtd_lens.construct(task, 1.0), "averag"),
        r"part 'averag'.*average",
    ),
    "not a construction": (
        lambda task, t: mtd_lens.ablate_construction(
            mtd_lens.load_model("mtd-q3-m2-t32/random-relative"), "beta"
        ),
        r"only an analytic construction",
    ),
    "a construction of another family": (
        lambda task, t: mtd_lens.ablate_construction(
            mtd_lens.load_model("ngram-q3-s12-t32/constructed-absolute"), "beta"
        ),
        r"only an analytic construction of one step on an MTD task",
    ),
    "a task of another family": (
        lambda task, t: mtd_lens.best_beta(mtd_lens.load_task("ngram-q3-s12-t32")),
        r"expected an MTDTask; got NGramTask",
    ),
    "too many vectors": (
        lambda task, t: mtd_lens.load_model("ar-d3-t16/constructed-one-step")(
            torch.zeros(1, 17, 3)
        ),
        r"sequences of 17 vectors are longer than the model's context of 16",
    ),
    "one lag": (
        lambda task, t: mtd_lens.ablate_construction(
            mtd_lens.construct(mtd_lens.MTDTask(GOOD, 1, 5), 1.0), "lag"
        ),
        r"cannot show its lag broken",
    ),
}


def impossible_under_weights():
    task = mtd_lens.MTDTask([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.3, 0.7, 0.0]], 2, 5)
    return task, torch.tensor([[0, 1, 0, 0, 1]])


def test_arguments(task):
    assert accepted(ARGUMENTS, task, tokens_of(task)) == {}


FEWER = r"needs at least .* GiB of memory.* Use fewer: lower n_sequences"
MODELS = {
    "text": (lambda m, t: mtd_lens.score("mtd-q3-m2-t32/random-relative"), r"Use load_model"),
    "threshold text": (lambda m, t: mtd_lens.score(m, t, threshold="a"), r"threshold.*'a'"),
    "sequences text": (lambda m, t: mtd_lens.score(m, t, n_sequences="a"), r"n_sequences.*'a'"),
    "length": (lambda m, t: mtd_lens.compare(m, t, lengths=8), r"list of at least one.*got 8"),
    "too few": (lambda m, t: mtd_lens.score(m, t, n_sequences=10), r"too few.*at least 64"),
    "seed": (lambda m, t: mtd_lens.score(m, t, seed=-1), r"seed.*got -1"),
    "threshold": (lambda m, t: mtd_lens.score(m, t, threshold=1.5), r"threshold.*1\.5"),
    "other vocabulary": (
        lambda m, t: mtd_lens.score(m, mtd_lens.load_task("mtd-q3-m2-t32")),
        r"task has 3 tokens, but the model reads 4",
    ),
    "other context": (
        lambda m, t: mtd_lens.score(m, mtd_lens.MTDTask(t.transition, 3, 40)),
        r"sequences have 40 tokens, but the model's context is 14",
    ),
    "sequences": (lambda m, t: mtd_lens.score(m, t, n_sequences=10**12), FEWER),
    "sequences to compare": (lambda m, t: mtd_lens.compare(m, t, n_sequences=10**12), FEWER),
    "beyond 64 bits": (lambda m, t: mtd_lens.localize(m, t, n_sequences=10**400), r"from 0 to 92"),
    "sequences to localize": (lambda m, t: mtd_lens.localize(m, t, n_sequences=10**15), FEWER),
    "to align": (lambda m, t: mtd_lens.align(m, "mixture_weights", 2, n_sequences=10**12), FEWER),
    "not a model": (lambda m, t: mtd_lens.score(torch.nn.Identity(), t), r"got Identity"),
    "no task": (lambda m, t: mtd_lens.score(torch.nn.Identity()), r"does not know its task"),
    "not a task": (lambda m, t: mtd_lens.score(m, 3), r"expected a task; got int"),
    "unknown task": (lambda m, t: mtd_lens.score(m, "mtd-q3"), r"no task is named 'mtd-q3'"),
    "lengths": (lambda m, t: mtd_lens.compare(m, t, lengths=[3]), r"from 4 to 14; got 3"),
    "long lengths": (lambda m, t: mtd_lens.compare(m, t, lengths=[15]), r"from 4 to 14; got 15"),
    "no lengths": (lambda m, t: mtd_lens.compare(m, t, lengths=[]), r"at least one"),
    "compare few": (lambda m, t: mtd_lens.compare(m, t, n_sequences=3), r"too few"),
    "claim": (
        lambda m, t: mtd_lens.score(m, t, n_sequences=64)["mixture_weights.probe"],
        r"'mixture_weights.probe'.*mixture_weights\.",
    ),
}


def test_scoring(task):
    assert accepted(MODELS, mtd_lens.construct(task, 4.0), task, kind=mtd_lens.ProbesError) == {}


def test_nan_weights_in_a_model_are_named(task):
    model = mtd_lens.construct(task, 4.0)
    model.unembed.W_U.data.fill_(NAN)
    with pytest.raises(MTDLensError, match="finite"):
        mtd_lens.score(model, n_sequences=64)


NAMES = {
    "task": (lambda: mtd_lens.load_task("mtd-q5-m3-t46"), r"'mtd-q5-m3-t46'.*mtd-q5-m3-t64"),
    "model": (
        lambda: mtd_lens.load_model("mtd-q5-m3-t64/constructed-absolut"),
        r"Nearest known: mtd-q5-m3-t64/constructed-absolute",
    ),
    "no slash": (lambda: mtd_lens.load_model("mtd-q5-m3-t64"), r"no model is named"),
    "long": (
        lambda: mtd_lens.load_model("x" * 5000),
        r"^no model is named 'x{99}…, nor is there such a folder\. Known",
    ),
    "long task": (
        lambda: mtd_lens.load_task("x" * 5000),
        r"^no task is named 'x{99}…, nor is there such a file\. Known",
    ),
    "long choice": (
        lambda: mtd_lens.TrainingConfig(architecture="x" * 5000),
        r"^unknown architecture 'x{99}…\. Known",
    ),
    "NUL": (
        lambda: mtd_lens.load_model("a\0b/c"),
        r"name holds '\\x00', which cannot be",
    ),
    "no name": (lambda: mtd_lens.load_model(None), r"a model's name must be a text; got None"),
    "list": (lambda: mtd_lens.load_model(["a"]), r"a model's name must be a text"),
    "device": (
        lambda: mtd_lens.load_model("mtd-q3-m2-t32/random-relative", device="gpu"),
        r"device 'gpu' cannot be used",
    ),
    "dtype": (
        lambda: mtd_lens.load_model("mtd-q3-m2-t32/random-relative", dtype=torch.int8),
        r"dtype",
    ),
    "taken task": (lambda: mtd_lens.register_task("mtd-q5-m3-t64", make()), r"-t64' already"),
    "slashed task": (lambda: mtd_lens.register_task("a/b", make()), r"without a slash"),
    "not a task": (lambda: mtd_lens.register_task("x", 3), r"expected a task; got int"),
    "model without task": (lambda: mtd_lens.register_model("mine", lambda: None), r"TASK/VARIANT"),
    "model of no task": (
        lambda: mtd_lens.register_model("nope/mine", lambda: None),
        r"no task is named 'nope'",
    ),
    "taken model": (
        lambda: mtd_lens.register_model("mtd-q3-m2-t32/random-relative", lambda: None),
        r"already",
    ),
    "model not callable": (
        lambda: mtd_lens.register_model("mtd-q3-m2-t32/mine", 3),
        r"loader must be a function",
    ),
}


def test_names():
    assert accepted(NAMES) == {}


def test_a_row_that_is_accepted_or_refused_for_another_reason_is_noticed():
    rows = {"accepted": (make, "."), "another": (lambda: make(order=0), "^seq_len"), **TASKS}
    assert list(accepted(rows)) == ["accepted", "another"]
