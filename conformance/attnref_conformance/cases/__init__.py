"""Every case of the suite, in the order of the clauses."""

from attnref_conformance.case import Case
from attnref_conformance.cases import (
    attention,
    data,
    dispatch,
    merging,
    packed,
    together,
    visibility,
    windows,
)

ALL: tuple[Case, ...] = (
    *attention.CASES,
    *visibility.CASES,
    *data.CASES,
    *merging.CASES,
    *packed.CASES,
    *windows.CASES,
    *dispatch.CASES,
    *together.CASES,
)
"""The cases of every operation; their ids are unique and stable."""
