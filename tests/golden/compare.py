"""Compare recorded values: with the stored ones, or with those of another checkout.

    python tests/golden/compare.py                       this checkout with the stored values
    python tests/golden/compare.py --against CHECKOUT    this checkout with another one, exactly
    python tests/golden/compare.py --records OLD NEW     two folders that record.py wrote, exactly
    python tests/golden/compare.py --store FOLDER        renew the stored values from such a folder

Only paths of the older side are compared; newer ones are counted. A number ``new`` agrees with
``old`` where ``|new - old| <= within * max(1, |old|)``: absolutely for small numbers, relatively
for large ones, and for arrays entry by entry. ``within`` is 1e-6 for stored values and 0 otherwise,
except for what ``UNSTEADY`` names. Everything that is no number must be the same.

Stored numbers have ten digits. Arrays of more than ``WHOLE`` entries are stored as every n-th entry
and two checksums over all of them, ``Σ x / √n`` and ``Σ cos(i) x / √n`` with ``i`` counting the
entries; the square root keeps the rounding of a checksum that of a single entry.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, cases_named
from record import Record, Value, from_plain, read_record, to_plain

HERE = Path(__file__).parent
VALUES = HERE / "values"
CHECKOUT = HERE.parent.parent

WITHIN = 1e-6
"""Of stored values: rounding to ten digits, another processor's order of sums."""

UNSTEADY = re.compile(r"\d steps, free\]")
"""Paths that one checkout does not give to the bit twice: ``torch.linalg.lstsq`` rounds differently
from run to run, by about 1e-14."""

UNSTEADY_WITHIN = 1e-12

VALLEY = re.compile(r"\d steps, free\]\.parameters\.step_size")
"""Of stored values: nearby sizes of several free steps follow the target equally well, and another
processor's order of sums ends elsewhere in that valley."""

VALLEY_WITHIN = 1e-4

DIGITS = 10
WHOLE = 48
"""Arrays of so many entries are stored whole, of larger ones about as many entries."""


@dataclass
class Difference:
    """What became of one command's values.

    Attributes:
        case: Name of the model.
        command: Its name.
        n_values: How many numbers and texts were compared, entries of arrays counted singly.
        absolute: Largest absolute difference of two numbers, with its path.
        relative: Largest difference as a share of the larger magnitude, with its path.
        apart: Paths that do not agree, with both values.
        missing: Paths that are there no more.
        new: How many paths there are that were not before.
    """

    case: str
    command: str
    n_values: int = 0
    absolute: tuple[float, str] = (0.0, "")
    relative: tuple[float, str] = (0.0, "")
    apart: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    new: int = 0

    @property
    def agrees(self) -> bool:
        """Whether everything known is there and near enough."""
        return not self.apart and not self.missing

    @property
    def equal(self) -> bool:
        """Whether everything known is there and the same."""
        return self.agrees and self.absolute[0] == 0

    def rows(self) -> list[str]:
        """Lines of the table."""
        if self.equal:
            words = "equal"
        else:
            words = "within" if self.agrees else "APART"
            if self.absolute[0]:
                words += (
                    f": absolute {self.absolute[0]:.1e} at {self.absolute[1]}, "
                    f"relative {self.relative[0]:.1e} at {self.relative[1]}"
                )
        new = f"; {self.new} new paths" if self.new else ""
        head = f"{self.case:<42} {self.command:<15} {self.n_values:>7}  {words}{new}"
        return [
            head,
            *(f"    missing: {path}" for path in self.missing[:5]),
            *(f"    {line}" for line in self.apart[:5]),
            *([f"    … {len(self.apart) - 5} more apart"] if len(self.apart) > 5 else []),
        ]


def compared(case: str, old: Record, new: Record, within: float) -> list[Difference]:
    """Every command of the older record beside the newer one's."""
    return [
        _compared(case, command, values, new.get(command, {}), within)
        for command, values in old.items()
    ]


def _compared(
    case: str, command: str, old: Mapping[str, Value], new: Mapping[str, Value], within: float
) -> Difference:
    found = Difference(case, command, new=len(new.keys() - old.keys()))
    for path, before in old.items():
        if path in new:
            _compare(found, path, before, new[path], within)
        else:
            found.missing.append(path)
    return found


def _compare(found: Difference, path: str, old: Value, new: Value, within: float) -> None:
    a, b = _numbers(old), _numbers(new)
    if a is None or b is None or a.shape != b.shape:
        found.n_values += 1
        if a is not None or b is not None or old != new:
            found.apart.append(f"{path}: {_short(old)} became {_short(new)}")
        return
    found.n_values += a.size
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(b - a))
    gap = np.nan_to_num(gap, nan=np.inf)
    scale = np.nan_to_num(np.maximum(np.abs(a), np.abs(b)), nan=1.0, posinf=1.0)
    share = gap / np.where(scale > 0, scale, 1.0)
    found.absolute = max(found.absolute, (float(gap.max()), path), key=lambda each: each[0])
    found.relative = max(found.relative, (float(share.max()), path), key=lambda each: each[0])
    if UNSTEADY.search(path):
        within = max(within, UNSTEADY_WITHIN)
    if VALLEY.search(path) and within >= WITHIN:
        within = VALLEY_WITHIN
    allowed = within * np.maximum(1.0, np.nan_to_num(np.abs(a), nan=1.0, posinf=1.0))
    if (gap > allowed).any():
        worst = int(np.argmax(gap - allowed))
        found.apart.append(f"{path}: {float(a.flat[worst])!r} became {float(b.flat[worst])!r}")


def _numbers(value: Value) -> np.ndarray | None:
    """A number or an array in float64; None for what is neither."""
    if isinstance(value, bool | str) or value is None:
        return None
    return np.asarray(value, dtype=np.float64)


def _short(value: Value) -> str:
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)


def compact(found: Record) -> Record:
    """A record as it is stored: large arrays thinned, with their checksums."""
    return {
        command: {
            name: part for path, value in values.items() for name, part in _thinned(path, value)
        }
        for command, values in found.items()
    }


def _thinned(path: str, value: Value) -> Iterable[tuple[str, Value]]:
    if not isinstance(value, np.ndarray) or value.size <= WHOLE:
        return [(path, value)]
    flat = value.astype(np.float64).flatten()
    known = np.where(np.isfinite(flat), flat, 0.0)
    step = value.size // WHOLE | 1  # odd, so that entries of every column are seen
    root = math.sqrt(value.size)
    return [
        (f"{path}|shape", np.array(value.shape)),
        (f"{path}|every {step}th", flat[::step]),
        (f"{path}|sum", float(known.sum()) / root),
        (f"{path}|waves", float(known @ np.cos(np.arange(value.size))) / root),
        (f"{path}|not finite", int((known != flat).sum())),
    ]


def stored(case: Case) -> Record:
    """The stored values of a case."""
    plain = json.loads((VALUES / f"{case.name}.json").read_text(encoding="utf-8"))
    return {
        command: {
            f"{head}.{tail}" if head else tail: from_plain(value)
            for head, tails in groups.items()
            for tail, value in tails.items()
        }
        for command, groups in plain.items()
    }


def store(case: Case, found: Record) -> None:
    """Write the values of a case; paths are grouped by all but their last part."""
    plain: dict[str, dict[str, dict[str, Any]]] = {}
    for command, values in compact(found).items():
        groups = plain.setdefault(command, {})
        for path, value in values.items():
            head, _, tail = path.rpartition(".")
            groups.setdefault(head, {})[tail] = _rounded(to_plain(value))
    VALUES.mkdir(exist_ok=True)
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    (VALUES / f"{case.name}.json").write_text(text + "\n", encoding="utf-8")


def _rounded(plain: Any) -> Any:
    if isinstance(plain, Mapping):
        return {**plain, "values": [_rounded(value) for value in plain["values"]]}
    return float(f"{plain:.{DIGITS}g}") if isinstance(plain, float) else plain


def recorded(checkout: Path, folder: Path, words: list[str]) -> Path:
    """``folder``, with the records of a checkout; those that are there already are kept."""
    wanted = [case for case in cases_named(words) if not (folder / f"{case.name}.json").exists()]
    if wanted:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        names = [case.model for case in wanted]
        command = [sys.executable, HERE / "record.py", "--out", folder, "--cases", *names]
        subprocess.run(command, env=environment, check=True)
    return folder


def table(differences: Iterable[Difference]) -> bool:
    """Print what was found.

    Returns:
        Whether everything agrees.
    """
    print(f"{'model':<42} {'command':<15} {'values':>7}  found")
    agree, total = True, 0
    for difference in differences:
        print("\n".join(difference.rows()), flush=True)
        agree, total = agree and difference.agrees, total + difference.n_values
    print(f"{total} values: {'all agree' if agree else 'NOT all agree'}")
    return agree


def main() -> int:
    """Compare as the arguments say; 1 if something is apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument(
        "--reference-cache", type=Path, help="folder that keeps the other checkout's records"
    )
    parser.add_argument("--records", type=Path, nargs=2, metavar=("OLD", "NEW"))
    parser.add_argument("--store", type=Path, metavar="FOLDER")
    parser.add_argument("--within", type=float, help="in place of 1e-6 or 0")
    parser.add_argument("--cases", nargs="*", default=[], help="parts of the names of models")
    options = parser.parse_args()
    cases = cases_named(options.cases)
    if options.store:
        for case in cases:
            store(case, read_record(options.store / f"{case.name}.json"))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        exact = options.against is not None or options.records is not None
        within = options.within if options.within is not None else 0.0 if exact else WITHIN
        if options.records:
            before, now = options.records
        else:
            now = recorded(CHECKOUT, Path(scratch) / "now", options.cases)
            before = options.reference_cache or Path(scratch) / "before"
            if options.against:
                recorded(options.against, before, options.cases)

        def beside(case: Case) -> list[Difference]:
            new = read_record(now / f"{case.name}.json")
            if not exact:
                return compared(case.model, stored(case), compact(new), within)
            return compared(case.model, read_record(before / f"{case.name}.json"), new, within)

        return 0 if table(found for case in cases for found in beside(case)) else 1


if __name__ == "__main__":
    sys.exit(main())
