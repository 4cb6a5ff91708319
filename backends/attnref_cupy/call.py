"""The one form that padded batches and packed sequences are brought to.

A `Call` is what every launch is made from: arrays, sizes, and who sees whom. It is decided
once, on the host and from what the host knows, and handed to kernels as `Arguments`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem, VarlenProblem, Window
from attnref_cupy import structures
from attnref_cupy.layout import four_axes, integers_of, lined_up, pointer
from attnref_cupy.machine import HOPPER, chip_of
from attnref_cupy.structures import KINDS, OPEN

TINY = 1e-30
"""A scale below it might vanish when multiplied by a logarithm, a cap's inverse overflow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """Attention in its common form.

    Attributes:
        q: `(B, Hq, Sq, D)`, or packed `(Tq, Hq, D)`.
        k: Likewise with Hkv and Sk.
        v: Likewise with Dv.
        entries: Batch entries, or sequences.
        heads: Query heads and key/value heads.
        tokens: Sq and Sk, or Tq and Tk.
        sizes: D and Dv.
        scale: Multiplies the accumulated score.
        window: Inclusive bounds of the band.
        offset: The position of the first query: a number, an array with one for each
            entry, or `"end"`.
        softcap: Bound of the scores.
        mask: With four axes, to be broadcast.
        bias: Likewise.
        sinks: `(Hq,)`.
        lens: Real lengths of queries and keys `(B,)` of a padded batch.
        starts: Prefix sums of queries and keys `(n + 1,)` of packed sequences.
        groups: Whether the device multiplies by warpgroups, as Hopper does.
    """

    q: Any
    k: Any
    v: Any
    entries: int
    heads: tuple[int, int]
    tokens: tuple[int, int]
    sizes: tuple[int, int]
    scale: float
    window: Window
    offset: Any
    softcap: float | None
    mask: Any = None
    bias: Any = None
    sinks: Any = None
    lens: tuple[Any, Any] = (None, None)
    starts: tuple[Any, Any] = (None, None)
    groups: bool = False

    @property
    def packed(self) -> bool:
        """Whether sequences lie end to end on one axis."""
        return self.starts[0] is not None

    @property
    def batch(self) -> int:
        """Batch entries of the arrays; packed sequences share one."""
        return 1 if self.packed else self.entries

    @property
    def group(self) -> int:
        """Query heads that share a key/value head (A2)."""
        Hq, Hkv = self.heads
        return Hq // Hkv if Hkv else 1

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of one number per row: `(B, Hq, Sq)`, or packed `(Hq, Tq)`."""
        rows = (self.heads[0], self.tokens[0])
        return rows if self.packed else (self.entries, *rows)

    @property
    def is_plain(self) -> bool:
        """Whether a score is a product times a positive number, which keeps their order."""
        return self.softcap is None and self.bias is None and self.scale > TINY

    @property
    def band(self) -> tuple[int, int]:
        """Return how far a row sees to both sides, a number for an offset included.

        A bound that hides nobody is dropped: causality from the end is nothing to
        a single query.
        """
        left, right = self.window
        Sq, Sk = self.tokens
        at = self.offset if isinstance(self.offset, int) else None
        if at is not None:
            left = None if left is None or left - at >= Sq - 1 else left - at
            right = None if right is None or right + at >= Sk - 1 else right + at
        return (OPEN if left is None else left, OPEN if right is None else right)

    def arguments(self, **more: Any) -> np.ndarray:
        """Fill in the structure that kernels of attention are given.

        Args:
            more: Arrays of tokens and of rows by their names in it, `dbias`, `dsinks`
                and `tiles`.
        """
        made = np.zeros((), structures.ARGUMENTS)
        for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv"):
            made[name] = structures.tokens(more.get(name, getattr(self, name, None)), self.packed)
        for name in ("lse", "delta", "dlse"):
            made[name] = structures.rows(more.get(name), self.packed)
        for name in ("mask", "bias", "dbias"):
            made[name] = structures.table(more.get(name, getattr(self, name, None)))
        for name, x in self._integers().items():
            made[name] = structures.integers(x)
        for name, x in (("sinks", self.sinks), ("dsinks", more.get("dsinks"))):
            made[name] = 0 if x is None else pointer(x)
        for name, x in (("sink_kind", self.sinks), ("bias_kind", self.bias)):
            made[name] = 0 if x is None else KINDS[x.dtype.name]
        made["left"], made["right"] = self.band
        made["scale"], made["softcap"] = self.scale, self.softcap or 0.0
        made["from_end"] = self._bounded and isinstance(self.offset, str)
        made["entries"], made["heads"], made["group"] = self.entries, self.heads[0], self.group
        made["Sq"], made["Sk"] = self.tokens
        made["D"], made["DV"] = self.sizes
        made["tiles"] = more["tiles"]
        return made

    @property
    def _bounded(self) -> bool:
        return self.window != (None, None)

    def _integers(self) -> dict[str, Any]:
        """Return what only the device knows, by its name in the structure."""
        (q_lens, k_lens), (q_starts, k_starts) = self.lens, self.starts
        offset = self.offset if self._bounded else 0
        return {
            "q_lens": q_lens,
            "k_lens": k_lens,
            "q_starts": q_starts,
            "k_starts": k_starts,
            "offset": None if isinstance(offset, int | str) else offset,
        }


def call_of(problem: AttentionProblem | VarlenProblem) -> Call:
    """Bring a problem to the common form."""
    p = problem
    shared: dict[str, Any] = {
        "q": p.q,
        "k": p.k,
        "v": p.v,
        "scale": p.scale,
        "window": p.window,
        "offset": integers_of(p.q_offset),
        "softcap": None if p.softcap is None else max(p.softcap, TINY),
        "sinks": lined_up(p.sinks),
        "groups": chip_of(p.q.device.id).capability == HOPPER,
    }
    if isinstance(p, VarlenProblem):
        return Call(
            entries=p.cu_q.shape[0] - 1,
            heads=(p.q.shape[1], p.k.shape[1]),
            tokens=(p.q.shape[0], p.k.shape[0]),
            sizes=(p.q.shape[2], p.v.shape[2]),
            starts=(integers_of(p.cu_q), integers_of(p.cu_k)),
            **shared,
        )
    B, Hq, Hkv, Sq, Sk, D, Dv = p.sizes
    return Call(
        entries=B,
        heads=(Hq, Hkv),
        tokens=(Sq, Sk),
        sizes=(D, Dv),
        mask=four_axes(p.mask),
        bias=four_axes(p.bias),
        lens=(integers_of(p.q_lens), integers_of(p.kv_lens)),
        **shared,
    )
