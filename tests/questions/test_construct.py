"""One door to every family's construction."""

import dataclasses
import sys

import pytest
import torch

import mtd_lens
from mtd_lens import registry
from mtd_lens.families.mtd import construct as construct_mtd

BUILT = {
    "mtd-q3-m2-t32": (
        construct_mtd,
        [(2.0,), (2.0, "relative", "probs"), {"algorithm": "posterior"}, {"beta": 3.0}],
    ),
    "ngram-q3-s12-t32": (
        mtd_lens.construct_ngram,
        [(), (3.0, "relative"), {"algorithm": "exact-bayes"}, {"read_out": "probs"}],
    ),
    "ar-d3-t16": (
        mtd_lens.construct_autoregressive,
        [(0.2,), {"n_steps": 2}, {"algorithm": "4-steps-prefix"}],
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_construct_builds_what_the_tasks_family_does(name):
    build, calls = BUILT[name]
    task = mtd_lens.load_task(name)
    tokens = task.sample(2, seed=0).tokens
    inputs = tokens.to(torch.float32) if tokens.is_floating_point() else tokens
    for index, given in enumerate(calls):
        args, options = ((), given) if isinstance(given, dict) else (given, {})
        own = build(task, *args, **options)
        model = mtd_lens.construct((task, name)[index % 2], *args, **options)
        assert model.mtd_lens_info.name == own.mtd_lens_info.name
        assert torch.equal(model(inputs), own(inputs))


@pytest.mark.parametrize("name", BUILT)
def test_every_algorithm_that_has_a_ceiling_is_built_by_its_id(name):
    task = mtd_lens.load_task(name)
    for algorithm in registry.family_of(task).algorithms:
        if algorithm.construct is None:
            with pytest.raises(mtd_lens.ArgumentError, match="unknown algorithm"):
                mtd_lens.construct(task, algorithm=algorithm.id)
        else:
            assert mtd_lens.task_of(mtd_lens.construct(task, algorithm=algorithm.id)) == task


@pytest.mark.usefixtures("_no_type_checker")
def test_what_construct_cannot_build_is_said(monkeypatch):
    task = mtd_lens.load_task("ngram-q3-s12-t32")
    took = r"'ngram' cannot be asked so: .*'beta'\. It takes a task and sharpness, form, read_out"
    with pytest.raises(mtd_lens.ArgumentError, match=took):
        mtd_lens.construct(task, beta=2.0)
    with pytest.raises(mtd_lens.ArgumentError, match=r"too many positional arguments"):
        mtd_lens.construct(mtd_lens.load_task("ar-d3-t16"), 0.1, 2)
    with pytest.raises(mtd_lens.ArgumentError, match=r"expected a task; got float"):
        mtd_lens.construct(2.0)
    with pytest.raises(mtd_lens.UnknownNameError, match=r"no task is named 'ngram'"):
        mtd_lens.construct("ngram")
    family = dataclasses.replace(registry.family_of(task), construct=None)
    monkeypatch.setattr(
        sys.modules["mtd_lens.questions.construct"], "family_of", lambda task: family
    )
    with pytest.raises(mtd_lens.ArgumentError, match=r"family 'ngram' has no construction"):
        mtd_lens.construct(task)
