"""What every registered family must do, whatever its task: one suite for all of them."""

import json
from functools import partial

import pytest
import torch
from verdict_sets import attainable

import mtd_lens
import probes
from mtd_lens import contracts, registry
from mtd_lens.architectures import Size, build_trainable
from mtd_lens.experiment import Experiment
from mtd_lens.hooked import ModelInfo, assemble
from mtd_lens.questions.estimators import from_model
from mtd_lens.spaces import Space, check_model, last_predictions

FAMILIES = registry.list_families()
ALGORITHMS = [(name, each.id) for name in FAMILIES for each in FAMILIES[name].algorithms]
CAPABILITIES = {
    "family": (
        "resized",
        "construct",
        "examples",
        "yardsticks",
        "analyse",
        "presets",
        "variants",
        "drawn",
    ),
    "algorithm": ("construct", "carriers", "control", "patterns"),
}
"""What a family may leave out, and those of the package do not."""

NOT_BUILT = {"least squares"}
"""Algorithms that nobody has written as weights."""

NO_REFERENCE = {"two passes", "one step to first order"}
"""Algorithms that are held against the family's references, and are none of them."""


def smallest(family):
    """The family's preset of the fewest positions."""
    return min((load() for load in family.presets.values()), key=lambda task: task.seq_len)


@pytest.fixture(scope="module", params=ALGORITHMS, ids=" ".join)
def both(request):
    name, id = request.param
    return FAMILIES[name], FAMILIES[name].algorithm(id)


@pytest.fixture(scope="module")
def family(both):
    return both[0]


@pytest.fixture(scope="module")
def algorithm(both):
    return both[1]


@pytest.fixture(scope="module")
def task(family):
    return smallest(family)


@pytest.fixture(scope="module")
def causal_model(family, algorithm, task):
    """The algorithm as it is fitted to its own construction."""
    id = family.algorithms[0].id if algorithm.name in NOT_BUILT else algorithm.id
    model = mtd_lens.construct(task, algorithm=id, dtype=torch.float64)
    tokens = task.sample(64, seed=1).tokens
    predictions = last_predictions(model, tokens, task.outputs)
    return algorithm.fit(task, tokens, predictions)


@pytest.fixture(scope="module")
def ceiling(algorithm, task, causal_model):
    if algorithm.construct is None:
        pytest.skip("the algorithm has no construction")
    return algorithm.construct(task, causal_model)


def test_capabilities(family, algorithm, task):
    assert isinstance(family, contracts.Family)
    assert isinstance(task, contracts.Task)
    assert isinstance(task.inputs, Space)
    assert isinstance(task.outputs, Space)
    assert isinstance(task.sample(2, 0), contracts.Batch)
    for record, names in ((family, CAPABILITIES["family"]), (algorithm, CAPABILITIES["algorithm"])):
        lacking = [name for name in names if not getattr(record, name)]
        assert lacking == (["construct"] if record.name in NOT_BUILT else []), record.name


def test_the_algorithms_row_bears_its_name(family, algorithm, task, causal_model, ceiling):
    batch = task.sample(64, 0)
    truth = family.truth(task, batch)
    found = family.references(task, batch.tokens, truth, batch.tokens, True)
    assert family.algorithms[0].name in found
    assert (algorithm.name in found) == (algorithm.name not in NO_REFERENCE)
    assert set(family.drawn) <= set(found)
    trial = mtd_lens.Trial(
        ceiling, task, causal_model, batch.tokens, batch.tokens, 0, algorithm=algorithm
    )
    own = from_model(family, trial)
    assert set(own) == {*found, algorithm.name}
    assert float(own[algorithm.name][0].mean()) < 1e-4


def test_names(family, algorithm, task):
    if algorithm is not family.algorithms[0]:
        pytest.skip("names are the family's")
    assert task.family == family.name
    assert set(family.presets) <= set(mtd_lens.list_tasks())
    for preset, load in family.presets.items():
        assert load().name == preset
        for variant in family.variants:
            listed = f"{preset}/{variant}" in mtd_lens.list_models()
            assert listed == (variant in family.variants_of(load()))
    assert any(variant.startswith("random-") for variant in family.variants)


def test_json_round_trips(family):
    for load in family.presets.values():
        task = load()
        again = family.task_from_json(json.loads(json.dumps(task.to_json())))
        assert again.to_json() == task.to_json()
        assert torch.equal(again.sample(3, 5).tokens, task.sample(3, 5).tokens)


def test_samples_follow_their_seed(task):
    tokens = task.sample(6, 3).tokens
    assert tokens.shape[:2] == (6, task.seq_len)
    assert torch.equal(tokens, task.sample(6, 3).tokens)
    assert not torch.equal(tokens, task.sample(6, 4).tokens)


def test_targets_follow_the_truth(family, task):
    """Tokens as often as their true probability says, in standard errors; vectors are next."""
    with_truth = family.examples(task, 512, 0, True)
    inputs, targets, truth = with_truth.inputs, with_truth.targets, with_truth.truth
    n_queries = targets.shape[1]
    assert torch.equal(inputs[:, -n_queries + 1 :], targets[:, :-1])
    if truth is None:
        return
    assert torch.allclose(truth.sum(-1), torch.ones(()).double())
    n_outcomes = truth.shape[-1]
    drawn = torch.nn.functional.one_hot(targets, n_outcomes).double()
    for share in (truth, torch.ones_like(truth)):  # also where the truth is large
        error = ((drawn - truth) * share).flatten(0, 1)
        standard_error = error.std(0) / len(error) ** 0.5
        assert (error.mean(0).abs() < 5 * standard_error + 1e-9).all()


def test_variables_in_causal_order(task, causal_model):
    tokens = task.sample(4, 0).tokens
    assert isinstance(causal_model, contracts.CausalModel)
    found = causal_model.run(tokens)
    assert tuple(found) == tuple(causal_model.variables)
    n_queries = len(causal_model.query_positions(task.seq_len))
    assert all(value.shape[:2] == (4, n_queries) for value in found.values())
    for name, value in found.items():
        assert value.isfinite().all(), name
        held = causal_model.do(**{name: value}).run(tokens)
        left = causal_model.do(**{name: torch.full_like(value, torch.nan)}).run(tokens)
        for other in found:
            assert torch.allclose(held[other], found[other], atol=1e-9), (name, other)
            assert torch.equal(left[other], found[other]), (name, other)


def test_interventions_reach_what_follows_and_nothing_before(task, causal_model):
    tokens = task.sample(4, 0).tokens
    found = causal_model.run(tokens)
    names = list(causal_model.variables)
    for index, name in enumerate(names[:-1]):
        swapped = causal_model.do(**{name: found[name].roll(1, 0)}).run(tokens)
        for before in names[:index]:
            assert torch.equal(swapped[before], found[before])
        assert not torch.allclose(swapped[names[-1]], found[names[-1]])


def test_unknown_variables_are_refused(causal_model):
    with pytest.raises(mtd_lens.MTDLensError, match="nonsense"):
        causal_model.do(nonsense=torch.zeros(1))


def test_the_ceiling_is_the_causal_model(family, algorithm, task, causal_model, ceiling):
    tokens = task.sample(16, 2).tokens
    output = probes.last_outputs(ceiling, tokens)
    expected = causal_model.run(tokens)["prediction"][:, -1]
    outputs = task.outputs
    assert outputs.divergence(expected, outputs.prediction(ceiling, output)).max() < 1e-6
    trial = mtd_lens.Trial(ceiling, task, causal_model, tokens, tokens, 0, algorithm=algorithm)
    divergences = [divergence for divergence, _ in from_model(family, trial).values()]
    assert min(float(divergence.mean()) for divergence in divergences) < 1e-4
    assert all((divergence >= -1e-9).all() for divergence in divergences)


@pytest.mark.slow
def test_scorecards_of_ceiling_and_null(algorithm, task, ceiling):
    held_against = {"n_sequences": 128, "algorithm": algorithm.id}
    card = mtd_lens.score(ceiling, task, **held_against)
    for claim in card:
        assert claim.verdict == "supported", claim
        assert claim.score > attainable(claim) - 0.001, claim
    assert json.loads(card.to_json())["claims"]
    null = mtd_lens.score(Experiment.of(ceiling, task, 0).null(7), task, **held_against)
    assert all(claim.verdict != "supported" for claim in null), null


@pytest.mark.slow
def test_estimators_against_the_truth(family, task, ceiling):
    found = mtd_lens.compare(ceiling, task, n_sequences=64)
    rows = {entry.name: entry.divergence for entry in found.rows[-1]}
    assert "model" in rows
    assert all(value >= 0 for value in rows.values())
    assert min(rows.values()) < max(rows.values())


def test_sequences_are_looked_at(family, algorithm, task, ceiling, tmp_path):
    if not probes.subject_of(ceiling).causal:
        pytest.skip("attention that is not causal is not looked at")
    held = {"task": task, "n_sequences": 2, "algorithm": algorithm.id}
    found = mtd_lens.inspect(ceiling, **held)
    assert found.analysis is not None
    assert {"model", "truth", algorithm.name} <= set(found.analysis.predictions)
    assert found.algorithm == algorithm.name
    for layer, pattern in enumerate(found.analysis.patterns):
        heads = found.nearest_heads[pattern.name][:, None]
        assert found.distances(pattern).gather(1, heads)[:, 0].nanmean(-1).min() < 1e-3, layer
    mtd_lens.dashboard(ceiling, **held).to_html(tmp_path / "page.html")


def test_models_of_the_other_kind_are_refused(family, task, ceiling):
    """A model of as many components as there are tokens, or the reverse, of the same context."""
    vectors = task.sample(1, 0).tokens.is_floating_point()
    trained = build_trainable(
        "attn-only" if vectors else "softmax",
        Size(ceiling.cfg.d_vocab_out, task.seq_len, n_layers=2, d_model=16, n_heads=2),
    )
    other = assemble(trained.architecture, trained.weights(), ModelInfo(task, "x"), torch.float32)
    assert (other.cfg.d_vocab, other.cfg.d_vocab_out) == (ceiling.cfg.d_vocab_out,) * 2
    assert other.cfg.n_ctx == task.seq_len
    reads = "reads token numbers" if vectors else "reads vectors of"
    for refuse in (check_model, partial(mtd_lens.score, n_sequences=64)):
        with pytest.raises(mtd_lens.ModelError, match=reads):
            refuse(other, task)
    with pytest.raises(mtd_lens.ModelError):
        check_model(torch.nn.Identity(), smallest(family))


@pytest.mark.usefixtures("_no_type_checker")
def test_inputs_of_the_other_kind_are_refused(task, ceiling):
    tokens = task.sample(2, 0).tokens
    other = tokens.argmax(-1) if tokens.is_floating_point() else tokens.double()
    with pytest.raises(probes.DataError, match=r"integer|float|vector"):
        probes.read_activations(ceiling, other, {"x": probes.Site("blocks.0.hook_attn_out")})


def test_every_family_is_tested_here():
    assert {"mtd", "ngram", "autoregressive"} <= set(FAMILIES)
