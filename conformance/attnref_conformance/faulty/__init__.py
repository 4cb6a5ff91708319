"""Deliberately wrong backends: the judge is judged by catching every one.

A fault is a few lines over the judge's own tiled computation, and breaks the clause that
it names. `attnref conform attnref_conformance.faulty:dropped_rescale` must fail. `HONEST`
holds the other side: correct variants that must pass. `docs/kill-matrix.md` lists both.

A7 and H4 have no fault: they are promises of the core, and judged by its own tests.
"""

from attnref.backend import Backend
from attnref_conformance.faulty import (
    arrays,
    dispatch,
    gradients,
    merging,
    packed,
    protocol,
    scores,
    sinks,
    special,
    tiles,
    visibility,
    windows,
)
from attnref_conformance.faulty.fault import FAULTS, Fault
from attnref_conformance.faulty.variants import HONEST

_SUBJECTS = (
    arrays,
    protocol,
    scores,
    visibility,
    special,
    tiles,
    sinks,
    merging,
    gradients,
    packed,
    windows,
    dispatch,
)
"""Each module registers its faults when it is imported."""

__all__ = ["FAULTS", "HONEST", "Fault"]


def __getattr__(name: str) -> Backend:
    """Return a fault's, or an honest variant's, backend by name."""
    if name in FAULTS:
        return FAULTS[name].backend
    if name in HONEST:
        return HONEST[name]
    raise AttributeError(name)
