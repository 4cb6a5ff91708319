"""The one form that all attention is brought to, and its scores.

Padded batches, packed sequences and windows differ in who may see whom and in nothing
else. A `Call` holds what they share; its `pairs` answers for one block of rows at a
time, so that no mask and no score of size `Sq x Sk` ever exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

At = tuple[slice, ...]
"""A block: one slice per axis."""

BLOCK = 2**22
"""Scores in a block: enough to keep a GPU busy, 16 MiB in float32."""

ROWS = 64
"""Rows in a block however long they are: the keys are read again for each block."""


class Pairs(NamedTuple):
    """What there is to know about one block of rows and the keys they may see.

    Attributes:
        keys: No key outside is visible to any row of the block.
        seen: `True` where visible, broadcasts to `(b, Hq, rows, keys)`; `None` is all.
        bias: Added to the scores, broadcasts likewise; `None` is nothing.
    """

    keys: slice
    seen: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """Attention in its common form.

    Attributes:
        q: `(B, Hq, Sq, D)` in the caller's dtype, as k and v are.
        k: `(B, Hkv, Sk, D)`.
        v: `(B, Hkv, Sk, Dv)`.
        scale: A number, or `(Hq,)`.
        pairs: Answers for batch entries and rows.
        dtype: What to compute in.
        softcap: Bound of the scores.
        sink: Extra logit of each row, broadcasts to `(B, Hq, Sq)`.
        bias_shape: The shape of the bias's gradient, with four axes.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float | torch.Tensor
    pairs: Callable[[slice, slice], Pairs]
    dtype: torch.dtype
    softcap: float | None = None
    sink: torch.Tensor | None = None
    bias_shape: tuple[int, ...] | None = None

    @property
    def rows(self) -> tuple[int, int, int]:
        """The shape of one number per row, `(B, Hq, Sq)`."""
        B, Hq, Sq, _ = self.q.shape
        return B, Hq, Sq

    def sink_rows(self) -> torch.Tensor:
        """Make a tensor of every row's sink; minus infinity, which is none, without."""
        rows = self.q.new_full(self.rows, -torch.inf, dtype=self.dtype)
        return rows if self.sink is None else rows.copy_(self.sink)

    def blocks(self) -> Iterator[tuple[slice, slice, Pairs]]:
        """Walk batch entries and rows in blocks of about `BLOCK` scores."""
        B, Hq, Sq = self.rows
        row = max(1, Hq * self.k.shape[2])
        rows = max(1, min(Sq, max(ROWS, BLOCK // row)))
        entries = max(1, BLOCK // (row * rows))
        for b in _cut(B, entries):
            for i in _cut(Sq, rows):
                pairs = self.pairs(b, i)
                if pairs.keys.start < pairs.keys.stop:
                    yield b, i, pairs


class Scores(NamedTuple):
    """The scores of a block on their way: `q . k`, capped, and biased."""

    similar: torch.Tensor
    c: torch.Tensor
    s: torch.Tensor


def scores(call: Call, q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None) -> Scores:
    """Scale, cap, then add the bias (B1 to B3)."""
    similar = by_group(q, k.mT)
    scale = call.scale
    c = similar * (scale if isinstance(scale, float) else scale[:, None, None])
    if call.softcap is not None:
        c = call.softcap * torch.tanh(c / call.softcap)
    return Scores(similar, c, c if bias is None else c + bias)


def by_group(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiply each query head of `x` with its key/value head of `y` (A2)."""
    B, Hq, n, _ = x.shape
    return (grouped(x, y.shape[1]) @ y).reshape(B, Hq, n, y.shape[3])


def grouped(x: torch.Tensor, Hkv: int) -> torch.Tensor:
    """Let the query heads of a group share an axis with the rows.

    A matrix product then reads a key/value head once for its whole group, and the
    transposed product adds the group up, in the precision it accumulates in (E3).
    """
    B, Hq, n, D = x.shape
    return x.reshape(B, Hkv, (Hq // Hkv if Hkv else 0) * n, D)


def part(x: torch.Tensor, at: At) -> torch.Tensor:
    """Take a block of what broadcasts: an axis of length one is taken whole."""
    whole = slice(None)
    return x[tuple(whole if n == 1 else s for n, s in zip(x.shape, at, strict=True))]


def _cut(n: int, step: int) -> Iterator[slice]:
    return (slice(a, min(a + step, n)) for a in range(0, n, step))
