"""What the package's own families have, from files that are read in no time.

The registry knows it from the families themselves, which load torch. ``listing.json`` in a family's
folder says the same; ``python -m mtd_lens.listing`` writes it anew. Where other packages offer
something, or the registry is loaded already, it is asked itself.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mtd_lens.errors import ArgumentError, no_additive_form, shown, unknown_model, unknown_task
from probes import checks, files
from probes.errors import InputPathError

FOLDER = Path(__file__).parent / "families"
FILE = "listing.json"
GROUPS = ("mtd_lens.families", "mtd_lens.tasks", "mtd_lens.models")


def described(task: Any) -> str:
    """A task in a sentence: its own ``description``, or else its ``repr``."""
    return str(getattr(task, "description", None) or repr(task))


def made() -> dict[str, dict[str, Any]]:
    """By family, what the registry knows: algorithms, forms of tables, tasks and models."""
    from mtd_lens.registry import list_families, list_models, list_tasks, load_task

    names = list_models()
    tasks = {name: load_task(name) for name in list_tasks()}
    found: dict[str, dict[str, Any]] = {}
    for family in list_families().values():
        own = {name: task for name, task in tasks.items() if task.family == family.name}
        additive = family.additive
        sizes = [] if additive is None else [additive.sizes(task) for task in own.values()]
        found[family.name] = {
            "algorithms": [algorithm.id for algorithm in family.algorithms],
            "forms": list(dict.fromkeys(form for forms in sizes for form in forms)),
            "lengths": {name: [family.shortest(t), t.seq_len] for name, t in own.items()},
            "tasks": {name: described(task) for name, task in own.items()},
            "models": [name for name in names if name.partition("/")[0] in own],
        }
    return found


@functools.cache
def _stored() -> dict[str, dict[str, Any]]:
    """By family, what the files say."""
    paths = sorted(FOLDER.glob(f"*/{FILE}"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _is_whole() -> bool:
    """Whether the files say all that the registry would."""
    families = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    offered = any(metadata.entry_points(group=group) for group in GROUPS)
    return families == set(_stored()) and not offered and "mtd_lens.registry" not in sys.modules


def listed() -> dict[str, dict[str, Any]]:
    """By family, its ``algorithms``, ``forms``, ``tasks`` with what they are, and ``models``.

    The ``lengths`` of a task are its shortest context and its longest.
    """
    return _stored() if _is_whole() else made()


def models() -> list[str]:
    """The names of all models, sorted."""
    return sorted(name for family in listed().values() for name in family["models"])


def tasks() -> list[tuple[str, str, str]]:
    """Every task's name, its family, and what it is, sorted."""
    return sorted(
        (name, family, words)
        for family, own in listed().items()
        for name, words in own["tasks"].items()
    )


def choices(what: str) -> str:
    """The package's own ``"algorithms"`` or ``"forms"`` in words, by family where it matters."""
    by_family = {family: found[what] for family, found in _stored().items() if found[what]}
    if len(by_family) == 1:
        return ", ".join(*by_family.values())
    return "; ".join(f"of {family}: {', '.join(found)}" for family, found in by_family.items())


def check_model(
    name: str,
    algorithm: str | None = None,
    form: str | None = None,
    lengths: Sequence[int] | None = None,
    additive: bool = False,
) -> None:
    """Check what was asked of a model as far as its name, or its folder, says.

    Args:
        name: Of a model, or a folder.
        algorithm: What it is held against.
        form: Of a table of evidence.
        lengths: Of contexts.
        additive: Whether a table of evidence is fitted to it.

    Raises:
        UnknownNameError: Neither a known name nor a folder.
        ArgumentError: What its family does not have, or its context not take.
        ModelError: Its family has no tables of evidence.
    """
    found = listed()
    if not any(name in own["models"] for own in found.values()):
        if not os.path.isdir(name):
            raise unknown_model(name, models())
        lengths = None  # the model may have another context than its task
    family, task = _family_and_task(name, found)
    own = found.get(family)
    if own is None:
        return
    if algorithm is not None:
        checks.choice(algorithm, f"{family} algorithm", own["algorithms"], ArgumentError)
    if additive and own["tasks"] and not own["forms"]:
        raise no_additive_form(family)
    if form is not None and own["forms"]:
        checks.choice(form, "form of a table", own["forms"], ArgumentError)
    for length in lengths or ():
        low, high = own["lengths"][task]
        checks.integer(length, "a context length", low, ArgumentError, maximum=high)


def check_alike(names: Sequence[str]) -> None:
    """Check that models, by name or folder, are of one family, so that they share claims.

    Raises:
        ArgumentError: They are not.
    """
    found = listed()
    families = {family: name for name in names if (family := _family_and_task(name, found)[0])}
    if len(families) > 1:
        which = " and ".join(f"{shown(name)} of {family}" for family, name in families.items())
        raise ArgumentError(
            "models beside each other are scored on the same claims, and each task family has its "
            f"own: {which}. Score each family's models by themselves."
        )


def _family_and_task(name: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """Of a model with a known name, or of the checkpoint or run in a folder."""
    task = name.partition("/")[0]
    for family, own in found.items():
        if name in own["models"]:
            return family, task
    for file in ("manifest.json", "run.json"):
        with contextlib.suppress(InputPathError, KeyError, TypeError):
            return str(files.read_json(Path(name) / file)[0]["task"]["family"]), ""
    return "", ""


def check_task(name: str) -> None:
    """Raise an UnknownNameError where a task is of no known name and is no file either."""
    if not os.path.isfile(name) and name not in (known := [task for task, *_ in tasks()]):
        raise unknown_task(name, known)


if __name__ == "__main__":
    for family, found in made().items():
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (FOLDER / family / FILE).write_text(f"{text}\n", encoding="utf-8")
