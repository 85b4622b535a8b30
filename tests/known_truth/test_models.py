"""That models of known truth are what they are said to be, read from their activations."""

import itertools

import pytest
import torch

import mtd_lens
import probes
from known_truth import coded, one_step, rivals
from known_truth.models import EVERYTHING, MODELS, Known
from known_truth.seen import Seen, determined, patched
from mtd_lens.families.mtd.causal_model import fit_one_step

BY_NAME = {known.name: known for known in MODELS}
TINY = 1e-12
EXACT = [known for known in MODELS if "prediction.algorithm" in known.true]
PREDICTING = [known for known in MODELS if "prediction.estimator" in known.true | known.false]


@pytest.fixture(scope="module")
def seen():
    """Each model is run once."""
    found: dict[str, Seen] = {}

    def look(name: str, size: str = "q5-m3") -> Seen:
        whole = f"{name}, {size}"
        if whole not in found:
            found[whole] = Seen(BY_NAME[whole])
        return found[whole]

    return look


def looks(known: Known) -> tuple[str, str]:
    return tuple(known.name.rsplit(", ", 1))


@pytest.mark.parametrize("known", MODELS, ids=lambda known: known.name)
def test_claims_are_known_ones_and_not_both_true_and_false(known):
    assert not known.true & known.false
    assert known.true | known.false
    assert known.true | known.false <= EVERYTHING
    assert known.why


def test_names_are_distinct_and_every_claim_is_true_of_one_and_false_of_another():
    assert len(BY_NAME) == len(MODELS)
    assert frozenset().union(*(known.true for known in MODELS)) == EVERYTHING
    never = EVERYTHING - frozenset().union(*(known.false for known in MODELS))
    assert never == {"mean_responsibility.scrubbing_given_query"}


@pytest.mark.parametrize("known", EXACT, ids=lambda known: known.name)
def test_models_that_run_one_step_predict_exactly_as_it_does(known, seen):
    found = seen(*looks(known))
    beta = found.beta * (2 if known.name.startswith("β doubled") else 1)
    assert float((found.predictions - found.one_step(beta)).abs().max()) < TINY


@pytest.mark.parametrize("known", PREDICTING, ids=lambda known: known.name)
def test_models_predict_like_one_step_at_some_beta_or_are_far_from_it(known, seen):
    found = seen(*looks(known))
    fitted = fit_one_step(found.task, found.tokens, found.predictions).beta
    own, nothing = found.one_step(fitted), found.one_step(0.0)
    error, reference = (
        float(probes.kl_divergence(own, other).mean()) for other in (found.predictions, nothing)
    )
    score = 1 - error / reference
    assert score > 0.95 if "prediction.estimator" in known.true else score < 0.65


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("whole, absolute", {1: 1.0}),
        ("β doubled", {1: 1.0}),
        ("layers between", {3: 1.0}),
        ("stored, never used", {1: 1.0, 3: 1.0}),
        ("identity beside", {1: 1.0}),
        ("first five beside", {3: 1.0}),
        ("60/40", {1: 0.6, 3: 0.4}),
        ("50/50", {1: 0.5, 3: 0.5}),
        ("overshoot", {1: 2.0, 3: -1.0}),
        ("60/40, read out in halves", {1: 0.6, 3: 0.4}),
        ("γ in halves", {2: 1.0}),
        ("all in halves", {2: 0.5, 3: 0.5}),
        ("lags permuted", {1: 1.0}),
        ("stored only", {1: 1.0}),
        ("γ looked up", {1: 1.0}),
        ("two passes", {1: 1.0}),
    ],
)
def test_layers_write_the_named_share_of_the_mean(name, shares, seen):
    found = seen(name)
    centred = found.mean - found.mean.mean(0)
    t, m = found.task.seq_len - 1, found.task.order
    for layer, share in shares.items():
        written = found.written(layer)
        used = written[:, written.abs().amax(0) > TINY]
        by_class = centred[:, [(t - c) % m for c in range(m)]]  # lag g stands at class t+1-g
        assert float((used - share * by_class).abs().max()) < TINY


def test_responsibilities_are_written_whole_or_in_halves(seen):
    for name, share, layers in (
        ("whole, absolute", 1.0, (0,)),
        ("γ in halves", 0.5, (0, 1)),
        ("all in halves", 0.5, (0, 1)),
    ):
        found = seen(name)
        gamma = found.responsibilities.flatten(0, 1)
        for layer in layers:
            written = found.written_at_evidence(layer)
            used = written[:, written.abs().amax(0) > TINY]
            assert float((used - share * (gamma - gamma.mean(0))).abs().max()) < TINY


@pytest.mark.parametrize("name", ["noise heads", "rotated", "γ mixed"])
def test_other_coordinates_hold_the_same_linearly(name, seen):
    found = seen(name)
    gamma = found.responsibilities.flatten(0, 1)
    assert float(determined(found.written_at_evidence(0), gamma).min()) > 1 - 1e-9
    assert float(determined(found.written(1), found.mean).min()) > 1 - 1e-9


def test_mixing_is_well_conditioned_and_no_rotation():
    for known in (BY_NAME["γ mixed, q5-m3"], BY_NAME["whole, absolute, q3-m2"]):
        matrix = one_step.mixing(known.task)
        assert float(torch.linalg.cond(matrix)) < 10
        assert not torch.allclose(matrix @ matrix.T, torch.eye(len(matrix)).double())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("stored, never used", 1),
        ("stored only", 1),
        ("first five beside", 1),
        ("identity beside", 2),
        ("identity only", 0),
        ("layers between", 2),
    ],
)
def test_what_is_never_used_changes_nothing(name, layer, seen):
    found = seen(name)
    hook = f"blocks.{layer}.hook_attn_out"
    assert torch.equal(patched(found, hook, torch.zeros_like), found.predictions)


def test_what_is_used_changes_predictions(seen):
    for name, layer in (("stored, never used", 3), ("first five beside", 3), ("60/40", 3)):
        found = seen(name)
        without = patched(found, f"blocks.{layer}.hook_attn_out", torch.zeros_like)
        assert float((without - found.predictions).abs().max()) > 0.05


def test_noise_is_written_beside_every_stage(seen):
    found, plain = seen("noise heads"), seen("whole, absolute")
    for layer in range(3):
        noisy, clean = (torch.linalg.matrix_rank(x.written(layer)) for x in (found, plain))
        assert noisy >= clean + one_step.NOISE - 1


def test_the_identity_tells_sequences_apart_and_nothing_of_the_mean(seen):
    found = seen("identity only")
    written = found.written(0)
    apart = torch.cdist(written, written) + torch.eye(len(written)).double()
    assert float(apart.min()) > 1e-3
    used = written[:, written.abs().amax(0) > TINY]
    assert float(determined(used, found.mean).max()) < 0.3  # of 96 sequences, by 4 directions


@pytest.mark.parametrize("window", [16, 8, 4, 2])
def test_last_positions_only(window, seen):
    found = seen(f"last {window}")
    mean = found.responsibilities[:, -window:].mean(1)
    assert float((found.predictions - found.one_step(found.beta, mean)).abs().max()) < TINY


def test_first_positions_only(seen):
    found = seen("first five only")
    mean = found.responsibilities[:, :5].mean(1)
    assert float((found.predictions - found.one_step(found.beta, mean)).abs().max()) < TINY
    for name in ("first five beside", "first five and the rest"):
        assert float(determined(seen(name).written(1), mean).min()) > 1 - 1e-9
    rest = seen("first five and the rest").written(3)
    assert float(determined(rest, found.mean - mean).min()) > 1 - 1e-9


def test_interleaved_layers_hold_every_second_position(seen):
    found = seen("interleaved")
    evidence = torch.arange(found.task.order, found.task.seq_len)
    for layer, rest in ((1, 0), (3, 1)):
        part = found.responsibilities[:, evidence % 2 == rest].sum(1)
        assert float(determined(found.written(layer), part).min()) > 1 - 1e-9


def test_lags_are_permuted(seen):
    for size in ("q5-m3", "q3-m2"):
        found = seen("lags permuted", size)
        rolled = (found.beta * found.mean.roll(-1, 1)).softmax(-1)
        expected = mtd_lens.predict(found.task, found.tokens, rolled)
        assert float((found.predictions - expected).abs().max()) < TINY


@pytest.mark.parametrize("name", ["β = 0", "stored only", "identity only"])
def test_weights_are_uniform(name, seen):
    found = seen(name)
    assert float((found.predictions - found.one_step(0.0)).abs().max()) < TINY


def test_tokens_are_uniform(seen):
    found = seen("uniform tokens")
    assert float((found.predictions - 1 / found.task.n_tokens).abs().max()) < TINY


@pytest.mark.parametrize(
    ("name", "change"),
    [("transition transposed", lambda x: x.T), ("transition rows shifted", lambda x: x.roll(1, 0))],
)
def test_layer_0_computes_other_responsibilities(name, change, seen):
    found = seen(name)
    content = change(found.task.transition)
    m = found.task.order
    parents = found.tokens.unfold(1, m, 1)[:, :-1].flip(-1)
    other = content[parents, found.tokens[:, m:, None]]
    other = other / other.sum(-1, keepdim=True)
    expected = found.one_step(found.beta, other.mean(1))
    assert float((found.predictions - expected).abs().max()) < TINY
    gamma, other = (x.flatten(0, 1) for x in (found.responsibilities, other))
    assert float(determined(other - other.mean(0), gamma).max()) < 0.1


def test_patterns_are_the_weights_where_the_mixture_is_read_out(seen):
    for name, layers in (("60/40, read out in halves", (4, 5)), ("all in halves", (4, 5))):
        found = seen(name)
        for layer in layers:
            weights = (found.beta * found.mean).softmax(-1)
            assert float((found.pattern(layer) - weights).abs().max()) < TINY
            written = found.cache[f"blocks.{layer}.hook_attn_out"]
            assert torch.allclose(written.sum(-1), torch.full_like(written[..., 0], 0.5))


@pytest.mark.parametrize("size", ["q5-m3", "q3-m2"])
@pytest.mark.parametrize("name", ["gated", "signed"])
def test_a_coded_mean_is_that_of_the_querys_own_parents(name, size, seen):
    found = seen(name, size)
    q, m = found.task.n_tokens, found.task.order
    code = torch.eye(q).double() if name == "gated" else coded.signs(found.task)[:, None]
    parents = found.tokens[:, -m:].flip(-1)  # by lag before the next token
    expected = (found.mean[:, :, None] * code[parents]).flatten(1)
    written = found.cache["blocks.1.hook_attn_out"][:, -1]
    used = written[:, written.abs().amax(0) > TINY]
    held = expected[:, expected.abs().amax(0) > 0]
    assert float((used - held).abs().max()) < TINY


def test_a_code_of_another_query_is_not_understood(seen):
    for name, size in itertools.product(("gated", "signed"), ("q5-m3", "q3-m2")):
        found = seen(name, size)
        rolled = found.tokens.roll(1, 0)
        same = (rolled == found.tokens)[:, -found.task.order :].all(1)

        def moved(values):
            return torch.cat([values[:, :-1], values[:, -1:].roll(1, 0)], 1)

        swapped = patched(found, "blocks.1.hook_attn_out", moved)
        expected = found.one_step(found.beta, found.mean.roll(1, 0))
        error = (swapped - expected).abs().amax(1)
        assert float(error[same].max()) < TINY if same.any() else True
        assert float(error[~same].mean()) > 0.05


def test_linear_probes_find_a_gated_mean_and_no_signed_one(seen):
    for size in ("q5-m3", "q3-m2"):
        gated, signed = (seen(name, size).written(1) for name in ("gated", "signed"))
        mean = seen("gated", size).mean
        assert float(determined(gated, mean).min()) > 1 - 1e-9
        assert float(determined(signed, mean).max()) < 0.3


def test_exact_bayes_is_the_posterior_mean(seen):
    for name in ("exact Bayes", "exact Bayes in halves"):
        found = seen(name, "q3-m2")
        weights = mtd_lens.posterior_mean(found.task, found.tokens, method="quadrature")
        expected = mtd_lens.predict(found.task, found.tokens, weights)
        assert float((found.predictions - expected).abs().max()) < 1e-11
        assert float((found.predictions - found.one_step(found.beta)).abs().max()) > 0.02


def test_log_likelihoods_of_nodes_hold_the_mean_linearly(seen):
    for name, size in (("exact Bayes", "q3-m2"), ("Bayes on a grid", "q5-m3")):
        found = seen(name, size)
        assert float(determined(found.written(1), found.mean).min()) > 0.99


def test_layers_of_bayes_in_halves_write_halves(seen):
    halves, whole = seen("exact Bayes in halves", "q3-m2"), seen("exact Bayes", "q3-m2")
    for pair, layer in (((1, 2), 1), ((3, 4), 2)):
        for half in pair:
            assert torch.allclose(2 * halves.written(half), whole.written(layer), atol=1e-9)


@pytest.mark.parametrize("name", ["Bayes on a grid", "product of likelihoods"])
def test_weights_are_the_posterior_mean_over_nodes(name, seen):
    found = seen(name)
    m = found.task.order
    nodes = rivals.triangular_grid() if name == "Bayes on a grid" else torch.eye(m).double()
    likelihoods = mtd_lens.lag_likelihoods(found.task, found.tokens)
    weights = (likelihoods @ nodes.T).log().sum(1).softmax(-1) @ nodes
    expected = mtd_lens.predict(found.task, found.tokens, weights)
    assert float((found.predictions - expected).abs().max()) < 1e-11


def test_a_grid_predicts_much_as_exact_bayes(seen):
    found = seen("Bayes on a grid")
    exact = mtd_lens.posterior_mean(found.task, found.tokens)
    bayes = mtd_lens.predict(found.task, found.tokens, exact)
    fitted = fit_one_step(found.task, found.tokens, found.predictions).beta
    near, far = (
        float(probes.kl_divergence(bayes, other).mean())
        for other in (found.predictions, found.one_step(fitted))
    )
    assert near < far / 3


@pytest.mark.parametrize(("name", "n_passes"), [("two passes", 1), ("three passes", 2)])
def test_passes_use_the_weights_so_far(name, n_passes, seen):
    found = seen(name)
    beta = 0.5 * found.beta
    likelihoods = mtd_lens.lag_likelihoods(found.task, found.tokens)
    counts = torch.arange(1, likelihoods.shape[1] + 1).double()[:, None]
    mean = found.responsibilities.cumsum(1) / counts
    for _ in range(n_passes):
        weighted = likelihoods * (beta * mean).softmax(-1)
        mean = (weighted / weighted.sum(-1, keepdim=True)).cumsum(1) / counts
    expected = found.one_step(beta, mean[:, -1])
    assert float((found.predictions - expected).abs().max()) < 1e-11


def test_attention_of_a_lookup_copies_tokens_alone(seen):
    for name, size in (("γ looked up", "q5-m3"), ("exact Bayes", "q3-m2")):
        found = seen(name, size)
        q, m = found.task.n_tokens, found.task.order
        written = found.cache["blocks.0.hook_attn_out"][:, m:]
        parents = found.tokens.unfold(1, m, 1)[:, :-1].flip(-1)
        one_hot = torch.nn.functional.one_hot(parents, q).double().flatten(2)
        used = written[..., written.abs().amax((0, 1)) > TINY]
        assert torch.allclose(used, one_hot, atol=TINY)
