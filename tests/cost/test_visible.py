"""Pairs that see each other, and keys that a tile loads, against the specification's masks."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnref.cost import Attention, Setting, WindowAttention
from attnref.cost.traffic import stays
from attnref.problem import Sizes
from attnref.spec.visibility import visible
from attnref.spec.windows import allowed, effective_shift

bounds = st.none() | st.integers(0, 9)


@st.composite
def calls(draw: st.DrawFn, *, masked: bool = False) -> Attention:
    """Draw a small call with any combination of constraints."""
    B, Hkv, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    Sq, Sk = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    D, Dv = draw(st.integers(1, 5)), draw(st.integers(1, 5))

    def some(most: int, least: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
        return st.lists(st.integers(least, most), min_size=B, max_size=B).map(tuple)

    mask = None
    if masked:
        whole = (B, Hkv * group, Sq, Sk)
        rank = draw(st.integers(0, 4))
        shape = tuple(draw(st.sampled_from([1, n])) for n in whole[4 - rank :])
        bits = draw(st.lists(st.booleans(), min_size=prod(shape), max_size=prod(shape)))
        mask = np.array(bits, bool).reshape(shape)
    return Attention(
        sizes=Sizes(B, Hkv * group, Hkv, Sq, Sk, D, Dv),
        window=(draw(bounds), draw(bounds)),
        q_offset=draw(st.integers(-9, 9) | some(9, -9)),
        q_lens=draw(st.none() | some(Sq)),
        kv_lens=draw(st.none() | some(Sk)),
        mask=mask,
    )


def seen(call: Attention, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Ask the specification who sees whom, head by head."""
    s = call.sizes
    found = visible(
        s.B,
        s.Sq,
        s.Sk,
        window=call.window,
        q_offset=np.broadcast_to(np.asarray(call.q_offset, np.int64), (s.B,)),
        mask=mask,
        q_lens=None if call.q_lens is None else np.array(call.q_lens),
        kv_lens=None if call.kv_lens is None else np.array(call.kv_lens),
    )
    return np.broadcast_to(found, (s.B, s.Hq, s.Sq, s.Sk))


@given(calls())
def test_pairs_are_those_of_the_specification(call: Attention) -> None:
    """Windows, alignment and lengths are counted without the matrix, to the pair (C2 to C4)."""
    assert int(seen(call).sum()) == call.pairs


@given(calls(masked=True))
def test_masked_pairs_are_those_of_the_specification(call: Attention) -> None:
    """A mask's values are looked at, whatever it is broadcast over (C1)."""
    assert int(seen(call, mask=call.mask).sum()) == call.pairs


def test_positions_near_the_end_of_their_type_do_not_wrap() -> None:
    """An offset of 2**61 and a bound that takes it back are causality (C2, C3)."""
    sizes = Sizes(1, 1, 1, 3, 5, 1, 1)
    far = 2**61
    assert 5 + 4 + 3 == Attention(sizes=sizes, window=(far, None), q_offset=far).pairs
    assert 0 == Attention(sizes=sizes, window=(None, 0), q_offset=-far).pairs
    assert 1 + 2 + 3 == Attention(sizes=sizes, window=(None, far), q_offset=-far).pairs


@given(calls(), st.integers(150, 1200))
def test_tiles_of_queries_load_the_keys_that_they_see(call: Attention, on_chip: int) -> None:
    """A key passes by once for each tile in which somebody sees it, heads of a group together."""
    setting = Setting(on_chip=on_chip)
    s, who = call.sizes, seen(call)
    rows = stays(s.D, s.Dv, setting)
    assert rows is not None
    group, loaded, queries = s.Hq // s.Hkv, 0, 0
    for b, h in product(range(s.B), range(s.Hkv)):
        n = s.Sq if call.q_lens is None else call.q_lens[b]
        queries += n * group
        # Heads of a group lie side by side: row r is query r // group.
        lines = who[b, h * group : (h + 1) * group, :n].swapaxes(0, 1).reshape(n * group, s.Sk)
        for r in range(0, len(lines), rows):
            loaded += int(lines[r : r + rows].any(axis=0).sum())
    expected = queries * s.D + s.B * s.Hq * s.Sq * s.Dv + loaded * (s.D + s.Dv)
    assert 4 * expected == call.forward(setting).tiled.bytes


@given(calls(), st.integers(400, 2000))
def test_tiles_of_keys_load_the_queries_that_see_them(call: Attention, on_chip: int) -> None:
    """Backward, queries pass by with what flows in, and their gradients go to memory and back."""
    setting = Setting(on_chip=on_chip)
    s, who = call.sizes, seen(call)
    columns = stays(s.D, s.Dv, setting, backward=True)
    assert columns is not None
    loaded, keys, asking, tiles = 0, 0, 0, 0
    for b in range(s.B):
        n = s.Sk if call.kv_lens is None else call.kv_lens[b]
        keys += s.Hkv * n
        asking += s.Hq * (s.Sq if call.q_lens is None else call.q_lens[b])
        tiles = max(tiles, -(-n // columns))
        for j in range(0, n, columns):
            loaded += int(who[b, :, :, j : min(j + columns, n)].any(axis=-1).sum())
    rows = s.B * s.Hq * s.Sq
    expected = rows * (2 * s.Dv + 1) + 2 * keys * (s.D + s.Dv) + loaded * (s.D + s.Dv + 2)
    expected += asking * s.D + (2 * loaded * s.D if tiles > 1 else 0)
    assert 4 * expected == call.backward(setting).tiled.bytes


@st.composite
def maps(draw: st.DrawFn) -> WindowAttention:
    """Draw a small map of one to three axes, its windows and what hides tokens."""
    axes = draw(st.integers(1, 3))
    G = tuple(draw(st.integers(1, 6 if axes < 3 else 4)) for _ in range(axes))
    window = tuple(draw(st.integers(1, 5)) for _ in G)
    shift = tuple(draw(st.integers(0, w - 1)) for w in window)
    B = draw(st.integers(1, 2))
    mask = None
    if draw(st.booleans()):
        bits = draw(st.lists(st.booleans(), min_size=B * prod(G), max_size=B * prod(G)))
        mask = np.array(bits, bool).reshape(B, *G)
    return WindowAttention(
        B=B, G=G, H=2, D=3, Dv=2, window=window, shift=shift,
        key_mask=mask, wrap=draw(st.booleans()),
    )  # fmt: skip


@given(maps())
def test_pairs_of_maps_are_those_of_the_specification(call: WindowAttention) -> None:
    """Padding, wrapped pairs and hidden tokens are left out, to the pair (G2 to G6)."""
    shift = effective_shift(call.G, call.window, call.shift)
    mask = np.ones((call.B, *call.G), bool) if call.key_mask is None else call.key_mask
    who = allowed(call.G, call.window, shift, mask, wrap=call.wrap)
    assert call.H * int(who.sum()) == call.pairs


@given(maps(), st.sampled_from([None, 120, 250, 1000]))
def test_windows_are_tiles(call: WindowAttention, on_chip: int | None) -> None:
    """The keys of a window pass by once for each tile of its queries."""
    setting = Setting(on_chip=on_chip)
    rows = stays(call.D, call.Dv, setting)
    shift = effective_shift(call.G, call.window, call.shift)
    everybody = np.ones((call.B, *call.G), bool)
    inside = allowed(call.G, call.window, shift, everybody, wrap=True)[:, 0].any(axis=1).sum(axis=1)
    loaded = sum(int(n) * (-(-int(n) // (rows or 10**9))) for n in inside)
    tokens = call.B * prod(call.G)
    hidden = 0 if call.key_mask is None else loaded
    hidden = min(hidden, tokens / call.H) if rows is None else hidden
    expected = 4 * (tokens * 5 + loaded * 5) + hidden
    assert call.H * expected == call.forward(setting).tiled.bytes


@pytest.mark.parametrize("B", [0, 2])
def test_nothing_costs_nothing(B: int) -> None:
    """Empty batches and calls without heads move and compute nothing (A4)."""
    for sizes in (Sizes(0, 4, 2, 3, 3, 8, 8), Sizes(B, 0, 0, 3, 3, 8, 8)):
        call = Attention(sizes=sizes)
        for way in (call.forward(), call.backward()):
            assert 0 == way.tiled.bytes == way.untiled.bytes == way.tiled.operations
    none = WindowAttention(B=0, G=(4, 4), H=2, D=3, Dv=3, window=(2, 2), shift=(1, 1))
    assert 0 == none.forward().tiled.bytes == none.pairs == none.backward().untiled.bytes
