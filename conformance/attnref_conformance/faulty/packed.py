"""Faults of clause F1: sequences that lie end to end."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import VarlenProblem
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("F1")
class SequencesMeet(Tiled):
    """Lets each sequence see the first token of the next."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and len(p.cu_k) > 2:
            cu_k = p.cu_k.copy()
            cu_k[1:-1] += cu_k[1:-1] < cu_k[-1]
            p = replace(p, cu_k=cu_k, q_offset=p.offset)
        return super().pieces(p)


@breaks("F1")
class OneOffsetForAll(Tiled):
    """Takes the first sequence's offset for every one."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and not isinstance(p.offset, int):
            p = replace(p, q_offset=np.broadcast_to(p.offset[:1], p.offset.shape))
        return super().pieces(p)
