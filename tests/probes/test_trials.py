"""The trial before a grid: remembered while nothing has changed that it depends on, else made anew.

Each change is tried alone, and undone edits of a class or of the process leave no trace.
"""

import copy
import gc
import weakref

import pytest
import torch
from random_models import LENGTH, build, metric, sequences
from torch import nn
from torch.nn.modules import module as torch_module

import probes
from probes.patching import memory, trust


@pytest.fixture
def model():
    return build("gpt")


@pytest.fixture
def trials(monkeypatch):
    """A list that grows by one with every trial."""
    made, run = [], trust._Trial.inert

    def counted(self):
        made.append(self.tokens)
        return run(self)

    monkeypatch.setattr(trust._Trial, "inert", counted)
    return made


def grid(model, clean=None, corrupted=None, component="z", **options):
    pair = sequences()
    tokens = (pair[0] if clean is None else clean, pair[1] if corrupted is None else corrupted)
    return probes.patch_activations(model, *tokens, component, metric, **options)


def test_nothing_changed(model, trials):
    first, second = grid(model), grid(model)
    assert len(trials) == 1
    assert (first.engine, first.details) == (second.engine, second.details)
    assert torch.equal(first.values, second.values)
    loops = [grid(model, accelerate=False) for _ in range(2)]
    assert len(trials) == 2
    assert loops[0].engine == loops[1].engine == "hooked loop: asked for"


def test_of_another_model_nothing_is_known(model, trials):
    grid(model)
    grid(copy.deepcopy(model))
    assert len(trials) == 2


def under_no_grad(model):
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0, 0, 0] += 1


def identity_hook(activation, hook):
    return activation


def other_class(model):
    class Attention(type(model.blocks[1].attn)):
        pass

    model.blocks[1].attn.__class__ = Attention


def as_float32(model):
    model.to(torch.float32, print_details=False)


def set_parameter(model):
    model.blocks[0].attn.W_Q = nn.Parameter(model.blocks[0].attn.W_Q.detach() * 2)


def set_attribute(where, name, value):
    def change(model):
        module = model.get_submodule(where)
        assert getattr(module, name) != value
        setattr(module, name, value)

    return change


def replaced_method(model):
    attention = model.blocks[0].attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs)


CHANGES = {
    "a weight, in place": under_no_grad,
    "a weight, through .data": lambda m: m.blocks[1].mlp.W_in.data.mul_(1.5),
    "a weight, the same numbers elsewhere": lambda m: m.unembed.W_U.data.copy_(
        m.unembed.W_U.data.flip(0)
    ),
    "a bias": lambda m: m.blocks[2].attn.b_V.data.add_(1e-12),
    "a parameter replaced": set_parameter,
    "weights loaded": lambda m: m.load_state_dict(
        {name: 2 * value for name, value in m.state_dict().items()}
    ),
    "a buffer": lambda m: m.blocks[0].attn.IGNORE.fill_(-1),
    "a module": lambda m: setattr(m.blocks[0], "ln2", nn.Identity()),
    "a module's class": other_class,
    "a module's attribute": set_attribute("blocks.0.attn", "attn_scale", 3.0),
    "a module's function": set_attribute("blocks.0.mlp", "act_fn", torch.relu),
    "one module's mode": lambda m: m.blocks[0].train(),
    "the mode": lambda m: m.train(),
    "the configuration": lambda m: setattr(m.cfg, "eps", 1e-3),
    "an option": lambda m: m.set_use_attn_result(True),
    "dtype": as_float32,
    "a hook": lambda m: m.add_hook("blocks.0.hook_resid_pre", identity_hook),
    "a hook that stays": lambda m: m.add_perma_hook("blocks.2.hook_mlp_out", identity_hook),
    "a backward hook": lambda m: m.add_hook("hook_embed", lambda g, hook: None, dir="bwd"),
    "a torch hook": lambda m: m.blocks[0].mlp.register_forward_hook(lambda *args: None),
    "a torch hook before": lambda m: m.ln_final.register_forward_pre_hook(lambda *args: None),
    "a method of one module": replaced_method,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_model_is_tried_anew(model, trials, change):
    grid(model)
    change(model)
    for _ in range(2):
        found = grid(model)
    assert len(trials) >= 2
    assert torch.allclose(found.values, grid(model, accelerate=False).values, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"component": "resid_pre"},
        {"layers": [0, 1]},
        {"heads": [0]},
        {"positions": [2]},
        {"by": ["head", "position"]},
        {"logits": "all", "by": "head"},
        {"max_memory": 80_000},
        {"direction": "noising"},
        {"corrupted": sequences(seed=5)[1]},
        {"clean": sequences()[0][:, :4], "corrupted": sequences()[1][:, :4]},
    ],
    ids=str,
)
def test_another_trial_of_the_same_model(model, trials, options):
    measured = options.get("logits") == "all"
    grid(model)
    if measured:
        clean, corrupted = sequences()
        probes.patch_activations(
            model, clean, corrupted, "z", lambda logits: metric(logits[:, -1]), **options
        )
    else:
        grid(model, **options)
    assert len(trials) == 2
    grid(model)
    assert len(trials) == 2


def test_a_method_of_a_class_or_a_hook_on_every_module(model, trials, monkeypatch):
    grid(model)
    kind = type(model.blocks[0].attn)
    scores = kind.calculate_attention_scores
    with monkeypatch.context() as patch:
        patch.setattr(kind, "calculate_attention_scores", lambda *args: 2 * scores(*args))
        assert grid(model).engine.startswith("hooked loop: resumed runs differ")
    assert len(trials) == 2
    handle = torch_module.register_module_forward_hook(lambda *args: None)
    try:
        grid(model)
        grid(model)
    finally:
        handle.remove()
    assert len(trials) == 4
    assert grid(model).engine == "resumed from the edited position"


def test_a_verdict_does_not_survive_what_refutes_it(model):
    assert grid(model).engine == "resumed from the edited position"
    assert "inert_hooks" not in grid(model).details
    for name in ("W_O", "b_O"):
        getattr(model.blocks[1].attn, name).data.zero_()
    assert grid(model).details["inert_hooks"] == ["blocks.1.attn.hook_z"]


def test_errors_are_not_remembered(model, trials):
    for block in model.blocks:
        block.attn.W_O.data.zero_()
    for _ in range(2):
        with pytest.raises(probes.SiteError, match="changes no logit"):
            grid(model)
    assert len(trials) == 2


def test_models_are_not_kept_alive():
    model = build("gpt")
    grid(model)
    alive = weakref.ref(model)
    assert model in memory._known
    del model
    gc.collect()
    assert alive() is None


def test_few_verdicts_are_kept(model, monkeypatch):
    monkeypatch.setattr(memory, "MOST_VERDICTS", 3)
    for positions in ([position] for position in range(LENGTH)):
        grid(model, positions=positions)
    assert len(memory._known[model][1]) <= 3


def test_what_cannot_be_told_is_unknown(model):
    class Slotted:
        __slots__ = ()

    assert memory.state_of(model) == memory.state_of(model)
    assert memory.state_of(object()) is None
    assert memory.state_of(copy.deepcopy(model).to("meta", print_details=False)) is None
    model.blocks[0].helper = Slotted()
    assert memory.state_of(model) is None
