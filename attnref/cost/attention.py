"""What a call of attention costs: dense, grouped, causal, in a band, with lengths, decoding."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from attnref.cost import traffic, visible
from attnref.cost.counts import Cost, Setting, Work
from attnref.cost.traffic import Extent, Options, Visits
from attnref.problem import Sizes, Window


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """A call of `attnref.attention`, as far as it has a cost.

    Sinks, lengths and offsets are a number for each head or entry, and not counted.

    Args:
        sizes: The letters of the notation.
        window: Inclusive bounds; a right bound of 0 is causal (C2).
        q_offset: Where the first query stands: one for all, or one for each entry (C3).
        q_lens: Queries of each entry (C4).
        kv_lens: Keys of each entry (C4).
        mask: Its values: they decide what is visible (C1).
        bias: Its shape.
        softcap: Whether scores are bounded.
        lse: Whether the log-sum-exp is written; what is kept includes it in any case.
        kept_elsewhere: Whether a layer behind keeps the output as its input.

    Example:
        >>> sizes = Sizes(B=1, Hq=12, Hkv=12, Sq=1024, Sk=1024, D=64, Dv=64)
        >>> call = Attention(sizes=sizes, window=(None, 0))
        >>> call.pairs == 12 * 1024 * 1025 // 2
        True
        >>> cost = call.forward(Setting(dtype="bfloat16"))
        >>> cost.untiled.bytes / cost.tiled.bytes > 7
        True
    """

    sizes: Sizes
    window: Window = (None, None)
    q_offset: int | tuple[int, ...] = 0
    q_lens: tuple[int, ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    mask: np.ndarray | None = None
    bias: tuple[int, ...] | None = None
    softcap: bool = False
    lse: bool = False
    kept_elsewhere: bool = False

    parameters = 0

    @cached_property
    def forms(self) -> list[visible.Form]:
        """Entries of the batch that are alike."""
        s = self.sizes
        return visible.forms(s.B, s.Sq, s.Sk, self.q_offset, self.q_lens, self.kv_lens)

    @cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, over the whole batch and all heads."""
        s = self.sizes
        if self.mask is None:
            return s.Hq * sum(f.times * visible.pairs(f, self.window) for f in self.forms)
        return visible.masked_pairs(
            s.B, s.Hq, s.Sq, s.Sk, self.mask,
            self.window, self.q_offset, self.q_lens, self.kv_lens,
        )  # fmt: skip

    @property
    def all_pairs(self) -> int:
        """Pairs of a query and a key, seen or not."""
        s = self.sizes
        return s.B * s.Hq * s.Sq * s.Sk

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Count a forward pass.

        Args:
            setting: The dtype and the size of the chip.

        Returns:
            Both ways of computing. What is kept are q, k and v, and beside them the
            weights if they are stored, the output and its log-sum-exp if not.

        Raises:
            InvalidProblem: The chip does not hold a query and a key.
        """
        s, item = self.sizes, setting.itemsize
        x, whole = self._extent(), self._whole()
        inputs = item * (s.B * s.Hq * s.Sq * s.D + s.B * s.Hkv * s.Sk * (s.D + s.Dv))
        cap = 1 + self.softcap
        return Cost(
            tiled=Work(
                multiply_adds=x.pairs * (s.D + s.Dv),
                exponentials=x.pairs * cap,
                bytes=traffic.tiled_forward(x, self._visits(setting), setting, lse=self.lse),
                kept=inputs + x.rows * (setting.sumsize + (not self.kept_elsewhere) * s.Dv * item),
            ),
            untiled=Work(
                multiply_adds=whole.pairs * (s.D + s.Dv),
                exponentials=whole.pairs * cap,
                bytes=traffic.untiled_forward(whole, self._options(item), setting, lse=self.lse),
                kept=inputs + whole.pairs * item * cap,
            ),
        )

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Count a backward pass, from the output and its log-sum-exp or the stored weights.

        Args:
            setting: The dtype and the size of the chip.

        Returns:
            Both ways of computing; nothing is kept.

        Raises:
            InvalidProblem: The chip does not hold a query and a key.
        """
        s, x, whole = self.sizes, self._extent(), self._whole()
        visits = self._visits(setting, backward=True)
        return Cost(
            tiled=Work(
                multiply_adds=x.pairs * (3 * s.D + 2 * s.Dv),
                exponentials=x.pairs * (1 + self.softcap),
                bytes=traffic.tiled_backward(x, visits, setting),
            ),
            untiled=Work(
                multiply_adds=whole.pairs * (2 * s.D + 2 * s.Dv),
                bytes=traffic.untiled_backward(whole, self._options(setting.itemsize), setting),
            ),
        )

    def _extent(self) -> Extent:
        """What there is to do at least."""
        s = self.sizes
        queries = sum(f.times * f.queries for f in self.forms)
        keys = sum(f.times * f.keys for f in self.forms)
        return Extent(
            s.Hq * queries, s.B * s.Hq * s.Sq, s.Hkv * keys, self.pairs, s.D, s.Dv
        )  # fmt: skip

    def _whole(self) -> Extent:
        """What there is to do if nothing is skipped."""
        s = self.sizes
        rows = s.B * s.Hq * s.Sq
        return Extent(rows, rows, s.B * s.Hkv * s.Sk, self.all_pairs, s.D, s.Dv)

    def _options(self, item: int) -> Options:
        lengths = self.q_lens is not None or self.kv_lens is not None
        return Options(
            hidden=self.mask is not None or self.window != (None, None) or lengths,
            mask=0 if self.mask is None else self.mask.size,
            bias=0 if self.bias is None else item * prod(self.bias),
            softcap=self.softcap,
        )

    def _visits(self, setting: Setting, *, backward: bool = False) -> Visits:
        """Walk over the tiles of what stays, and add up what passes by each of them.

        The query heads of a group share their keys, and are rows of one tile. Row r of it
        is query r // group, so that a tile of rows is a range of queries.
        """
        s = self.sizes
        group = s.Hq // s.Hkv if s.Hkv else 0
        limit = traffic.stays(s.D, s.Dv, setting, backward=backward)
        loaded, mask, bias, once = 0, 0, 0, True
        for f in self.forms:
            rows = f.keys if backward else f.queries * group
            first = np.arange(0, rows, limit or max(rows, 1), dtype=np.int64)
            last = np.minimum(first + (limit or rows), rows) - 1
            once = once and len(first) <= 1
            if backward:
                queries = visible.queries_of(first, last, f, self.window)
                asking, keys = queries * group, last - first + 1
                loaded += f.times * s.Hkv * int(asking.sum())
            else:
                keys = visible.keys_of(first // group, last // group, f, self.window)
                asking, queries = last - first + 1, last // group - first // group + 1
                loaded += f.times * s.Hkv * int(keys.sum())
            times = f.times * s.Hkv
            shape = () if self.mask is None else self.mask.shape
            mask += times * self._entries(shape, asking, queries, keys)
            bias += times * self._entries(self.bias or (), asking, queries, keys)
        given = self._options(setting.itemsize)
        mask, bias = mask * (given.mask > 0), bias * setting.itemsize * (given.bias > 0)
        if limit is None:
            mask, bias = min(mask, given.mask), min(bias, given.bias)
        return Visits(loaded, mask, bias, once)

    def _entries(
        self, shape: tuple[int, ...], asking: np.ndarray, queries: np.ndarray, keys: np.ndarray
    ) -> int:
        """Count the entries of a mask or a bias that tiles read, each of a range of both axes.

        Args:
            shape: Its shape.
            asking: Rows of each tile, a row for each head and query.
            queries: How many queries they belong to.
            keys: Keys of each tile.
        """
        _, heads, rows, columns = (*(1,) * (4 - len(shape)), *shape)
        if rows > 1:
            height = asking if heads > 1 else queries
        else:
            group = self.sizes.Hq // max(self.sizes.Hkv, 1)
            height = np.minimum(asking, group if heads > 1 else 1)
        width = keys if columns > 1 else np.minimum(keys, 1)
        return int((height * width).sum())
