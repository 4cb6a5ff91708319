"""What a run says: for a terminal, and as JSON."""

import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attnref.backend import Backend
from attnref_conformance import SUITE_VERSION
from attnref_conformance.case import DTYPES
from attnref_conformance.profiles import DEFAULT, PROFILES
from attnref_conformance.status import Outcome, Status

LEVELS = {
    1: "forward",
    2: "forward with lse and merge",
    3: "gradients",
    4: "windows",
    5: "packed sequences",
}
"""What each level covers; a level is claimed only whole."""

_EXECUTED = (Status.PASS, Status.QUALITY)
_MARKS = {Status.PASS: "green", Status.QUALITY: "yellow", Status.UNSUPPORTED: "dim"}


@dataclass(frozen=True)
class Report:
    """The outcomes of a run and what they were outcomes of."""

    backend: Backend
    outcomes: Sequence[Outcome]
    partial: bool

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that make the run fail, a run that executed nothing included."""
        failed = [o for o in self.outcomes if o.status.failure]
        if not any(o.status in _EXECUTED for o in self.outcomes) and not failed:
            nothing = "no case was executed: everything was declined, or nothing was selected"
            failed = [Outcome("run", "H2", 0, "", "", (), Status.VACUOUS, nothing)]
        return failed

    @property
    def passed(self) -> bool:
        """Whether nothing failed and something ran."""
        return not self.failures

    def level(self, number: int, dtype: str) -> str:
        """Return `"claimed"`, or what stands in the way of a level in a dtype."""
        mine = [o for o in self.outcomes if o.level == number and o.dtype == dtype]
        if any(o.status.failure for o in mine):
            return "failed"
        if any(o.status is Status.UNSUPPORTED for o in mine):
            declined = all(o.status is Status.UNSUPPORTED for o in mine)
            return "declined" if declined else "in part"
        if self.partial or not mine:
            return "not whole"
        return "claimed"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "schema": 1,
            "suite": SUITE_VERSION,
            "attnref": metadata.version("attnref"),
            "backend": self.backend.name,
            "profile": getattr(self.backend, "profile", DEFAULT),
            "package": package_of(self.backend),
            "package_hash": package_hash(self.backend),
            "machine": machine(),
            "versions": versions(),
            "partial": self.partial,
            "passed": self.passed,
            "counts": dict(Counter(o.status for o in self.outcomes)),
            "levels": {str(n): {dtype: self.level(n, dtype) for dtype in DTYPES} for n in LEVELS},
            "outcomes": [o.as_json() for o in self.outcomes],
        }

    def write(self, folder: Path) -> Path:
        """Write the JSON report into a folder and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.backend.name}.json"
        path.write_text(_lines(self.as_json()), encoding="utf-8")
        return path

    def print(self, console: Console) -> None:
        """Print the page that an author reads."""
        console.print(self._clauses())
        if not self.partial:
            console.print(self._grid())
            console.print(self._levels())
        _print_declines(console, self.outcomes)
        _print_qualities(console, self.outcomes)
        _print_failures(console, self.failures)
        counts = Counter(o.status for o in self.outcomes)
        said = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        verdict = "conforms" if self.passed else "does not conform"
        scope = " in this part of the suite" if self.partial else ""
        style = "bold green" if self.passed else "bold red"
        console.print(f"[{style}]{self.backend.name} {verdict}{scope}[/]: {said}")

    def _clauses(self) -> Table:
        table = Table("clause", *DTYPES, title="Per clause", title_justify="left")
        for clause in sorted({o.clause for o in self.outcomes}):
            mine = [o for o in self.outcomes if o.clause == clause]
            table.add_row(clause, *(_cell(o for o in mine if o.dtype == d) for d in DTYPES))
        return table

    def _grid(self) -> Table:
        table = Table("operation", "feature", *DTYPES, title="Coverage", title_justify="left")
        operations = dict.fromkeys(o.operation for o in self.outcomes)
        for operation in operations:
            mine = [o for o in self.outcomes if o.operation == operation]
            table.add_section()
            features = sorted({f for o in mine for f in o.features})
            for feature in ["all", *features]:
                used = [o for o in mine if feature == "all" or feature in o.features]
                cells = (_cell(o for o in used if o.dtype == d) for d in DTYPES)
                table.add_row(operation if feature == "all" else "", feature, *cells)
        return table

    def _levels(self) -> Table:
        table = Table("level", "covers", *DTYPES, title="Levels", title_justify="left")
        for number, covers in LEVELS.items():
            table.add_row(f"L{number}", covers, *(self.level(number, d) for d in DTYPES))
        return table


def _lines(report: dict[str, Any]) -> str:
    """Write a report as JSON of one line per outcome, so that two reports compare well."""
    outcomes = ",\n".join(json.dumps(o) for o in report["outcomes"])
    head = json.dumps({**report, "outcomes": []}, indent=1)
    return head.removesuffix("[]\n}") + f"[\n{outcomes}\n]\n}}\n"


def _cell(outcomes: Iterable[Outcome]) -> str:
    counts = Counter(o.status for o in outcomes)
    parts = []
    for status, n in counts.items():
        word = "" if status is Status.PASS else f" {str(status).lower()}"
        parts.append(f"[{_MARKS.get(status, 'red')}]{n}{word}[/]")
    return ", ".join(parts)


def _cases(n: int) -> str:
    return "case" if n == 1 else "cases"


def _print_declines(console: Console, outcomes: Sequence[Outcome]) -> None:
    reasons = Counter(reason for o in outcomes for reason in o.reasons)
    if reasons:
        console.print("[bold]Declined[/]")
    for reason, n in reasons.most_common():
        console.print(f"  {n:5} {_cases(n)}: {reason}", highlight=False, markup=False)


def _print_qualities(console: Console, outcomes: Sequence[Outcome]) -> None:
    remarked = [o for o in outcomes if o.status is Status.QUALITY]
    if remarked:
        console.print("[bold]Correct, but not as good as it could be[/]")
    for o in remarked[:20]:
        console.print(f"  {o.id}: {o.message}", highlight=False, markup=False)
    if len(remarked) > 20:  # a page, not a list
        console.print(f"  and {len(remarked) - 20} more")


def _print_failures(console: Console, failures: Sequence[Outcome]) -> None:
    """Print the first failure of every clause, and how many there are."""
    by_clause: dict[str, list[Outcome]] = {}
    for o in failures:
        by_clause.setdefault(o.clause, []).append(o)
    for clause, mine in sorted(by_clause.items()):
        first = mine[0]
        console.print(
            f"[bold red]{clause}[/] {first.status}: {len(mine)} {_cases(len(mine))}, the first is"
        )
        console.print(f"  {first.id}\n  {first.message}", highlight=False, markup=False)


def package_of(backend: Backend) -> str:
    """Return the import name of the package that a backend's class is from."""
    return type(backend).__module__.partition(".")[0]


def package_hash(backend: Backend) -> str:
    """Hash the sources of a backend's package: evidence goes stale when they change."""
    module = import_module(package_of(backend))
    digest = hashlib.sha256()
    origin = Path(module.__file__ or "")
    root = origin.parent
    files = [origin] if origin.name != "__init__.py" else sorted(root.rglob("*"))
    for path in files:
        if path.suffix in (".py", ".cu", ".cuh"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine() -> dict[str, str]:
    """Describe the machine: processor, system, and GPU if torch or CuPy sees one."""
    found = {"system": platform.system(), "processor": platform.machine()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python and of every array library that is loaded."""
    names = ("numpy", "torch", "triton", "cupy", "jax", "ml_dtypes")
    loaded = {
        n: str(getattr(sys.modules[n], "__version__", "?")) for n in names if n in sys.modules
    }
    return {"python": platform.python_version(), **loaded}


def profile_sentence(backend: Backend) -> str:
    """Say which arithmetic profile a backend is judged under."""
    name = getattr(backend, "profile", DEFAULT)
    return f"{name}: {PROFILES[name].meaning}"
