"""What the HookedTransformer of our own refuses, and what it promises beyond its numbers."""

import copy
import dataclasses
import pickle
from types import SimpleNamespace

import pytest
import torch
from hooked_cases import OPTIONS, SHAPE, filled, some_tokens
from transformer_lens import TransformerLensKeyValueCache

import mtd_lens
from mtd_lens.errors import ModelError
from mtd_lens.hooked.own.config import HookedTransformerConfig, Unfollowed
from mtd_lens.hooked.own.transformer import HookedTransformer


def made(options="LN", dtype=torch.float64):
    return filled(HookedTransformer, HookedTransformerConfig, OPTIONS[options], dtype)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("field", dataclasses.fields(Unfollowed), ids=lambda field: field.name)
def test_what_it_cannot_follow_is_refused_by_name(field):
    other = not field.default if isinstance(field.default, bool) else 7
    with pytest.raises(ModelError, match=rf"{field.name}={other!r}.*transformer-lens<4"):
        HookedTransformerConfig(**SHAPE, **{field.name: other})


REFUSED = {
    "positional_embedding_type": ("alibi", r"one of 'standard', 'rotary'; got 'alibi'"),
    "normalization_type": ("BN", r"one of 'LN', .*None; got 'BN'"),
    "act_fn": ("xielu", r"act_fn must be one of .*gelu.*; got 'xielu'"),
    "attention_dir": ("both", r"one of 'causal', 'bidirectional'; got 'both'"),
    "init_mode": ("muP", r"one of 'gpt2', .*; got 'muP'"),
    "d_vocab": (-1, r"d_vocab is missing"),
    "use_local_attn": (True, r"needs window_size and attn_types"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items(), ids=REFUSED)
def test_values_it_does_not_know_are_refused(name, case):
    with pytest.raises(ModelError, match=case[1]):
        HookedTransformerConfig(**{**SHAPE, name: case[0]})


def test_configurations_go_through_dictionaries():
    cfg = HookedTransformerConfig(**SHAPE)
    assert HookedTransformerConfig.from_dict(cfg.to_dict()) == cfg
    assert "d_model" in repr(cfg)
    assert HookedTransformer(cfg.to_dict()).cfg == cfg
    with pytest.raises(ModelError, match="no fields d_modle"):
        HookedTransformerConfig.from_dict({**SHAPE, "d_modle": 3})
    with pytest.raises(ModelError, match=r"d_model=12 is no multiple of d_head=5. Say n_heads"):
        HookedTransformerConfig(d_model=12, d_head=5, n_layers=1, n_ctx=3, d_vocab=2)


@pytest.mark.usefixtures("_no_type_checker")
def test_what_is_no_configuration_is_refused():
    with pytest.raises(ModelError, match=r"cfg must be a HookedTransformerConfig .*; got a str"):
        HookedTransformer("gpt2")


def test_a_cache_of_keys_needs_no_mask():
    model, tokens = made("grouped"), some_tokens()
    past = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", len(tokens))
    parts = [model(tokens[:, some], past_kv_cache=past) for some in (slice(4), slice(4, None))]
    assert torch.allclose(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_no_type_checker")
def test_text_and_pretrained_models_are_refused_by_name():
    model = made()
    for name in ("to_tokens", "to_str_tokens", "generate", "set_tokenizer", "to_single_token"):
        with pytest.raises(ModelError, match=rf"^{name}: .*reads tokens, not text"):
            getattr(model, name)("a text")
    with pytest.raises(ModelError, match=r"from_pretrained: .*Use TransformerBridge"):
        HookedTransformer.from_pretrained("gpt2")
    with pytest.raises(ModelError, match="to_tokens"):
        model("a text")
    with pytest.raises(ModelError, match="reads no text"):
        model.tokens_to_residual_directions("a")


def test_calls_that_mean_nothing_are_refused():
    model, tokens = made(), some_tokens()
    stream = model(tokens, stop_at_layer=1)
    with pytest.raises(ModelError, match=r"return_type must be .*; got 'logit'"):
        model(tokens, return_type="logit")
    with pytest.raises(ModelError, match="needs the tokens"):
        model(stream, start_at_layer=1, return_type="loss")
    with pytest.raises(ModelError, match=r"shape \(3, 7\); got \(3, 6\)"):
        model(tokens, attention_mask=torch.ones(3, 6))
    with pytest.raises(ModelError, match="mode must be 'Q', 'K' or 'V'; got 'q'"):
        model.all_composition_scores("q")
    with pytest.raises(ModelError, match=r"7 queries after 0 positions cannot look at 6 keys"):
        model.blocks[0].attn.apply_causal_mask(torch.zeros(1, 1, 7, 6))


@pytest.mark.parametrize(
    ("hook", "option"),
    [
        ("attn.hook_result", "use_attn_result"),
        ("hook_q_input", "use_split_qkv_input"),
        ("hook_attn_in", "use_attn_in"),
        ("hook_mlp_in", "use_hook_mlp_in"),
    ],
)
def test_a_hook_that_would_yield_nothing_is_refused(hook, option):
    model = made()
    name, seen = f"blocks.0.{hook}", []
    with pytest.raises(ModelError, match=rf"{hook} yields nothing while {option} is off"):
        model.add_hook(name, lambda value, hook: seen.append(value))
    getattr(model, f"set_{option}")(True)
    model.add_hook(name, lambda value, hook: seen.append(value))
    model(some_tokens())
    assert len(seen) == 1


def test_options_that_a_model_cannot_have_are_refused():
    with pytest.raises(ModelError, match="no hook_mlp_in"):
        made("attention only").set_use_hook_mlp_in(True)
    with pytest.raises(ModelError, match="no hook_attn_in"):
        made("grouped").set_use_attn_in(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_configuration_knows_what_the_parameters_are(dtype, capsys):
    model = made().to(dtype, print_details=False)
    assert model.cfg.dtype == dtype == model(some_tokens()).dtype
    assert model.cpu().cfg.device == "cpu"
    assert "cpu" in capsys.readouterr().out


def test_copies_and_pickles_compute_the_same():
    model, tokens = made("rotary, grouped, local"), some_tokens()
    expected = model(tokens)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(tokens), expected)
        twin.blocks[0].attn._W_K.data += 1
    assert torch.equal(model(tokens), expected)


def test_weights_are_drawn_anew():
    model = made("grouped")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.init_weights()
    for name, parameter in model.named_parameters():
        if "W_" in name:
            assert 0.5 < float(parameter.detach().std()) / model.cfg.initializer_range < 2
        else:
            assert (parameter == (1 if name.endswith(".w") else 0)).all(), name


def test_a_tokenizer_that_pads_on_the_left_masks_its_padding():
    model, tokens = made(), some_tokens()
    tokens[1, :3] = 4
    tokens[:, 3:] = tokens[:, 3:].clamp_max(3)
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    mask[tokens.cumprod(1) == 0] = 1
    tokens[0, 0] = tokens[2, 0] = 0
    plain = model(tokens)
    model.tokenizer = SimpleNamespace(padding_side="left", pad_token_id=4, bos_token_id=None)
    assert torch.equal(model(tokens), model(tokens, attention_mask=mask))
    assert not torch.equal(model(tokens), plain)
    assert torch.equal(model(tokens, padding_side="right"), plain)


def test_long_sequences_extend_the_angles(monkeypatch):
    tokens = some_tokens()
    expected = made("rotary")(tokens)
    monkeypatch.setattr("mtd_lens.hooked.own.attention.N_ROTARY", 2)
    model = made("rotary")
    assert len(model.blocks[0].attn.rotary_sin) == 2
    assert torch.equal(model(tokens), expected)
    short = made("rotary")
    short.load_state_dict(model.state_dict())  # tables of another length
    assert torch.equal(short(tokens), expected)


@pytest.mark.parametrize(
    "name", ["mtd-q3-m2-t32/constructed-relative", "ar-d3-t16/constructed-one-step"]
)
def test_models_of_the_package_are_hooked_transformers(name):
    assert isinstance(mtd_lens.load_model(name), mtd_lens.hooked.HookedTransformer)


@pytest.mark.parametrize("name", ["LN", "RMS, gated", "solu_ln", "grouped", "rotary"])
def test_processing_changes_weights_but_no_probability(name):
    model, tokens = made(name), some_tokens()
    before, weights = model(tokens).log_softmax(-1), model.W_U.detach().clone()
    model.process_weights_()
    assert model.cfg.normalization_type.endswith("Pre")
    assert "ln_final.w" not in model.state_dict()
    assert not torch.allclose(model.W_U, weights, atol=0.01)
    assert torch.allclose(model(tokens).log_softmax(-1), before, rtol=0, atol=1e-5)
