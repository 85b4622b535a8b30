"""What writing values into a model's runs does to its predictions."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.measures.pairs import Rows
from mtd_lens.measures.words import hook_of
from mtd_lens.spaces import check_outputs
from mtd_lens.trial import Trial, checked_trial
from probes.interchange import streams_of
from probes.patching.arrivals import arriving
from probes.patching.swaps import Write
from probes.subject import Subject


def at(trial: Trial, rows: Rows, site: probes.Site) -> Tensor:
    """The activation at a site in some sequences, ``[row, …]``.

    Where rows are given for each position, the site has positions as its first axis.

    Args:
        trial: Of whose model.
        rows: The sequences.
        site: Where.
    """
    found = trial.activations(rows.tokens, site)
    if rows.index.ndim == 1:
        return found[rows.index]
    return found[rows.index, torch.arange(rows.index.shape[1], device=found.device)]


def natural_predictions(trial: Trial, rows: Rows) -> Float[Tensor, "row outcome"]:
    """What the model predicts at the end of some sequences, ``[row, outcome]``.

    Args:
        trial: Of whose model.
        rows: The sequences.
    """
    return trial.predictions(rows.tokens)[rows.index]


def written_predictions(
    trial: Trial, base: Rows, writes: Mapping[str, Sequence[Write]]
) -> dict[str, Float[Tensor, "row outcome"]]:
    """What the model predicts with values written at each set of sites, by name.

    Args:
        trial: Of whose model.
        base: The sequences into whose runs is written.
        writes: By name, sites with what is written there, ``[row, …]``.
    """
    runs = trial.natural(base.tokens)
    read_out = trial.task.outputs.prediction
    return {
        name: read_out(trial.model, check_outputs(output))
        for name, output in probes.run_written(trial.model, runs, base.index, writes).items()
    }


def arriving_at(trial: Trial, base: Rows, writes: Sequence[Write], site: probes.Site) -> Tensor:
    """What arrives at a site, ``[row, …]``, with values written at others.

    Args:
        trial: Of whose model.
        base: The sequences into whose runs is written.
        writes: Sites with what is written there, ``[row, …]``.
        site: Where is read.
    """
    return arriving(trial.natural(base.tokens), base.index, writes, site)


class WritesAtLayers:
    """A test that writes at the same hook of one layer after another.

    Attributes:
        hook: Within a block, all heads; or a function of the model that names it.
        queries: At which query positions.
    """

    hook: str | Callable[[Subject], str]
    queries: slice

    def edits(self, trial: Trial) -> str:
        """The hook within a block that is edited."""
        checked_trial(trial)
        return hook_of(self.hook, trial)

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is written to, and the streams from which edited runs go on."""
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        return [*self.sites(trial).values(), *streams_of(trial.model)]

    def sites(self, trial: Trial) -> dict[int, probes.Site]:
        """By layer, where is written.

        Args:
            trial: The model under test.
        """
        hook, positions = self.edits(trial), trial.positions[self.queries]
        return {
            layer: probes.Site(f"blocks.{layer}.{hook}", positions)
            for layer in range(trial.n_layers)
        }
