"""Single sequences under the lens: a model's attention beside the algorithm's, query by query."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.contracts import Analysis, InspectableFamily
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.questions.score import name_of, task_for
from mtd_lens.registry import family_of
from mtd_lens.results.inspection import Inspection, distances
from mtd_lens.vectors import signed_shares
from probes import checks
from probes.capture import check_tokens, vector_size

N_SEQUENCES = 4
MAX_SEQUENCES = 16

N_FIT_SEQUENCES = 128
"""For the algorithm's parameters."""

N_CHOICE_SEQUENCES = 32
"""Of these, for the choice of heads."""

MAX_POSITIONS = 256
MAX_ENTRIES = 2_400_000
"""Attention values on and below the diagonal, of all maps and sequences together."""

N_PATTERNS = 4
"""So many maps beside the heads' are allowed for in each sequence."""

MAX_SEED = 2**63
"""Seeds lie below."""


def inspect(
    model: Any,
    tokens: Any = None,
    *,
    task: Any = None,
    n_sequences: Any = N_SEQUENCES,
    seed: Any = 0,
    token_names: Any = None,
    name: Any = None,
) -> Inspection:
    """Hold a model's attention and predictions against the algorithm's on a few sequences.

    The algorithm's parameters, and the head that is nearest to each of its patterns, are found on
    128 sequences drawn for that, with the next seed.

    Args:
        model: A HookedTransformer, of this package or not; it is left as it was found.
        tokens: ``[sequence, position]``; by default ``n_sequences`` drawn from the task. No more
            positions are kept than the task has and than 256, and fewer where the attention of all
            heads would be too much to look at; the model is causal, so that what is left is as it
            would be.
        task: What the model is held against, or its name; by default the task that it knows.
        n_sequences: How many to draw, 1 to 16.
        seed: Of the sequences.
        token_names: What to call each token of the vocabulary, or component of a vector; by default
            its number.
        name: What to call the model.

    Returns:
        Attention, the nearest heads, and what the algorithm says of every position.

    Raises:
        ArgumentError: ``n_sequences``, ``seed``, ``token_names`` or ``name`` that cannot be used,
            or too many heads and sequences to look at together.
        DataError: Tokens that the model cannot read.
        TokensError: Tokens that do not fit the task.
        ModelError: The model does not fit the task, is not causal, or no task is known.
    """
    n_sequences = checked_number(n_sequences)
    seed = checks.seed(seed, ArgumentError)
    task = task_for(model, task)
    family = family_of(task)
    family.check_model(model, task)
    if model.cfg.attention_dir != "causal":
        raise ModelError(
            f"inspect shows causal attention; the model's is {model.cfg.attention_dir}. Look at it "
            "with run_with_cache."
        )
    if name is not None:
        _check_text(name, "name")
    names = _checked_names(token_names, model)
    batch = None
    if tokens is None:
        batch = task.sample(n_sequences, seed)
        tokens = batch.tokens
    else:
        check_tokens(model, tokens)
        checked_number(len(tokens))
    device = next(model.parameters()).device
    fit_tokens = task.sample(N_FIT_SEQUENCES, (seed + 1) % MAX_SEED).tokens.to(device)
    n_maps = (model.cfg.n_layers * model.cfg.n_heads + N_PATTERNS) * len(tokens)
    most = min(MAX_POSITIONS, task.seq_len, math.isqrt(2 * MAX_ENTRIES // n_maps))
    if most < family.shortest(task):
        raise ArgumentError(
            f"the attention of all heads on {len(tokens)} sequences is too much to look at: only "
            f"{most} positions would be left. Show fewer sequences."
        )
    n_kept = min(tokens.shape[1], most)
    shown = tokens[:, :n_kept].to(device)
    shown = shown if shown.is_floating_point() else shown.long()
    causal_model = family.fit_causal_model(model, task, fit_tokens)
    analysis, nearest_heads = None, {}
    if isinstance(family, InspectableFamily):
        analysis = _on_cpu(family.analyse(model, causal_model, shown, fit_tokens, batch))
        choice_tokens = fit_tokens[:N_CHOICE_SEQUENCES, :n_kept]
        nearest_heads = _nearest_heads(model, family, causal_model, choice_tokens)
    return Inspection(
        model=name or name_of(model),
        task=task.name or task.to_json(),
        seed=seed,
        parameters=causal_model.parameters,
        tokens=shown.cpu(),
        token_names=names,
        attention=_attention(model, shown),
        analysis=analysis,
        nearest_heads=nearest_heads,
        n_cut=tokens.shape[1] - n_kept,
    )


def checked_number(n_sequences: Any) -> int:
    """How many sequences to look at.

    Raises:
        ArgumentError: No integer from 1 to ``MAX_SEQUENCES``.
    """
    number = checks.integer(n_sequences, "n_sequences", 1, ArgumentError)
    if number > MAX_SEQUENCES:
        raise ArgumentError(
            f"{number} sequences are more than can be looked at. Show at most {MAX_SEQUENCES}."
        )
    return number


def _attention(model: Any, tokens: Tensor) -> Float[Tensor, "layer head sequence query key"]:
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    found = probes.read_activations(model, tokens, {hook: probes.Site(hook) for hook in hooks})
    attention = torch.stack([found[hook].transpose(0, 1) for hook in hooks]).float().cpu()
    return signed_shares(attention)


def _nearest_heads(
    model: Any, family: InspectableFamily, causal_model: Any, tokens: Tensor
) -> dict[str, Int[Tensor, "layer query"]]:
    sums: dict[str, Tensor] = {}
    for part in tokens.split(probes.capture.BATCH_SIZE // 4):
        attention = _attention(model, part)
        for pattern in family.patterns(causal_model, part):
            away = distances(attention, pattern).nan_to_num()
            sums[pattern.name] = sums.get(pattern.name, 0) + away
    return {name: total.argmin(1) for name, total in sums.items()}


def _on_cpu(analysis: Analysis) -> Analysis:
    predictions = {source: value.cpu() for source, value in analysis.predictions.items()}
    latents = {source: value.cpu() for source, value in analysis.latents.items()}
    return replace(
        analysis,
        patterns=tuple(replace(p, values=p.values.cpu()) for p in analysis.patterns),
        latents=predictions if analysis.predicts_latent else latents,
        predictions=predictions,
    )


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise ArgumentError(f"{what} must be a text; got {value!r}.")
    if value.encode("utf-8", "ignore").decode("utf-8") != value:
        raise ArgumentError(f"{what} must be a text that UTF-8 can hold; got {value!r}.")


def _checked_names(token_names: Any, model: Any) -> tuple[str, ...]:
    n_tokens = model.cfg.d_vocab
    vectors = vector_size(model) is not None
    if token_names is None:
        return tuple(f"component {i}" if vectors else str(i) for i in range(n_tokens))
    listed = isinstance(token_names, Sequence) and not isinstance(token_names, str)
    if not listed:
        raise ArgumentError(
            f"token_names must list a text for each token of the vocabulary; got {token_names!r}."
        )
    for token, name in enumerate(token_names):
        _check_text(name, f"token_names[{token}]")
    if len(token_names) != n_tokens:
        raise ArgumentError(
            f"token_names has {len(token_names)} entries for a vocabulary of {n_tokens} tokens. "
            "Give one for each."
        )
    return tuple(token_names)
