"""Users' bridges, as TransformerLens makes them, small and without any download."""

import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge, sources

LENGTH, N_TOKENS = 12, 5
MISSING = [
    name
    for name, owner in (("boot_native", TransformerBridge), ("build_bridge_from_module", sources))
    if not hasattr(owner, name)
]
"""Of what makes bridges, in the installed version."""


def wrapped(architecture, config, model=None):
    """A bridge of a Hugging Face model with random weights that are large enough to matter."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model or getattr(transformers, architecture)(config)
        return sources.build_bridge_from_module(model, architecture=architecture, hf_config=config)


def gpt2(**options):
    from transformers import GPT2Config

    sizes = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "vocab_size": N_TOKENS}
    config = GPT2Config(**sizes | options, bos_token_id=0, eos_token_id=0, initializer_range=0.2)
    return wrapped("GPT2LMHeadModel", config).eval()


def llama():
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=N_TOKENS,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return wrapped("LlamaForCausalLM", config).eval()


def neox():
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=N_TOKENS,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return wrapped("GPTNeoXForCausalLM", config).eval()


def native(**options):
    sizes = {"d_model": 24, "d_head": 8, "n_layers": 2, "n_ctx": 32, "n_heads": 3}
    kind = {"d_mlp": 48, "act_fn": "gelu_new", "d_vocab": N_TOKENS, "d_vocab_out": N_TOKENS}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bridge = TransformerBridge.boot_native(TransformerBridgeConfig(**sizes, **kind | options))
        with torch.no_grad():
            for weight in bridge.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
    return bridge.eval()


KINDS = {
    "GPT-2": gpt2,
    "Llama": llama,
    "GPT-NeoX": neox,
    "native": native,
    "native, attention alone": lambda: native(attn_only=True, normalization_type=None),
    "native, RMS, scores said to be unscaled": lambda: native(
        normalization_type="RMS", act_fn="relu", use_attn_scale=False
    ),
    "native, gated": lambda: native(gated_mlp=True, act_fn="silu"),
    "native, rotary": lambda: native(positional_embedding_type="rotary", rotary_dim=8),
}
"""Those that have an exact twin."""


def changed():
    """A bridge without one: something in it was changed behind its back."""
    bridge = native()
    bridge.original_model.head.register_forward_hook(lambda module, given, found: found * 1.1)
    return bridge


def tokens(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N_TOKENS, (n, LENGTH), generator=generator)


def native_with_weights_of(model):
    """A native bridge of attention alone with the weights of a HookedTransformer.

    Version 4's has no unembedding bias; the HookedTransformer's is then set to zero.
    """
    cfg = model.cfg
    names = ("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "d_vocab", "d_vocab_out")
    shape = {name: getattr(cfg, name) for name in names}
    with torch.random.fork_rng():
        bridge = TransformerBridge.boot_native(
            TransformerBridgeConfig(**shape, attn_only=True, normalization_type=None)
        )
    own = {
        name.replace("._original_component", ""): weight
        for name, weight in bridge.named_parameters()
    }
    given = {"tok_embed.weight": model.W_E, "pos.weight": model.W_pos, "head.weight": model.W_U.T}
    if "head.bias" in own:
        given["head.bias"] = model.b_U
    else:
        model.unembed.b_U.data.zero_()
    for layer, block in enumerate(model.blocks):
        attention = f"layers.{layer}.attn"
        for name in "QKV":
            weight, bias = (getattr(block.attn, f"{kind}_{name}") for kind in "Wb")
            given[f"{attention}.{name.lower()}.weight"] = weight.mT.flatten(0, 1)
            given[f"{attention}.{name.lower()}.bias"] = bias.flatten()
        given[f"{attention}.o.weight"] = block.attn.W_O.flatten(0, 1).T
        given[f"{attention}.o.bias"] = block.attn.b_O
    assert set(given) == set(own)
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(given[name])
    return bridge.eval()


def gpt2_with_weights_of(model):
    """A GPT-2 bridge with the weights of a HookedTransformer.

    GPT-2 has no unembedding bias; the last normalisation layer's bias makes up for it.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    cfg = model.cfg
    config = GPT2Config(
        vocab_size=cfg.d_vocab,
        n_positions=cfg.n_ctx,
        n_embd=cfg.d_model,
        n_layer=cfg.n_layers,
        n_head=cfg.n_heads,
        n_inner=cfg.d_mlp,
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        inner = GPT2LMHeadModel(config)
    given = {
        "transformer.wte.weight": model.W_E,
        "transformer.wpe.weight": model.W_pos,
        "lm_head.weight": model.W_U.T,
        "transformer.ln_f.weight": model.ln_final.w,
        "transformer.ln_f.bias": model.ln_final.b
        + (torch.linalg.pinv(model.W_U.T.double()) @ model.b_U.double()).to(model.b_U),
    }
    for layer, block in enumerate(model.blocks):
        attention, here = block.attn, f"transformer.h.{layer}"
        wide = [getattr(attention, f"W_{name}").transpose(0, 1).flatten(1) for name in "QKV"]
        biases = [getattr(attention, f"b_{name}").flatten() for name in "QKV"]
        given |= {
            f"{here}.ln_1.weight": block.ln1.w,
            f"{here}.ln_1.bias": block.ln1.b,
            f"{here}.ln_2.weight": block.ln2.w,
            f"{here}.ln_2.bias": block.ln2.b,
            f"{here}.attn.c_attn.weight": torch.cat(wide, 1),
            f"{here}.attn.c_attn.bias": torch.cat(biases),
            f"{here}.attn.c_proj.weight": attention.W_O.flatten(0, 1),
            f"{here}.attn.c_proj.bias": attention.b_O,
            f"{here}.mlp.c_fc.weight": block.mlp.W_in,
            f"{here}.mlp.c_fc.bias": block.mlp.b_in,
            f"{here}.mlp.c_proj.weight": block.mlp.W_out,
            f"{here}.mlp.c_proj.bias": block.mlp.b_out,
        }
    inner.load_state_dict(given)
    return wrapped("GPT2LMHeadModel", config, inner).eval()
