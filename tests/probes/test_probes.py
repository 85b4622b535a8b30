"""The instruments, on models that they were not made for, against slow oracles."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_models import two_layers
from transformer_lens.hook_points import HookPoint

import probes
from probes.capture import NaturalRuns
from probes.sites import COMPONENTS


@pytest.fixture(scope="module")
def model():
    return two_layers()


@pytest.fixture(scope="module")
def sequences():
    return torch.from_numpy(np.random.default_rng(0).integers(5, size=(10, 12)))


SITES = [
    probes.Site("blocks.0.hook_attn_out"),
    probes.Site("blocks.1.hook_resid_post", positions=(3, -1)),
    probes.Site("blocks.1.attn.hook_pattern", positions=[11], head=2),
    probes.Site("blocks.0.attn.hook_pattern"),
    probes.Site("blocks.1.attn.hook_z", positions=[0, 5], head=1),
    probes.Site("blocks.0.attn.hook_q", head=0),
    probes.Site("blocks.0.hook_resid_pre", subspace=torch.linalg.qr(torch.ones(24, 1)).Q),
]


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.hook)
def test_reading_equals_run_with_cache_and_writing_back_changes_nothing(model, sequences, site):
    _, cache = model.run_with_cache(sequences)
    activation = cache[site.hook]
    value = probes.read_activations(model, sequences, {"it": site}, batch_size=4)["it"]
    assert torch.allclose(value, site.read(activation), atol=1e-6)
    assert torch.allclose(site.write(activation, value), activation, atol=1e-6)
    before = activation.clone()
    edited = site.write(activation, value + 1)
    assert torch.equal(activation, before)  # never in place
    assert torch.allclose(site.read(edited), value + 1, atol=1e-5)
    changed = (edited - activation).abs() > 1e-6
    assert changed.sum() > 0
    assert site.layer == int(site.hook.split(".")[1])


def test_a_subspace_write_leaves_the_complement(model, sequences):
    basis = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(24, 3)))).Q
    site = probes.Site("blocks.1.hook_resid_pre", positions=[4], subspace=basis.float())
    _, cache = model.run_with_cache(sequences)
    activation = cache[site.hook]
    edited = site.write(activation, torch.zeros(10, 1, 3))
    difference = edited - activation
    complement = difference - difference @ basis.float() @ basis.float().T
    assert complement.abs().max() < 1e-5
    assert (edited[:, 4] @ basis.float()).abs().max() < 1e-5
    assert difference[:, [0, 1, 2, 3, 5]].abs().max() == 0


def test_band_reads_attention_by_offset(model, sequences):
    band = probes.Band("blocks.1.attn.hook_pattern", queries=(4, 9), offsets=(0, 1, 3))
    found = probes.read_activations(model, sequences, {"band": band})["band"]
    _, cache = model.run_with_cache(sequences)
    pattern = cache["blocks.1.attn.hook_pattern"]
    for i, t in enumerate((4, 9)):
        for j, offset in enumerate((0, 1, 3)):
            assert torch.allclose(found[:, :, i, j], pattern[:, :, t, t - offset], atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"attn_only": True, "normalization_type": None}, {"n_key_value_heads": 1}],
    ids=["gpt", "attention only", "grouped queries"],
)
@pytest.mark.parametrize("hook", ["hook_attn_out", "attn.hook_pattern", "hook_resid_post"])
def test_interchange_equals_a_hooked_loop_over_pairs(changes, hook, sequences):
    model = two_layers(**changes)
    source = torch.tensor([3, 1, 0, 2, 9, 8, 7, 6, 5, 4])
    sites = {
        f"{layer}": probes.Site(f"blocks.{layer}.{hook}", positions=(5, 11)) for layer in (0, 1)
    }
    runs = probes.run_interchange(model, sequences, source, sites, batch_size=4)
    assert torch.allclose(runs.base, model(sequences)[:, -1], atol=1e-5)
    for name, site in sites.items():
        for row in range(10):
            _, cache = model.run_with_cache(sequences[source[row]][None])

            def swap(activation, hook, site=site, cache=cache):
                positions = [5, 11]
                if site.hook.endswith("pattern"):
                    activation[:, :, positions] = cache[site.hook][:, :, positions]
                else:
                    activation[:, positions] = cache[site.hook][:, positions]
                return activation

            expected = model.run_with_hooks(sequences[row][None], fwd_hooks=[(site.hook, swap)])
            assert torch.allclose(runs.patched[name][row], expected[0, -1], atol=1e-5)


def test_swapping_with_itself_changes_nothing(model, sequences):
    sites = {"a": probes.Site("blocks.0.hook_attn_out"), "b": probes.Site("blocks.1.attn.hook_z")}
    runs = probes.run_interchange(model, sequences, torch.arange(10), sites)
    for patched in runs.patched.values():
        assert torch.allclose(patched, runs.base, atol=1e-6)


def test_the_model_is_left_as_it_was_found(model, sequences):
    calls = []
    model.add_hook("blocks.0.hook_attn_out", lambda a, hook: calls.append(1))
    try:
        before = {name: p.clone() for name, p in model.state_dict().items()}
        sites = {"it": probes.Site("blocks.0.hook_attn_out", positions=[-1])}
        probes.run_interchange(model, sequences, torch.arange(10).flip(0), sites)
        probes.read_activations(model, sequences, sites)

        class Failing:
            hook = "blocks.1.hook_attn_out"

            def read(self, activation: torch.Tensor) -> torch.Tensor:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            probes.read_activations(model, sequences, {"it": Failing()})
        points = model.hook_dict.values()
        assert sum(len(point.fwd_hooks) for point in points) == 1  # the caller's own
        assert calls
        assert not model.training
        assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    finally:
        model.reset_hooks()


def test_sites_have_short_names_and_are_equal_where_they_read_the_same(model):
    named = {
        "L0H1 z": probes.Site("blocks.0.attn.hook_z", head=1),
        "L1 mlp_out": probes.Site.at("mlp_out", layer=1),
        "L1H2 pattern": probes.Site.at("pattern", 1, head=2),
        "L1 scale": probes.Site("blocks.1.ln1.hook_scale"),
        "hook_embed": probes.Site("hook_embed"),
    }
    assert [str(site) for site in named.values()] == list(named)
    assert [site.layer for site in named.values()] == [0, 1, 1, 1, None]
    parts = [site.component for site in named.values()]
    assert parts == ["z", "mlp_out", "pattern", "scale", "embed"]
    assert all(probes.Site.at(name, 1).hook in model.hook_dict for name in COMPONENTS)
    at = probes.Site.at("z", 0, [1, -1], head=1)
    assert at == probes.Site("blocks.0.attn.hook_z", (1, -1), 1)
    assert len({at, probes.Site("blocks.0.attn.hook_z", [1, -1], 1)}) == 1
    others = [
        probes.Site.at("q", 0, [1, -1], head=1),
        probes.Site.at("z", 1, [1, -1], head=1),
        probes.Site.at("z", 0, [-1, 1], head=1),
        probes.Site.at("z", 0, [1, -1]),
        replace(at, subspace=torch.eye(8)[:, :2]),
    ]
    assert len({at, *others}) == 6
    assert others[-1] == replace(others[-1])
    assert at != at.hook


def test_unknown_hooks_heads_and_positions(model, sequences):
    def read(site):
        return probes.read_activations(model, sequences, {"x": site})

    def swap(hook):
        return probes.run_interchange(model, sequences, torch.arange(10), {"x": probes.Site(hook)})

    with pytest.raises(probes.SiteError, match=r"no hook 'blocks.0.hook_atn_out'.*hook_attn_out"):
        read(probes.Site("blocks.0.hook_atn_out"))
    with pytest.raises(probes.SiteError, match=r"no hook 'blocks.7.hook_attn_out'"):
        swap("blocks.7.hook_attn_out")
    with pytest.raises(probes.SiteError, match="has no head axis"):
        probes.Site("blocks.0.hook_attn_out", head=0)
    with pytest.raises(probes.SiteError, match=r"position 12 .* outside the 12 positions"):
        read(probes.Site("blocks.0.hook_attn_out", positions=[12]))
    with pytest.raises(probes.SiteError, match="orthonormal"):
        probes.Site("blocks.0.hook_attn_out", subspace=torch.ones(24, 2))
    with pytest.raises(probes.SiteError, match="inside blocks"):
        swap("hook_embed")
    with pytest.raises(probes.SiteError, match=r"outside\s+the 12 positions"):
        read(probes.Band("blocks.0.attn.hook_pattern", queries=(1,), offsets=(0, 2)))

    with pytest.raises(probes.SiteError, match=r"head 3 .* outside the 3 heads"):
        read(probes.Site("blocks.0.attn.hook_z", head=3))
    with pytest.raises(probes.SiteError, match=r"subspace .* has 8 components, the activation 24"):
        read(probes.Site("blocks.0.hook_attn_out", subspace=torch.eye(8)))
    with pytest.raises(probes.SiteError, match=r"no hook 'blocks.foo.hook'"):
        read(probes.Site("blocks.foo.hook"))
    with pytest.raises(probes.SiteError, match=r"unknown component 'resid_pos'.*resid_post"):
        probes.Site.at("resid_pos", 0)
    with pytest.raises(probes.SiteError, match=r"exists but did not run"):
        read(probes.Site("blocks.0.attn.hook_result"))
    with pytest.raises(probes.SiteError, match="unknown kind of hook 'hook_mlp'"):
        probes.check_editable(model, sequences, ("hook_mlp",))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("positions", [3, [], [1.5], slice(2), 1.5])
def test_positions_that_are_no_list_of_integers(positions):
    with pytest.raises(probes.SiteError, match="list of integers"):
        probes.Site("blocks.0.hook_attn_out", positions=positions)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(4, 12), "integer tensor"),
        (torch.zeros(12, dtype=torch.long), "integer tensor"),
        ([[1, 2]], "integer tensor"),
        (torch.zeros(4, 13, dtype=torch.long), "1 to 12 positions"),
        (torch.full((4, 12), 5), "0 … 4"),
    ],
)
@pytest.mark.usefixtures("_no_type_checker")
def test_tokens_that_the_model_cannot_read(model, tokens, message):
    with pytest.raises(probes.DataError, match=message):
        probes.last_outputs(model, tokens)


@pytest.mark.parametrize("source", [torch.arange(9), torch.arange(10.0), torch.arange(10) + 1])
def test_sources_that_are_no_rows(model, sequences, source):
    sites = {"x": probes.Site("blocks.0.hook_attn_out")}
    with pytest.raises(probes.DataError, match="one row number of tokens"):
        probes.run_interchange(model, sequences, source, sites)


def test_a_callers_hook_acts_once_on_patched_runs(model, sequences):
    def scale(activation, hook):
        return 1.5 * activation

    sites = {"it": probes.Site("blocks.1.hook_attn_out")}
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", scale)]):
        runs = probes.run_interchange(model, sequences, torch.arange(10), sites)
    assert torch.allclose(runs.patched["it"], runs.base, atol=1e-5)


def test_edits_that_are_ignored_are_noticed(model, sequences):
    probes.check_editable(model, sequences, ("hook_attn_out", "attn.hook_pattern", "attn.hook_z"))

    class DeafHookPoint(HookPoint):
        def __call__(self, x):
            super().__call__(x.clone())
            return x

    deaf = two_layers()
    for block in deaf.blocks:
        block.hook_attn_out = DeafHookPoint()
    deaf.setup()
    with pytest.raises(probes.SiteError, match=r"blocks.0.hook_attn_out' does not do what it says"):
        probes.check_editable(deaf, sequences, ("hook_attn_out",))


def test_a_model_on_whose_activations_nothing_depends_is_not_said_to_ignore_edits(sequences):
    silent = two_layers()
    for parameter in silent.parameters():
        parameter.data.zero_()
    for kind in ("attn.hook_pattern", "attn.hook_z"):
        with pytest.raises(probes.SiteError, match=r"hook_.*nothing depends on that act.*are 0\.$"):
            probes.check_editable(silent, sequences, (kind,))


# Controls


def test_windows_and_their_one_hot_features(sequences):
    windows = probes.token_windows(sequences, (2, 7), 3)
    assert windows.shape == (10, 2, 3)
    assert torch.equal(windows[:, 1], sequences[:, 5:8])
    features = probes.one_hot_windows(windows, 5)
    assert features.shape == (10, 2, 15)
    assert torch.equal(features.unflatten(-1, (3, 5)).argmax(-1), windows)
    with pytest.raises(probes.DataError, match="does not fit before position 1"):
        probes.token_windows(sequences, (1,), 3)


def test_a_control_task_is_a_fixed_random_function_of_the_window(sequences):
    windows = probes.token_windows(sequences, tuple(range(1, 12)), 2)
    control = probes.random_simplex_map(windows, 3, seed=0)
    assert (control.sum(-1) - 1).abs().max() < 1e-12
    table = {}
    pairs = zip(windows.reshape(-1, 2).tolist(), control.reshape(-1, 3), strict=True)
    for window, value in pairs:
        assert torch.equal(table.setdefault(tuple(window), value), value)
    assert len({tuple(v.tolist()) for v in table.values()}) == len(table)
    assert not torch.equal(control, probes.random_simplex_map(windows, 3, seed=1))


def test_waves_are_a_fixed_function_of_the_window():
    windows = torch.from_numpy(np.random.default_rng(3).normal(size=(400, 5, 2, 3)))
    size = 6**0.5
    waves = probes.random_wave_map(windows, 4, 0, size)
    assert waves.shape == (400, 5, 4)
    alone = probes.random_wave_map(windows[7:8, 2:3], 4, 0, size)  # in another batch
    assert torch.allclose(alone[0, 0], waves[7, 2], atol=1e-12)
    assert not torch.allclose(waves, probes.random_wave_map(windows, 4, 1, size))
    assert torch.allclose(waves, probes.random_wave_map(2 * windows, 4, 0, 2 * size))
    for n, window in ((0, 0), (399, 4)):  # one by one
        rng = np.random.default_rng(0)
        directions, phases = rng.normal(size=(6, 4)), rng.uniform(0, 2 * np.pi, 4)
        flat = windows[n, window].reshape(6).numpy()
        for output in range(4):
            angle = 4.0 * flat @ directions[:, output] / size + phases[output]
            assert float(waves[n, window, output]) == pytest.approx(2**0.5 * np.cos(angle))
    assert abs(float(waves.mean())) < 0.1  # mean 0 and variance 1 over phases
    assert abs(float(waves.var()) - 1) < 0.1
    probe = probes.fit_ridge(windows.flatten(2)[:300], waves[:300])
    error, deviation = probe.errors(windows.flatten(2)[300:], waves[300:])
    assert 1 - float(error.mean() / deviation.mean()) < 0.1


@pytest.mark.usefixtures("_no_type_checker")
def test_waves_of_zeros_are_finite_and_their_size_is_checked():
    zeros = torch.zeros(2, 3, 2, 3)
    waves = probes.random_wave_map(zeros, 4, 0, 1.0)
    assert waves.isfinite().all()
    assert torch.equal(waves[0, 0], waves[1, 2])
    for size in (0, -1.0, float("nan"), "1", torch.tensor(1.0)):
        with pytest.raises(probes.DataError, match="size must be a number above 0 and finite; got"):
            probes.random_wave_map(zeros, 4, 0, size)


# Weights


def test_token_scores_are_the_attention_scores_between_tokens(sequences):
    """On a model without positions, the content score is the score itself."""
    model = two_layers()
    model.pos_embed.W_pos.data.zero_()
    for parameter in (model.blocks[0].attn.b_Q, model.blocks[0].attn.b_K):
        values = np.random.default_rng(0).normal(size=parameter.shape)
        parameter.data.copy_(torch.from_numpy(values))
    _, cache = model.run_with_cache(sequences)
    scores = cache["blocks.0.attn.hook_attn_scores"]
    for head in range(3):
        table = probes.token_scores(model, 0, head)
        for i, j in ((11, 3), (7, 7), (4, 0)):
            expected = table[sequences[:, i], sequences[:, j]]
            assert torch.allclose(scores[:, head, i, j].double(), expected, atol=1e-5)
    with pytest.raises(probes.SiteError, match="2 layers of 3 heads"):
        probes.token_scores(model, 2, 0)


def test_key_softmax_ignores_what_attention_ignores():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(4, 5)))
    target = (scores + torch.from_numpy(rng.normal(size=(4, 1)))).softmax(-1)
    assert probes.key_softmax_divergence(scores, target).abs().max() < 1e-12
    assert probes.key_softmax_divergence(scores.flip(1), target).min() > 1e-3


def test_natural_runs_of_something_else_are_refused(model, sequences):
    sites, source = {"it": probes.Site("blocks.0.hook_mlp_out")}, torch.arange(10).flip(0)
    for natural in (NaturalRuns(two_layers(), sequences), NaturalRuns(model, sequences.flip(0))):
        with pytest.raises(probes.DataError, match="natural must hold runs of the same model"):
            probes.run_interchange(model, sequences, source, sites, natural=natural)
