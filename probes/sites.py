"""Sites: where in a hooked model an activation is read or written.

Hook names follow TransformerLens. The axes of an activation follow from the last part of its name:

========================================  =====================================
``pattern``, ``attn_scores``              ``[batch, head, query, key]``
``q``, ``k``, ``v``, ``z``, ``result``    ``[batch, position, head, component]``
everything else                           ``[batch, position, component]``
========================================  =====================================

Inside a block an activation also has a short name, its component: ``resid_pre``, ``resid_mid``,
``resid_post``, ``attn_out``, ``mlp_out``, those with heads: ``z``, ``q``, ``k``, ``v``,
``pattern``, and neurons: ``pre``, ``post``. Where a component is asked for, the other names that
TransformerLens has for it mean the same: ``hook_z``, ``attn.hook_z``, ``blocks.0.attn.hook_z`` (of
layer 0 alone), ``mlp_post``, …
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import ProbesError, SiteError, nearest, shown
from probes.subject import HookedModel, subject_of

HEADLESS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADED = ("z", "q", "k", "v")
PATTERN = "pattern"
NEURONS = ("pre", "post")
COMPONENTS = (*HEADLESS, *HEADED, PATTERN, *NEURONS)

IN_GRIDS = (*COMPONENTS, "result")
"""What grids are of: ``result`` is ``z`` times ``W_O``, and its edits are those of ``z``."""
IN_BLOCKS = (*IN_GRIDS, "attn_scores")

_HEAD_FIRST = frozenset({"pattern", "attn_scores"})
_HEAD_SECOND = frozenset({"q", "k", "v", "z", "result", "rot_q", "rot_k"})


def hook_suffix(component: str) -> str:
    """The name of a component's hook within its block."""
    part = (
        ""
        if component in HEADLESS
        else "mlp."
        if component in (*NEURONS, "pre_linear")
        else "attn."
    )
    return f"{part}hook_{component}"


def hook_name(component: str, layer: int) -> str:
    """The full name of a component's hook."""
    return f"blocks.{layer}.{hook_suffix(component)}"


_SPELT = {
    spelling: component
    for component in IN_BLOCKS
    for spelling in (component, f"hook_{component}", hook_suffix(component))
} | {
    "query": "q", "key": "k", "value": "v", "attn": PATTERN, "attn_logits": "attn_scores",
    "mlp_pre": "pre", "mlp_post": "post",
}  # fmt: skip
"""What each name of a component means: our own, and those that TransformerLens has for it."""

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.")


def component_of(
    name: object,
    layer: int | None = None,
    error: type[ProbesError] = SiteError,
    known: Sequence[str] = IN_BLOCKS,
) -> tuple[str, int | None]:
    """The component that a name means, and the layer, if a full name says one.

    Args:
        name: Such as ``"z"``, ``"hook_z"``, ``"attn.hook_z"`` or ``"blocks.0.attn.hook_z"``.
        layer: In which it is asked for.
        error: What is raised: a name that means none, or that is of another layer.
        known: Components that can be meant.
    """
    found = _IN_BLOCK.match(name) if isinstance(name, str) else None
    spelling = name if found is None else found.string[found.end() :]
    spelt = {each: component for each, component in _SPELT.items() if component in known}
    if not isinstance(spelling, str) or spelling not in spelt:
        raise error(
            f"unknown component {shown(name)}. {nearest(spelling, spelt)} Components are "
            f"{', '.join(known)}."
        )
    own = None if found is None else int(found[1])
    if own is not None and layer is not None and own != layer:
        raise error(
            f"{name!r} is of layer {own}, and layer {layer} is asked for. Give one of both."
        )
    return spelt[spelling], layer if own is None else own


def suffix_of(name: str) -> str:
    """A hook's name within a block, of any name of a component; other hooks' names stay.

    Raises:
        SiteError: A full name, which is of one block.
    """
    if _IN_BLOCK.match(name):
        within = _IN_BLOCK.sub("", name, count=1)
        raise SiteError(f"{name!r} is of one layer; every layer's hook is meant. Use {within!r}.")
    return hook_suffix(_SPELT[name]) if name in _SPELT else name


def sequence_axes(hook: str) -> tuple[int, ...]:
    """The axes of an activation that run over positions: of patterns, of queries and of keys.

    Args:
        hook: Its name.
    """
    return (2, 3) if Site(hook).component in _HEAD_FIRST else (1,)


def perturbed(component: str, activation: Tensor) -> Tensor:
    """Other values, by which to see whether anything depends on an activation.

    They are of another sign, so that saturated attention moves, and uneven over keys.
    """
    uneven = torch.arange(activation[0].numel()).cos().view(activation.shape[1:])
    other = uneven.to(activation) - activation
    return other.tril() if component == PATTERN else other  # no attention to later keys


@dataclass(frozen=True, eq=False)
class Site:
    """One place in a hooked model; ``str(site)`` names it shortly, as in ``L0H1 z``.

    Sites are equal that read the same: the same hook, positions and head, and the very same
    subspace, if any.

    Attributes:
        hook: Full hook name, for example ``"blocks.0.hook_attn_out"``.
        positions: A list of positions (query positions for attention patterns); all if None.
            Negative ones count from the end.
        head: One head, or all heads if None; only for hooks that have a head axis.
        subspace: Orthonormal columns ``[component, width]``; reading projects on it, writing
            replaces only the part of the activation that lies in it.

    Examples:
        >>> import probes
        >>> site = probes.Site.at("z", layer=0, head=1)
        >>> print(site, "is head", site.head, "of", site.hook)
        L0H1 z is head 1 of blocks.0.attn.hook_z
    """

    hook: str
    positions: Sequence[int] | None = None
    head: int | None = None
    subspace: Float[Tensor, "component width"] | None = None

    def __post_init__(self) -> None:
        checks.text(self.hook, "hook", SiteError)
        if self.positions is not None:
            what = f"positions at {self.hook!r}"
            positions = tuple(checks.integers(self.positions, what, SiteError))
            if not positions:
                raise SiteError(f"{what} must be a list of integers, or None for all; got none.")
            object.__setattr__(self, "positions", positions)
        if self.head is not None:
            object.__setattr__(self, "head", checks.integer(self.head, "head", 0, SiteError))
        if self.head is not None and not self._has_heads:
            raise SiteError(
                f"hook {self.hook!r} has no head axis, so head={self.head} cannot be selected. "
                "Leave head=None, or use a hook such as 'attn.hook_z' or 'attn.hook_pattern'."
            )
        if self.subspace is not None:
            checks.tensor(self.subspace, "subspace", "component, width", SiteError)
            basis = self.subspace.double()  # which autocast leaves as it is
            gram = basis.T @ basis
            if not torch.allclose(gram, torch.eye(len(gram)).to(gram), atol=1e-4):
                raise SiteError(
                    f"the subspace at {self.hook!r} must have orthonormal columns; their Gram "
                    "matrix is not the identity. Pass torch.linalg.qr(subspace).Q."
                )

    @classmethod
    def at(
        cls,
        component: str,
        layer: int,
        positions: Sequence[int] | None = None,
        head: int | None = None,
    ) -> "Site":
        """The site of a component of a block.

        Args:
            component: Such as ``"resid_pre"`` or ``"z"``, or another name that TransformerLens has
                for it.
            layer: Of the block, counted from 0.
            positions: As in ``Site``.
            head: As in ``Site``.

        Raises:
            SiteError: No such component, or positions or a head that it cannot have.
        """
        layer = checks.integer(layer, "layer", 0, SiteError)
        return cls(hook_name(component_of(component, layer)[0], layer), positions, head)

    @property
    def component(self) -> str:
        """The last part of the hook's name: which activation it is."""
        return self.hook.rsplit(".", 1)[-1].removeprefix("hook_")

    @property
    def layer(self) -> int | None:
        """Block index, or None for hooks outside the blocks."""
        parts = self.hook.split(".")
        inside = parts[0] == "blocks" and len(parts) > 2 and parts[1].isdecimal()
        return int(parts[1]) if inside else None

    def __str__(self) -> str:
        if self.layer is None:
            return self.hook
        return f"L{self.layer}{'' if self.head is None else f'H{self.head}'} {self.component}"

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Site) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.hook, self.positions, self.head, id(self.subspace)

    @property
    def _has_heads(self) -> bool:
        return self.component in _HEAD_FIRST | _HEAD_SECOND

    @property
    def position_axis(self) -> int:
        """The axis of positions in what is read."""
        return 2 if self.component in _HEAD_FIRST and self.head is None else 1

    def _index(self, activation: Tensor) -> tuple[Any, ...]:
        """Indices of this site's positions and head in ``activation``, keeping their order."""
        dense = isinstance(activation, Tensor) and activation.layout == torch.strided
        n_axes = activation.ndim if dense else 0
        if (n_axes != 4) if self._has_heads else (n_axes < 2):
            axes = "4 axes" if self._has_heads else "axes of sequences and positions"
            raise SiteError(
                f"an activation at {self.hook!r} must be a tensor with {axes}; got "
                f"{shown(activation)}."
            )
        head: Any = slice(None) if self.head is None else self.head
        axis = 2 if self.component in _HEAD_FIRST else 1
        length = activation.shape[axis]
        n_heads = activation.shape[3 - axis] if self._has_heads else 0
        if self.head is not None and not 0 <= self.head < n_heads:
            raise SiteError(
                f"head {self.head} at {self.hook!r} is outside the {n_heads} heads. Count from 0."
            )
        if self.subspace is not None and len(self.subspace) != activation.shape[-1]:
            raise SiteError(
                f"the subspace at {self.hook!r} has {len(self.subspace)} components, the "
                f"activation {activation.shape[-1]}."
            )
        if self.positions is None:
            positions: Any = slice(None)
        else:
            outside = [p for p in self.positions if not -length <= p < length]
            if outside:
                raise SiteError(
                    f"position {outside[0]} at {self.hook!r} is outside the {length} positions of "
                    "the input. Choose positions within the sequence."
                )
            positions = list(self.positions)
        if self.component in _HEAD_FIRST:
            return (slice(None), head, positions)
        if self.component in _HEAD_SECOND:
            return (slice(None), positions, head)
        return (slice(None), positions)

    def read(self, activation: Tensor) -> Tensor:
        """The part of ``activation`` at this site (a copy), projected on the subspace if any.

        Args:
            activation: ``[batch, …]``, as the hook has it.

        Returns:
            ``[batch, …]``, with the positions and the head that were chosen.

        Raises:
            SiteError: No activation of the hook's axes, or a position, head or subspace that it
                does not have.
        """
        value = activation[self._index(activation)].clone()
        return value if self.subspace is None else value @ self.subspace.to(value)

    def write(self, activation: Tensor, value: Tensor) -> Tensor:
        """A copy of ``activation`` in which this site holds ``value`` (as ``read`` gives it).

        Args:
            activation: ``[batch, …]``, as the hook has it.
            value: ``[batch, …]``, in the shape that ``read`` gives; with a subspace, whole
                activations.

        Returns:
            ``[batch, …]``.

        Raises:
            SiteError: As for ``read``.
        """
        index = self._index(activation)
        edited = activation.clone()
        if not isinstance(value, Tensor):
            raise SiteError(
                f"what is written at {self.hook!r} must be a tensor; got {shown(value)}."
            )
        try:
            if self.subspace is not None:
                basis = self.subspace.to(activation)
                current = activation[index]
                value = current + (value - current @ basis) @ basis.T
            edited[index] = value.to(edited.dtype)
        except (RuntimeError, TypeError) as error:
            raise SiteError(
                f"what is written at {self.hook!r} does not fit there: the site holds "
                f"{shown(activation[index])}; got {shown(value)}."
            ) from error
        return edited


@dataclass(frozen=True)
class Band:
    """Attention of every head to a band of keys just before each query; read only.

    Reads ``[batch, head, query, offset]``: entry ``offset`` is the attention of the query at
    position ``t`` to the key at ``t - offsets[offset]``. Every such key must exist.

    Attributes:
        hook: Full hook name of an attention pattern.
        queries: Query positions.
        offsets: Query position minus key position.
    """

    hook: str
    queries: tuple[int, ...]
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("queries", "offsets"):
            found = checks.integers(getattr(self, name), name, SiteError)
            object.__setattr__(self, name, tuple(found))

    def read(self, activation: Tensor) -> Tensor:
        """The attention weights in the band.

        Args:
            activation: ``[batch, head, query, key]``.

        Returns:
            ``[batch, head, query, offset]``.

        Raises:
            SiteError: No pattern, or a band that reaches outside the sequence.
        """
        checks.tensor(activation, "activation", "batch, head, query, key", SiteError)
        queries = torch.tensor(self.queries, device=activation.device)[:, None]
        keys = queries - torch.tensor(self.offsets, device=activation.device)
        if int(keys.min()) < 0 or int(queries.max()) >= activation.shape[-2]:
            raise SiteError(
                f"the band of offsets {self.offsets} at queries {self.queries[:1]}… reaches "
                f"outside the {activation.shape[-2]} positions of {self.hook!r}. Use later queries."
            )
        return activation[:, :, queries, keys]


def check_hooks(model: HookedModel, hooks: Iterable[str]) -> None:
    """Raise a SiteError that names the nearest hooks if ``model`` lacks one of ``hooks``.

    Args:
        model: A hooked model.
        hooks: Full hook names.

    Raises:
        SiteError: A name that ``model.hook_dict`` does not have.
        DataError: No hooked model.
    """
    subject, known = subject_of(model), model.hook_dict
    for hook in checks.listed(hooks, "hooks", "names of hooks", SiteError):
        if not isinstance(hook, str) or hook not in known:
            why = " (it has no MLPs)" if not subject.has_mlp and "mlp" in str(hook) else ""
            run = [name for name in known if subject.has_mlp or "mlp" not in name]
            raise SiteError(
                f"the model has no hook {hook!r}{why}. {nearest(hook, run)} "
                "List them all with model.hook_dict."
            )
