"""Two runs beside each other, each difference with an interval that their noise leaves open.

A machine is slower on one day than on another, and so are the backend's peers, whose code
did not change. They were timed in the same turns, so a backend is compared as its time over
theirs, turn by turn: what slows a whole turn down cancels. A peer has a bad day of its own, too,
and so a row is held to each by itself, and called where it changed beside all. Two processes of the same code
differ by more than their turns explain, and so a row has one figure for each process, and
its noise is how much those differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb, exp, inf, log
from statistics import median

from attnref_conformance.bench.results import Row, Run

CHANCE = 0.01
"""How often rows that did not change may be told apart, of two whole files, at most."""

FLOOR = 0.10
"""A difference that is never called: half of what has to be, and more than the part of a
machine's day that peers do not cancel."""

PLANTED = 0.2
"""A slowdown that has to be called; a row too noisy for that says so."""


@dataclass(frozen=True)
class Change:
    """How one pass of a row changed.

    Attributes:
        key: Table, row and pass.
        ratio: Time after over time before; more than 1 is slower. It is told beside the peer
            beside which it changed least.
        low: The least ratio that the processes of both runs leave open, beside any peer.
        high: The largest.
        beside: The peers that it was held to, one by one; empty if to nobody.
        verdict: `"slower"`, `"faster"`, `"same"`, or `"unclear"` where noise hides 20 %.
    """

    key: tuple[str, str, str]
    ratio: float
    low: float
    high: float
    beside: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Attributes:
        changes: Of every pass that both timed.
        gone: What only the first timed.
        new: What only the second timed.
        notes: What makes the comparison weaker than it could be.
    """

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> list[Change]:
        """What is called out."""
        return [change for change in self.changes if change.verdict == "slower"]


def compare(before: Run, after: Run) -> Comparison:
    """Compare the backend's rows of two runs.

    Args:
        before: The run that is compared with.
        after: The other; its backend may have another name.

    Returns:
        A verdict for each pass that both timed.
    """
    old = {row.key: row for row in before.rows if before.backend in row.timings}
    new = {row.key: row for row in after.rows if after.backend in row.timings}
    same, both = _same_peers(before, after), [key for key in old if key in new]
    names = before.backend, after.backend
    changes = tuple(
        _change(old[key], new[key], names, trusted=same, level=CHANCE / len(both)) for key in both
    )
    rows = [row for key in both for row in (old[key], new[key])]
    return Comparison(
        changes,
        tuple(" | ".join(key) for key in old if key not in new),
        tuple(" | ".join(key) for key in new if key not in old),
        (*_notes(before, after, trusted=same), *_few(rows, CHANCE / max(len(both), 1))),
    )


_LIBRARIES = (
    "torch",
    "cudnn",
    "numpy",
    "jax",
    "jaxlib",
    "flash-attn-4",
    "triton",
    "blas",
    "pinned",
)


def _same_peers(before: Run, after: Run) -> bool:
    return all(before.facts.get(name) == after.facts.get(name) for name in _LIBRARIES)


def _notes(before: Run, after: Run, *, trusted: bool) -> list[str]:
    said = []
    names = sorted({*before.facts, *after.facts} - {"package_hash"})
    for name in names:
        one, other = before.facts.get(name, "unknown"), after.facts.get(name, "unknown")
        if one != other:
            said.append(f"{name}: {one}, then {other}")
    if not trusted:
        said.append("the peers' libraries changed, so that rows are not held to them")
    return said


def _few(rows: Sequence[Row], level: float) -> list[str]:
    """Say which processes are too few for any verdict."""
    counts = sorted({max(1, len(row.processes)) for row in rows})
    need = next(n for n in range(2, 100) if 2 / comb(2 * n, n) <= level)
    if not counts or counts[0] >= need:
        return []
    seen = " or ".join(map(str, counts))
    told = f"it takes {need} in each run to tell {len(rows) // 2} rows apart"
    return [f"processes of a row: {seen}; {told}"]


def _change(
    before: Row, after: Row, names: tuple[str, str], *, trusted: bool, level: float
) -> Change:
    old, new = names
    peers = [n for n in before.timings if trusted and n not in names and n in after.timings]
    shared = tuple(n for n in peers if _whole(before, old, n) and _whole(after, new, n))
    beside = [
        tuple(map(exp, shift(figures(before, old, peer), figures(after, new, peer), level)))
        for peer in shared or (None,)
    ]
    ratios, lows, highs = zip(*beside, strict=True)
    if min(lows) > 1 and min(ratios) > 1 + FLOOR:
        verdict = "slower"
    elif max(highs) < 1 and max(ratios) < 1 / (1 + FLOOR):
        verdict = "faster"
    else:
        verdict = "unclear" if max(highs) >= 1 + PLANTED else "same"
    least = min(ratios, key=lambda ratio: abs(log(ratio)))
    return Change(before.key, least, min(lows), max(highs), shared, verdict)


def _whole(row: Row, ours: str, peer: str) -> bool:
    """Tell whether two contenders were timed in the same turns."""
    return len(row.timings[ours].samples) == len(row.timings[peer].samples)


def figures(row: Row, ours: str, peer: str | None) -> list[float]:
    """Return one figure for each process, the median of its turns.

    Args:
        row: A pass of a row.
        ours: The backend.
        peer: Who it is held to, if to anybody.

    Returns:
        The logarithm of its time, over the peer's in the same turn.
    """
    own = [[log(t) for t in part] for part in row.parts(ours)]
    if peer is None:
        return [median(turns) for turns in own]
    theirs = [[log(t) for t in part] for part in row.parts(peer)]
    parts = zip(own, theirs, strict=True)
    return [median(t - p for t, p in zip(*part, strict=True)) for part in parts]


def shift(
    first: Sequence[float], second: Sequence[float], level: float
) -> tuple[float, float, float]:
    """Return by how much two samples differ, with an interval of Mann and Whitney's test.

    The estimate is Hodges and Lehmann's: the median of all differences of one of the second
    and one of the first. The interval leaves out so many differences at both ends that, if
    the samples are of one distribution, of whatever form, it misses zero at most as often as
    the level says.

    Args:
        first: One sample.
        second: The other.
        level: How often the interval may miss.

    Returns:
        The estimate and both ends; those are infinite where the samples are too small.

    Example:
        >>> shift([0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3], 0.03)
        (1.0, 0.7, 1.3)
        >>> shift([0.0], [1.0], 0.03)
        (1.0, -inf, inf)
    """
    apart = sorted(y - x for x in first for y in second)
    left = len([n for n in accumulate(orders(len(first), len(second))) if
                2 * n <= level * comb(len(first) + len(second), len(first))])  # fmt: skip
    if left == 0:
        return median(apart), -inf, inf
    return median(apart), apart[left - 1], apart[-left]


def orders(m: int, n: int) -> list[int]:
    """Count the orders of two samples in which so many pairs are the wrong way round.

    Args:
        m: Size of one sample.
        n: Size of the other.

    Returns:
        The coefficients of the Gaussian binomial: how many orders have 0, 1, ... m n such pairs.

    Example:
        >>> orders(2, 2)
        [1, 1, 2, 1, 1]
    """
    found = [1] + [0] * (m * n)
    for k in range(1, n + 1):
        for u in range(m * n, m + k - 1, -1):
            found[u] -= found[u - m - k]
        for u in range(k, m * n + 1):
            found[u] += found[u - k]
    return found


def table(found: Comparison) -> str:
    """Write a comparison for a terminal, the largest slowdown first."""
    lines = [f"note: {note}" for note in found.notes]
    for change in sorted(found.changes, key=lambda c: -c.ratio):
        held = f", beside {', '.join(change.beside)}" if change.beside else ", beside nobody"
        lines.append(
            f"{change.verdict:<8}{change.ratio:6.3f}x of the time"
            f" ({change.low:.3f} to {change.high:.3f}{held})"
            f"  {' | '.join(change.key)}"
        )
    lines += [f"gone    {key}" for key in found.gone] + [f"new     {key}" for key in found.new]
    counts = {v: sum(c.verdict == v for c in found.changes) for v in _VERDICTS}
    lines.append(", ".join(f"{n} {v}" for v, n in counts.items()))
    return "\n".join(lines)


_VERDICTS = ("slower", "faster", "same", "unclear")
