"""Dashboards as files: what they hold, that they need no network, and that nothing escapes."""

import base64
import html
import json
import re
import socket
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import cli
from mtd_lens.results.inspection import MAX_OUTCOMES, likeliest
from mtd_lens.views import dashboard as dashboards

HOSTILE = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&amp;", "<!--")


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, beta=6.0, dtype=torch.float64)


@pytest.fixture(scope="module")
def page(model):
    made = mtd_lens.dashboard(model, n_sequences=2, token_names=HOSTILE, name="<u>mine</u>")
    return made, made.to_html()


def data_of(text):
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def unpacked(text, n_maps, length):
    levels = np.frombuffer(base64.b64decode(text), "<i2").reshape(n_maps, -1).astype(float)
    levels[levels == dashboards.UNDEFINED] = np.nan
    maps = np.zeros((n_maps, length, length))
    maps[:, *np.tril_indices(length)] = levels / dashboards.LEVELS
    return maps


def test_the_page_holds_the_attention(page):
    made, text = page
    data, found = data_of(text), made.inspection
    for sequence in range(2):
        maps = unpacked(data["attention"][sequence], 9, 14)
        expected = found.attention[:, :, sequence].flatten(0, 1).double().numpy()
        assert abs(maps - expected).max() < 1 / dashboards.LEVELS
        analytic = unpacked(data["analytic"][sequence], 3, 14)
        expected = np.stack([p.values[sequence].tril().numpy() for p in found.analysis.patterns])
        assert np.isnan(analytic[:, 2, 0]).all()
        assert np.nanmax(abs(analytic - expected)) < 1 / dashboards.LEVELS


def test_the_page_holds_the_signs_of_attention_without_a_softmax():
    made = mtd_lens.dashboard(mtd_lens.load_model("ar-d3-t16/constructed-one-step"), n_sequences=1)
    text = made.to_html()
    data, found = data_of(text), made.inspection
    n_maps = found.attention.shape[0] * found.attention.shape[1]
    maps = unpacked(data["attention"][0], n_maps, 16)
    assert maps.min() < -0.1
    assert abs(maps - found.attention[:, :, 0].flatten(0, 1).numpy()).max() < 1 / dashboards.LEVELS
    analytic = unpacked(data["analytic"][0], 2, 16)
    expected = np.stack([p.values[0].tril().numpy() for p in found.analysis.patterns])
    assert np.nanmin(analytic) < -0.1
    assert np.nanmax(abs(analytic - expected)) < 1 / dashboards.LEVELS
    assert np.isnan(analytic[:, 0, 0]).all()
    assert data["vectors"]
    assert "shares of its magnitude at each query, with their signs" in text


def test_the_page_holds_what_is_inferred_and_predicted(page):
    made, text = page
    data, analysis = data_of(text), made.inspection.analysis
    assert data["sources"] == ["model", "one step", "2 steps", "exact Bayes", "truth"]
    assert data["latents"]["truth"][1][0] == [None] * 3
    bayes = torch.tensor(data["latents"]["exact Bayes"][1][5])
    assert torch.allclose(bayes.double(), analysis.latents["exact Bayes"][1, 5], atol=1e-4)
    assert data["outcomes"] == list(HOSTILE)
    predicted = torch.tensor(data["predictions"]["model"][0][-1]).double()
    assert torch.allclose(predicted, analysis.predictions["model"][0, -1], atol=1e-4)
    assert data["defaults"] == [0, 1, 2]  # each layer of a construction has its own pattern


def test_nothing_is_loaded_and_circuitsvis_is_there_once(page):
    _, text = page
    assert text.count("var CircuitsVis=") == 1
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    loaded = re.findall(r'(?:src|href)="([^"]*)"', markup) + re.findall(r"url\(([^)]*)\)", markup)
    assert {target for target in loaded if not target.startswith("#")} == {"data:,"}
    assert "import(" not in markup
    assert "sourceMappingURL" not in text


class Tags(HTMLParser):
    """Every element and what text stands outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data if self.tags[-1:] != ["script"] else ""


def test_names_cannot_break_out_of_the_page(page):
    _, text = page
    parsed = Tags(text)
    assert parsed.tags.count("script") == 3
    assert not {"img", "u", "object", "embed"} & set(parsed.tags)
    assert "<u>mine</u>" in parsed.words
    assert "alert(1)" not in parsed.words
    assert data_of(text)["names"] == list(HOSTILE)


def test_a_notebook_shows_it_without_the_network(page, monkeypatch):
    made, text = page

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    frame = made._repr_html_()
    assert frame.startswith("<iframe ")
    [inside] = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == text


def test_size_at_the_default_task():
    model = mtd_lens.load_model("mtd-q5-m3-t64/trained-attn-only-3l-s0")
    assert (model.cfg.n_layers, model.cfg.n_heads) == (3, 4)
    assert len(mtd_lens.dashboard(model).to_html()) <= 3_000_000


@pytest.mark.usefixtures("_no_type_checker")
def test_the_scorecard_is_shown(model, page, tmp_path):
    made, text = page
    assert "Not part of this page" in text
    card = mtd_lens.score(model, n_sequences=64)
    scored = made.with_scorecard(card)
    assert card._repr_html_() in scored.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == scored.to_html()
    assert repr(scored).endswith("with its scorecard)")
    assert repr(made).endswith("not scored)")
    for make in (made.with_scorecard, lambda card: mtd_lens.dashboard(model, scorecard=card)):
        with pytest.raises(mtd_lens.ArgumentError, match=r"mtd_lens\.score returned; got a dict"):
            make({})
    other = mtd_lens.score(mtd_lens.load_model("mtd-q3-m2-t32/random-relative"), n_sequences=64)
    with pytest.raises(mtd_lens.ArgumentError, match="on another task than the dashboard's"):
        made.with_scorecard(other)


def test_a_scorecard_of_another_model_says_so(model, page):
    made, _ = page
    card = mtd_lens.score(model, n_sequences=64, name="theirs")
    assert "Of the model theirs." in made.with_scorecard(card).to_html()
    named = mtd_lens.dashboard(model, n_sequences=1, name="theirs", scorecard=card)
    assert "Of the model" not in named.to_html()


def test_an_analysis_may_say_little(page):
    made, _ = page
    analysis = replace(made.inspection.analysis, patterns=(), predictions={})
    little = replace(made.inspection, analysis=analysis, nearest_heads={})
    data = data_of(replace(made, inspection=little).to_html())
    assert data["patterns"] == data["analytic"] == data["defaults"] == data["outcomes"] == []


def test_of_many_tokens_the_likeliest_are_shown():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 3, 40, generator=generator)
    rows[:, :, 7] = 5.0
    rows[1, 2, 33] = 9.0
    shown = likeliest({"model": rows, "truth": torch.full_like(rows, torch.nan)})
    assert len(shown) == MAX_OUTCOMES
    assert shown == sorted(shown)
    assert {7, 33} <= set(shown)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mtd-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_the_command(monkeypatch, capsys, tmp_path):
    out = tmp_path / "page.html"
    name = "mtd-q3-m2-t32/constructed-relative"
    assert run(monkeypatch, "dashboard", name, "--out", out, "--no-score", "--sequences", 3) == 0
    assert capsys.readouterr().err.endswith(f"\nwrote {out}\n")
    assert len(data_of(out.read_text("utf-8"))["attention"]) == 3
    assert run(monkeypatch, "dashboard", name, "--out", tmp_path / "no" / "page.html") == 2
    assert "OutputPathError" in capsys.readouterr().err
    assert run(monkeypatch, "dashboard", name, "--out", out, "--sequences", 17) == 2
    assert re.search("--sequences.*16", capsys.readouterr().err)
