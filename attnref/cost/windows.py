"""What a call of window attention costs, shifted or not, on a map that may need padding."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from attnref.cost import traffic, visible
from attnref.cost.counts import Cost, Setting, Work
from attnref.cost.traffic import Extent, Options, Visits
from attnref.spec import windows


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowAttention:
    """A call of `attnref.window_attention`, as far as it has a cost.

    Tiled, a window holds the tokens that it has, and pairs that met only because the map was
    rolled are skipped. Untiled, the map is padded and every window is computed whole: that is
    what published figures count. Rolling and cutting the map move nothing here.

    Args:
        B: Maps.
        G: Extents of a map.
        H: Heads.
        D: Size of a query and a key.
        Dv: Size of a value.
        window: Tokens per axis.
        shift: Cyclic shift per axis.
        bias: Whether there is a bias `(H, N, N)`.
        key_mask: `(B, *G)`: which tokens may be seen.
        wrap: Whether wrapped pairs see each other, by a finite bias (G3).
        lse: Whether the log-sum-exp is written.
        kept_elsewhere: Whether a layer behind keeps the output as its input.

    Example:
        >>> call = WindowAttention(
        ...     B=1, G=(56, 56), H=3, D=32, Dv=32, window=(7, 7), shift=(3, 3), bias=True
        ... )
        >>> call.windows, call.pairs < 64 * 3 * 49**2
        (64, True)
        >>> call.forward().untiled.multiply_adds == 64 * 3 * 49**2 * 64
        True
    """

    B: int
    G: tuple[int, ...]
    H: int
    D: int
    Dv: int
    window: tuple[int, ...]
    shift: tuple[int, ...]
    bias: bool = False
    key_mask: np.ndarray | None = None
    wrap: bool = False
    lse: bool = False
    kept_elsewhere: bool = False

    parameters = 0

    @property
    def windows(self) -> int:
        """Windows of the whole batch."""
        return self.B * prod(windows.counts(self.G, self.window))

    @cached_property
    def pairs(self) -> int:
        """Pairs of tokens that see each other, over the whole batch and all heads."""
        found = self._regions(wrap=self.wrap)
        return self.H * int((found.asking * found.seen).sum())

    @property
    def all_pairs(self) -> int:
        """Pairs of places of a window, with a token or without."""
        return self.windows * self.H * prod(self.window) ** 2

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Count a forward pass, as `Attention.forward` does."""
        item, x, whole = setting.itemsize, self._extent(), self._whole()
        inputs, padded = (item * e.keys * (2 * self.D + self.Dv) for e in (x, whole))
        return Cost(
            tiled=Work(
                multiply_adds=x.pairs * (self.D + self.Dv),
                exponentials=x.pairs,
                bytes=traffic.tiled_forward(x, self._visits(setting), setting, lse=self.lse),
                kept=inputs
                + x.rows * (setting.sumsize + (not self.kept_elsewhere) * self.Dv * item),
            ),
            untiled=Work(
                multiply_adds=whole.pairs * (self.D + self.Dv),
                exponentials=whole.pairs,
                bytes=traffic.untiled_forward(whole, self._options(item), setting, lse=self.lse),
                kept=padded + whole.pairs * item,
            ),
        )

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Count a backward pass, as `Attention.backward` does."""
        x, whole = self._extent(), self._whole()
        visits = self._visits(setting, backward=True)
        return Cost(
            tiled=Work(
                multiply_adds=x.pairs * (3 * self.D + 2 * self.Dv),
                exponentials=x.pairs,
                bytes=traffic.tiled_backward(x, visits, setting),
            ),
            untiled=Work(
                multiply_adds=whole.pairs * (2 * self.D + 2 * self.Dv),
                bytes=traffic.untiled_backward(whole, self._options(setting.itemsize), setting),
            ),
        )

    def _extent(self) -> Extent:
        tokens = self.B * prod(self.G) * self.H
        return Extent(tokens, tokens, tokens, self.pairs, self.D, self.Dv)

    def _whole(self) -> Extent:
        N = prod(self.window)
        tokens = self.windows * N * self.H
        return Extent(tokens, tokens, tokens, self.all_pairs, self.D, self.Dv)

    def _options(self, item: int) -> Options:
        padded = self.windows * prod(self.window) > self.B * prod(self.G)
        shifted = any(windows.effective_shift(self.G, self.window, self.shift))
        return Options(
            hidden=padded or shifted or self.key_mask is not None,
            mask=0 if self.key_mask is None else self.key_mask.size,
            bias=item * self.H * prod(self.window) ** 2 if self.bias else 0,
        )

    def _visits(self, setting: Setting, *, backward: bool = False) -> Visits:
        """Every window is a tile, or several where the chip does not hold it."""
        limit = traffic.stays(self.D, self.Dv, setting, backward=backward)
        tokens = self._regions(wrap=True).asking
        tiles = np.ones_like(tokens) if limit is None else -(-tokens // limit)
        given = self._options(setting.itemsize)
        passing = self.H * int((tiles * tokens).sum())
        mask = passing if given.mask else 0
        bias = setting.itemsize * self.H * int((tokens * tokens).sum()) if given.bias else 0
        if limit is None:
            mask, bias = min(mask, given.mask), min(bias, given.bias)
        return Visits(passing, mask, bias, bool((tiles <= 1).all()))

    def _regions(self, *, wrap: bool) -> visible.Region:
        seen = np.ones((self.B, *self.G), bool) if self.key_mask is None else self.key_mask
        return visible.regions(self.G, self.window, self.shift, seen, wrap=wrap)
