"""Each claim's numerator and denominator on a half-broken model, one sequence at a time."""

import math

import pytest
import torch

import mtd_lens
import probes
from mtd_lens import AutoregressiveCausalModel, AutoregressiveTask, Trial
from mtd_lens.families.autoregressive.claims import claims, window_size
from mtd_lens.measures import pairs_of as drawn_pairs

ETA = 0.15
T = 7
SEED = 3
TASK = AutoregressiveTask(3, T, noise=0.2)
LAST = T - 1


@pytest.fixture(scope="module")
def trial():
    """The construction of two steps with noise in every weight, held against one step."""
    model = mtd_lens.construct_autoregressive(TASK, [0.1, 0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.add_(0.05 * noise)
    tokens = TASK.sample(40, seed=1).tokens
    return Trial(model, TASK, AutoregressiveCausalModel(TASK, ETA), tokens[:24], tokens[24:], SEED)


def measured(trial, claim_id):
    found = next(claim for claim in claims(TASK) if claim.id == claim_id).measure(trial)
    for measurement in found:
        assert measurement.numerator.mean() > 0.02 * measurement.denominator.mean()  # not whole
    return found


def one_step(pairs, query):
    """``Σ_j η⟨s_t, s_{j-1}⟩ s_j`` over pairs ``(s_j, s_{j-1})``."""
    return sum(ETA * float(query @ previous) * current for current, previous in pairs)


def pairs_of(s, last=LAST):
    return [(s[j], s[j - 1]) for j in range(1, last + 1)]


def check(measurement, numerator, denominator):
    expected = torch.stack(numerator), torch.stack(denominator)
    assert torch.allclose(measurement.numerator, expected[0], rtol=1e-8, atol=1e-12)
    assert torch.allclose(measurement.denominator, expected[1], rtol=1e-8, atol=1e-12)


def test_the_estimator_of_predictions(trial):
    (found,) = measured(trial, "prediction.estimator")
    steps = [one_step(pairs_of(s), s[LAST]) for s in trial.tokens]
    outputs = [trial.model(s[None])[0, LAST] for s in trial.tokens]
    errors = [(a - b).square().sum() for a, b in zip(steps, outputs, strict=True)]
    check(found, errors, [step.square().sum() for step in steps])


def test_attention_with_inner_products(trial):
    """The head and its factor come from the other split."""

    def products(s):
        rows = torch.zeros(T, T, dtype=torch.float64)
        for t in range(1, T):
            for j in range(1, t + 1):
                rows[t, j] = ETA * float(s[t] @ s[j - 1])
        return rows[1:]

    targets = [[products(s) for s in tokens] for tokens in (trial.fit_tokens, trial.tokens)]
    for found in measured(trial, "inner_products.attention"):
        hook = f"blocks.{found.layer}.attn.hook_pattern"
        fit, patterns = (
            [trial.model.run_with_cache(s[None])[1][hook][0, :, 1:] for s in tokens]
            for tokens in (trial.fit_tokens, trial.tokens)
        )
        errors = []
        for head in range(2):
            heads = [pattern[head] for pattern in fit]
            overlap = sum(float((h * t).sum()) for h, t in zip(heads, targets[0], strict=True))
            scale = overlap / sum(float(h.square().sum()) for h in heads)
            error = [(scale * h - t).square().sum() for h, t in zip(heads, targets[0], strict=True)]
            errors.append((float(sum(error)), head, scale))
        _, head, scale = min(errors)
        assert f"head {head}," in found.site
        check(
            found,
            [
                (scale * p[head] - t).square().sum()
                for p, t in zip(patterns, targets[1], strict=True)
            ],
            [target.square().sum() for target in targets[1]],
        )


@pytest.mark.parametrize("claim_id", ["augmented_token.interchange", "inner_products.interchange"])
def test_interchange(trial, claim_id):
    variable = claim_id.split(".")[0]
    whole = variable == "inner_products"
    queries = slice(LAST - 1, None) if whole else slice(None, -1)
    pairs = drawn_pairs(trial, trial.tokens, variable, queries)
    for found in measured(trial, claim_id):
        errors, references = [], []
        for n, base in enumerate(trial.tokens):
            source = pairs.source.sequences[n]
            if whole:  # the source's products with the base's values
                hook, positions = "attn.hook_pattern", [LAST]
                weights = [ETA * float(source[LAST] @ source[j - 1]) for j in range(1, T)]
                counterfactual = sum(w * base[j] for j, w in enumerate(weights, start=1))
            else:  # the source's pairs before the last query, and the base's own one
                hook, positions = "hook_attn_out", list(range(1, LAST))
                swapped = [*pairs_of(source, LAST - 1), (base[LAST], base[LAST - 1])]
                counterfactual = one_step(swapped, base[LAST])
            name = f"blocks.{found.layer}.{hook}"
            value = trial.model.run_with_cache(source[None])[1][name]

            def swap(activation, hook, value=value, positions=positions):
                activation = activation.clone()
                activation[..., positions, :] = value[..., positions, :]
                return activation

            patched = trial.model.run_with_hooks(base[None], fwd_hooks=[(name, swap)])[0, LAST]
            errors.append((counterfactual - patched).square().sum())
            references.append((counterfactual - pairs.blind[n]).square().sum())
        check(found, errors, references)


def test_probes_of_augmented_tokens(trial):
    """The probe itself has tests of its own; here, on what it is fitted and where it is scored."""

    def pair(s):
        return torch.stack([torch.cat([s[t], s[t - 1]]) for t in range(1, T)])

    n_features = trial.read(trial.tokens, [probes.Site("blocks.0.hook_attn_out")])[0].shape[-1]
    missing = math.ceil(16 * n_features / (T - 1)) - len(trial.fit_tokens)
    more = [trial.more(missing)] if missing > 0 else []
    splits = (torch.cat([trial.fit_tokens, *more]), trial.tokens)
    targets = [torch.stack([pair(s) for s in x]) for x in splits]
    mean = targets[1].mean((0, 1))
    for found in measured(trial, "augmented_token.probe"):
        hook = found.site.split(" ")[0]
        assert hook.startswith(f"blocks.{found.layer}.hook_")
        fit, features = (
            torch.cat([trial.model.run_with_cache(s[None])[1][hook][:, 1:] for s in tokens])
            for tokens in splits
        )
        probe = probes.fit_ridge(fit, targets[0], (1e-10,))
        errors = []
        for x, target in zip(features, targets[1], strict=True):
            error = (x @ probe.weights + probe.bias - target).square().sum()
            errors.append(probe.attainable * error)
        deviations = probe.attainable_errors(features, targets[1])[1]
        plain = torch.stack([(target - mean).square().sum() for target in targets[1]])
        assert 1 <= float((deviations / plain).max()) < 1.1
        check(found, errors, list(deviations))
        assert found.controls["the control task"].score < 0.9


@pytest.mark.parametrize(
    "task",
    [TASK, AutoregressiveTask(3, 9), AutoregressiveTask(4, 6, "unitary", 0.3)],
    ids=["noisy", "orthogonal", "unitary"],
)
def test_controls_measure_windows_in_the_tasks_own_unit(task):
    """Against sampled windows, in standard errors."""
    windows = probes.token_windows(
        task.sample(4000, seed=2).tokens, tuple(range(1, task.seq_len)), 2
    )
    squares = windows.square().sum((2, 3)).mean(1)
    error = 4 * float(squares.std()) / math.sqrt(len(squares))
    assert abs(float(squares.mean()) - window_size(task) ** 2) <= error + 1e-9
