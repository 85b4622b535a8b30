"""What cannot be shown on one line is refused where it enters; all else is shown as it is."""

from dataclasses import replace

import pytest
import torch
from stored import KINDS, stored

import mtd_lens
import probes
from mtd_lens import claims, contracts
from mtd_lens.errors import ProbesError
from mtd_lens.questions import estimators
from mtd_lens.registry import list_families
from probes import checks
from probes.circuits import WeightFinding

BAD = {
    "an escape sequence": "a\x1b[31mb",
    "a line break": "a\nb",
    "a carriage return": "a\rb",
    "half a character": "a\ud800b",
    "no character": "a\uffffb",
    "a change of direction": "a\u202eb",
    "nothing": "a\0b",
}
GOOD = (
    "mine.swap[last]",
    ":bug: $x_{$ a$b$",
    "<b>&amp;",
    "Ġthe ▁a",
    "é 中文 נ",
    "a\u00a0b",
    "می\u200cخ",
    "👩\u200d🔬",
)
CLAIM, MEASUREMENT = claims.Claim("a.b", "so", list), (0, "z", 0.0, torch.ones(1), torch.ones(1))
PATTERN = contracts.AnalyticPattern("uniform", "weights", torch.ones(1, 1, 1))


def grid(metric="m", axes=None):
    axes = axes or {"layer": (0, 1)}
    values = torch.arange(2.0).expand(*map(len, axes.values()), 2)
    return probes.Grid("denoising", "z", axes, values, torch.zeros(2), None, metric, "hooks")


def metric_named(name):
    def metric(logits):
        return logits[:, 0]

    metric.__name__ = name
    return metric


def family():
    return list_families()["mtd"]


DOORS = {
    "a claim": lambda text, model: claims.Claim(text, "so", list),
    "a claim's statement": lambda text, model: replace(CLAIM, statement=text),
    "a measurement": lambda text, model: claims.Measurement(0, text, *MEASUREMENT[2:]),
    "a measurement's details": lambda text, model: claims.Measurement(
        *MEASUREMENT, details={text: 1.0}
    ),
    "a carrier": lambda text, model: contracts.Carrier(text, ("z",), contracts.LAST),
    "a pattern": lambda text, model: replace(PATTERN, name=text),
    "a source": lambda text, model: contracts.Analysis("w", ("a",), {}, {text: torch.ones(1)}),
    "a component": lambda text, model: contracts.Analysis("w", ("a", text), {}, {}),
    "a parameter": lambda text, model: contracts.Reference(torch.ones(1, 1), {text: 1.0}),
    "an algorithm": lambda text, model: replace(family().algorithms[0], name=text),
    "a family": lambda text, model: replace(family(), name=text),
    "a preset": lambda text, model: replace(family(), presets={text: list}),
    "a finding": lambda text, model: WeightFinding(text, (), "so"),
    "a task": lambda text, model: mtd_lens.MTDTask([[0.5, 0.5], [0.2, 0.8]], 2, 8, name=text),
    "a registered task": lambda text, model: mtd_lens.register_task(text, mtd_lens.task_of(model)),
    "a registered model": lambda text, model: mtd_lens.register_model(
        f"mtd-q3-m2-t32/{text}", lambda: None
    ),
    "a model": lambda text, model: mtd_lens.score(model, name=text),
    "a compared model": lambda text, model: mtd_lens.compare(model, name=text),
    "a competed model": lambda text, model: mtd_lens.compete(model, name=text),
    "a fitted model": lambda text, model: mtd_lens.fit_algorithm(model, name=text),
    "an inspected model": lambda text, model: mtd_lens.inspect(model, name=text),
    "a token": lambda text, model: mtd_lens.dashboard(model, token_names=["a", "b", "c", text]),
    "an axis": lambda text, model: grid(axes={text: (0, 1)}),
    "a label": lambda text, model: grid(axes={"site": ("a", text)}),
    "a grid's metric": lambda text, model: grid(text),
    "a metric": lambda text, model: probes.patch_activations(
        model, *[mtd_lens.task_of(model).sample(16, seed=0).tokens] * 2, "z", metric_named(text)
    ),
    "a figure's title": lambda text, model: mtd_lens.plot_training(
        [1, 2], {"a.b": [{"score": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.8}] * 2}, title=text
    ),
    "a figure's panel": lambda text, model: mtd_lens.plot_attention({text: [[1.0]]}),
}


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, beta=6.0)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("door", DOORS)
def test_what_cannot_be_shown_is_refused_at_the_door(model, door):
    accepted = {}
    for kind, text in BAD.items():
        if door.startswith("a figure") and kind in ("a line break", "a carriage return"):
            continue  # titles may have several lines
        try:
            accepted[kind] = f"no error, but {DOORS[door](text, model)!r}"
        except ProbesError as error:
            if "cannot be shown" not in str(error) or not str(error).isprintable():
                accepted[kind] = repr(error)
    assert accepted == {}


@pytest.mark.parametrize("text", GOOD)
def test_every_other_sign_is_taken(text):
    assert checks.text(text, "it", ValueError) == text


def test_an_estimator_s_name_is_refused_before_any_claim_is_measured(model, monkeypatch):
    def named(*given):
        return {"a\x1bb": contracts.Reference(given[2])}

    monkeypatch.setattr("mtd_lens.questions.score._measured", None)
    bad = replace(family(), references=named)
    monkeypatch.setattr("mtd_lens.experiment.family_of", lambda task: bad)
    with pytest.raises(mtd_lens.ArgumentError, match="the name of an estimator holds"):
        mtd_lens.score(model, n_sequences=64)
    with pytest.raises(mtd_lens.ArgumentError, match="the name of an estimator holds"):
        estimators.from_truth(bad, mtd_lens.task_of(model), model, 14, 64, 0)


@pytest.mark.parametrize("name", KINDS)
def test_files_with_names_that_cannot_be_shown_are_refused(name):
    plain = stored(name).to_dict()
    for bad in BAD.values():
        for changed in ({"model": bad}, {"task": {"name": bad}}, {"versions": {bad: "1"}}):
            with pytest.raises(mtd_lens.ArgumentError, match="cannot be shown"):
                KINDS[name].from_dict(plain | changed)


@pytest.mark.parametrize("text", GOOD[:3])
def test_figures_show_names_as_they_are(tmp_path, text):
    """A formula's signs would be read as one, or fail."""
    from matplotlib.text import Text

    card = stored("Scorecard")
    claims = tuple(replace(claim, id=f"{text}.{claim.id}") for claim in card.claims)
    matrix = tuple(replace(entry, claim=f"{text}.{entry.claim}") for entry in card.matrix)
    drawn = {
        "grid": grid(text, {text: ("a", text), "position": (0, 1)}),
        "card": replace(card, model=text, claims=claims, matrix=matrix),
    }
    for name, result in drawn.items():
        for ending in ("svg", "png"):
            figure = result.plot(tmp_path / f"{name}.{ending}")
        named = [each for each in figure.findobj(Text) if text in each.get_text()]
        assert named, name
        assert not any(each.get_parse_math() for each in named), name
