"""Which sites carry a variable together: growth, pairs, pruning, classes of positions."""

import pytest
import torch
from test_localization import TASKS, places

import mtd_lens
from mtd_lens.questions.sets import GAIN, MAX_PAIRS, smallest_set
from mtd_lens.results.places import Place

A, B, C, D = (Place(layer, "z", 0) for layer in range(4))


def additive(worth):
    return lambda sets: [sum((worth.get(place, 0.0) for place in group), 0.0) for group in sets]


@pytest.mark.parametrize(
    ("worth", "chosen"),
    [
        ({A: 0.5, C: 0.4}, (A, C)),
        ({A: 0.5, B: 0.004}, (A,)),  # too little is gained
        ({D: 0.2, A: 0.2}, (A, D)),  # in the order of layers
        ({B: 0.5, D: 0.505}, (B, D)),  # the earliest of near equals, and what is left
        ({}, (A,)),  # the best of nothing, so that its score can be told
    ],
)
def test_sets_grow_while_they_gain(worth, chosen):
    found, score = smallest_set(additive(worth), [A, B, C, D])
    assert found == chosen
    assert score == pytest.approx(sum(worth.get(place, 0.0) for place in chosen))


def test_members_that_others_replace_are_pruned():
    def scores(sets):
        """B alone is best, but A and C together hold all that it does."""
        return [1.0 if {A, C} <= set(g) else 0.6 * (B in g) + 0.3 * (A in g) for g in sets]

    assert smallest_set(scores, [A, B, C, D]) == ((A, C), 1.0)


@pytest.mark.parametrize("alone", [0.0, -0.5])
@pytest.mark.parametrize("before", [0.0, 0.4])
def test_two_halves_are_found_where_neither_gains(alone, before):
    """From the start, and after a place that gains by itself."""

    def scores(sets):
        halves = [len({A, D} & set(group)) for group in sets]
        joint = [(0.0, alone, 0.6)[n] for n in halves]
        return [value + before * (B in group) for value, group in zip(joint, sets, strict=True)]

    found, score = smallest_set(scores, [A, B, C, D])
    assert found == ((A, B, D) if before else (A, D))
    assert score == pytest.approx(0.6 + before)


def test_a_whole_layer_is_found_where_no_pair_gains():
    layer = [Place(1, "z", head) for head in range(3)]
    others = [Place(0, "z", head) for head in range(3)]

    def scores(sets):
        return [1.0 if set(layer) <= set(group) else -0.1 * len(group) for group in sets]

    assert smallest_set(scores, [*others, *layer]) == (tuple(layer), 1.0)


def test_of_many_places_few_pairs_are_tried():
    many = [Place(layer, "z", head) for layer in range(6) for head in range(6)]
    halves = {Place(2, "z", 1), Place(5, "z", 3)}
    tried = []

    def scores(sets):
        tried.extend(sets)
        joint = [len(halves & set(group)) for group in sets]
        return [(0.0, -0.3, 1.0)[n] for n in joint]

    assert set(smallest_set(scores, many)[0]) == halves
    assert len([group for group in tried if len(group) == 2]) <= MAX_PAIRS + 2


def test_what_cannot_gain_is_not_tried():
    def scores(sets):
        assert max(map(len, sets)) < 2
        return [1 - GAIN / 2 if A in group else 0.0 for group in sets]

    assert smallest_set(scores, [A, B])[0] == (A,)


def split_in_two(task):
    """The absolute construction, in which two heads hold 3 and -2 times the mean."""
    model = mtd_lens.construct(task)
    served = (task.seq_len - 1) % task.order
    other = (served + 1) % task.order
    attention = model.blocks[1].attn
    with torch.no_grad():
        for name in ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V"):
            weights = getattr(attention, name)
            weights[other] = weights[served]
        attention.W_O[other] = -2 * attention.W_O[served]
        attention.W_O[served] *= 3
    return model, {(1, "z", served), (1, "z", other)}


@pytest.mark.parametrize("name", TASKS)
def test_a_mean_that_two_heads_hold_together_is_found(name):
    model, heads = split_in_two(TASKS[name])
    found = mtd_lens.localize(model, n_sequences=128)
    for finding in (found["mean_responsibility"], found.given_query("mean_responsibility")):
        assert finding.verdict == "found"
        assert places(finding) == heads
        assert finding.score > 0.999
        singles = [e for e in found.sites_of(finding) if found.in_set(e)]
        assert all(single.score < finding.unswapped + GAIN for single in singles)
        assert not any(single.significant for single in singles)


def test_each_class_of_positions_has_its_own_head():
    found = mtd_lens.localize(mtd_lens.construct(TASKS["m3"]), n_sequences=128)
    losses = {(e.place.head, e.positions): e for e in found["responsibilities"].classes}
    assert len(losses) == 9
    for (head, positions), loss in losses.items():
        assert loss.low <= loss.score <= loss.high
        if positions == f"k mod 3 = {head}":
            assert loss.low > 0.1
        else:
            assert abs(loss.score) < 1e-4
    assert "k mod 3 = 1" in str(found)
    assert not found["mean_responsibility"].classes  # one position
    relative = mtd_lens.localize(mtd_lens.construct(TASKS["m3"], form="relative"), n_sequences=64)
    assert not relative["responsibilities"].classes  # one head
    assert "k mod 3" not in str(relative)
