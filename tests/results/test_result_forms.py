"""Every result comes back from its JSON, today's and the first form's; bad files say where."""

import html
import importlib
import json
import pkgutil
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from drawn import made_inspection
from stored import FIRST_FORM, KINDS, TENSORS, stored

import mtd_lens
import mtd_lens.results
import probes
from mtd_lens.results.base import Result
from mtd_lens.results.plain import UnreadableError, from_plain, to_plain
from mtd_lens.results.scorecard import ClaimResult
from probes import pages
from probes.packing import packed, unpacked


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", KINDS)
def test_every_result_comes_back_from_its_json(name, tmp_path):
    found = stored(name)
    text = found.to_json(tmp_path / "it.json")
    for source in (text, tmp_path / "it.json", str(tmp_path / "it.json")):
        again = KINDS[name].from_json(source)
        assert again.to_dict() == found.to_dict()
        assert name in TENSORS or again == found
    plain = json.loads(text)
    assert list(plain)[:8] == [
        *("form", "model", "task", "seed", "n_sequences", "parameters", "divergence", "versions")
    ]
    assert plain["form"] == 2
    assert KINDS[name].from_dict(plain).to_json() == text


def test_tensors_of_an_inspection_come_back_to_the_last_bit():
    found = made_inspection()
    again = mtd_lens.Inspection.from_json(found.to_json())
    pairs = [
        (found.tokens, again.tokens),
        (found.attention, again.attention),
        *(
            (pattern.values, back.values)
            for pattern, back in zip(found.analysis.patterns, again.analysis.patterns, strict=True)
        ),
        (found.given_query.sources, again.given_query.sources),
        (found.analysis.scores.fitted, again.analysis.scores.fitted),
        *((value, again.analysis.latents[name]) for name, value in found.analysis.latents.items()),
    ]
    for one, two in pairs:
        assert one.dtype == two.dtype
        assert torch.equal(one.nan_to_num(-7), two.nan_to_num(-7))
    assert not again.analysis.predicts_latent


def test_a_latent_that_is_the_prediction_comes_back_as_such():
    found = made_inspection()
    analysis = replace(found.analysis, latents=found.analysis.predictions)
    again = mtd_lens.Inspection.from_json(replace(found, analysis=analysis).to_json())
    assert again.analysis.predicts_latent
    none = replace(found, analysis=None)
    assert mtd_lens.Inspection.from_json(none.to_json()).analysis is None


def test_a_learned_subspace_comes_back_with_the_directions_it_was_sought_in():
    found = stored("AlignmentReport")
    assert found.alignment.span.isnan().all()  # the first form did not say
    span = torch.linalg.qr(torch.randn(found.n_components, 5, generator=seeded()).double()).Q
    known = replace(found, alignment=replace(found.alignment, span=span))
    again = mtd_lens.AlignmentReport.from_json(known.to_json())
    assert torch.equal(again.alignment.span, span)
    assert torch.equal(again.alignment.basis, found.alignment.basis)
    with pytest.raises(probes.DataError, match=r"what Alignment\.to_dict returns.*basis"):
        probes.Alignment.from_dict({"hook": "blocks.0.hook_z"})


def holds(now, was):
    """Whether what was said is still said, with whatever beside it."""
    if isinstance(was, dict):
        # sets that were not found are listed as tried
        moved = {"places"} if was.get("verdict") == "not_found" else set()
        return all(holds(now[key], was[key]) for key in set(was) - moved)
    if isinstance(was, list):
        return len(now) == len(was) and all(map(holds, now, was))
    return now == was


@pytest.mark.parametrize("name", FIRST_FORM)
def test_the_first_form_is_read_and_says_what_it_said(name):
    was, now = FIRST_FORM[name], stored(name).to_dict()
    same = set(was) & set(now)
    assert all(holds(now[key], was[key]) for key in same - {"alignment", "versions"})
    assert same >= {"model", "task", "seed"}


def test_parameters_have_a_key_of_their_own():
    was, card = FIRST_FORM["Scorecard"], stored("Scorecard")
    assert "parameters" not in was
    assert card.to_dict()["parameters"] == {"beta": was["beta"]} == card.parameters
    assert card.algorithm == "one step"
    assert stored("Comparison").drawn[1] == "one step"
    ngram = was | {"estimators": [was["estimators"][0] | {"name": "kernel"}]}
    assert mtd_lens.Scorecard.from_dict(ngram).algorithm == "kernel"


@pytest.mark.parametrize("name", KINDS)
def test_every_result_is_shown_in_one_style(name):
    found = stored(name)
    text, page, line = str(found), found._repr_html_().replace("<wbr>", ""), repr(found)
    assert "\n" not in line
    assert line.startswith(f"{name}({found.model!r}")
    assert found.model in text.splitlines()[0]
    for table in found._shown():
        assert table.title in text
        for cell in (cell.strip() for row in table.rows for cell in row):
            assert cell in text
            assert html.escape(cell.strip("*+ ")) in page or cell.replace("_", " ") in page
    hostile = replace(found, model="<script>")
    assert "<script>" not in hostile._repr_html_()


@pytest.mark.parametrize("name", KINDS)
def test_every_result_is_a_data_frame(name):
    found = stored(name)
    table = found.to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert len(table) > 1
    assert list(table)[:3] == ["model", "task", "seed"]
    assert set(table["model"]) == {found.model}


def test_a_data_frame_holds_the_numbers():
    card, found = stored("Scorecard"), made_inspection()
    assert card.to_dataframe()["score"].tolist() == [claim.score for claim in card]
    row = found.to_dataframe().query("layer == 2 and head == 1 and sequence == 1 and query == 7")
    assert row["attention"].tolist() == found.attention[2, 1, 1, 7, :8].tolist()


def test_every_result_draws_its_figure_and_writes_its_page(tmp_path):
    for name in KINDS:
        found = stored(name)
        figure = found.plot(tmp_path / f"{name}.svg", data=tmp_path / f"{name}.csv")
        assert figure.axes
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 1
        page = found.to_html(tmp_path / f"{name}.html")
        assert (tmp_path / f"{name}.html").read_text("utf-8") == page
        cards = getattr(found, "cards", None)
        shown = f"{name} of {found.model}"
        if cards is not None:
            shown = f"Scorecards of {' and '.join(card.name for card in cards)}"
        assert f"<title>{html.escape(shown)}</title>" in page
        assert found._repr_html_() in page


def every_kind(of=Result):
    for kind in of.__subclasses__():
        yield kind
        yield from every_kind(kind)


def test_no_kind_of_result_is_left_out():
    for module in pkgutil.iter_modules(mtd_lens.results.__path__):
        importlib.import_module(f"mtd_lens.results.{module.name}")
    assert {kind.__name__ for kind in every_kind()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_pages_have_one_stylesheet_light_and_dark(name, tmp_path):
    page = stored(name).to_html(tmp_path / "page.html")
    assert page.count(pages.STYLE) == 1
    assert page.count("<style>") == 2  # the page's margins, and that
    assert "<script" not in page
    assert "http" not in page.replace(str(tmp_path), "")
    for places in (pages.LIGHT_PLACES, pages.DARK_PLACES):
        assert all(place in pages.STYLE for place in places)


def test_both_themes_name_the_same_colours():
    light, dark = (set(re.findall(r"--[\w-]+(?=:)", theme)) for theme in (pages.LIGHT, pages.DARK))
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", pages.STYLE)) <= light


def test_a_verdict_is_marked_and_a_name_may_be_broken():
    found = pages.table(("claim", "verdict"), [("a_b.c", "not_found"), ("x", '"><i>')])
    assert '<td class="name">a_<wbr>b.<wbr>c</td>' in found
    assert '<span class="verdict not_found">not found</span>' in found
    assert "<i>" not in found


def test_a_claim_without_a_ceiling_is_shown_with_a_dash():
    card = stored("Scorecard")
    bare = replace(card, claims=(replace(card.claims[0], ceiling=None), *card.claims[1:]))
    line = next(row for row in str(bare).splitlines() if card.claims[0].id in row)
    assert line.split()[-2:] == ["–", "supported"]
    assert "<td>–</td>" in bare.to_html()
    assert mtd_lens.Scorecard.from_json(bare.to_json()) == bare
    bare.plot()


BAD = {
    "later": (lambda card: card | {"form": 3}, r"Scorecard\.to_dict returns: form must be 1 or 2"),
    "missing": (lambda card: {**card, "claims": [{}]}, r"claims\[0\]\.id is missing"),
    "unknown": (lambda card: card | {"model_name": "x"}, r"model_name is unknown"),
    "text": (lambda card: card | {"seed": "1"}, r"seed must be an integer; got '1'"),
    "truth": (lambda card: card | {"n_sequences": True}, r"n_sequences must be an integer; got Tr"),
    "number": (
        lambda card: card | {"parameters": {"beta": "x"}},
        r"parameters\['beta'\] must be a number; got 'x'",
    ),
    "row": (
        lambda card: card | {"matrix": [card["matrix"][0] | {"low": None}]},
        r"matrix\[0\]\.low must be a number; got None",
    ),
    "list": (lambda card: card | {"matrix": 5}, r"matrix must be a list; got 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_with_what_and_where(case):
    change, message = BAD[case]
    plain = stored("Scorecard").to_dict()
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        mtd_lens.Scorecard.from_dict(change(plain))


def test_bad_tensors_are_refused():
    plain = made_inspection().to_dict()
    for change in ({"base64": "?"}, {"dtype": "cat"}, {"shape": [7]}):
        bad = plain | {"tokens": plain["tokens"] | change}
        with pytest.raises(mtd_lens.ArgumentError, match=r"Inspection\.to_dict returns: tokens: "):
            mtd_lens.Inspection.from_dict(bad)
    with pytest.raises(mtd_lens.ArgumentError, match=r"attention must be a Float.*got \(2, 2\)"):
        mtd_lens.Inspection.from_dict(plain | {"attention": packed(torch.ones(2, 2))})


def test_files_that_hold_no_result_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"model": "x"}')
    read = mtd_lens.Comparison.from_json
    with pytest.raises(mtd_lens.ArgumentError, match=r"c\.json' cannot be read as JSON.*No such f"):
        read(tmp_path / "c.json")
    with pytest.raises(mtd_lens.ArgumentError, match=r"a\.json' cannot be read as JSON"):
        read(tmp_path / "a.json")
    with pytest.raises(mtd_lens.ArgumentError, match=r"b\.json': expected what Comparison"):
        read(tmp_path / "b.json")
    with pytest.raises(
        mtd_lens.ArgumentError, match=r"this text: .*lengths must be a list; got None"
    ):
        read('{"model": "x"}')
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(mtd_lens.ArgumentError, match="it holds a list, not a mapping"):
        read(tmp_path / "d.json")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_packed_tensors_come_back(dtype, shape):
    tensor = (torch.randn(shape, generator=seeded()) * 5).to(dtype)
    again = unpacked(json.loads(json.dumps(packed(tensor))))
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
    again.zero_()  # it may be written to


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (1, "a")),
        (dict[str, float | str], {"a": 1.5, "b": "c"}),
        (int | None, None),
        (tuple[tuple[int, int], ...], ((0, 1), (2, 3))),
        (list[bool], [True, False]),
        (ClaimResult, ClaimResult("a", "", 0, None, *[0.5] * 6, 0.8, "supported", {"k": 1.0})),
    ],
)
def test_plain_data_come_back_by_their_type(kind, value):
    assert from_plain(kind, json.loads(json.dumps(to_plain(value)))) == value


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (tuple[int, int], [1], r"it must be a list of 2; got \[1\]"),
        (dict[str, int], {"a": 1.5}, r"it\['a'\] must be an integer; got 1\.5"),
        (str | None, 3, "it must be a text; got 3"),
        (bool, 1, "it must be true or false; got 1"),
        (type(None), 0, "it must be null; got 0"),
    ],
)
def test_plain_data_of_another_type_are_refused(kind, data, message):
    with pytest.raises(UnreadableError, match=message):
        from_plain(kind, data, "it")


WRONG = (None, "abc", -1, 1.5, True, [], {}, [None], [[]], {"abc": 1}, 10**400, float("nan"))


def mangled(plain, path=()):
    """Plain data with one entry left out or replaced, for every entry, and the way to it.

    Of lists the first entry stands for all; what packed tensors hold is tried by their own tests.
    """
    items = plain.items() if isinstance(plain, dict) else list(enumerate(plain))[:1]
    for key, value in items:
        here = (*path, key)
        if isinstance(plain, dict):
            yield here, {name: item for name, item in plain.items() if name != key}
        for wrong in WRONG:
            other = dict(plain) if isinstance(plain, dict) else list(plain)
            other[key] = wrong
            yield here, other
        if isinstance(value, dict | list) and "base64" not in value:
            for deeper, changed in mangled(value, here):
                other = dict(plain) if isinstance(plain, dict) else list(plain)
                other[key] = changed
                yield deeper, other


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("form", ["today's", "the first"])
@pytest.mark.parametrize("name", KINDS)
def test_no_malformed_file_gets_by_or_fails_otherwise(name, form):
    if form == "the first" and name not in FIRST_FORM:
        return
    plain = stored(name).to_dict() if form == "today's" else FIRST_FORM[name]
    n_refused, wrong = 0, []
    for path, changed in mangled(plain):
        try:
            found = KINDS[name].from_dict(changed)
        except mtd_lens.ArgumentError as error:
            n_refused += 1
            said = str(error)
            named = [str(key) for key in path if isinstance(key, str)]
            if path != ("form",) and not any(key in said for key in named):  # without: the first
                wrong.append((path, said))
        except Exception as error:
            wrong.append((path, repr(error)))
        else:
            try:
                assert str(found) + repr(found)
            except Exception as error:
                wrong.append((path, "shown", repr(error)))
    assert wrong == []
    assert n_refused > 100
