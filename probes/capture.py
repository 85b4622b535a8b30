"""Batched activations at named sites, only those asked for.

Models are left as they were found: hooks of ours are removed (also after an exception), those of
the caller stay, and neither the mode nor the weights change.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from probes import checks
from probes.errors import DataError, SiteError, shown
from probes.passes import alone
from probes.sites import Band, Site, check_hooks
from probes.subject import HookedModel, subject_of
from probes.twins import stand_in

BATCH_SIZE = 32

Hook = tuple[str, Callable[..., Tensor | None]]


@runtime_checkable
class Readable(Protocol):
    """Anything with a hook name that can read its part of an activation."""

    @property
    def hook(self) -> str: ...  # noqa: D102

    def read(self, activation: Tensor) -> Tensor: ...  # noqa: D102


def read_activations(
    model: HookedModel, tokens: Tensor, sites: Mapping[str, Readable], batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """Activations at ``sites`` for every sequence, under the same names.

    Blocks after the last site are not run. A hook that runs several times in a pass, as that of a
    normalisation layer before queries, keys and values does, is read once if it holds the same each
    time.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        sites: What to read, by a name of the caller's.
        batch_size: Sequences a forward pass.

    Returns:
        By name, the activations at each site: ``[sequence, …]``, with the axes that its hook has.

    Raises:
        SiteError: A hook that the model does not have, that does not run, or that runs several
            times in a pass with different activations.
        DataError: Tokens that the model cannot read.
    """
    sites = checked_sites(sites)
    return _run(model, tokens, sites, batch_size, stop=_last_layer(model, sites.values()))[0]


def run_and_capture(
    model: HookedModel, tokens: Tensor, sites: Mapping[str, Readable], batch_size: int = BATCH_SIZE
) -> tuple[dict[str, Tensor], Tensor]:
    """What ``read_activations`` returns, and the outputs at the last position.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        sites: What to read, by a name of the caller's.
        batch_size: Sequences a forward pass.

    Returns:
        The activations by name, and ``[sequence, d_vocab_out]``.

    Raises:
        SiteError: A hook that the model does not have, that does not run, or that runs several
            times in a pass with different activations.
        DataError: Tokens that the model cannot read.
    """
    return _run(model, tokens, checked_sites(sites), batch_size, stop=None)


class NaturalRuns:
    """A model's unedited runs on some sequences: what is read of them is read once, and kept.

    Parts of an activation that is kept as a whole are not kept beside it.

    Args:
        model: A hooked model, whose weights and hooks stay as they are.
        tokens: ``[sequence, position]``.
        batch_size: Sequences a forward pass.
    """

    def __init__(self, model: HookedModel, tokens: Tensor, batch_size: int = BATCH_SIZE) -> None:
        self.model, self.tokens, self.batch_size = stand_in(model), tokens, batch_size
        self._found: dict[Readable, Tensor] = {}
        self.resumed: dict[Any, Any] = {}
        """By sites that are written, how runs go on from these ones, once that was tried."""

    def read(self, sites: Sequence[Readable]) -> list[Tensor]:
        """Activations at sites, ``[sequence, …]`` each; those not read yet in one pass.

        Args:
            sites: Where.

        Raises:
            SiteError: A hook that the model does not have, that does not run, or that runs several
                times in a pass with different activations.
            DataError: Tokens that the model cannot read.
        """
        unread = [site for site in dict.fromkeys(sites) if site not in self._found]
        known = {*self._found, *unread}
        parts = {site for site in unread if site != whole_of(site) and whole_of(site) in known}
        names = {f"{index}": site for index, site in enumerate(unread) if site not in parts}
        if names:
            found, self.outputs = run_and_capture(self.model, self.tokens, names, self.batch_size)
            self._found |= {site: found[name] for name, site in names.items()}
        return [
            site.read(self._found[whole_of(site)]) if site in parts else self._found[site]
            for site in sites
        ]

    @cached_property
    def outputs(self) -> Tensor:
        """Outputs at the last position, ``[sequence, outcome]``."""
        return last_outputs(self.model, self.tokens, self.batch_size)


def check_natural(natural: object, model: HookedModel, tokens: Tensor) -> None:
    """Raise a DataError for runs of another model, or that do not begin with these tokens."""
    if natural is None:
        return
    runs = checks.instance(natural, NaturalRuns, "natural", DataError)
    if runs.model is not model or not torch.equal(runs.tokens[: len(tokens)], tokens):
        raise DataError(
            "natural must hold runs of the same model on sequences that begin with tokens. Use "
            "NaturalRuns(model, tokens)."
        )


def whole_of(site: Readable) -> Readable:
    """The whole activation that a site is a part of, if it is one."""
    return Site(site.hook) if isinstance(site, Site) else site


@alone
def _run(
    model: HookedModel,
    tokens: Tensor,
    sites: Mapping[str, Readable],
    batch_size: int,
    stop: int | None,
) -> tuple[dict[str, Tensor], Tensor]:
    check_tokens(model, tokens)
    batch_size = checks.integer(batch_size, "batch_size", 1, DataError)
    check_hooks(model, (site.hook for site in sites.values()))
    found: dict[str, list[Tensor]] = {name: [] for name in sites}

    outputs: list[Tensor] = []

    def reader(name: str, site: Readable) -> Hook:
        parts = found[name]

        def keep(activation: Tensor, hook: object) -> None:
            own = activation if isinstance(site, Site | Band) else activation.clone()
            value = site.read(own).detach()
            if len(parts) == len(outputs):  # one a pass
                parts.append(value)
            elif not _same(parts[-1], value):
                raise SiteError(
                    f"hook {site.hook!r} runs more than once in a pass of this model, with "
                    "different activations, so there is no single one to read or to replace. "
                    "Choose a hook that runs once, such as one of the block's own."
                )

        return site.hook, keep

    hooks = [reader(name, site) for name, site in sites.items()]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        for batch in tokens.split(batch_size):
            outputs.append(model(batch, stop_at_layer=stop)[:, -1])
    silent = [sites[name].hook for name, parts in found.items() if not parts]
    if silent:
        why = (
            "Some hooks run only when they are switched on (set_use_attn_result, "
            "set_use_split_qkv_input)."
        )
        if "mlp" in silent[0] and not subject_of(model).has_mlp:
            why = "The model has no MLPs."
        raise SiteError(f"hook {silent[0]!r} exists but did not run in this model. {why}")
    # one at a time, so that parts and wholes do not stand in memory together
    return {name: torch.cat(found.pop(name)) for name in sites}, torch.cat(outputs)


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two activations are equal, NaN to NaN."""
    alike = first.shape == second.shape
    return alike and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def check_tokens(model: HookedModel, tokens: Tensor) -> None:
    """Raise a DataError unless ``tokens`` are sequences that ``model`` can read."""
    subject = subject_of(model)
    dense = isinstance(tokens, Tensor) and tokens.layout == torch.strided and not tokens.is_meta
    kind = shown(tokens)
    size = subject.vector_size
    if size is not None:
        real = dense and tokens.is_floating_point()
        if not real or tokens.ndim != 3 or tokens.shape[2] != size:
            raise DataError(
                "this model reads vectors: tokens must be a floating-point tensor, [sequence, "
                f"position, {size}]; got {kind}."
            )
        if not tokens.isfinite().all():
            raise DataError("tokens must be finite; they hold NaN or infinity.")
    else:
        whole = dense and tokens.dtype in (torch.int64, torch.int32)
        if not whole or tokens.ndim != 2:
            raise DataError(f"tokens must be an integer tensor, [sequence, position]; got {kind}.")
    if len(tokens) < 1 or not 1 <= tokens.shape[1] <= subject.n_ctx:
        raise DataError(
            f"tokens must hold sequences of 1 to {subject.n_ctx} positions, the model's context; "
            f"got shape {tuple(tokens.shape)}."
        )
    if size is None and (int(tokens.min()) < 0 or int(tokens.max()) >= subject.n_inputs):
        raise DataError(
            f"tokens must lie in 0 … {subject.n_inputs - 1}, the model's vocabulary; got "
            f"{int(tokens.min())} … {int(tokens.max())}."
        )


def check_source(tokens: Tensor, source: Tensor) -> None:
    """Raise a DataError unless ``source`` names a row of ``tokens`` for each of them."""
    what = "source, one row number of tokens for each sequence,"
    source = checks.tensor(source, what, "sequence", DataError, "integer")
    if (
        source.shape != tokens.shape[:1]
        or int(source.min()) < 0
        or int(source.max()) >= len(tokens)
    ):
        raise DataError(
            f"source must hold one row number of tokens, 0 … {len(tokens) - 1}, for each of the "
            f"{len(tokens)} sequences; got {source!r}."
        )


def last_outputs(model: HookedModel, tokens: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """The model's output at the last position.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        batch_size: Sequences a forward pass.

    Returns:
        ``[sequence, d_vocab_out]``: logits, or as the read-out is.

    Raises:
        DataError: Tokens that the model cannot read.
    """
    return _run(model, tokens, {}, batch_size, stop=None)[1]


def checked_sites(sites: object) -> Mapping[str, Readable]:
    """``sites``, if they are a mapping to what can be read.

    Raises:
        DataError: They are something else.
    """
    known = checks.mapping(sites, "sites", DataError)
    checks.listed(known.values(), "sites", "sites, by name", DataError, Readable)
    return known


def _last_layer(model: HookedModel, sites: Iterable[Readable]) -> int | None:
    """The layer before which a forward pass may stop, or None where it must run to the end."""
    sites = list(sites)
    check_hooks(model, [site.hook for site in sites])
    layers = [Site(site.hook).layer for site in sites]
    known = [layer for layer in layers if layer is not None]
    return max(known) + 1 if len(known) == len(layers) and known else None
