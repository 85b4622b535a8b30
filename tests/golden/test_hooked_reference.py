"""HookedTransformers compute what those of transformer-lens 3.9 do; see ``hooked_reference.py``."""

import json

import pytest
import torch
from hooked_cases import OPTIONS, SHAPE, apart, asked, computed, filled, names_of, some_tokens
from hooked_reference import DTYPES, NAMES, STORED, compact

from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig
from mtd_lens.hooked.library import OWN
from mtd_lens.hooked.own.config import HookedTransformerConfig as OwnConfig
from mtd_lens.hooked.own.transformer import HookedTransformer as OwnTransformer

WITHIN = 1e-6
"""Of checksums, relatively where they are large: ten digits, another processor's order of sums."""

BOTH = ((HookedTransformer, HookedTransformerConfig), (OwnTransformer, OwnConfig))
beside_version_3 = pytest.mark.skipif(OWN, reason="transformer-lens 4 has no class to compare with")


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_are_those_of_version_3(stored, name):
    found, reference = compact(name), stored[name]
    assert {key: value for key, value in found.items() if key != "checksums"} == {
        key: value for key, value in reference.items() if key != "checksums"
    }
    new, old = (torch.tensor(side["checksums"], dtype=torch.float64) for side in (found, reference))
    assert ((new - old).abs() <= WITHIN * old.abs().clamp_min(1)).all()
    assert not torch.equal(old[::2], old[1::2])


def test_every_option_is_told_from_the_others(stored):
    sums = [tuple(stored[name]["checksums"]) for name in NAMES]
    assert len(set(sums)) == len(NAMES)


@beside_version_3
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_own_class_gives_every_number_exactly(options, dtype):
    models = [filled(*classes, options, dtype) for classes in BOTH]
    assert names_of(models[0]) == names_of(models[1])
    first, second = ({**computed(model, some_tokens()), **asked(model)} for model in models)
    assert {name for name, gap in apart(first, second) if gap > 0} == set()


@beside_version_3
@pytest.mark.parametrize("mode", ["gpt2", "xavier_uniform", "kaiming_normal"])
@pytest.mark.parametrize("name", ["LN", "RMS, gated", "grouped"])
def test_the_own_class_draws_the_same_weights(name, mode):
    drawn = []
    for kind, config in BOTH:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            shape = {**SHAPE, **OPTIONS[name], "init_weights": True, "init_mode": mode}
            drawn.append(kind(config(**shape)).state_dict())
    assert set(drawn[0]) == set(drawn[1])
    for key, value in drawn[0].items():
        assert torch.equal(value, drawn[1][key]), key


@beside_version_3
@pytest.mark.parametrize("name", ["LN", "RMS, gated", "solu_ln", "grouped"])
def test_the_own_class_folds_normalisation_alike(name):
    models = [filled(*classes, OPTIONS[name], torch.float64) for classes in BOTH]
    before = models[1](some_tokens())
    for model in models:
        model.process_weights_(fold_ln=True, center_unembed=False)
    assert names_of(models[0]) == names_of(models[1])
    first, second = (computed(model, some_tokens()) for model in models)
    assert {key for key, gap in apart(first, second) if gap > 0} == set()
    assert torch.allclose(second["output"], before.detach(), atol=1e-5)


STEPS = (
    "fold_layer_norm",
    "fold_value_biases",
    "center_writing_weights",
    "center_unembed",
    "refactor_factored_attn_matrices",
)


@beside_version_3
@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_processing_is_the_same(step):
    models = [filled(*classes, OPTIONS["LN"], torch.float64) for classes in BOTH]
    first, second = (
        getattr(model, step)({name: value.clone() for name, value in model.state_dict().items()})
        for model in models
    )
    assert {name for name, gap in apart(first, second) if gap > 1e-12} == set()
    assert any(gap > 0 for _, gap in apart(first, models[0].state_dict()))


@pytest.mark.parametrize("name", ["LN", "grouped", "rotary"])
def test_a_state_dict_goes_from_one_class_to_the_other(name):
    first, second = (filled(*classes, OPTIONS[name], torch.float64) for classes in BOTH)
    for parameter in first.parameters():
        parameter.data.mul_(-0.5)
    assert not torch.equal(first(some_tokens()), second(some_tokens()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(some_tokens()), second(some_tokens()))
