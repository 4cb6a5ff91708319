"""Windows, pair by pair from the formula of G2, and their gradients (G1 to G7)."""

from collections.abc import Callable
from functools import partial
from itertools import product
from math import ceil, log, prod
from typing import Any

import numpy as np
import pytest

from attnref.spec.windows import (
    allowed,
    counts,
    effective_shift,
    pair_bias,
    partition,
    relative_position_bias,
    relative_position_bias_backward,
    relative_position_index,
    reverse,
    window_attention,
    window_attention_backward,
    wrapped,
)

INF, NAN = np.inf, np.nan
Extents = tuple[int, ...]
close = partial(pytest.approx, rel=1e-12, abs=1e-13)
near = partial(pytest.approx, rel=1e-6, abs=1e-8)

MAPS: dict[str, tuple[Extents, Extents, Extents]] = {
    "text 5 by 2": ((5,), (2,), (1,)),
    "text 6 by 3, shift 2": ((6,), (3,), (2,)),
    "text 3 by 4": ((3,), (4,), (3,)),
    "7x7 by 4": ((7, 7), (4, 4), (2, 2)),
    "7x7 by 7": ((7, 7), (7, 7), (3, 3)),
    "8x4 by 4": ((8, 4), (4, 4), (2, 2)),
    "8x4 by 7": ((8, 4), (7, 7), (3, 3)),
    "9x14 by 4": ((9, 14), (4, 4), (2, 2)),
    "9x14 by 7": ((9, 14), (7, 7), (3, 3)),
    "10x10 by 4": ((10, 10), (4, 4), (2, 2)),
    "10x10 by 7": ((10, 10), (7, 7), (3, 3)),
    "3x3 by 4": ((3, 3), (4, 4), (2, 2)),
    "3x3 by 7": ((3, 3), (7, 7), (3, 3)),
    "6x4 by 3x2, mixed shifts": ((6, 4), (3, 2), (0, 1)),
    "3x4 by 2x3, mixed shifts": ((3, 4), (2, 3), (0, 2)),
    "4x3 by 2x3": ((4, 3), (2, 3), (1, 2)),
    "5x6 by 2x7": ((5, 6), (2, 7), (1, 5)),
    "video 3x4x5 by 2x2x3": ((3, 4, 5), (2, 2, 3), (1, 0, 2)),
    "video 2x4x4 by 4x2x4": ((2, 4, 4), (4, 2, 4), (3, 1, 2)),
}
every_map = pytest.mark.parametrize(("G", "window", "shift"), MAPS.values(), ids=MAPS)


class Pair:
    """What clause G2 says about one pair of tokens of a map."""

    def __init__(self, x: Extents, y: Extents, G: Extents, window: Extents, shift: Extents) -> None:
        self.together, self.wrapped, self.places = True, False, ([], [])
        for i, j, g, w, s in zip(x, y, G, window, shift, strict=True):
            effective = 0 if w >= g else s
            regions = [(t - effective) // w for t in (i, j)]
            indices = [r % ceil(g / w) for r in regions]
            self.together &= indices[0] == indices[1]
            self.wrapped |= regions[0] != regions[1]
            for places, t in zip(self.places, (i, j), strict=True):
                places.append((t - effective) % w)

    def inside(self, window: Extents) -> tuple[int, int]:
        """Return both tokens' row-major positions in their window."""
        query, key = (int(np.ravel_multi_index(p, window)) for p in self.places)
        return query, key


def by_pairs(  # every option
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    window: Extents,
    shift: Extents,
    scale: Any,
    bias: Any = None,
    key_mask: Any = None,
    wrap_bias: float = -INF,
) -> tuple[np.ndarray, np.ndarray]:
    """Attend one token at a time over the whole map, from the formula alone."""
    B, *G, H, _ = q.shape
    tokens = list(product(*map(range, G)))
    out, lse = np.zeros(v.shape), np.full(q.shape[:-1], -INF)
    scale = np.broadcast_to(scale, H)
    for x in tokens:
        pairs = [(y, p) for y in tokens if (p := Pair(x, y, G, window, shift)).together]
        for b, h in product(range(B), range(H)):
            s, seen = [], []
            for y, p in pairs:
                if (key_mask is not None and not key_mask[(b, *y)]) or (
                    p.wrapped and wrap_bias == -INF
                ):
                    continue
                score = scale[h] * float(q[(b, *x, h)] @ k[(b, *y, h)])
                score += 0.0 if bias is None else bias[(h, *p.inside(window))]
                s.append(score + (wrap_bias if p.wrapped else 0.0))
                seen.append(v[(b, *y, h)])
            if s:
                e = np.exp(np.array(s) - max(s))
                lse[(b, *x, h)] = max(s) + log(e.sum())
                out[(b, *x, h)] = e @ np.array(seen) / e.sum()
    return out, lse


def case(G: Extents, window: Extents, seed: int = 0, B: int = 1, H: int = 2) -> dict[str, Any]:
    """Draw q, k, v and a bias for a map."""
    rng, N = np.random.default_rng(seed), prod(window)
    return {
        "q": rng.normal(size=(B, *G, H, 3)),
        "k": rng.normal(size=(B, *G, H, 3)),
        "v": rng.normal(size=(B, *G, H, 2)),
        "bias": rng.normal(size=(H, N, N)),
    }


@every_map
@pytest.mark.parametrize("wrap_bias", [-INF, -100.0, 0.5])
def test_window_attention_is_the_formula_pair_by_pair(
    G: Extents, window: Extents, shift: Extents, wrap_bias: float
) -> None:
    """Windows, places, wrapped pairs, padding and bias are those of G2 to G6."""
    x = case(G, window)
    options = {"window": window, "shift": shift, "scale": 0.7, "wrap_bias": wrap_bias}
    expected = by_pairs(**x, **options)
    actual = window_attention(**x, **options)
    assert expected[0] == close(actual.out)
    assert expected[1] == close(actual.lse)


@pytest.mark.parametrize("name", ["text 5 by 2", "7x7 by 4", "video 3x4x5 by 2x2x3"])
@pytest.mark.parametrize("wrap_bias", [-INF, -1.0])
def test_a_hidden_token_is_not_seen_but_asks(name: str, wrap_bias: float) -> None:
    """key_mask hides keys, not queries; a batch keeps its maps apart (G6)."""
    G, window, shift = MAPS[name]
    x = case(G, window, B=2)
    key_mask = np.random.default_rng(1).random((2, *G)) < 0.6
    key_mask[0] = False
    options = {
        "window": window,
        "shift": shift,
        "key_mask": key_mask,
        "wrap_bias": wrap_bias,
        "scale": np.array([0.5, -1.5]),
    }
    expected = by_pairs(**x, **options)
    actual = window_attention(**x, **options)
    assert expected[0] == close(actual.out)
    assert expected[1] == close(actual.lse)
    assert (actual.lse[0] == -INF).all()
    assert np.isfinite(actual.lse[1]).any()


@every_map
def test_wrapped_and_allowed_are_the_formula(G: Extents, window: Extents, shift: Extents) -> None:
    """Pair by pair over the real tokens, both predicates agree with G2 and G5."""
    shift = effective_shift(G, window, shift)
    token = partition(np.arange(1, prod(G) + 1).reshape(1, *G), window, shift)
    across = wrapped(G, window, shift)
    seen = allowed(G, window, shift, np.ones((1, *G), bool), wrap=False)[:, 0]
    places = list(product(*map(range, G)))
    met = 0
    for n, i, j in np.ndindex(across.shape):
        x, y = token[n, i], token[n, j]
        if not x or not y:
            assert not seen[n, i, j]
            continue
        pair = Pair(places[x - 1], places[y - 1], G, window, shift)
        assert pair.together
        assert (i, j) == pair.inside(window)
        assert pair.wrapped == across[n, i, j]
        assert pair.wrapped != seen[n, i, j]
        met += 1
    together = sum(Pair(x, y, G, window, shift).together for x in places for y in places)
    assert together == met


@every_map
def test_reverse_undoes_partition(G: Extents, window: Extents, shift: Extents) -> None:
    """Cutting and putting back is the identity, padding dropped (G2, G5)."""
    x = np.random.default_rng(0).normal(size=(2, *G, 3))
    windows = partition(x, window, shift)
    assert (2 * prod(counts(G, window)), prod(window), 3) == windows.shape
    assert np.array_equal(x, reverse(windows, G, window, shift))


def test_an_axis_that_one_window_covers_has_no_shift() -> None:
    """Per axis, w >= g drops the shift and never the window (G4)."""
    assert (0, 2, 0) == effective_shift((7, 7, 3), (7, 4, 4), (3, 2, 1))
    assert (1, 2, 1) == counts((7, 7, 3), (7, 4, 4))


def test_extents_windows_and_shifts_have_an_entry_per_axis() -> None:
    """An axis without a window or a shift is refused, and not passed over (G1)."""
    for call in (
        lambda: counts((4, 4), (2,)),
        lambda: effective_shift((4, 4), (2, 2), (1,)),
        lambda: wrapped((4, 4), (2, 2), (1,)),
    ):
        with pytest.raises(ValueError, match="shorter"):
            call()


def test_a_text_of_five_in_windows_of_two() -> None:
    """By hand: windows {1 2} and {3 4}, and 0 meets nobody (G2, G5)."""
    v = np.arange(5.0).reshape(1, 5, 1, 1)
    q = np.zeros((1, 5, 1, 1))
    out, _ = window_attention(q, q, v, window=(2,), shift=(1,), scale=1.0)
    assert [0.0, 1.5, 1.5, 3.5, 3.5] == out.ravel().tolist()


def test_a_finite_wrap_bias_can_be_outweighed() -> None:
    """-100 takes part in lse, and a large score overcomes it; -inf never (G3)."""
    q, v = np.ones((1, 4, 1, 1)), np.arange(4.0).reshape(1, 4, 1, 1)
    k = np.array([0.0, 0.0, 0.0, 300.0]).reshape(1, 4, 1, 1)
    options = {"window": (2,), "shift": (1,), "scale": 1.0}
    finite = window_attention(q, k, v, wrap_bias=-100.0, **options)
    hidden = window_attention(q, k, v, **options)
    assert 3.0 == finite.out[0, 0, 0, 0]
    assert 200.0 == close(float(finite.lse[0, 0, 0]))
    assert 0.0 == hidden.out[0, 0, 0, 0]


def test_a_wrap_bias_of_minus_infinity_is_left_to_visibility() -> None:
    """It is added to no bias, and is what is meant where none is named (G3)."""
    x = case((4,), (2,))
    options = {"window": (2,), "shift": (1,), "scale": 1.0}
    assert x["bias"] is pair_bias((4,), (2,), (1,), 1, x["bias"], -INF)
    rows = window_attention(**x, **options)
    given = {**x, **options, **rows._asdict(), "dout": rows.out, "dlse": np.zeros((1, 4, 2))}
    named = window_attention_backward(**given, wrap_bias=-INF)
    for expected, actual in zip(named, window_attention_backward(**given), strict=True):
        assert np.array_equal(expected, actual)


def test_nan_beyond_the_mask_is_not_heard() -> None:
    """A hidden key or value that is NaN spoils nobody (C6, G6)."""
    x = case((6,), (3,))
    key_mask = np.array([[True, False, True, True, True, True]])
    options = {"window": (3,), "shift": (1,), "scale": 1.0, "key_mask": key_mask}
    clean = window_attention(**x, **options)
    x["k"][:, 1] = x["v"][:, 1] = NAN
    dirty = window_attention(**x, **options)
    assert np.array_equal(clean.out, dirty.out)


@pytest.mark.parametrize(
    "name", ["text 5 by 2", "3x4 by 2x3, mixed shifts", "4x3 by 2x3", "3x3 by 4"]
)
@pytest.mark.parametrize("wrap_bias", [-INF, -1.0])
@pytest.mark.parametrize("per_head", [False, True], ids=["one scale", "scale per head"])
def test_window_gradients_are_the_slopes(
    name: str,
    wrap_bias: float,
    per_head: bool,
    slope: Callable[..., np.ndarray],
    rng: np.random.Generator,
) -> None:
    """q, k, v, bias and scale, by out and lse, match finite differences (E1, G6)."""
    G, window, shift = MAPS[name]
    key_mask = np.ones((1, *G), bool)
    key_mask.flat[-1] = False
    x = case(G, window) | {
        "window": window,
        "shift": shift,
        "wrap_bias": wrap_bias,
        "key_mask": key_mask,
        "scale": np.array([0.5, -1.5]) if per_head else 0.8,
    }
    dout, dlse = rng.normal(size=x["v"].shape), rng.normal(size=x["q"].shape[:-1])

    def loss(**changed: Any) -> float:
        out, lse = window_attention(**{**x, **changed})
        return float((dout * out).sum() + (dlse * np.where(lse == -INF, 0.0, lse)).sum())

    rows = window_attention(**x)
    got = window_attention_backward(dout, dlse, **x, **rows._asdict())._asdict()
    for n in ("q", "k", "v", "bias"):
        if n != "bias" or prod(window) < 10:  # a slope per entry
            assert slope(lambda t, n=n: loss(**{n: t}), x[n]) == near(got[f"d{n}"])
    if per_head:
        assert slope(lambda t: loss(scale=t), x["scale"]) == near(got["dscale"])
    else:
        one = slope(lambda t: loss(scale=float(t)), np.array(0.8))
        assert float(one) == near(float(got["dscale"].sum()))


def test_no_bias_has_no_gradient() -> None:
    """Without a bias, dbias is None (G6)."""
    x = case((4,), (2,))
    del x["bias"]
    options = {"window": (2,), "shift": (0,), "scale": 1.0}
    rows = window_attention(**x, **options)
    got = window_attention_backward(rows.out, rows.lse, **x, **options, **rows._asdict())
    assert got.dbias is None


@pytest.mark.parametrize("wrap_bias", [-INF, 900.0])
def test_padding_stays_out_of_every_gradient(wrap_bias: float) -> None:
    """Scores that overflow where padding would ask leave all gradients finite (G5)."""
    x = case((5,), (3,))
    x["bias"] = x["bias"] + 900.0
    options = {"window": (3,), "shift": (1,), "scale": 1.0, "wrap_bias": wrap_bias}
    rows = window_attention(**x, **options)
    got = window_attention_backward(rows.out, rows.lse, **x, **options, **rows._asdict())
    assert all(np.isfinite(g).all() for g in got)


@pytest.mark.parametrize("window", [(1,), (4,), (2, 3), (7, 7), (2, 1, 3)], ids=str)
def test_the_index_numbers_displacements(window: Extents) -> None:
    """Row-major ravel of d + w - 1, d = query - key, tokens row-major (G6)."""
    tokens = list(product(*map(range, window)))
    index = relative_position_index(window)
    for (i, x), (j, y) in product(enumerate(tokens), enumerate(tokens)):
        expected = 0
        for a, b, w in zip(x, y, window, strict=True):
            expected = expected * (2 * w - 1) + a - b + w - 1
        assert expected == index[i, j]
    assert prod(2 * w - 1 for w in window) == len(np.unique(index))


@pytest.mark.parametrize("window", [(3,), (2, 3)], ids=str)
def test_the_table_and_its_gradient(
    window: Extents, rng: np.random.Generator, slope: Callable[..., np.ndarray]
) -> None:
    """The bias is looked up per head; its gradient adds up equal displacements (G6)."""
    table = rng.normal(size=(prod(2 * w - 1 for w in window), 2))
    bias, index = relative_position_bias(table, window), relative_position_index(window)
    for h, i, j in np.ndindex(bias.shape):
        assert table[index[i, j], h] == bias[h, i, j]
    seed = rng.normal(size=bias.shape)
    expected = slope(lambda t: float((seed * relative_position_bias(t, window)).sum()), table)
    assert expected == near(relative_position_bias_backward(seed, window))


@pytest.mark.parametrize(("B", "H"), [(0, 2), (1, 0)], ids=["B=0", "H=0"])
def test_zero_sizes_of_maps_are_legal(B: int, H: int) -> None:
    """No maps or no heads give empty results and gradients (A4)."""
    x = case((5, 3), (2, 2), B=B, H=H)
    options = {"window": (2, 2), "shift": (1, 1), "scale": 1.0, "wrap_bias": -1.0}
    rows = window_attention(**x, **options)
    got = window_attention_backward(rows.out, rows.lse, **x, **options, **rows._asdict())
    assert x["v"].shape == rows.out.shape
    assert [x[n].shape for n in ("q", "k", "v", "bias")] == [g.shape for g in got[:4]]
