"""What is said of a run, before anything is formatted.

The one model of every format. It is made of a report's content alone, so that a page can be
written of a report that was judged on another machine, long ago.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from attnref_conformance.case import DTYPES
from attnref_conformance.clauses import Clause, clause
from attnref_conformance.profiles import PROFILES
from attnref_conformance.report import claims
from attnref_conformance.status import Outcome, Status


@dataclass(frozen=True)
class Cell:
    """The outcomes of one place in a table, counted: the gravest first."""

    counts: Sequence[tuple[Status, int]]

    @property
    def gravest(self) -> Status | None:
        """The status that decides how the cell looks; `None` if it is empty."""
        return self.counts[0][0] if self.counts else None

    @property
    def words(self) -> list[str]:
        """What the cell says: a pass is a number, everything else has its word."""
        return [f"{n}{'' if s is Status.PASS else f' {word(s)}'}" for s, n in self.counts]


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is about, and a cell per dtype."""

    heads: tuple[str, ...]
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Declined:
    """A reason for declining, and the cases that were declined for it."""

    reason: str
    ids: Sequence[str]


@dataclass(frozen=True)
class Failure:
    """The failures of one clause.

    Attributes:
        clause: The clause.
        outcomes: Every failure of it, the one that is shown first.
        judged: How many cases of the clause were judged.
        common: What the failures have in common that the passes have not; may be empty.
        first: Whether no clause before it shows the same cause.
    """

    clause: Clause
    outcomes: Sequence[Outcome]
    judged: int
    common: str
    first: bool = True

    @property
    def shown(self) -> Outcome:
        """The failure that is shown whole."""
        return self.outcomes[0]


_WORDS = {Status.UNSUPPORTED: "declined", Status.PASS: "passed", Status.FAIL: "failed"}


def word(status: Status) -> str:
    """Say a status within a sentence."""
    return _WORDS.get(status, str(status).lower())


def cases(n: int) -> str:
    """Count cases in words."""
    return f"{n:,} case{'' if n == 1 else 's'}"


class Page:
    """What is said of a run.

    Args:
        content: The content of a JSON report.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.name: str = content["backend"]
        self.partial: bool = content["partial"]
        self.passed: bool = content["passed"]

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """The outcomes, in the order of the suite."""
        return [Outcome.from_json(o) for o in self.content["outcomes"]]

    @cached_property
    def dtypes(self) -> list[str]:
        """The dtypes that were judged: a part of the suite may leave some out."""
        judged = {o.dtype for o in self.outcomes}
        return [d for d in DTYPES if d in judged] or [*DTYPES]

    @property
    def claim(self) -> str:
        """The verdict, without its scope."""
        return "conforms" if self.passed else "does not conform"

    @property
    def verdict(self) -> str:
        """The verdict, without the name."""
        return self.claim + (" in this part of the suite" if self.partial else "")

    @property
    def summary(self) -> str:
        """One sentence on what was judged and what failed."""
        scope = ", a part of the suite" if self.partial else ""
        judged = f"{cases(len(_judged(self.outcomes)))} judged{scope}"
        if self.passed:
            return f"{judged}: none failed."
        failed = claims.failures(self.outcomes)
        broken = ", ".join(sorted({o.clause for o in failed}))
        many = "clauses" if ", " in broken else "clause"
        return f"{judged}: {len(failed):,} failed, on the {many} {broken}."

    @property
    def counts(self) -> list[tuple[Status, int]]:
        """The outcomes by status, the most frequent first."""
        counted = Counter({Status(s): n for s, n in self.content["counts"].items()})
        return counted.most_common()

    @property
    def profile(self) -> str:
        """The arithmetic profile, in a sentence."""
        name = self.content["profile"]
        return f"{name}: {PROFILES[name].meaning}" if name in PROFILES else name

    @property
    def device(self) -> str:
        """The device that the run was on."""
        machine = self.content["machine"]
        return str(machine.get("gpu", f"CPU ({machine['processor']})"))

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What makes the report evidence: names and what they are."""
        c, machine = self.content, self.content["machine"]
        gpu = [f"{n} {machine[n]}" for n in ("driver", "cuda", "capability") if n in machine]
        libraries = ", ".join(f"{n} {v}" for n, v in c["versions"].items())
        forbidden = ", ".join(c.get("forbidden", []))
        return [
            ("judged on", ", ".join([self.device, machine["system"], *gpu])),
            ("made", c["made"]),
            ("suite", c["suite"]),
            ("attnref", c["attnref"]),
            ("profile", self.profile),
            ("libraries", libraries),
            *([("not importable", forbidden)] if forbidden else []),
            ("package", c["package"]),
            ("hash of its sources", c["package_hash"]),
            ("digest of this report", c["digest"]),
        ]

    @property
    def levels(self) -> list[tuple[str, str, Mapping[str, str]]]:
        """Every level, what it covers, and its state per dtype."""
        stated, newer = self.content["levels"], dict.fromkeys(DTYPES, "not whole")
        return [
            (f"L{n}", covers, newer | stated.get(str(n), {})) for n, covers in claims.LEVELS.items()
        ]

    @property
    def clauses(self) -> list[Row]:
        """What happened on every clause."""
        return [
            self._row((c, clause(c).title), [o for o in self.outcomes if o.clause == c])
            for c in sorted({o.clause for o in self.outcomes})
        ]

    @property
    def grid(self) -> list[Row]:
        """What happened to every operation, and to every feature of it."""
        rows = []
        for operation in dict.fromkeys(o.operation for o in self.outcomes):
            mine = [o for o in self.outcomes if o.operation == operation]
            rows.append(self._row((operation, "all"), mine))
            for feature in sorted({f for o in mine for f in o.features}):
                used = [o for o in mine if feature in o.features]
                rows.append(self._row((operation, feature), used))
        return rows

    def _row(self, heads: tuple[str, ...], outcomes: Sequence[Outcome]) -> Row:
        return Row(heads, {d: _cell(o for o in outcomes if o.dtype == d) for d in self.dtypes})

    def declined(self, name: str = "") -> list[Declined]:
        """Return the reasons for declining, of one clause or of all; the most frequent first."""
        ids: dict[str, list[str]] = {}
        for o in self.outcomes:
            for reason in o.reasons if name in ("", o.clause) else ():
                ids.setdefault(reason, []).append(o.id)
        return sorted((Declined(*item) for item in ids.items()), key=lambda d: -len(d.ids))

    @property
    def remarks(self) -> list[Outcome]:
        """The cases that are correct, but not as good as they could be."""
        return [o for o in self.outcomes if o.status is Status.QUALITY]

    @cached_property
    def failures(self) -> list[Failure]:
        """The failures by clause, and the clauses by cause: the plainest of each comes first."""
        by_clause: dict[str, list[Outcome]] = {}
        for o in claims.failures(self.outcomes):
            by_clause.setdefault(o.clause, []).append(o)
        failures = [self._failure(name, failed) for name, failed in sorted(by_clause.items())]
        # The clause that a mistake is about fails most nearly whole, and asks for little else.
        failures.sort(key=lambda f: (-self._share(f), len(f.shown.features)))
        by_cause: dict[str, list[Failure]] = {}
        for f in failures:
            by_cause.setdefault(f.shown.cause or f.clause.id, []).append(f)
        widest = sorted(by_cause.values(), key=lambda mine: -len(mine))
        return [replace(f, first=f is mine[0]) for mine in widest for f in mine]

    def _share(self, failure: Failure) -> float:
        passed = sum(
            o.clause == failure.clause.id and o.status in claims.EXECUTED for o in self.outcomes
        )
        return len(failure.outcomes) / (len(failure.outcomes) + passed)

    def _failure(self, name: str, failed: Sequence[Outcome]) -> Failure:
        judged = _judged(o for o in self.outcomes if o.clause == name)
        passed = [o for o in self.outcomes if o.status in claims.EXECUTED]
        failed = sorted(failed, key=lambda o: not o.call)
        return Failure(clause(name), failed, len(judged), _common(failed, passed))

    @property
    def causes(self) -> list[tuple[str, list[str]]]:
        """What the failures come down to, and the clauses that show it; the widest first."""
        shown: dict[str, list[str]] = {}
        for failure in self.failures:
            if failure.shown.cause:
                shown.setdefault(failure.shown.cause, []).append(failure.clause.id)
        return list(shown.items())


_GRAVE = (
    Status.CRASH,
    Status.FAIL,
    Status.ERROR,
    Status.VACUOUS,
    Status.STALE,
    Status.NOT_RUN,
    Status.UNSUPPORTED,
    Status.QUALITY,
    Status.PASS,
)


def _cell(outcomes: Iterable[Outcome]) -> Cell:
    counted = Counter(o.status for o in outcomes)
    return Cell([(s, counted[s]) for s in _GRAVE if counted[s]])


def _judged(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.status is not Status.NOT_RUN]


def _traits(o: Outcome) -> set[str]:
    """Name what a case is, for comparison with others."""
    base = o.id.rpartition("[")[0]
    part = "gradients" if "gradients" in o.features else "lse" if base.endswith("-lse") else "out"
    return {f"`{o.operation}`", o.dtype, f"`{part}`", *(f"`{f}`" for f in o.features)} - {"``", ""}


def _common(failed: Sequence[Outcome], passed: Sequence[Outcome]) -> str:
    """Say what failing cases have in common, and whether any passing case has it all."""
    if not failed:
        return ""
    shared = set.intersection(*map(_traits, failed))
    rare = {t for t in shared if sum(t in _traits(o) for o in passed) < len(passed) / 2}
    if not rare:
        return ""
    # The trait that fewest passing cases have says most.
    having = {t: sum(t in _traits(o) for o in passed) for t in rare}
    named = sorted(rare, key=lambda t: (having[t], t))
    also = sum(rare <= _traits(o) for o in passed)
    who = "All of them use" if len(failed) > 1 else "It uses"
    them = ", ".join(named)
    if also == 0:
        return f"{who} {them}; no case that passed does."
    return f"{who} {them}; so {'does' if also == 1 else 'do'} {cases(also)} that passed."
