"""What a case can end as, and what is kept of it."""

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
        seconds: Wall time of the case.
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
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON report keeps: what is said, without defaults."""
        said = asdict(self)
        blank = {f.name: f.default for f in fields(self)}
        kept = {n: x for n, x in said.items() if x != blank[n]}
        return {n: float(f"{x:.3g}") if isinstance(x, float) else x for n, x in kept.items()}
