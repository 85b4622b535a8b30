"""Single sequences under the lens: a model's attention beside the algorithm's, query by query."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.contracts import LAST, Algorithm, Analysis, AnalyticPattern, Batch, Task
from mtd_lens.defaults import INSPECT, MOST_SHOWN
from mtd_lens.errors import ArgumentError, ModelError, SiteError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.measures import signed_shares
from mtd_lens.measures.pairs import prediction_with, spliced
from mtd_lens.results.inspection import GivenQuery, Inspection, distances
from mtd_lens.spaces import Space, check_outputs
from mtd_lens.vocabulary import Translated, Vocabulary
from probes import checks
from probes.capture import BATCH_SIZE, NaturalRuns, check_tokens
from probes.progress import steps
from probes.subject import HookedModel, subject_of

N_SEQUENCES = INSPECT.default
MAX_SEQUENCES = MOST_SHOWN

N_FIT_SEQUENCES = 128
"""For the algorithm's parameters."""

N_CHOICE_SEQUENCES = 32
"""Of these, for the choice of heads."""

MAX_POSITIONS = 256
MAX_ENTRIES = 2_400_000
"""Attention values on and below the diagonal, of all maps and sequences together."""

N_PATTERNS = 4
"""So many maps beside the heads' are allowed for in each sequence."""


@asked
def inspect(
    model: HookedModel,
    tokens: Tensor | None = None,
    *,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    token_names: Sequence[str] | None = None,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    algorithm: str | Algorithm | None = None,
    progress: bool | None = None,
) -> Inspection:
    """Hold a model's attention and predictions against the algorithm's on a few sequences.

    The algorithm's parameters, and the head that is nearest to each of its patterns, are found on
    128 sequences drawn for that, with the next seed.

    Args:
        model: A hooked model, of this package or not; it is left as it was found.
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
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        algorithm: What the model is held against, such as ``"one-step"`` or ``"posterior"`` on
            mixtures, or an algorithm of the caller's own; by default the family's first.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Returns:
        Attention, the nearest heads, and what the algorithm says of every position.

    Raises:
        ArgumentError: ``n_sequences``, ``seed``, ``token_names``, ``name``, ``vocabulary`` or
            ``algorithm`` that cannot be used, or too many heads and sequences to look at together.
        DataError: Tokens that the model cannot read.
        TokensError: Tokens that do not fit the task.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, is not causal, or no task is known.
    """
    n_sequences = checked_number(n_sequences)
    experiment = Experiment.of(
        model, task, seed, name=name, vocabulary=vocabulary, algorithm=algorithm
    )
    model, seed = experiment.model, experiment.seed
    task, family, subject = experiment.task, experiment.family, subject_of(model)
    if not subject.causal:
        raise ModelError(
            "inspect shows causal attention; the model's is bidirectional. Look at it with "
            "run_with_cache."
        )
    names = _checked_names(token_names, experiment.task.inputs)
    batch = None
    if tokens is None:
        batch = experiment.task.sample(n_sequences, seed)
        tokens = batch.tokens
    else:
        check_tokens(model, tokens)
        checked_number(len(tokens))
    fit_batch = experiment.task.sample(N_FIT_SEQUENCES, seed + 1)
    experiment = replace(experiment, fit_tokens=fit_batch.tokens.to(experiment.device))
    n_maps = (subject.n_layers * subject.n_heads + N_PATTERNS) * len(tokens)
    most = min(MAX_POSITIONS, experiment.task.seq_len, math.isqrt(2 * MAX_ENTRIES // n_maps))
    if most < family.shortest(task):
        raise ArgumentError(
            f"the attention of all heads on {len(tokens)} sequences is too much to look at: only "
            f"{most} positions would be left. Show fewer sequences."
        )
    n_kept = min(tokens.shape[1], most)
    shown = tokens[:, :n_kept].to(experiment.device)
    shown = shown if shown.is_floating_point() else shown.long()
    return Inspection(
        **experiment.head | {"n_sequences": len(shown)},
        tokens=shown.cpu(),
        token_names=names,
        attention=_attention(model, shown),
        analysis=_analysis(experiment, shown, batch),
        nearest_heads=_nearest_heads(experiment, n_kept),
        n_cut=tokens.shape[1] - n_kept,
        algorithm=experiment.algorithm.name,
        drawn=family.drawn,
        n_before=subject.n_before,
        given_query=_given_query(experiment, shown),
    )


def checked_number(n_sequences: int) -> int:
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


def _attention(
    model: HookedModel, tokens: Tensor
) -> Float[Tensor, "layer head sequence query key"]:
    sites = [
        probes.Site(f"blocks.{layer}.attn.hook_pattern")
        for layer in range(subject_of(model).n_layers)
    ]
    n_before = subject_of(model).n_before
    if isinstance(model, Translated):  # shares are of attention to what comes before as well
        tokens, model = model.spelt(tokens), model.underlying
    found = NaturalRuns(model, tokens).read(sites)
    shares = signed_shares(torch.stack([x.transpose(0, 1) for x in found]).float().cpu())
    return shares[..., n_before:, n_before:]


def _analysis(experiment: Experiment, tokens: Tensor, batch: Batch | None) -> Analysis | None:
    """What the algorithm and the estimators say of the sequences, on the CPU."""
    if experiment.family.analyse is None:
        return None
    found = experiment.family.analyse(
        experiment.model, experiment.causal_model, tokens, experiment.fit_tokens, batch
    )
    predictions = {source: value.cpu() for source, value in found.predictions.items()}
    latents = {source: value.cpu() for source, value in found.latents.items()}
    return replace(
        found,
        patterns=tuple(replace(p, values=p.values.cpu()) for p in _patterns(experiment, tokens)),
        latents=predictions if found.predicts_latent else latents,
        predictions=predictions,
    )


def _given_query(experiment: Experiment, tokens: Tensor) -> GivenQuery | None:
    """Swaps between each sequence and the next one's context under its own last tokens.

    None where the algorithm says nothing of the query, there is one sequence alone or of another
    length than the task's, or a source that is impossible.
    """
    model, task, algorithm = experiment.model, experiment.task, experiment.algorithm
    own = None if algorithm.query is None else algorithm.query(task)
    whole = len(tokens) > 1 and tokens.shape[1] == task.seq_len and not tokens.is_floating_point()
    if own is None or not algorithm.statistic or not whole:
        return None
    sources = spliced(tokens.roll(-1, 0), tokens, own)
    if own.possible is not None and not own.possible(sources).all():
        return None
    causal, statistic, n = experiment.causal_model, algorithm.statistic, len(tokens)
    swapped = causal.run(sources)[statistic]
    words, last = statistic.replace("_", " "), (tokens.shape[1] - 1,)
    sites = {
        f"model, layer {layer}'s attention output of the source": probes.Site(
            f"blocks.{layer}.hook_attn_out", last
        )
        for layer in range(subject_of(model).n_layers)
    }
    both = torch.cat([tokens, sources])
    rows = torch.arange(n, 2 * n).to(tokens.device)
    try:
        found = probes.run_interchange(model, both, torch.cat([rows, rows]), sites)
    except SiteError:
        return None

    def read(outputs: Tensor) -> Tensor:
        return task.outputs.prediction(model, check_outputs(outputs)).cpu()

    natural = read(found.base)
    return GivenQuery(
        statistic=words,
        n_own=own.count,
        sources=sources.cpu(),
        predictions={
            "model, sequence": natural[:n],
            "model, source": natural[n:],
            f"algorithm, {words} of the source": prediction_with(
                causal, tokens, statistic, swapped, LAST
            ).cpu(),
            **{name: read(output)[:n] for name, output in found.patched.items()},
        },
    )


def _nearest_heads(experiment: Experiment, n_kept: int) -> dict[str, Int[Tensor, "layer query"]]:
    sums: dict[str, Tensor] = {}
    tokens = experiment.fit_tokens[:N_CHOICE_SEQUENCES, :n_kept]
    for part in steps(tokens.split(BATCH_SIZE // 4), "nearest heads"):
        attention = _attention(experiment.model, part)
        for pattern in _patterns(experiment, part):
            away = distances(attention, pattern, subject_of(experiment.model).n_before).nan_to_num()
            sums[pattern.name] = sums.get(pattern.name, 0) + away
    return {name: total.argmin(1) for name, total in sums.items()}


def _patterns(experiment: Experiment, tokens: Tensor) -> Sequence[AnalyticPattern]:
    """The algorithm's own attention, where it has some."""
    draw = experiment.algorithm.patterns
    return () if draw is None else draw(experiment.causal_model, tokens)


def _checked_names(token_names: Sequence[str] | None, inputs: Space) -> tuple[str, ...]:
    if token_names is None:
        return inputs.names
    listed = isinstance(token_names, Sequence) and not isinstance(token_names, str)
    if not listed:
        raise ArgumentError(
            f"token_names must list a text for each token of the vocabulary; got {token_names!r}."
        )
    for token, name in enumerate(token_names):
        checks.text(name, f"token_names[{token}]", ArgumentError)
    if len(token_names) != inputs.size:
        raise ArgumentError(
            f"token_names has {len(token_names)} entries for a vocabulary of {inputs.size} tokens. "
            "Give one for each."
        )
    return tuple(token_names)
