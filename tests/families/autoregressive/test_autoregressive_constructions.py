"""The linear-attention constructions are exact, keep every hook, and can be broken by part."""

import math

import pytest
import torch

import mtd_lens
from mtd_lens import AutoregressiveCausalModel, AutoregressiveTask
from mtd_lens.errors import ArgumentError, ModelError, TokensError
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.constructions import MAX_STEPS, PARTS, lay_out
from mtd_lens.families.autoregressive.task import ENSEMBLES
from mtd_lens.hooked import info_of
from mtd_lens.hooked.modules import LinearAttention

TASKS = [
    AutoregressiveTask(3, 9),
    AutoregressiveTask(6, 5),
    AutoregressiveTask(4, 12, "unitary"),
    AutoregressiveTask(2, 7, noise=0.4),
]
LARGE = [
    AutoregressiveTask(dim, seq_len, ensemble)
    for dim in (2, 8, 20)
    for seq_len in (2, 32, 128)
    for ensemble in ENSEMBLES
]


def difference(a, b):
    return float((a - b).detach().abs().max())


def check_one_step(task, n):
    tokens = task.sample(n, seed=5).tokens
    causal = AutoregressiveCausalModel(task, 0.37)
    model = mtd_lens.construct_autoregressive(task, 0.37, dtype=torch.float64)
    found = model(tokens)
    expected = causal.run(tokens)["prediction"]
    scale = max(1.0, float(expected.abs().max()))
    assert difference(found[:, 1:], expected) <= 1e-12 * scale
    assert torch.equal(found[:, 0], torch.zeros_like(found[:, 0]))  # no evidence


def stable_sizes(task, n_steps):
    """Different sizes below the inverse of the largest eigenvalue that the Gram matrix can have."""
    most = task.seq_len * (task.dim / 2 if task.ensemble == "unitary" else 1.0)
    return [(1 + 0.1 * step) / most for step in range(n_steps)]


def check_steps(task, n_steps, n):
    tokens = task.sample(n, seed=6).tokens
    sizes = torch.tensor(stable_sizes(task, n_steps), dtype=torch.float64)
    build = mtd_lens.construct_autoregressive
    whole = build(task, sizes.tolist(), causal=False, dtype=torch.float64)(tokens)
    exact = estimators.gradient_descent(tokens, sizes, last_only=True)
    assert difference(whole[:, -1:], estimators.predict_next(tokens, exact)) <= 1e-10
    everywhere = estimators.residual_steps(tokens, sizes, causal=False)
    assert difference(whole[:, 1:], everywhere) <= 1e-10
    prefix = build(task, sizes.tolist(), dtype=torch.float64)(tokens)
    expected = estimators.residual_steps(tokens, sizes, causal=True)
    assert difference(prefix[:, 1:], expected) <= 1e-10


@pytest.mark.parametrize("task", TASKS)
def test_one_step_is_exact_at_every_query(task):
    check_one_step(task, 20)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n_steps", [2, 4, MAX_STEPS])
def test_several_steps_are_exact_on_the_whole_sequence_and_as_the_prefix_variant(task, n_steps):
    check_steps(task, n_steps, 10)


@pytest.mark.slow
@pytest.mark.parametrize("task", LARGE, ids=str)
def test_large_grid(task):
    check_one_step(task, 16)
    for n_steps in range(1, MAX_STEPS + 1):
        check_steps(task, n_steps, 8)


def test_in_single_precision():
    task = TASKS[0]
    tokens = task.sample(20, seed=5).tokens
    model = mtd_lens.construct_autoregressive(task, 0.37)
    expected = AutoregressiveCausalModel(task, 0.37).run(tokens)["prediction"]
    assert model(tokens).dtype == torch.float32
    assert difference(model(tokens)[:, 1:], expected) <= 1e-5


def test_every_variable_is_where_the_layout_says():
    task = TASKS[0]
    tokens = task.sample(4, seed=0).tokens
    model = mtd_lens.construct_autoregressive(task, 0.5, dtype=torch.float64)
    layout = lay_out(info_of(model).blueprint)
    found = AutoregressiveCausalModel(task, 0.5).run(tokens)
    _, cache = model.run_with_cache(tokens)
    written = cache["blocks.0.hook_attn_out"]
    augmented = torch.cat([written[..., layout[name]] for name in ("current", "previous")], -1)
    assert difference(augmented[:, 1:], found["augmented_token"]) < 1e-14
    assert torch.equal(written[:, 0, layout["previous"]], torch.zeros(4, 3, dtype=torch.float64))
    pattern = cache["blocks.1.attn.hook_pattern"][:, 0]
    assert difference(pattern[:, 1:, 1:], found["inner_products"]) < 1e-14
    assert torch.equal(pattern[:, :, 0], torch.zeros_like(pattern[:, :, 0]))


# Models that read vectors, and linear attention.


def slow_attention(attn, x, *, causal):
    """All heads of linear attention, query by query and key by key."""
    out = torch.zeros_like(x) + attn.b_O
    for n in range(len(x)):
        for h in range(attn.W_Q.shape[0]):
            q, k, v = (
                x[n] @ W[h] + b[h]
                for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
            )
            for i in range(x.shape[1]):
                for j in range(i + 1 if causal else x.shape[1]):
                    out[n, i] += (q[i] @ k[j]) / attn.attn_scale * v[j] @ attn.W_O[h]
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_against_loops(causal):
    model = mtd_lens.construct_autoregressive(TASKS[1], 0.1, causal=causal, dtype=torch.float64)
    attn = model.blocks[1].attn
    assert isinstance(attn, LinearAttention)
    attn.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in attn.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(2, 5, model.cfg.d_model, generator=generator, dtype=torch.float64)
    found = attn(x, x, x)
    expected = slow_attention(attn, x, causal=causal)
    assert difference(found, expected) < 1e-10 * float(expected.abs().max())
    model.set_use_attn_result(True)
    assert difference(attn(x, x, x), expected) < 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["q", "k", "v", "attn_scores", "pattern", "z", "result"])
def test_every_hook_of_linear_attention_is_causal(name):
    task = TASKS[0]
    tokens = task.sample(2, seed=0).tokens
    model = mtd_lens.construct_autoregressive(task, 0.5)
    model.set_use_attn_result(True)
    hook = (f"blocks.1.attn.hook_{name}", lambda activation, hook: 2 * activation)
    plain, doubled = model(tokens), model.run_with_hooks(tokens, fwd_hooks=[hook])
    assert difference(doubled[:, 1:], 2 * plain[:, 1:]) < 1e-6  # the output is linear in each


def test_runs_can_start_at_a_layer():
    task = TASKS[0]
    tokens = task.sample(2, seed=0).tokens
    model = mtd_lens.construct_autoregressive(task, 0.5)
    logits, cache = model.run_with_cache(tokens)
    for layer in range(2):
        stream = cache[f"blocks.{layer}.hook_resid_pre"]
        assert torch.equal(model(stream, start_at_layer=layer), logits)


def test_vectors_and_tokens_are_not_mixed_up():
    vectors = mtd_lens.load_model("ar-d3-t16/constructed-one-step")
    tokens = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
    with pytest.raises(
        TokensError, match=r"reads vectors.*\[batch, position, 3\]; got torch.int64"
    ):
        vectors(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(TokensError, match=r"got torch.float32 \(2, 5, 4\)"):
        vectors(torch.zeros(2, 5, 4))
    import probes

    with pytest.raises(mtd_lens.DataError, match="reads vectors: tokens must be a floating-point"):
        probes.last_outputs(vectors, torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(mtd_lens.DataError, match="tokens must be finite"):
        probes.last_outputs(vectors, torch.full((2, 5, 3), math.nan))
    with pytest.raises(mtd_lens.DataError, match="tokens must be an integer tensor"):
        probes.last_outputs(tokens, torch.zeros(2, 5, 3))
    with pytest.raises(mtd_lens.DataError, match="1 to 16 positions"):
        probes.last_outputs(vectors, torch.zeros(2, 17, 3))


def test_weights_may_not_be_processed():
    model = mtd_lens.construct_autoregressive(TASKS[0], 0.5)
    with pytest.raises(ModelError, match="weight processing"):
        model.center_writing_weights(model.state_dict())


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "ar-d3-t16"}, "expected an AutoregressiveTask; got 'ar-d3-t16'. Use load_task"),
        ({"step_sizes": -0.1}, "step_size must be a number of at least 0"),
        ({"step_sizes": [0.1] * 9}, "number of step_sizes must be an integer from 1 to 8; got 9"),
        ({"step_sizes": []}, "one finite number or more"),
        ({"n_steps": 0}, "n_steps must be an integer from 1 to 8; got 0"),
        ({"step_sizes": 0.1, "n_steps": 9}, "n_steps must be an integer from 1 to 8; got 9"),
        (
            {"step_sizes": [0.1, 0.2], "n_steps": 3},
            r"n_steps must be the number of step_sizes, 2; got 3\. Leave it out, or give one size",
        ),
        ({"step_sizes": [0.1, 0.2], "n_steps": 1}, "the number of step_sizes, 2; got 1"),
        ({"causal": "no"}, "causal must be True or False; got 'no'"),
        ({"causal": 1}, "causal must be True or False; got 1"),
        ({"dtype": torch.int64}, "dtype must be a floating-point"),
    ],
)
def test_bad_constructions_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        mtd_lens.construct_autoregressive(**{"task": TASKS[0], **arguments})


def test_one_size_is_that_of_every_step():
    tokens = TASKS[0].sample(4, seed=0).tokens
    build = mtd_lens.construct_autoregressive
    for size in (0.2, [0.2]):
        found = build(TASKS[0], size, n_steps=3)
        assert info_of(found).blueprint.step_sizes == (0.2, 0.2, 0.2)
        assert torch.equal(found(tokens), build(TASKS[0], [0.2, 0.2, 0.2])(tokens))
    assert info_of(build(TASKS[0], [0.1, 0.2], n_steps=2)).blueprint.step_sizes == (0.1, 0.2)


def test_models_bear_the_name_that_the_registry_has_for_them():
    task = mtd_lens.load_task("ar-d3-t16")
    for n_steps, causal, variant in (
        (1, True, "constructed-one-step"),
        (4, True, "constructed-4-steps"),
        (4, False, "constructed-4-steps-bidirectional"),
    ):
        built = mtd_lens.construct_autoregressive(task, n_steps=n_steps, causal=causal)
        loaded = mtd_lens.load_model(f"ar-d3-t16/{variant}")
        assert info_of(built).name == info_of(loaded).name == f"ar-d3-t16/{variant}"
        tokens = task.sample(2, seed=0).tokens
        assert torch.equal(built(tokens), loaded(tokens))


def test_a_part_is_broken_once():
    whole = mtd_lens.construct_autoregressive(TASKS[0], [0.1, 0.2])
    for part in PARTS:
        broken = mtd_lens.ablate_autoregressive(whole, part)
        with pytest.raises(ArgumentError, match=f"the model's {part} is broken already. Start"):
            mtd_lens.ablate_autoregressive(broken, part)
    several = mtd_lens.ablate_autoregressive(
        mtd_lens.ablate_autoregressive(whole, "keys"), "values"
    )
    assert info_of(several).name.endswith("without its keys without its values")


def test_only_constructions_have_parts():
    model = mtd_lens.construct_autoregressive(TASKS[0], 0.5)
    assert set(PARTS) == {"previous", "keys", "values"}
    with pytest.raises(ArgumentError, match="unknown part 'key'"):
        mtd_lens.ablate_autoregressive(model, "key")
    other = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
    for wrong in (other, mtd_lens.load_model("ar-d3-t16/random-one-step")):
        with pytest.raises(ModelError, match="only an analytic construction"):
            mtd_lens.ablate_autoregressive(wrong, "keys")
