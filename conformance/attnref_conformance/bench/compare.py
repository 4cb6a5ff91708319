"""Two runs beside each other, each difference with a band that its noise explains.

A machine is slower on one day than on another, and so are the backend's peers, whose code
did not change. They were timed in the same turns, so a backend is compared as its time over
theirs, turn by turn: what slows a whole turn down cancels. The band is how far the medians
of two runs of the same code may be apart, with a floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import correlation, fmean, median, quantiles

from attnref_conformance.bench.results import Row, Run

ERRORS = 3.5
"""Standard errors in a band: hundreds of rows are compared, and none may be called by chance."""

FLOOR = 0.08
"""A difference that is never called: where code lies in memory alone makes some percent."""

PLANTED = 0.2
"""A slowdown that has to be called; a row too noisy for that says so."""

FEWEST = 5
"""Samples under which nobody knows how noisy a row is."""

MOST_ALIKE = 0.9
"""Resemblance of neighbouring turns beyond which a run says nothing new."""

# The standard error of a median is sqrt(pi / 2) of a mean's, and a normal distribution's
# quartiles are 1.349 standard deviations apart.
_OF_IQR = 1.2533 / 1.349


@dataclass(frozen=True)
class Change:
    """How one pass of a row changed.

    Attributes:
        key: Table, row and pass.
        ratio: Time after over time before; more than 1 is slower.
        band: How far from 1 the ratio of the same code may be, as a factor.
        beside: The peers that it was held to; empty if to nobody.
        verdict: `"slower"`, `"faster"`, `"same"`, or `"unclear"` where noise hides 20 %.
    """

    key: tuple[str, str, str]
    ratio: float
    band: float
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
    same = _same_peers(before, after)
    changes = tuple(
        _change(old[key], new[key], before.backend, after.backend, trusted=same)
        for key in old
        if key in new
    )
    return Comparison(
        changes,
        tuple(" | ".join(key) for key in old if key not in new),
        tuple(" | ".join(key) for key in new if key not in old),
        tuple(_notes(before, after, trusted=same)),
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


def _change(before: Row, after: Row, old: str, new: str, *, trusted: bool) -> Change:
    peers = [n for n in before.timings if trusted and n not in (old, new) and n in after.timings]
    shared = tuple(n for n in peers if _whole(before, old, n) and _whole(after, new, n))
    first, second = _logs(before, old, shared), _logs(after, new, shared)
    apart = median(second) - median(first)
    few = min(len(first), len(second)) < FEWEST
    band = max(log(1 + FLOOR), ERRORS * sqrt(_error(first) ** 2 + _error(second) ** 2))
    if few or (abs(apart) <= band and band >= log(1 + PLANTED)):
        verdict = "unclear"
    elif apart > band:
        verdict = "slower"
    else:
        verdict = "faster" if apart < -band else "same"
    return Change(before.key, exp(apart), exp(band), shared, verdict)


def _whole(row: Row, ours: str, peer: str) -> bool:
    """Tell whether two contenders were timed in the same turns."""
    return len(row.timings[ours].samples) == len(row.timings[peer].samples)


def _logs(row: Row, ours: str, peers: Sequence[str]) -> list[float]:
    """Return the logarithm of the time of every turn, over the peers' mean of the same turn."""
    own = [log(t) for t in row.timings[ours].samples]
    if not peers:
        return own
    theirs = zip(*(row.timings[n].samples for n in peers), strict=True)
    return [t - fmean(map(log, turn)) for t, turn in zip(own, theirs, strict=True)]


def _error(logs: Sequence[float]) -> float:
    """Return the standard error of a median, from the quartiles, which outliers do not move.

    Turns of a machine that wanders during a run are no independent witnesses: the error
    grows with how much a turn resembles the one before.
    """
    if len(logs) < FEWEST:
        return 0.0
    low, _, high = quantiles(logs, n=4)
    alike = min(max(_resemblance(logs), 0.0), MOST_ALIKE)
    return _OF_IQR * (high - low) / sqrt(len(logs)) * sqrt((1 + alike) / (1 - alike))


def _resemblance(logs: Sequence[float]) -> float:
    """Return the correlation of a turn's rank with that of the turn before."""
    order = sorted(range(len(logs)), key=lambda n: logs[n])
    rank = {turn: place for place, turn in enumerate(order)}
    ranks = [float(rank[n]) for n in range(len(logs))]
    return correlation(ranks[1:], ranks[:-1])


def table(found: Comparison) -> str:
    """Write a comparison for a terminal, the largest slowdown first."""
    lines = [f"note: {note}" for note in found.notes]
    for change in sorted(found.changes, key=lambda c: -c.ratio):
        held = f", beside {', '.join(change.beside)}" if change.beside else ", beside nobody"
        lines.append(
            f"{change.verdict:<8}{change.ratio:6.3f}x of the time"
            f" (band {1 / change.band:.3f} to {change.band:.3f}{held})"
            f"  {' | '.join(change.key)}"
        )
    lines += [f"gone    {key}" for key in found.gone] + [f"new     {key}" for key in found.new]
    counts = {v: sum(c.verdict == v for c in found.changes) for v in _VERDICTS}
    lines.append(", ".join(f"{n} {v}" for v, n in counts.items()))
    return "\n".join(lines)


_VERDICTS = ("slower", "faster", "same", "unclear")
