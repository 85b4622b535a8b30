"""Scorecards beside each other: what is paired, what a difference is, and when it is one."""

from dataclasses import replace
from html import escape

import numpy as np
import pytest
import torch

import mtd_lens
import probes
from mtd_lens.claims import Measurement
from mtd_lens.measures.choice import rows_of, score_of
from mtd_lens.results.forms import figure
from mtd_lens.results.scorecard import ClaimResult, Scorecard

N = 96


@pytest.fixture(scope="module")
def cards():
    """Of a construction, and of the same one broken, on the same sequences."""
    model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative")
    broken = mtd_lens.ablate_construction(model, "lag")
    return [
        mtd_lens.score(m, n_sequences=N, quick=True, name=name)
        for m, name in ((model, "whole"), (broken, "broken"))
    ]


def made(numerator, denominator, claim="a.swap", **fields):
    """A scorecard of one claim with these rows."""
    found = Measurement(0, "z", 0.0, numerator, denominator)
    result = ClaimResult(
        claim, "So.", 0, "z", **vars(score_of(found, 0)), null=None, null_high=None, ceiling=None,
        threshold=0.8, verdict="partial", rows=rows_of(found),
    )  # fmt: skip
    given = {"model": "m", "task": "t", "seed": 0, "n_sequences": 2 * len(numerator)}
    return Scorecard(
        **given | fields, parameters={}, divergence="KL, nats", claims=(result,), matrix=(),
        estimators=(), algorithm="one step",
    )  # fmt: skip


def drawn(seed, n=64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(3))


def test_rows_give_the_score_of_every_claim_that_has_them(cards):
    for claim in (claim for card in cards for claim in card):
        if "probe" in claim.id or claim.id.endswith((".weights", ".algorithm")):
            assert claim.rows is None  # fits make it uncertain, or it is exact
        elif claim.rows is not None:
            above, below = claim.rows.double()
            found = probes.one_minus_ratio(above, below, seed=0, expanded=True)
            expected = (claim.score, claim.low, claim.high)
            scale = max(1.0, abs(claim.score))
            assert (found.score, found.low, found.high) == pytest.approx(expected, abs=1e-5 * scale)
            assert below.mean() == pytest.approx(1, abs=1e-6)
    assert sum(claim.rows is not None for claim in cards[0]) > 5


def test_a_broken_part_shows_as_differences_that_are_paired(cards):
    found = mtd_lens.compare_scorecards(cards)
    lost = found["mixture_weights.attention"].differences[0]
    assert lost.how == "paired"
    assert lost.high < 0
    assert lost.p_adjusted < 0.05
    assert "mixture_weights.attention" in found.differing(1)
    assert "responsibilities.attention" not in found.differing(1)  # an earlier part, still whole
    assert found["responsibilities.attention"].differences[0].score == pytest.approx(0, abs=1e-6)
    for claim in found:
        one, two = (card[claim.id] for card in cards)
        assert claim.differences[0].score == two.score - one.score
        assert [side.verdict for side in claim.found] == [one.verdict, two.verdict]
        assert (claim.differences[0].how == "paired") == (one.rows is not None)


def test_a_paired_difference_is_that_of_a_slow_bootstrap():
    one, two, reference = drawn(0)
    found = mtd_lens.compare_scorecards([made(one, reference), made(one / 2 + two / 3, reference)])
    difference = found["a.swap"].differences[0]
    other = one / 2 + two / 3
    rng, draws = np.random.default_rng(7), []
    for _ in range(4000):
        rows = rng.integers(0, 64, 64)
        draws.append(float((one[rows].mean() - other[rows].mean()) / reference[rows].mean()))
    spread = np.std(draws)
    assert difference.low == pytest.approx(np.quantile(draws, 0.023), abs=0.2 * spread)
    assert difference.high == pytest.approx(np.quantile(draws, 0.977), abs=0.2 * spread)
    p = float(probes.sign_flip_p_values(one - other, seed=0))  # equal references: plain flips
    assert difference.p == pytest.approx(p, abs=0.002)


def test_pairing_takes_out_what_sequences_share():
    noise, own, reference = drawn(1)
    one, two = noise, noise + 0.02 * own
    paired = mtd_lens.compare_scorecards([made(one, reference), made(two, reference)])
    apart = mtd_lens.compare_scorecards([made(one, reference), made(two, reference, seed=1)])
    tight, loose = (found["a.swap"].differences[0] for found in (paired, apart))
    assert (tight.how, loose.how) == ("paired", "unpaired")
    assert tight.score == loose.score
    assert tight.p < 0.001
    assert loose.p > 0.5
    assert loose.high - loose.low > 10 * (tight.high - tight.low)


def test_equal_models_seldom_differ():
    """p of models that are equal in distribution is below 0.1 about a tenth of the time."""
    n, low = 200, 0
    for seed in range(n):
        one, two, reference = drawn(seed, 24)
        found = mtd_lens.compare_scorecards([made(one**2, reference), made(two**2, reference)])
        low += found["a.swap"].differences[0].p < 0.1
    assert abs(low / n - 0.1) < 3 * (0.1 * 0.9 / n) ** 0.5


def test_an_unpaired_interval_holds_0_just_where_p_says_so():
    one, two, reference = drawn(2)
    for shift in np.linspace(-0.6, 0.6, 25):
        pair = [made(one, reference), made((two + shift).abs(), reference, task="other")]
        found = mtd_lens.compare_scorecards(pair)["a.swap"].differences[0]
        assert found.how == "unpaired"
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"seed": 1}, "another seed"),
        ({"task": "u"}, "another task"),
        ({"n_sequences": 64, "seed": 1}, "another seed and number of sequences"),
    ],
)
def test_what_is_not_paired_says_why(fields, why):
    one, two, reference = drawn(3)
    found = mtd_lens.compare_scorecards([made(one, reference), made(two, reference, **fields)])
    assert [card.unpaired for card in found.cards] == ["", why]
    assert f"not: {why}" in str(found)


def test_scores_without_error_have_no_p(cards):
    found = mtd_lens.compare_scorecards(cards)["responsibilities.weights"].differences[0]
    assert found.how == "exact"
    assert found.low == found.score == found.high
    assert found.p is found.p_adjusted is None


def test_a_claim_of_one_alone_is_listed(cards):
    fewer = replace(cards[1], claims=cards[1].claims[1:])
    found = mtd_lens.compare_scorecards([cards[0], fewer])
    missing = cards[0].claims[0].id
    assert found[missing].found[1] is None
    assert found[missing].differences == (None,)
    assert f"Only A has, and not B: {missing}." in str(found)
    turned = mtd_lens.compare_scorecards([fewer, cards[0]])
    assert f"Only B has, and not A: {missing}." in str(turned)
    assert len(turned) == len(found)


def test_p_values_are_corrected_for_all_that_is_shown(cards):
    found = mtd_lens.compare_scorecards([*cards, cards[0]])
    listed = [d for claim in found for d in claim.differences if d is not None and d.p is not None]
    adjusted = probes.adjust_p_values(torch.tensor([d.p for d in listed], dtype=torch.float64))
    assert [d.p_adjusted for d in listed] == pytest.approx(adjusted.tolist())
    assert all(claim.differences[1].score == 0 for claim in found)
    assert found.differing(2) == []


def test_cards_have_names_that_tell_them_apart(cards):
    first, second = cards
    again = replace(first, seed=5)
    assert [c.name for c in mtd_lens.compare_scorecards(cards).cards] == ["whole", "broken"]
    found = mtd_lens.compare_scorecards([first, again, second])
    assert [c.name for c in found.cards] == ["whole, seed 0", "whole, seed 5", "broken, seed 0"]
    assert [c.name for c in mtd_lens.compare_scorecards([first, first]).cards] == [
        "whole (1)", "whole (2)",
    ]  # fmt: skip
    named = mtd_lens.compare_scorecards(cards, names=["before", "after"])
    assert "after − before" in str(named)
    assert "after beside before" in named.to_html()


def test_the_page_says_first_what_it_comes_to_and_has_every_claim_folded_below(cards):
    found = mtd_lens.compare_scorecards(cards)
    page = found.to_html().replace("<wbr>", "")
    assert "<title>Scorecards of whole and broken</title>" in page
    conclusions = [page.index(escape(card.conclusion)) for card in cards]
    assert page.index("<h1") < conclusions[0] < conclusions[1] < page.index("<table")
    _, *sections = page.split("<details>")
    for letter, name, section, card in zip("AB", ("whole", "broken"), sections, cards, strict=True):
        assert f"<summary>{letter}, {name}: every claim</summary>" in section
        for claim in card:
            row = next(row for row in section.split("<tr>") if f">{claim.id}<" in row)
            figures = map(figure, (claim.score, claim.floor, claim.ceiling))
            words = [claim.verdict.replace("_", " "), figure(claim.layer, 0), escape(claim.reason)]
            assert all(f">{word}<" in row for word in (*words, *figures))
    text = str(found)
    assert all(card.conclusion in text for card in cards)
    assert all(claim.reason not in text for card in cards for claim in card if claim.reason)


def test_the_figure_shows_scores_and_differences(cards):
    found = mtd_lens.compare_scorecards(cards)
    left, right = found.plot().axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert len(labels) == len(found)
    index = list(found).index(found["mixture_weights.attention"])
    expected = found["mixture_weights.attention"].differences[0]
    at = [
        tuple(map(float, line.get_xydata()[0]))
        for line in right.lines
        if len(line.get_xdata()) == 1
    ]
    near = {round(x, 6) for x, y in at if abs(y - index) < 0.5}
    assert near == {round(max(expected.score, -1.5), 6)}


def test_the_figure_has_arrows_at_its_edges_and_a_heading_over_its_figures():
    """Scores of 1, of 0.2 with a wide interval, and of -3, beside 1."""
    reference = torch.ones(64, dtype=torch.float64)
    wide = torch.zeros(64, dtype=torch.float64)
    wide[0] = 60.0
    pairs = [(0 * reference, 0 * reference), (0 * reference, wide), (0 * reference, 4 * reference)]
    one, two = (
        [made(pair[i], reference, claim=f"a.{n}") for n, pair in enumerate(pairs)] for i in (0, 1)
    )
    cards = [
        replace(card[0], claims=tuple(c.claims[0] for c in card), model=name)
        for card, name in ((one, "one"), (two, "two"))
    ]
    left, right = mtd_lens.compare_scorecards(cards).plot().axes
    assert "B − A [95%]" in {text.get_text() for text in right.texts}
    marks = [
        {line.get_marker() for line in axes.lines if [*map(round, line.get_ydata())] == [height]}
        for axes in (left, right)
        for height in range(3)
    ]
    assert marks == [{"o"}, {"o"}, {"o", "<"}, {"o"}, {"o"}, {"<"}]
    arrows = [[round(c.get_offsets()[0][1]) for c in axes.collections] for axes in (left, right)]
    assert arrows == [[1, 2], [1, 2]]


@pytest.mark.usefixtures("_no_type_checker")
def test_what_cannot_be_compared_is_refused(cards):
    compare = mtd_lens.compare_scorecards
    with pytest.raises(mtd_lens.ArgumentError, match="two scorecards or more; got 1"):
        compare(cards[:1])
    with pytest.raises(mtd_lens.ArgumentError, match=r"a list of what mtd_lens\.score returned"):
        compare([cards[0], "card"])
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"one step on mtd.* and against posterior on "
    ):
        compare([cards[0], replace(cards[1], algorithm="posterior")])
    of_vectors = replace(cards[1], task="ar-d3-t16", divergence="squared distance")
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"one step on ar-.* models of one task family"
    ):
        compare([cards[0], of_vectors])
    with pytest.raises(mtd_lens.ArgumentError, match="names must be 2 distinct texts"):
        compare(cards, names=["a", "a"])
    with pytest.raises(mtd_lens.ArgumentError, match="index must be"):
        compare(cards).differing(2)
    with pytest.raises(mtd_lens.ArgumentError, match="returned; got a Scorecard"):
        mtd_lens.plot_scorecard_comparison(cards[0])
