"""What a set of outcomes amounts to: counts, levels, verdict. Recomputed to verify a report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from attnref_conformance.case import DTYPES
from attnref_conformance.status import Outcome, Status

LEVELS = {
    1: "forward",
    2: "forward with lse and merge",
    3: "gradients",
    4: "windows",
    5: "packed sequences",
}
"""What each level covers; a level is claimed only whole."""

EXECUTED = (Status.PASS, Status.QUALITY)
"""How a case can end that the backend really computed, and rightly."""


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that make a run fail, a run that executed nothing included."""
    failed = [o for o in outcomes if o.status.failure]
    if not failed and not any(o.status in EXECUTED for o in outcomes):
        nothing = "no case was executed: everything was declined, or nothing was selected"
        failed = [Outcome("run", "H2", 0, "", "", (), Status.VACUOUS, nothing)]
    return failed


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count the outcomes by status."""
    return {str(status): n for status, n in Counter(o.status for o in outcomes).items()}


def level(outcomes: Iterable[Outcome], number: int, dtype: str, *, partial: bool) -> str:
    """Return `"claimed"`, or what stands in the way of a level in a dtype."""
    mine = [o for o in outcomes if o.level == number and o.dtype == dtype]
    if any(o.status.failure for o in mine):
        return "failed"
    if any(o.status is Status.UNSUPPORTED for o in mine):
        declined = all(o.status is Status.UNSUPPORTED for o in mine)
        return "declined" if declined else "in part"
    if partial or not mine or any(o.status is Status.NOT_RUN for o in mine):
        return "not whole"
    return "claimed"


def levels(
    outcomes: Sequence[Outcome], *, partial: bool, numbers: Iterable[int] = tuple(LEVELS)
) -> dict[str, dict[str, str]]:
    """Return the state of every level in every dtype."""
    return {
        str(n): {dtype: level(outcomes, n, dtype, partial=partial) for dtype in DTYPES}
        for n in numbers
    }


def statistics(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Sum up the errors per dtype, of forward cases and of gradients."""
    return [
        {"dtype": dtype, "part": part, **_summary(mine)}
        for dtype in DTYPES
        for part in ("forward", "gradients")
        if (mine := [o for o in outcomes if _measured(o) and (o.dtype, _part(o)) == (dtype, part)])
    ]


def _measured(o: Outcome) -> bool:
    return o.status in EXECUTED and o.elements > 0


def _part(o: Outcome) -> str:
    return "gradients" if "gradients" in o.features else "forward"


def _summary(mine: Sequence[Outcome]) -> Mapping[str, Any]:
    """Sum up; the bias of all is the mean of the cases' own, weighted by their elements."""
    elements = sum(o.elements for o in mine)
    nearest = max(mine, key=lambda o: o.utilisation)
    return {
        "cases": len(mine),
        "utilisation": _digits(median(o.utilisation for o in mine)),
        "nearest": _digits(nearest.utilisation),
        "nearest_id": nearest.id,
        "ratio": _digits(max(o.ratio for o in mine)),
        "ulp": _digits(max(o.ulp for o in mine)),
        "bias": _digits(sum(o.bias * o.elements for o in mine) / elements),
        "determinism": determinism(mine),
    }


def determinism(outcomes: Iterable[Outcome]) -> str:
    """Return the class of all: bitwise only if every case that was asked is; empty if none was."""
    asked = {o.determinism for o in outcomes} - {""}
    return "varies" if "varies" in asked else "bitwise" if asked else ""


def _digits(x: float) -> float:
    return float(f"{x:.3g}")
