"""In 16 bits, and on a GPU where there is one: the same answers, as near as the numbers allow."""

import pytest
import torch
from random_models import build, metric, sequences

import mtd_lens
import probes
from mtd_lens.hooked import moved

NAME = "mtd-q5-m3-t32/trained-gpt-3l-s0"
EPS = torch.finfo(torch.bfloat16).eps
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CLAIMS = ["prediction.*", "mean_responsibility.interchange*", "mixture_weights.*"]


def loaded(dtype=torch.float32):
    return mtd_lens.load_model(NAME).to(dtype, print_details=False)


@pytest.fixture(scope="module")
def pair():
    task = mtd_lens.task_of(mtd_lens.load_model(NAME))
    return [task.sample(32, seed=seed).tokens for seed in (0, 1)]


def grids_of(model, clean, corrupted):
    for component in ("resid_pre", "z", "pattern", "post"):
        yield probes.patch_activations(model, clean, corrupted, component, metric)
        yield probes.attribute_patches(model, clean, corrupted, component, metric)
    yield probes.patch_paths(model, clean, corrupted, (2, 0), metric)


def test_bfloat16_is_as_near_as_its_digits(pair):
    scale = float(loaded()(pair[1]).abs().max())  # of the logits, whose rounding it is
    both = zip(grids_of(loaded(), *pair), grids_of(loaded(torch.bfloat16), *pair), strict=True)
    for full, half in both:
        assert half.values.dtype == torch.float64
        assert (full.values - half.values).abs().max() < 4 * EPS * scale
        means = [grid.differences.mean(-1) for grid in (full, half)]
        assert (means[0] - means[1]).abs().max() < EPS * scale
        if "attribution" not in half.intervention:
            assert half.engine.startswith("hooked loop: in 16 bits")


def test_metrics_are_given_float32_in_16_bits():
    clean, corrupted = sequences(20)
    seen = set()

    def watched(logits):
        seen.add(logits.dtype)
        return torch.from_numpy(metric(logits.numpy()))

    for dtype in (torch.bfloat16, torch.float16):
        model = build("gpt").to(dtype, print_details=False)
        probes.patch_activations(model, clean, corrupted, "z", watched)
    assert seen == {torch.float32}


def test_probes_of_bfloat16_are_fitted_in_float64(pair):
    site, target = probes.Site.at("resid_post", 1), torch.nn.functional.one_hot(pair[0], 5).double()
    fitted = []
    for dtype in (torch.float32, torch.bfloat16):
        activations = probes.read_activations(loaded(dtype), pair[0], {"it": site})["it"]
        assert activations.dtype == dtype
        fitted.append(probes.fit_ridge(activations, target))
    assert all(probe.weights.dtype == torch.float64 for probe in fitted)
    assert fitted[1].cross_validated == pytest.approx(fitted[0].cross_validated, abs=EPS)


def test_scorecards_in_bfloat16(pair):
    cards = [
        mtd_lens.score(loaded(dtype), n_sequences=64, only=CLAIMS)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for full, half in zip(*cards, strict=True):
        assert (full.id, full.layer) == (half.id, half.layer)
        assert half.score == pytest.approx(full.score, abs=4 * EPS)


@ON_GPU
def test_forward_passes_and_grids_on_a_gpu(pair):
    here, there = loaded(), moved(loaded(), torch.device("cuda"))
    away = [tokens.cuda() for tokens in pair]
    expected = here(pair[0])
    assert (there(away[0]).cpu() - expected).abs().max() < 1e-4 * expected.abs().max()
    for own, other in zip(grids_of(here, *pair), grids_of(there, *away), strict=True):
        scale = float(own.base.abs().max())
        assert own.engine == other.engine
        assert (own.values - other.values).abs().max() < 1e-4 * scale
    _, cache = there.run_with_cache(away[0])
    plain, cached = (
        probes.patch_activations(there, source, away[1], "z", metric) for source in (away[0], cache)
    )
    assert (plain.values - cached.values).abs().max() < 1e-4 * plain.base.abs().max()
    with pytest.raises(probes.DataError, match=r"logits\.cpu\(\)\.numpy\(\)"):
        probes.patch_activations(there, *away, "z", lambda logits: metric(logits.numpy()))


@ON_GPU
def test_scorecards_on_a_gpu():
    cards = [
        mtd_lens.score(model, n_sequences=64, only=CLAIMS)
        for model in (loaded(), moved(loaded(), torch.device("cuda")))
    ]
    for own, other in zip(*cards, strict=True):
        assert (own.id, own.layer, own.verdict) == (other.id, other.layer, other.verdict)
        assert other.score == pytest.approx(own.score, abs=1e-3)


@ON_GPU
def test_bfloat16_on_a_gpu(pair):
    half, scale = moved(loaded(torch.bfloat16), torch.device("cuda")), loaded()(pair[1]).abs().max()
    grids = zip(grids_of(loaded(), *pair), grids_of(half, *(t.cuda() for t in pair)), strict=True)
    for full, other in grids:
        assert (full.values - other.values).abs().max() < 4 * EPS * scale
