"""How time and memory grow with length: a power, fitted to the longer half of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from attnref_conformance.bench.results import Run


@dataclass(frozen=True)
class Curve:
    """One contender's sweep.

    Attributes:
        who: The contender.
        what: `"seconds"` or `"bytes"`.
        passes: `"forward"` or `"backward"`.
        points: Length and value, in the order of lengths.
        exponent: The power that the longer half grows by; `None` of fewer than two points.
    """

    who: str
    what: str
    passes: str
    points: tuple[tuple[int, float], ...]

    @property
    def exponent(self) -> float | None:
        """The slope of the longer half between logarithms; short calls are all overhead."""
        longer = self.points[len(self.points) // 2 :] if len(self.points) > 3 else self.points
        return power(longer)


def power(points: Sequence[tuple[float, float]]) -> float | None:
    """Fit a power by least squares between logarithms.

    Args:
        points: Length and value, both positive.

    Returns:
        The exponent; `None` where there are fewer than two lengths.

    Example:
        >>> round(power([(1, 3.0), (2, 12.0), (4, 48.0)]), 6)
        2.0
    """
    logs = [(log(x), log(y)) for x, y in points]
    if len({x for x, _ in logs}) < 2:
        return None
    mx = sum(x for x, _ in logs) / len(logs)
    my = sum(y for _, y in logs) / len(logs)
    return sum((x - mx) * (y - my) for x, y in logs) / sum((x - mx) ** 2 for x, _ in logs)


def curves(run: Run) -> list[Curve]:
    """Return the sweeps of a run: seconds and bytes, forward and backward, of everyone."""
    found: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in sorted((r for r in run.rows if r.table == "sweep"), key=lambda r: r.length):
        for who, timing in row.timings.items():
            found.setdefault((who, "seconds", row.passes), []).append((row.length, timing.median))
            if timing.peak:
                found.setdefault((who, "bytes", row.passes), []).append((row.length, timing.peak))
    return [Curve(*key, tuple(points)) for key, points in found.items()]
