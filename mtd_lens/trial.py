"""One model under test in an experiment: what claims look at, each part computed once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from mtd_lens.claims import Claim, QueryTokens, naming
from mtd_lens.contracts import Algorithm, CausalModel
from mtd_lens.errors import ArgumentError, SiteError
from mtd_lens.spaces import check_outputs
from probes import checks
from probes.capture import NaturalRuns, Readable
from probes.sites import Site
from probes.subject import HookedModel, subject_of

Answer = TypeVar("Answer")


class Memo:
    """What has been computed of objects that do not change, each once.

    A key names the objects by identity, which is kept: replaced tokens have results of their own.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def __call__(self, what: str, *objects: Any, compute: Callable[[], Any]) -> Any:
        """What ``compute`` returned the first time that it was asked for of these objects."""
        key = (what, *(o if isinstance(o, str | int) else id(o) for o in objects))
        if key not in self._found:
            self._found[key] = objects, compute()
        return self._found[key][1]


def checked_trial(trial: object) -> "Trial":
    """``trial``, if a test can be made of it.

    Raises:
        ArgumentError: It is no Trial.
    """
    return checks.instance(trial, Trial, "trial", ArgumentError, "Use Experiment.trial().")


@dataclass(frozen=True, eq=False)
class Trial:
    """One model under test with everything a claim may look at.

    Attributes:
        model: A hooked model.
        task: The task it is tested on.
        causal_model: The algorithm, its parameters fitted to the model that the scorecard is for.
        fit_tokens: ``[sequence, position]``: for fitting and for every choice (layer, head).
        tokens: ``[sequence, position]``: for scores alone.
        seed: Of pairs, controls and resampling.
        algorithm: That the causal model is of, if what it declares is asked for.
        complete: Whether every layer is measured, and controls beside it; or else, for a null or a
            ceiling, the layer that is best on the fit split alone.
        memo: What does not depend on the model, shared with other trials of the same experiment.
            What was read of the model itself is the trial's own, and goes with it.
    """

    model: HookedModel
    task: Any
    causal_model: CausalModel
    fit_tokens: Tensor
    tokens: Tensor
    seed: int
    algorithm: Algorithm | None = None
    complete: bool = True
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)

    def held_against(self, causal_model: CausalModel, algorithm: Algorithm) -> "Trial":
        """The same model, with all that was read of it, beside another algorithm.

        Args:
            causal_model: With its parameters.
            algorithm: That it is of.
        """
        other = replace(self, causal_model=causal_model, algorithm=algorithm)
        other.__dict__["_own"] = self._own
        return other

    @property
    def splits(self) -> tuple[Tensor, Tensor]:
        """Sequences for fits and choices, and those for scores, ``[sequence, position]`` each."""
        return self.fit_tokens, self.tokens

    @property
    def positions(self) -> tuple[int, ...]:
        """Query positions of the algorithm."""
        return self.causal_model.query_positions(self.tokens.shape[1])

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return subject_of(self.model).n_layers

    @cached_property
    def query(self) -> QueryTokens | None:
        """The tokens that belong to the query itself, if the algorithm says which."""
        declared = None if self.algorithm is None else self.algorithm.query
        return None if declared is None else declared(self.task)

    def more(self, n_sequences: int) -> Tensor:
        """Further sequences to fit on, which no other split holds.

        Each number has sequences of its own, the same ones for every model of the experiment.

        Args:
            n_sequences: How many, at least 1.

        Returns:
            ``[sequence, position]``.

        Raises:
            ArgumentError: No such number.
        """
        n_sequences = checks.integer(n_sequences, "n_sequences", 1, ArgumentError)
        return self.memo(
            "more",
            self.task,
            n_sequences,
            self.seed,
            compute=lambda: self.task.sample(n_sequences, checks.MAX_SEED - self.seed).tokens.to(
                self.fit_tokens.device
            ),
        )

    def run(self, tokens: Tensor) -> Mapping[str, Tensor]:
        """The algorithm's variables, ``[sequence, query, …]``.

        Args:
            tokens: ``[sequence, position]``, one of the splits.
        """
        causal = self.causal_model
        found = self.memo("run", causal, tokens, compute=lambda: causal.run(tokens))
        return {name: values.clone() for name, values in found.items()}

    def predictions(self, tokens: Tensor) -> Float[Tensor, "sequence outcome"]:
        """``[sequence, outcome]``: what the model predicts after the last position.

        Args:
            tokens: ``[sequence, position]``, one of the splits.
        """

        def compute() -> Tensor:
            outputs = check_outputs(self.natural(tokens).outputs)
            return self.task.outputs.prediction(self.model, outputs)

        return self._own("predictions", tokens, compute=compute).clone()

    def once(self, what: str, key: Iterable[Any], compute: Callable[[], Answer]) -> Answer:
        """What ``compute`` found the first time that it was asked for of this model and key.

        Args:
            what: It is.
            key: What it depends on beside the model.
            compute: Finds it.

        Raises:
            ArgumentError: No name of what it is, no key, or no function.
        """
        checks.text(what, "what", ArgumentError)
        objects = checks.listed(key, "key", "what the answer depends on", ArgumentError)
        checks.function(compute, "compute", ArgumentError)
        found: Answer = self._own(what, *objects, compute=compute)
        return found

    @cached_property
    def _own(self) -> Memo:
        return Memo()

    def natural(self, tokens: Tensor) -> NaturalRuns:
        """The model's runs on one of the splits: what is read of them is read once.

        Args:
            tokens: ``[sequence, position]``, one of the splits, or others that are kept.
        """
        return self._own("runs", tokens, compute=lambda: NaturalRuns(self.model, tokens))

    def read(self, tokens: Tensor, sites: Sequence[Readable]) -> list[Tensor]:
        """The activations at sites, ``[sequence, …]`` each.

        Args:
            tokens: ``[sequence, position]``, one of the splits.
            sites: Where.

        Raises:
            SiteError: Something else than sites, or one that the model does not have.
        """
        sites = checks.listed(sites, "sites", "sites", SiteError, Readable)
        return [values.clone() for values in self.natural(tokens).read(sites)]

    def read_for(self, claims: Iterable[Claim]) -> None:
        """Read in one pass all that the tests of claims will ask for.

        Args:
            claims: Those to come.

        Raises:
            ArgumentError: Something else than claims.
        """
        claims = checks.listed(claims, "claims", "claims", ArgumentError, Claim)
        sites: list[Any] = []
        for claim in claims:
            if hasattr(claim.measure, "reads"):
                with naming(claim):
                    sites += claim.measure.reads(self)
        for tokens in self.splits:
            self.natural(tokens).read(sites)
        last = (self.positions[-1],)
        at_last = [s for s in sites if isinstance(s, Site) and tuple(s.positions or ()) == last]
        self._own("at the last query", compute=lambda: list(dict.fromkeys(at_last)))

    def activations(self, tokens: Tensor, site: Site) -> Tensor:
        """The activation at a site in sequences of a test's own, ``[sequence, …]``.

        Where it is at the last query, all that tests ask for there is read in the same pass.

        Args:
            tokens: ``[sequence, position]``, which are kept.
            site: Where.

        Raises:
            SiteError: Something else than a site, or one that the model does not have.
        """
        checks.instance(site, Site, "site", SiteError)
        beside: list[Site] = self._own("at the last query", compute=list)
        found = self.natural(tokens).read([site, *(beside if site in beside else ())])
        return found[0]
