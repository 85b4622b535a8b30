"""What a model is: asked in one place, of any hooked model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_models import two_layers

import probes
from mtd_lens import hooked


def test_sizes_and_options_of_a_stock_model():
    subject = probes.subject_of(two_layers(n_key_value_heads=1, d_vocab_out=7))
    sizes = (subject.n_layers, subject.n_heads, subject.n_key_value_heads, subject.n_ctx)
    assert sizes == (2, 3, 1, 12)
    assert (subject.d_model, subject.d_head, subject.d_mlp) == (24, 8, 32)
    assert (subject.n_inputs, subject.n_outputs, subject.vector_size) == (5, 7, None)
    assert (subject.normalization, subject.positional_embedding) == ("LN", "standard")
    assert subject.causal
    assert subject.has_mlp
    assert (subject.device, subject.dtype) == (torch.device("cpu"), torch.float32)
    assert subject.name == "custom"
    assert subject.plain_attention
    assert subject.departures == []


def test_the_model_is_asked_anew_each_time():
    model = two_layers(attn_only=True, d_mlp=None, act_fn=None, normalization_type=None)
    subject = probes.subject_of(model)
    assert (subject.has_mlp, subject.d_mlp, subject.normalization) == (False, 0, None)
    assert subject.n_key_value_heads == 3
    model.cfg.attention_dir = "bidirectional"
    model.cfg.use_attn_in = model.cfg.use_attn_result = True
    model.cfg.model_name = None
    assert not subject.causal
    assert not subject.plain_attention
    assert subject.departures == ["use_attn_in is set", "its attention is not causal"]
    assert subject.name == "HookedTransformer"


def test_what_is_no_hooked_model():
    assert isinstance(two_layers(), probes.HookedModel)
    for other in (3, torch.nn.Identity()):
        assert not isinstance(other, probes.HookedModel)
        with pytest.raises(probes.DataError, match=f"hooked model; got a {type(other).__name__}"):
            probes.subject_of(other)


@pytest.mark.parametrize(
    "code",
    [
        "import mtd_lens.hooked.info; mtd_lens.task_of",
        "from mtd_lens.hooked import info_of, moved, probabilities, reads_logits, task_of",
        "mtd_lens.load_task(mtd_lens.DEFAULT_TASK).sample(1); mtd_lens.list_models()",
    ],
)
def test_what_needs_no_transformer_lens_does_not_import_it(code):
    code = f"import sys, mtd_lens; {code}; assert 'transformer_lens' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_all_names_of_hooked_models_are_in_one_place():
    assert hooked.randomized is hooked.random.randomized
    assert hooked.assemble is hooked.build.assemble
    assert all(getattr(hooked, name) is not None for name in hooked.__all__)


def test_no_other_instrument_reads_a_field_of_a_configuration():
    files = list(Path(probes.__file__).parent.rglob("*.py"))
    reads = re.compile(r"\.cfg\b|\bcfg\.|getattr\(cfg")
    assert {path.name for path in files if reads.search(path.read_text("utf-8"))} == {"subject.py"}
