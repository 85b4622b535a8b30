"""The generalized induction head as a causal model: its variables, interventions and fit."""

from fractions import Fraction

import pytest
import torch
from ngram_oracles import feature

import mtd_lens
from mtd_lens.contracts import CausalModel
from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram.causal_model import best_sharpness, fit_sharpness

SHARPNESS = 3.0
VARIABLES = mtd_lens.NGramCausalModel.variables


@pytest.fixture(scope="module", params=[(3, (1, 2), 2, 14), (2, (1, 3), 4, 18)], ids=str)
def model(request):
    return mtd_lens.NGramCausalModel(mtd_lens.NGramTask(*request.param, 0.3), SHARPNESS)


@pytest.fixture(scope="module")
def tokens(model):
    return model.task.sample(6, seed=0).tokens


def test_it_follows_the_contract(model, tokens):
    assert isinstance(model, CausalModel)
    assert model.parameters == {"sharpness": SHARPNESS}
    length = tokens.shape[1]
    assert model.query_positions(length) == tuple(range(model.task.window, length))
    values = model.run(tokens)
    assert tuple(values) == VARIABLES
    assert {v.shape[:2] for v in values.values()} == {(6, length - model.task.window)}


def test_every_variable_is_what_its_name_says(model, tokens):
    task, values = model.task, model.run(tokens)
    q, window = task.n_tokens, task.window
    key, query = (
        values["selected_feature"]
        .numpy()
        .reshape(*tokens.shape[:1], -1, 2, task.n_rows)[:, :, [0, 1]]
        .transpose(2, 0, 1, 3)
    )
    for n, t in [(0, 0), (1, 3), (5, 9)]:
        position = window + t
        copies = values["copied_parents"][n, t].unflatten(0, (window, q))
        assert copies.argmax(-1).tolist() == [
            int(tokens[n, position - h - 1]) for h in range(window)
        ]
        assert (key[n, t] == feature(tokens[n], position, task.parents, q)).all()
        assert (query[n, t] == feature(tokens[n], position + 1, task.parents, q)).all()
        scores = torch.tensor([SHARPNESS * float(query[n, t] @ key[n, k]) for k in range(t + 1)])
        weights = values["match_weights"][n, t]
        assert (weights[: t + 1] - scores.softmax(0)).abs().max() < 1e-6
        assert (weights[t + 1 :] == 0).all()
    assert torch.equal(values["prediction"], mtd_lens.ngram_kernel(task, tokens, SHARPNESS))


def test_natural_values_change_nothing(model, tokens):
    natural = model.run(tokens)
    for name, value in natural.items():
        held = model.do(**{name: value}).run(tokens)
        assert all(torch.equal(held[other], natural[other]) for other in VARIABLES)
    nothing = torch.full((1, 1, 1), torch.nan)
    held = model.do(**dict.fromkeys(VARIABLES, nothing)).run(tokens)
    assert all(torch.equal(held[name], natural[name]) for name in VARIABLES)


@pytest.mark.parametrize("variable", [None, *VARIABLES])
def test_the_last_prediction_is_that_of_a_whole_run(model, tokens, variable):
    natural = model.run(tokens)
    if variable is not None:
        source = natural[variable].roll(1, 0)
        for queries in (slice(None), slice(-1, None), slice(None, -1)):
            held = torch.full_like(source, torch.nan)
            held[:, queries] = source[:, queries]
            moved = model.do(**{variable: held})
            expected = moved.run(tokens)["prediction"][:, -1]
            assert (moved.last_prediction(tokens) - expected).abs().max() < 1e-15
        entries = torch.full(source.shape[2:], 0.5, dtype=source.dtype)
        model = model.do(**{variable: entries / entries.sum()})
    expected = model.run(tokens)["prediction"][:, -1]
    assert (model.last_prediction(tokens) - expected).abs().max() < 1e-15


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_held_variable_moves_what_follows_it_alone(model, tokens, variable):
    natural = model.run(tokens)
    source = natural[variable].roll(1, 0)
    held = model.do(**{variable: source}).run(tokens)
    place = VARIABLES.index(variable)
    assert torch.equal(held[variable], source)
    for index, other in enumerate(VARIABLES):
        same = torch.equal(held[other], natural[other])
        assert same == (index < place), other


def test_copies_from_elsewhere_leave_the_current_token(model, tokens):
    """The query's nearest parent is the token itself: it is not among the copies."""
    natural = model.run(tokens)
    held = model.do(copied_parents=natural["copied_parents"].roll(1, 0)).run(tokens)
    n_rows = model.task.n_rows
    key, query = held["selected_feature"].split(n_rows, -1)
    assert torch.equal(key, natural["selected_feature"].roll(1, 0)[..., :n_rows])
    current = query.unflatten(-1, (model.task.n_tokens, -1)).sum(-1).argmax(-1)
    assert torch.equal(current, tokens[:, model.task.window :])


def test_values_of_a_few_positions_are_left_to_their_cause_elsewhere(model, tokens):
    natural = model.run(tokens)
    held = torch.full_like(natural["match_weights"], torch.nan)
    held[:, -1] = natural["match_weights"].roll(1, 0)[:, -1]
    found = model.do(match_weights=held).run(tokens)["prediction"]
    assert torch.equal(found[:, :-1], natural["prediction"][:, :-1])
    children = torch.nn.functional.one_hot(tokens[:, model.task.window :], model.task.n_tokens)
    expected = torch.einsum("nk,nkb->nb", held[:, -1], children.double())
    assert (found[:, -1] - expected).abs().max() < 1e-15


def test_the_sharpness_of_predictions_is_found(model):
    task = model.task
    tokens = task.sample(512, seed=5).tokens
    target = mtd_lens.ngram_kernel(task, tokens, 2.5)[:, -1]
    assert fit_sharpness(task, tokens, target) == pytest.approx(2.5, abs=1e-4)
    assert fit_sharpness(task, tokens, target, (3.0, 5.0)) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.usefixtures("_no_type_checker")
def test_any_real_number_is_a_sharpness(model, tokens):
    half = mtd_lens.NGramCausalModel(model.task, Fraction(1, 2))
    same = mtd_lens.NGramCausalModel(model.task, 0.5)
    assert half == same
    assert torch.equal(half.run(tokens)["prediction"], same.run(tokens)["prediction"])


def test_the_best_sharpness_is_a_functions_of_the_task():
    task = mtd_lens.load_task("ngram-q3-s12-t32")
    assert best_sharpness(task) == best_sharpness(task) == pytest.approx(4.504, abs=0.01)


def test_bad_arguments(model, tokens):
    task, natural = model.task, model.run(tokens)
    with pytest.raises(ArgumentError, match="sharpness must be a number"):
        mtd_lens.NGramCausalModel(task, -1.0)
    with pytest.raises(ArgumentError, match="unknown variable 'match_weight'"):
        model.do(match_weight=natural["match_weights"])
    with pytest.raises(ArgumentError, match="held at must be a floating-point tensor"):
        model.do(copied_parents=tokens)
    with pytest.raises(ArgumentError, match=r"match_weights must be held on the simplex.* 2"):
        model.do(match_weights=2 * natural["match_weights"])
    with pytest.raises(ArgumentError, match=r"shape \(6, 3, 2\); expected one that broadcasts"):
        model.do(selected_feature=torch.zeros(6, 3, 2)).run(tokens)
    target = natural["prediction"][:, -1]
    with pytest.raises(ArgumentError, match="targets must be finite"):
        fit_sharpness(task, tokens, target[:3])
    with pytest.raises(ArgumentError, match="bounds of sharpness"):
        fit_sharpness(task, tokens, target, (3.0, 1.0))
