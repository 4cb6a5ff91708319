"""Faults of clause A5: what a backend does to its inputs, and what it remembers."""

from typing import Any

import numpy as np

from attnref.problem import Result
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("A5")
class MutatedInput(Tiled):
    """Scales the queries in place."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        if p.q.flags.writeable and p.q.size:
            p.q[...] = p.q * 0.5
        return result


@breaks("A5")
class ReturnedView(Tiled):
    """Returns its input where every query has one key."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        same = np.array_equal(result.out, p.v) and result.out.dtype == p.v.dtype
        return Result(p.v, result.lse) if same else result


@breaks("A5")
class StaleCache(Tiled):
    """Remembers answers by the address of the queries."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen_before: dict[int, Result] = {}

    def attended(self, p: Any) -> Result:
        key = p.q.__array_interface__["data"][0]
        known = self.seen_before.get(key)
        if known is None or known.out.shape[:-1] != p.q.shape[:-1]:
            self.seen_before[key] = super().attended(p)
        return self.seen_before[key]
