"""The one form that padded batches and packed sequences are brought to.

A `Call` is what every launch is made from: tensors, sizes, who sees whom, and what code
that needs. Deciding it once, on the host and from what the host knows, is what keeps the
kernels free of cases.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from attnref.problem import AttentionProblem, VarlenProblem, Window
from attnref_triton.layout import EIGHT, columns_in_eights, eights

FAR = 1 << 30
"""More tokens than a call may have, so that a bound there is none."""

Strides = tuple[int, int, int, int]


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
        sizes: D and Dv, rounded up to multiples of eight.
        scale: Multiplies the accumulated score.
        window: Inclusive bounds of the band.
        offset: The position of the first query: a number, a tensor with one for each
            entry, or `"end"`.
        softcap: Bound of the scores.
        mask: With four axes, to be broadcast.
        bias: Likewise.
        sinks: `(Hq,)`.
        lens: Real lengths of queries and keys `(B,)` of a padded batch.
        starts: Prefix sums of queries and keys `(n + 1,)` of packed sequences.
        precision: Of products of float32.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    entries: int
    heads: tuple[int, int]
    tokens: tuple[int, int]
    sizes: tuple[int, int]
    scale: float
    window: Window
    offset: int | torch.Tensor | str
    softcap: float | None
    mask: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    sinks: torch.Tensor | None = None
    lens: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    starts: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    precision: str = "ieee"

    def takes(self, problem: AttentionProblem | VarlenProblem) -> bool:
        """Tell whether the arrays of a problem are taken as they are."""
        sides = ("cu_q", "cu_k") if self.packed else ("q_lens", "kv_lens")
        names = ("q", "k", "v", "sinks", "q_offset", *sides)
        lengths = self.starts if self.packed else self.lens
        taken = (self.q, self.k, self.v, self.sinks, self.offset, *lengths)
        return all(getattr(problem, n) is x for n, x in zip(names, taken, strict=True))

    @property
    def batch(self) -> int:
        """Batch entries of the arrays; packed sequences share one."""
        return 1 if self.packed else self.entries

    @property
    def has_dense_bias(self) -> bool:
        """Whether there is one bias for each score."""
        return self.bias is not None and tuple(self.bias.shape) == self.scores

    @property
    def is_full(self) -> bool:
        """Whether by position and length every query sees every key."""
        return not self.band["RIGHT"] and self.lens == (None, None)

    @property
    def packed(self) -> bool:
        """Whether sequences lie end to end on one axis."""
        return self.starts[0] is not None

    @property
    def group(self) -> int:
        """Query heads that share a key/value head (A2)."""
        Hq, Hkv = self.heads
        return Hq // Hkv if Hkv else 1

    @property
    def scores(self) -> tuple[int, int, int, int]:
        """The shape of the scores, which masks and biases broadcast to."""
        return (self.entries, self.heads[0], *self.tokens)

    @property
    def sides(self) -> tuple[Any, Any]:
        """Starts and lengths of the queries and of the keys, as kernels take them."""
        return (self.starts[0], self.lens[0]), (self.starts[1], self.lens[1])

    @property
    def shape(self) -> str:
        """What happens to a product on its way to a score, see `tiles.score`.

        The short ways leave a scale or a cap to the exponential: a plain one's needs to keep the
        order of scores, and a mild cap's is as good as float32, see `tiles.bent`.
        """
        half = self.q.element_size() == 2
        if self.bias is not None:
            return "biased"
        if self.softcap is None:
            return "plain" if self.scale > TINY else "scaled"
        return "capped" if half and self.softcap <= MILD else "scaled"

    @cached_property
    def band(self) -> dict[str, Any]:
        """Who sees whom by position, as kernels take it.

        A bound that hides nobody is dropped: causality from the end is nothing to
        a single query.
        """
        left, right = self.window
        Sq, Sk = self.tokens
        offset = self.offset
        kind = "array"
        if isinstance(offset, int):
            kind = "number"
            left = None if left is None else left - offset
            right = None if right is None else right + offset
            if left is not None and left >= Sq - 1:
                left = None
            if right is not None and right >= Sk - 1:
                right = None
        elif isinstance(offset, str):
            kind = "end"
        if (left, right) == (None, None):
            kind = "number"
        return {
            "offset": offset if kind == "array" else None,
            "left": FAR if left is None else left,
            "right": FAR if right is None else right,
            "LEFT": left is not None,
            "RIGHT": (left, right) != (None, None),  # one kernel for windows of both kinds
            "OFFSET": kind,
        }

    def strides(self, x: torch.Tensor) -> Strides:
        """Return batch, head, row and column strides of a tensor of tokens."""
        if self.packed:
            token, head, column = x.stride()
            return 0, head, token, column
        return x.stride()

    def row_strides(self, x: torch.Tensor) -> Strides:
        """Return the strides of one number per row: `(B, Hq, Sq)`, or packed `(Hq, Tq)`."""
        return (0, *x.stride(), 1) if self.packed else (*x.stride(), 1)


TINY = 1e-30
"""A scale below it may vanish when multiplied by a logarithm, a cap's inverse overflow."""


MILD = 50.0
"""The largest soft cap whose scores may be computed in the short way."""


def call_of(problem: AttentionProblem | VarlenProblem, precision: str = "ieee") -> Call:
    """Bring a problem to the common form."""
    p = problem
    shared: dict[str, Any] = {
        "scale": p.scale,
        "window": p.window,
        "softcap": None if p.softcap is None else max(p.softcap, TINY),
        "sinks": _lined_up(p.sinks),
        "precision": precision,
    }
    if isinstance(p, VarlenProblem):
        return Call(
            q=columns_in_eights(p.q),
            k=columns_in_eights(p.k),
            v=columns_in_eights(p.v),
            entries=p.cu_q.shape[0] - 1,
            heads=(p.q.shape[1], p.k.shape[1]),
            tokens=(p.q.shape[0], p.k.shape[0]),
            sizes=(eights(p.q.shape[2]), eights(p.v.shape[2])),
            offset=_lined_up(p.q_offset),
            starts=(_lined_up(p.cu_q), _lined_up(p.cu_k)),
            **shared,
        )
    B, Hq, Hkv, Sq, Sk, D, Dv = p.sizes
    return Call(
        q=columns_in_eights(p.q),
        k=columns_in_eights(p.k),
        v=columns_in_eights(p.v),
        entries=B,
        heads=(Hq, Hkv),
        tokens=(Sq, Sk),
        sizes=(eights(D), eights(Dv)),
        offset=_lined_up(p.q_offset),
        mask=_four_axes(p.mask),
        bias=_four_axes(p.bias),
        lens=(_lined_up(p.q_lens), _lined_up(p.kv_lens)),
        **shared,
    )


def _lined_up(x: Any) -> Any:
    """Return numbers that lie next to one another: kernels read these without a stride."""
    return x.contiguous() if isinstance(x, torch.Tensor) else x


def _four_axes(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x[(None,) * (4 - x.ndim)]


def broadcast(x: torch.Tensor) -> Strides:
    """Return the strides of a tensor that is broadcast along its axes of length one."""
    b, h, i, j = (0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True))
    return b, h, i, j


def aligned(x: torch.Tensor, strides: Strides) -> bool:
    """Tell whether rows lie so that eight numbers of them can be read at a time."""
    *outer, column = strides
    whole = column == 1 and x.shape[-1] % EIGHT == 0
    return whole and x.data_ptr() % 16 == 0 and not any(s % EIGHT for s in outer)


def in_eights(strides: Strides) -> Strides:
    """Pass the strides of an aligned array as kernels take them."""
    b, h, i, j = strides
    return b // EIGHT, h // EIGHT, i // EIGHT, j
