"""Circuits read from parameters: slow oracles, folded normalisation, what a model lacks."""

import copy

import pytest
import torch
from conftest import stock, transition

import mtd_lens
import probes
from mtd_lens import measures, read_weights
from mtd_lens.hooked import randomized

FORMS = ("relative", "absolute")
BETA = 5.0


def folded(model):
    """A copy with its normalisation layers folded in by TransformerLens."""
    twin = copy.deepcopy(model)
    twin.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    return twin


def with_random_norms(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".ln" in name or name.startswith("ln") or ".b_" in name:
                value.add_(torch.randn(value.shape, generator=generator))
    return model


def test_normalisation_is_folded_as_transformer_lens_folds_it():
    task = mtd_lens.MTDTask(transition(5, 1), 3, 32)
    model = with_random_norms(stock(task, "gpt"))
    twin = folded(model)
    assert twin.cfg.normalization_type == "LNPre"
    assert not hasattr(twin.ln_final, "w")
    for layer in range(3):
        for head in range(model.cfg.n_heads):
            for read in (probes.token_scores, lambda *x: probes.position_scores(*x, 32)):
                own, theirs = (read(m, layer, head).softmax(-1) for m in (model, twin))
                assert torch.allclose(own, theirs, atol=1e-6)
            own, theirs = (
                probes.centred(probes.token_outputs(m, layer, head), 0) for m in (model, twin)
            )
            assert torch.allclose(own, theirs, atol=1e-6)
            assert own.abs().max() > 0.01
    own, theirs = (probes.mean_token_patterns(m, 32) for m in (model, twin))
    assert torch.allclose(own, theirs, atol=1e-6)
    for mine, other in zip(
        read_weights(model, n_random=1), read_weights(twin, task, n_random=1), strict=True
    ):
        assert (mine.score is None) == (other.score is None)
        assert mine.score is None or mine.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)


def random_relative(task):
    return randomized(mtd_lens.construct(task, 1.0, "relative", dtype=torch.float64), 7, "random")


def test_the_output_path_against_loops(task):
    model = stock(task, "attn-only", d_model=8, n_heads=2)
    for layer, head in ((0, 1), (2, 0)):
        attn = model.blocks[layer].attn
        found = probes.token_outputs(model, layer, head)
        for a in range(task.n_tokens):
            value = [
                sum(model.W_E[a, i] * attn.W_V[head, i, d] for i in range(8)) for d in range(4)
            ]
            wrote = [sum(value[d] * attn.W_O[head, d, i] for d in range(4)) for i in range(8)]
            for b in range(task.n_tokens):
                expected = sum(wrote[i] * model.W_U[i, b] for i in range(8)).item()
                assert float(found[a, b]) == pytest.approx(expected)


def test_the_table_path_against_loops(task):
    model, m = random_relative(task), task.order
    found = measures.table_path(model, (0, 0), [(1, 0)], (2, 0), range(1, m + 1), range(m))
    direct = measures.table_path(model, (0, 0), [], (2, 0), range(1, m + 1), range(m))
    a, b, c = (block.attn for block in model.blocks)
    width, d_head = model.cfg.d_model, model.cfg.d_head
    for g in range(1, m + 1):
        stream = [sum(a.RV[0, g, d] * a.W_O[0, d, i] for d in range(d_head)) for i in range(width)]
        value = [sum(stream[i] * b.W_V[0, i, d] for i in range(width)) for d in range(d_head)]
        mean = [sum(value[d] * b.W_O[0, d, i] for d in range(d_head)) for i in range(width)]
        for carried, matrix in ((mean, found), (stream, direct)):
            query = [sum(carried[i] * c.W_Q[0, i, d] for i in range(width)) for d in range(d_head)]
            for o in range(m):
                expected = sum(query[d] * c.RK[0, o, d] for d in range(d_head)).item()
                assert float(matrix[g - 1, o]) == pytest.approx(expected)


def test_a_path_acts_as_the_model_does(task, tokens):
    """Writing lag g's vector into layer 1's input moves layer 2's scores by what the path says."""
    model, m = random_relative(task), task.order
    for parameter in model.blocks[1].attn.W_Q, model.blocks[1].attn.RK:
        parameter.data.zero_()  # layer 1's pattern does not move
    path = measures.table_path(model, (0, 0), [(1, 0)], (2, 0), [2], range(m))[0]
    past = measures.table_path(model, (0, 0), [], (2, 0), [2], range(m))[0]
    written = model.blocks[0].attn.RV[0, 2] @ model.blocks[0].attn.W_O[0]
    model.blocks[2].attn.W_K.data.zero_()

    def last_scores(added):
        kept = []
        hooks = [
            ("blocks.0.hook_attn_out", lambda x, hook: x + added),
            ("blocks.2.attn.hook_attn_scores", lambda x, hook: kept.append(x[:, 0, -1])),
        ]
        with torch.no_grad():
            model.run_with_hooks(tokens, fwd_hooks=hooks)
        return kept[0].flip(-1)[:, :m]

    moved = last_scores(written) - last_scores(0 * written)
    assert torch.allclose(moved, (path + past).expand_as(moved))


def test_relative_and_position_scores_against_the_model(task):
    """With all tokens alike, and keys that hold nothing, scores are the tables' alone."""
    model = random_relative(task)
    with torch.no_grad():
        model.embed.W_E.copy_(model.W_E.mean(0).expand_as(model.W_E))
        model.blocks[0].attn.W_K.zero_()
        model.blocks[0].attn.b_Q.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 14, dtype=torch.int64)
    _, cache = model.run_with_cache(tokens)
    found = measures.relative_scores(model, 0, 0, 14)
    for t in range(14):
        for k in range(t + 1):
            score = float(cache["blocks.0.attn.hook_attn_scores"][0, 0, t, k])
            assert float(found[t, t - k]) == pytest.approx(score)
    absolute = with_random_norms(stock(task, "gpt"))
    with torch.no_grad():
        absolute.embed.W_E.zero_()
    _, cache = absolute.run_with_cache(tokens)
    lower = torch.ones(14, 14).tril().bool()
    for head in range(4):
        found = probes.position_scores(absolute, 0, head, 14)
        expected = cache["blocks.0.attn.hook_attn_scores"][0, head]
        assert torch.allclose(found[lower], expected[lower])
    # at layer 0 the mean of no tokens is no token, so both ways to read positions agree
    patterns = probes.direct_patterns(absolute, 14)[0], probes.mean_token_patterns(absolute, 14)[0]
    assert torch.allclose(*patterns)


@pytest.mark.parametrize("kind", ["gpt", "relative"])
def test_mean_token_patterns_are_those_of_tokens_that_are_all_alike(task, kind):
    model = with_random_norms(stock(task, "gpt")) if kind == "gpt" else random_relative(task)
    found = probes.mean_token_patterns(model, 10)
    with torch.no_grad():
        model.embed.W_E.copy_(model.W_E.mean(0).expand_as(model.W_E))
    _, cache = model.run_with_cache(torch.ones(1, 10, dtype=torch.int64))
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        for t in range(10):
            assert torch.allclose(found[layer, :, t, : t + 1], pattern[:, t, : t + 1].flip(-1))
            assert (found[layer, :, t, t + 1 :] == 0).all()


def test_a_scale_is_fitted_and_explains():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    assert probes.fit_scale(-3 * reference, reference) == pytest.approx((-3, 1))
    assert probes.fit_scale(0 * reference, reference) == (0, 0)
    matrix = 2 * reference + torch.randn(4, 5, generator=generator, dtype=torch.float64)
    scale, explained = probes.fit_scale(matrix, reference)
    losses = [
        float((matrix - s * reference).square().sum()) for s in (scale, scale - 0.01, scale + 0.01)
    ]
    assert min(losses) == losses[0]
    assert explained == pytest.approx(1 - losses[0] / float(matrix.square().sum()))
    both = probes.centred(matrix, 0, -1)
    assert both.mean(0).abs().max() < 1e-12
    assert both.mean(1).abs().max() < 1e-12
    with pytest.raises(probes.DataError, match="reference of zeros"):
        probes.fit_scale(matrix, 0 * reference)


@pytest.mark.usefixtures("_no_type_checker")
def test_a_scale_is_of_two_matrices_of_one_shape():
    with pytest.raises(probes.DataError, match=r"one shape; got \(4, 5\) and \(4, 1\)"):
        probes.fit_scale(torch.ones(4, 5), torch.ones(4, 1))


def test_circuits_that_a_model_lacks_are_refused(task):
    relative, absolute = (mtd_lens.construct(task, BETA, form) for form in FORMS)
    for read in (probes.token_scores, probes.token_outputs):
        with pytest.raises(probes.SiteError, match="layer 3, head 0 is outside"):
            read(relative, 3, 0)
    with pytest.raises(probes.SiteError, match="no relative key and value tables"):
        measures.relative_scores(absolute, 0, 0, 14)
    with pytest.raises(probes.SiteError, match="from 1 to 14"):
        probes.position_scores(absolute, 0, 0, 15)
    with pytest.raises(probes.SiteError, match="ever later layers"):
        measures.table_path(relative, (1, 0), [], (1, 0), [1], [0])
    relative.cfg.normalization_type = "LN"
    with pytest.raises(probes.SiteError, match="without normalisation"):
        measures.table_path(relative, (0, 0), [], (1, 0), [1], [0])
    relative.cfg.normalization_type = None
    relative.cfg.positional_embedding_type = "rotary"
    with pytest.raises(probes.SiteError, match="rotary"):
        probes.mean_token_patterns(relative, 14)
