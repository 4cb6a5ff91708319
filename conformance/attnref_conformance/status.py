"""What a case can end as, and what is kept of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How one case ended.

    Only `PASS`, `QUALITY`, `UNSUPPORTED` and `NOT_RUN` are not failures.
    """

    PASS = "PASS"  # noqa: S105  # a verdict, not a password
    """Ran on the backend, within every hard limit."""
    QUALITY = "QUALITY"
    """Correct, but worse than an honest computation in the same precision."""
    UNSUPPORTED = "UNSUPPORTED"
    """Declared: the backend gave reasons, and refused when called all the same."""
    FAIL = "FAIL"
    """A wrong answer, or a broken promise."""
    CRASH = "CRASH"
    """The backend raised something other than a refusal."""
    ERROR = "ERROR"
    """The judge itself went wrong, or somebody skipped a case inside it."""
    VACUOUS = "VACUOUS"
    """Declared as supported and never exercised."""
    NOT_RUN = "NOT RUN"
    """The case is newer than the report, or was not asked for."""
    STALE = "STALE"
    """The evidence is of other code."""

    @property
    def failure(self) -> bool:
        """Whether a run with such a case has failed."""
        return self not in (Status.PASS, Status.QUALITY, Status.UNSUPPORTED, Status.NOT_RUN)


@dataclass(frozen=True)
class Element:
    """The element of a result that is furthest past its limit, in decimal digits.

    Text and not numbers: JSON has neither NaN nor infinity, and a report quotes.

    Attributes:
        array: The result that it is an element of, e.g. `"lse"`.
        at: Its index.
        got: What the backend returned there.
        expected: What the specification says.
        error: The distance between the two.
        limit: The largest distance that an honest computation may have there.
        wrong: How many elements of the array are past their limits.
        of: How many were compared.
    """

    array: str
    at: tuple[int, ...]
    got: str
    expected: str
    error: str
    limit: str
    wrong: int
    of: int


@dataclass(frozen=True)
class Outcome:
    """How one case ended on one backend in one dtype.

    Attributes:
        id: `"C5-no-row-sees-anything-lse[float16]"`.
        clause: The clause judged, e.g. `"C5"`.
        level: The conformance level that the case belongs to.
        operation: The operation called.
        dtype: The dtype judged in.
        features: The features that the call uses.
        status: How it ended.
        message: What was found, or the reasons for declining.
        codes: The codes of the reasons for declining.
        reasons: The reasons for declining, a sentence each.
        utilisation: The largest error divided by its limit.
        ratio: The largest error divided by that of an honest computation.
        ulp: The largest error in units in the last place, see `compare.Comparison`; of results
            in the dtype of the case, because others have digits that nobody computed.
        bias: Whether the errors lean to one side, from -1 to 1, see `compare.Comparison`.
        elements: How many elements `bias` is the mean of.
        length: The keys of the longest row, 0 where an operation has no rows of keys.
        determinism: `"bitwise"` if the same call gave the same bits again, `"varies"` if it
            did not, empty if it was not asked.
        element: The worst element, where one is wrong.
        seconds: Wall time of the case.
        cause: What the smallest call that still fails uses, and what is wrong with it; failures
            of one cause are likely to be one mistake.
        call: A program that shows the failure, to copy; see `attnref_conformance.replay`.
    """

    id: str
    clause: str
    level: int
    operation: str
    dtype: str
    features: tuple[str, ...]
    status: Status
    message: str = ""
    codes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    utilisation: float = 0.0
    ratio: float = 0.0
    ulp: float = 0.0
    bias: float = 0.0
    elements: int = 0
    length: int = 0
    determinism: str = ""
    element: Element | None = None
    seconds: float = 0.0
    cause: str = ""
    call: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON report keeps: what is said, without defaults."""
        said = asdict(self)
        blank = {f.name: f.default for f in fields(self)}
        kept = {n: x for n, x in said.items() if x != blank[n]}
        return {n: float(f"{x:.3g}") if isinstance(x, float) else x for n, x in kept.items()}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Outcome":
        """Return the outcome of which a JSON report keeps this."""
        given: dict[str, Any] = {n: tuple(x) if isinstance(x, list) else x for n, x in said.items()}
        if "element" in given:
            given["element"] = Element(**{**given["element"], "at": tuple(given["element"]["at"])})
        return cls(**{**given, "status": Status(given["status"])})
