"""Swaps given the query, as an inspection shows them."""

import pytest
import torch

import mtd_lens


@pytest.fixture(scope="module")
def inspection():
    return mtd_lens.inspect(mtd_lens.load_model("mtd-q5-m3-t32/constructed-relative"))


def test_sources_are_other_contexts_under_the_same_query(inspection):
    given, n = inspection.given_query, inspection.given_query.n_own
    assert given.statistic == "mean responsibility"
    assert n == 3
    for index, source in enumerate(given.sources):
        other = inspection.tokens[(index + 1) % len(inspection.tokens)]
        assert source.tolist() == [*other[:-n].tolist(), *inspection.tokens[index, -n:].tolist()]


def test_predictions_are_those_of_the_model_and_of_its_layers(inspection):
    model = mtd_lens.load_model("mtd-q5-m3-t32/constructed-relative")
    found = inspection.given_query.predictions
    for name, tokens in (
        ("model, sequence", inspection.tokens),
        ("model, source", inspection.given_query.sources),
    ):
        expected = mtd_lens.model_predictions(model, tokens)
        assert torch.allclose(found[name].double(), expected, atol=1e-6)
    algorithm = found["algorithm, mean responsibility of the source"].double()
    by_layer = [
        found[f"model, layer {layer}'s attention output of the source"].double()
        for layer in range(3)
    ]
    away = [float((found - algorithm).abs().max()) for found in by_layer]
    assert away[1] < 1e-3  # carries it
    assert min(away[0], float((found["model, sequence"] - algorithm).abs().max())) > 0.02


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mtd-q5-m3-t32/constructed-relative", {"n_sequences": 1}),
        ("ar-d3-t16/constructed-one-step", {}),
    ],
)
def test_there_are_none_of_one_sequence_or_of_vectors(name, options):
    assert mtd_lens.inspect(mtd_lens.load_model(name), **options).given_query is None


def test_there_are_none_of_shorter_contexts(inspection):
    model = mtd_lens.load_model("mtd-q5-m3-t32/constructed-relative")
    assert mtd_lens.inspect(model, inspection.tokens[:, :20]).given_query is None
