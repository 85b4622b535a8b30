"""One step whose mean stands in a code of the query's own tokens."""

import itertools

import pytest
import torch
from conftest import transition
from verdict_sets import supported

import mtd_lens
from mtd_lens.families.mtd.gated import MAX_GATES, n_gates
from mtd_lens.hooked import probabilities

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SMALL = "mtd-q3-m2-t32"


def made(q, m, length, zeros=0.0):
    return mtd_lens.MTDTask(transition(q, 10 * q + m, 1.0, zeros), m, length)


CASES = [*itertools.product([2, 3, 6], [1, 2, 3], [9, 24], [0.0, 0.4]), (2, 5, 40, 0.0)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("q", "m", "length", "zeros"), CASES)
def test_the_weights_compute_one_step_at_every_query(q, m, length, zeros, dtype):
    task = made(q, m, length, zeros)
    for seed, beta in enumerate((0.0, 7.0, 200.0)):
        tokens = task.sample(16, seed).tokens
        model = mtd_lens.construct(task, beta, "gated", dtype=dtype)
        with torch.no_grad():
            found = probabilities(model, model(tokens))
        expected = mtd_lens.MTDCausalModel(task, beta).run(tokens)["prediction"]
        bound = TOLERANCE[dtype] * max(1.0, beta / 50)  # rounding of the mean, β times as large
        assert (found[:, m:] - expected).abs().max() <= bound, beta
        rows = task.transition[tokens[:, :m]].mean(1)  # before any evidence
        assert (found[:, m - 1] - rows).abs().max() <= bound


@pytest.mark.parametrize("part", mtd_lens.PARTS)
def test_a_broken_part_is_broken_as_in_the_other_forms(part):
    task = made(4, 3, 20, 0.3)
    tokens = task.sample(32, seed=5).tokens
    gated, absolute = (
        mtd_lens.ablate_construction(mtd_lens.construct(task, 9.0, form, dtype=torch.float64), part)
        for form in ("gated", "absolute")
    )
    found, expected = (probabilities(model, model(tokens)) for model in (gated, absolute))
    assert (found - expected)[:, task.order :].abs().max() < 1e-9
    whole = mtd_lens.MTDCausalModel(task, 9.0).run(tokens)["prediction"]
    assert (found[:, task.order :] - whole).abs().max() > 0.01
    assert mtd_lens.task_of(gated) == task


def test_attention_holds_the_mean_in_the_code_of_the_querys_own_parents():
    task = made(4, 3, 20, 0.3)
    q, m = task.n_tokens, task.order
    tokens = task.sample(32, seed=5).tokens
    model = mtd_lens.construct(task, 9.0, "gated", dtype=torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    mean = mtd_lens.MTDCausalModel(task, 9.0).run(tokens)["mean_responsibility"]
    written = cache["blocks.1.hook_attn_out"][:, m:]
    held = written[..., written.abs().amax((0, 1)) > 1e-12]
    parents = tokens.unfold(1, m, 1)[:, 1:].flip(-1)  # of what comes after each query, by lag
    code = torch.nn.functional.one_hot(parents, q).double()
    assert (held - (mean[..., None] * code).flatten(2)).abs().max() < 1e-12


def test_large_tasks_have_none():
    large = mtd_lens.load_task("mtd-q10-m5-t192")
    assert n_gates(large) > MAX_GATES
    with pytest.raises(mtd_lens.ArgumentError, match=r"need 50 heads.*may have 32\. Use form="):
        mtd_lens.construct(large, form="gated")
    names = [name for name in mtd_lens.list_models() if name.endswith("/constructed-gated")]
    assert [name.split("/")[0] for name in names] == [
        "mtd-q3-m2-t32", "mtd-q5-m3-t32", "mtd-q5-m3-t64",
    ]  # fmt: skip


NOT_SWAPPED = {"mean_responsibility.interchange", "mean_responsibility.injection"}
"""What another query has written does not match this one's keys."""


def test_its_mean_can_be_swapped_among_equal_queries_alone():
    model = mtd_lens.load_model(f"{SMALL}/constructed-gated", dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=256)
    assert {claim.id for claim in card} - supported(card) == NOT_SWAPPED
    assert card["mean_responsibility.interchange"].verdict == "refuted"
