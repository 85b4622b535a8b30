"""Whether edits do what they say: with another sequence's activations a run must be that one's.

An instrument that edits a hook takes for granted that the rest of the model reads what was written.
A hook may lie: it may show one tensor and pass on another, or lead to one reader among several.
Here two sequences are run, and what the one's activations are is written into the other's run:

- **The stream** is all that later blocks know of a sequence. With the other's ``resid_pre``,
  ``resid_mid`` or ``resid_post`` the run must end as the other's.
- **What is added to it.** So it must with ``attn_out`` or ``mlp_out`` of such a size that the sum
  is the other's stream.
- **What attention is made of.** ``z``; ``pattern`` and ``v``; ``attn_scores`` and ``v``; or ``q``,
  ``k`` and ``v`` determine what attention writes. With the other's, the run must end as it does
  with the other's ``attn_out``.
- **What the MLP is made of.** ``post``, or all that comes before it, determines what it writes, in
  the same way.

Runs end with the last stream and the prediction.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probes.errors import SiteError
from probes.patching.partial_runs import distance, tolerance
from probes.sites import NEURONS, hook_name
from probes.subject import HookedModel, Subject, subject_of

STREAMS = ("resid_pre", "resid_mid", "resid_post")
ADDED = ("attn_out", "mlp_out")
TOGETHER = {
    "z": ("z",),
    "pattern": ("pattern", "v"),
    "attn_scores": ("attn_scores", "v"),
    "q": ("q", "k", "v"),
    "k": ("q", "k", "v"),
    "v": ("q", "k", "v"),
    "pre": ("pre", "pre_linear"),
    "post": ("post",),
}
"""By component, what determines with it what attention, or the MLP, writes."""

MOST_CASES = 32
"""Pairs of sequences a forward pass."""

LENGTH = 8
"""Positions of them."""

SHARE_IN_16_BITS = 0.25
"""Of the difference that an edit ought to make, for rounding where numbers have 16 bits."""

_PREDICTION = "the prediction"


def check_true(
    model: HookedModel, tokens: Tensor, components: Iterable[str], layers: Iterable[int]
) -> None:
    """Raise a SiteError where an edit of a component does something else than it says.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``; the beginnings of two sequences are run.
        components: Last parts of hooks' names; others than those above are passed over.
        layers: In which blocks.

    Raises:
        SiteError: An edit that is not followed, or that one of several readers alone follows.
    """
    subject, layers = subject_of(model), list(layers)
    asked = [name for name in components if name in (*STREAMS, *ADDED, *TOGETHER)]
    pair = _pair(tokens[:, :LENGTH], subject)
    if subject.n_before:  # its hooks leave out what lies before, which edits leave as it is
        pair, model = subject.model.spelt(pair), subject.underlying
        subject = subject_of(model)
    if not asked or _masked(model, pair):
        return
    last = hook_name("resid_post", subject.n_layers - 1)
    parts = {*STREAMS, *ADDED, *(part for name in asked for part in TOGETHER.get(name, ()))}
    hooks = {hook_name(part, layer) for part in parts for layer in layers} | {last}
    natural: dict[str, Tensor] = {}

    def keep(hook: str, activation: Tensor) -> None:
        natural[hook] = activation.clone()

    with torch.no_grad():
        _run(subject, pair, hooks, keep, natural)
        claims = [
            case for layer in layers for name in asked for case in _cases(name, layer, natural)
        ]
        cases = [case for claim in claims for case in (claim.like, claim) if case]
        for start in range(0, len(cases), MOST_CASES):
            _finish(subject, pair, cases[start : start + MOST_CASES], last)
    for case in claims:
        ended = case.like.ends if case.like else {name: x.flip(0) for name, x in natural.items()}
        for what in (last, _PREDICTION):
            if what not in case.writes:
                _compare(case, case.ends[what], ended[what], natural[what])


@dataclass(frozen=True)
class _Case:
    """Edits of a pair of runs, which must end as the other's run, or as those of another case.

    Attributes:
        component: In whose name the edits are.
        layer: In which block.
        writes: What is written, by hook.
        like: The other case, if any.
        ends: How the runs end.
    """

    component: str
    layer: int
    writes: Mapping[str, Tensor]
    like: "_Case | None" = None
    ends: dict[str, Tensor] = field(default_factory=dict)


def _cases(name: str, layer: int, natural: Mapping[str, Tensor]) -> list[_Case]:
    """What shows whether edits of a component are followed; nothing where its hook does not run."""

    def value(component: str) -> Any:
        return natural.get(hook_name(component, layer), 0)

    def others(*components: str) -> dict[str, Tensor]:
        hooks = [hook_name(component, layer) for component in components]
        return {hook: natural[hook].flip(0) for hook in hooks if hook in natural}

    if not others(name):
        return []
    if name in STREAMS:
        return [_Case(name, layer, others(name))]
    if name in TOGETHER:
        written = "mlp_out" if name in NEURONS else "attn_out"
        if not others(written):
            return []
        like = _Case(written, layer, others(written))
        itself = _cases(written, layer, natural)
        return [*itself, _Case(name, layer, others(*TOGETHER[name]), like)]
    serial = bool(others("resid_mid"))
    if name == "mlp_out":
        beside = value("resid_mid") if serial else value("resid_pre") + value("attn_out")
    else:  # with no stream between them, the MLP adds to the same sum
        beside = value("resid_pre") + (0 if serial else value("mlp_out"))
    total = beside + value(name)
    return [_Case(name, layer, {hook_name(name, layer): total.flip(0) - beside})]


def _finish(subject: Subject, pair: Tensor, cases: Sequence[_Case], last: str) -> None:
    """Run cases, stacked on the batch axis, and keep how they end."""

    def edit(hook: str, activation: Tensor) -> Tensor:
        edited = activation.clone()
        for index, case in enumerate(cases):
            if hook in case.writes:
                edited[2 * index : 2 * index + 2] = case.writes[hook].to(edited)
        if hook == last:
            ends[hook] = edited
        return edited

    ends: dict[str, Tensor] = {}
    hooks = {hook for case in cases for hook in case.writes} | {last}
    _run(subject, torch.cat([pair] * len(cases)), hooks, edit, ends)
    for name, values in ends.items():
        for case, rows in zip(cases, values.split(2), strict=True):
            case.ends[name] = rows


def _run(
    subject: Subject,
    tokens: Tensor,
    hooks: Iterable[str],
    see: Callable[[str, Tensor], Tensor | None],
    kept: dict[str, Tensor],
) -> None:
    """A pass whose prediction is kept; ``see`` is called with each hook's name and activation."""

    def seeing(name: str) -> tuple[str, Callable[[Tensor, Any], Tensor | None]]:
        return name, lambda activation, hook: see(name, activation)

    known = subject.model.hook_dict
    with (
        warnings.catch_warnings(),
        subject.model.hooks(fwd_hooks=[seeing(name) for name in hooks if name in known]),
    ):
        warnings.simplefilter("ignore")  # some say themselves that they drop an edit
        outputs = subject.model(tokens)
    # rounding of a probability near 0 moves its logarithm far
    kept[_PREDICTION] = outputs.softmax(-1) if subject.vector_size is None else outputs


def _compare(case: _Case, came: Tensor, due: Tensor, natural: Tensor) -> None:
    off, fine = (came - due).abs().max(), tolerance(came.dtype) * due.abs().max()
    if came.dtype not in (torch.float32, torch.float64):
        fine = fine + SHARE_IN_16_BITS * (natural - due).abs().max()
    if not off <= fine:
        hook = hook_name(case.component, case.layer)
        rule = {
            **dict.fromkeys(STREAMS, "with another sequence's, a run must end as that one's does"),
            **dict.fromkeys(
                ADDED, "with what is wanting for another's stream, it must end as that"
            ),
            **dict.fromkeys(
                NEURONS, "with another sequence's, the MLP must write what it does there"
            ),
        }.get(case.component, "with another sequence's, attention must write what it does there")
        raise SiteError(
            f"editing {hook!r} does not do what it says in this model: {rule}, and it differs by "
            f"{distance(came, due):.2g} of the largest entry. Something does not read what is "
            "written. Choose another component, or pass a model whose hooks are causal."
        )


def _pair(tokens: Tensor, subject: Subject) -> Tensor:
    """Two sequences that differ."""
    first, differ = tokens[:1], (tokens != tokens[:1]).flatten(1).any(1)
    if differ.any():
        return torch.cat([first, tokens[differ.nonzero()[0]]])
    other = -first if first.is_floating_point() else (first + 1) % subject.n_inputs
    return torch.cat([first, other])


def _masked(model: Any, pair: Tensor) -> bool:
    """Whether some positions are held to be padding, which no stream knows of."""
    embed = getattr(model, "input_to_embed", None)
    return getattr(model, "tokenizer", None) is not None and (
        embed is None or embed(pair)[3] is not None
    )
