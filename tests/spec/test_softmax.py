"""The tiled state: identity, merging, tiles, empty rows, sinks (C5, C6, D1 to D5)."""

from collections.abc import Callable
from functools import partial, reduce
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnref.spec.softmax import (
    Rows,
    State,
    empty,
    finish,
    from_sink,
    from_tile,
    merge,
    merge_rows,
    merge_rows_backward,
    softmax,
    softmax_backward,
    update,
)

INF, NAN = np.inf, np.nan
close = partial(pytest.approx, rel=1e-13, abs=1e-14, nan_ok=True)


def exact(s: np.ndarray, v: np.ndarray) -> tuple[list[float], float]:
    """Weigh one row of finite scores in 50 digits."""
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(float(x))) for x in s]
        total = mpmath.fsum(e)
        out = [
            float(
                mpmath.fsum(w * mpmath.mpf(float(y)) for w, y in zip(e, column, strict=True))
                / total
            )
            for column in v.T
        ]
        return out, float(mpmath.log(total))


def same(x: State, y: State) -> None:
    """Assert that two states finish alike, and carry the same maximum."""
    assert x.m == close(y.m)
    for a, b in zip(finish(x), finish(y), strict=True):
        assert a == close(b)


def test_one_tile_is_the_definition(rng: np.random.Generator) -> None:
    """A finished tile agrees with 50 digits, far from zero too (D1, D2)."""
    s, v = rng.normal(size=(3, 7)) * [[1.0], [30.0], [700.0]], rng.normal(size=(7, 2))
    out, lse = finish(from_tile(s, v))
    for i in range(3):
        row, total = exact(s[i], v)
        assert row == close(out[i])
        assert total == close(lse[i])


@given(cuts=st.lists(st.integers(0, 9), max_size=5), seed=st.integers(0, 99))
def test_any_cut_in_any_order_gives_the_same(cuts: list[int], seed: int) -> None:
    """Tiles of any size, empty ones included, merge to the whole in any order (D1)."""
    rng = np.random.default_rng(seed)
    s, v = rng.normal(size=(2, 9)) * 40, rng.normal(size=(9, 3))
    s[rng.random(s.shape) < 0.3] = -INF
    s[1] = s[1] if seed % 2 else -INF
    edges = [0, *sorted(cuts), 9]
    parts = [from_tile(s[:, a:b], v[a:b]) for a, b in pairwise(edges)]
    shuffled = [parts[n] for n in rng.permutation(len(parts))]
    with np.errstate(all="ignore"):
        same(from_tile(s, v), reduce(merge, shuffled, empty((2,), 3)))


def test_merging_is_associative_and_commutative(rng: np.random.Generator) -> None:
    """Neither the grouping nor the order of three states matters (D1)."""
    x, y, z = (from_tile(rng.normal(size=(4, 3)) * 50, rng.normal(size=(3, 2))) for _ in range(3))
    same(merge(merge(x, y), z), merge(x, merge(y, z)))
    same(merge(x, y), merge(y, x))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_empty_state_is_the_identity(side: str, rng: np.random.Generator) -> None:
    """Merging with (-inf, 0, 0) changes nothing, on either side (D1)."""
    x, nothing = (
        from_tile(rng.normal(size=(4, 3)), rng.normal(size=(3, 2))),
        empty((4,), 2),
    )
    merged = merge(nothing, x) if side == "left" else merge(x, nothing)
    for expected, actual in zip(x, merged, strict=True):
        assert np.array_equal(expected, actual)


def test_an_update_is_a_merge_with_a_tile(rng: np.random.Generator) -> None:
    """Reading a tile and merging its state are the same thing (D1)."""
    s, v = rng.normal(size=(2, 6)), rng.normal(size=(6, 2))
    state = update(update(empty((2,), 2), s[:, :2], v[:2]), s[:, 2:], v[2:])
    same(from_tile(s, v), state)


@pytest.mark.parametrize("n", [0, 3])
def test_a_row_that_sees_nothing_is_zero(n: int) -> None:
    """No keys, or only invisible ones, give zero and minus infinity (C5)."""
    out, lse = finish(from_tile(np.full((1, n), -INF), np.full((n, 2), NAN)))
    assert np.array_equal([[0.0, 0.0]], out)
    assert np.array_equal([-INF], lse)


def test_emptiness_is_not_told_by_the_maximum() -> None:
    """A NaN score is not mistaken for an empty row (C5, C6)."""
    out, lse = finish(from_tile(np.array([[NAN, -INF]]), np.ones((2, 1))))
    assert np.isnan(out).all()
    assert np.isnan(lse).all()


def test_emptiness_is_told_by_the_sum() -> None:
    """A state whose sum is NaN is not empty, whatever its maximum says (C5)."""
    nan = np.full((1, 1), NAN)
    out, lse = finish(State(np.array([-INF]), nan[0], nan))
    assert np.isnan(out).all()
    assert np.isnan(lse).all()


@pytest.mark.parametrize("bad", [NAN, INF], ids=["NaN", "+inf"])
def test_a_bad_score_spoils_its_own_row_only(bad: float, rng: np.random.Generator) -> None:
    """A visible NaN or +inf reaches one row and no other, whatever the tiles (C6)."""
    s, v = rng.normal(size=(3, 6)), rng.normal(size=(6, 2))
    fine = finish(from_tile(s, v))
    s[1, 4] = bad
    for tile in (1, 2, 6):
        parts = [from_tile(s[:, j : j + tile], v[j : j + tile]) for j in range(0, 6, tile)]
        out, lse = finish(reduce(merge, parts))
        assert not np.isfinite(out[1]).any()
        assert not np.isfinite(lse[1])
        assert fine.out[[0, 2]] == close(out[[0, 2]])
        assert fine.lse[[0, 2]] == close(lse[[0, 2]])


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=["NaN", "+inf", "-inf"])
@pytest.mark.parametrize("score", [0.0, -2000.0], ids=["weighty", "weightless"])
def test_a_bad_value_reaches_those_who_see_it(bad: float, score: float) -> None:
    """It spoils `out`, not `lse`, of the rows that see it, at any weight (C6)."""
    s = np.array([[1.0, score], [1.0, -INF]])
    v = np.array([[1.0, 2.0], [bad, 3.0]])
    out, lse = finish(from_tile(s, v))
    assert np.isnan(out[0, 0])
    assert np.array_equal([1.0, 2.0], out[1])
    assert np.isfinite([out[0, 1], *lse]).all()


def test_a_sink_takes_weight_and_gives_nothing(rng: np.random.Generator) -> None:
    """A sink is a key of value zero, counted in the log-sum-exp (D2, D4)."""
    s, v, sink = rng.normal(size=(2, 3)), rng.normal(size=(3, 2)), np.array([0.5, -1.5])
    state = merge(from_sink(sink, 2), from_tile(s, v))
    wider = from_tile(np.c_[sink, s], np.vstack([np.zeros((1, 2)), v]))
    same(wider, state)


def test_a_sink_of_minus_infinity_is_none(rng: np.random.Generator) -> None:
    """It has seen nothing, leaves a row as it was, and an empty one empty (D4)."""
    for expected, actual in zip(empty((1,), 2), from_sink(np.array([-INF]), 2), strict=True):
        assert np.array_equal(expected, actual)
    tile = from_tile(rng.normal(size=(1, 3)), rng.normal(size=(3, 2)))
    same(tile, merge(from_sink(np.array([-INF]), 2), tile))
    assert [-INF] == finish(from_sink(np.array([-INF]), 2)).lse.tolist()


def test_a_sink_alone_is_zero_with_its_own_logarithm() -> None:
    """A row with a sink that sees nothing gives zero and the sink (D4)."""
    out, lse = finish(from_sink(np.array([0.75]), 2))
    assert [[0.0, 0.0]] == out.tolist()
    assert [0.75] == lse.tolist()


def finished(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores and values of one part."""
    return rng.normal(size=(4, n)) * 20, rng.normal(size=(n, 3))


def test_merged_rows_are_attention_over_both_parts(rng: np.random.Generator) -> None:
    """Merging finished parts equals attending to all of their keys (D3)."""
    (s, v), (t, w) = finished(rng, 3), finished(rng, 5)
    whole = finish(from_tile(np.c_[s, t], np.vstack([v, w])))
    merged = merge_rows(finish(from_tile(s, v)), finish(from_tile(t, w)))
    assert whole.out == close(merged.out)
    assert whole.lse == close(merged.lse)


def test_a_part_that_saw_nothing_is_a_two_sided_identity(
    rng: np.random.Generator,
) -> None:
    """(0, -inf) changes nothing, and two of them give (0, -inf) without NaN (D3)."""
    part = finish(from_tile(*finished(rng, 3)))
    nothing = Rows(np.zeros((4, 3)), np.full(4, -INF))
    for merged in (merge_rows(part, nothing), merge_rows(nothing, part)):
        assert np.array_equal(part.out, merged.out)
        assert np.array_equal(part.lse, merged.lse)
    both = merge_rows(nothing, nothing)
    assert np.array_equal(nothing.out, both.out)
    assert np.array_equal(nothing.lse, both.lse)


def test_merged_rows_associate_and_commute(rng: np.random.Generator) -> None:
    """Grouping and order of finished parts do not matter (D3)."""
    x, y, z = (finish(from_tile(*finished(rng, n))) for n in (1, 2, 4))
    for a, b in [
        (merge_rows(merge_rows(x, y), z), merge_rows(x, merge_rows(y, z))),
        (merge_rows(x, y), merge_rows(y, x)),
    ]:
        assert a.out == close(b.out)
        assert a.lse == close(b.lse)


def test_merge_gradients_are_the_slopes(
    rng: np.random.Generator, slope: Callable[..., np.ndarray]
) -> None:
    """Every input's gradient, through out and lse, matches finite differences (D3)."""
    a, b = (Rows(rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 3))) for _ in range(2))
    dout, dlse = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 3))

    def loss(a: Rows, b: Rows) -> float:
        out, lse = merge_rows(a, b)
        return float((dout * out).sum() + (dlse * lse).sum())

    whole = merge_rows(a, b)
    got_a, got_b = (merge_rows_backward(dout, dlse, part, whole) for part in (a, b))
    near = partial(pytest.approx, rel=1e-6, abs=1e-8)
    assert slope(lambda x: loss(Rows(x, a.lse), b), a.out) == near(got_a.out)
    assert slope(lambda x: loss(Rows(a.out, x), b), a.lse) == near(got_a.lse)
    assert slope(lambda x: loss(a, Rows(x, b.lse)), b.out) == near(got_b.out)
    assert slope(lambda x: loss(a, Rows(b.out, x)), b.lse) == near(got_b.lse)


def test_nothing_is_passed_to_a_part_that_saw_nothing() -> None:
    """Its gradients are zero, also when the whole is empty (D3)."""
    nothing, one = Rows(np.zeros((1, 2)), np.array([-INF])), np.ones((1, 2))
    for whole in (nothing, Rows(one, np.array([3.0]))):
        got = merge_rows_backward(one, np.ones(1), nothing, whole)
        assert [[0.0, 0.0]] == got.out.tolist()
        assert [0.0] == got.lse.tolist()


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("tile", [None, 1, 2, 3, 99])
def test_softmax_is_exact_for_every_axis_and_tile(
    axis: int, tile: int | None, rng: np.random.Generator
) -> None:
    """Weights agree with 50 digits; the tile never changes the meaning (D5)."""
    x = rng.normal(size=(2, 3, 4)) * 100
    got = np.moveaxis(softmax(x, axis, tile), axis, -1).reshape(-1, x.shape[axis])
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    for row, weights in zip(rows, got, strict=True):
        assert exact(row, np.eye(len(row)))[0] == close(weights)


@pytest.mark.parametrize("tile", [None, 1, 2])
def test_softmax_keeps_trouble_in_its_slice(tile: int | None) -> None:
    """-inf throughout gives zeros; NaN and +inf spoil their own slice only (D5)."""
    x = np.array([[-INF] * 3, [0.0, NAN, 0.0], [0.0, 0.0, INF], [0.0, -INF, 0.0]])
    expected = np.array([[0.0] * 3, [NAN] * 3, [NAN] * 3, [0.5, 0.0, 0.5]])
    assert expected == close(softmax(x, tile=tile))


def test_the_axis_of_softmax_is_the_last_if_none_is_named(rng: np.random.Generator) -> None:
    """Forward and backward, no axis means the last (D5)."""
    x, dy = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    assert np.array_equal(softmax(x, 2), softmax(x))
    assert np.array_equal(softmax_backward(dy, x, 2), softmax_backward(dy, x))


@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize(("shape", "axis"), [((0,), 0), ((2, 0), 1), ((0, 3), 1)])
def test_softmax_of_nothing_is_nothing(shape: tuple[int, ...], axis: int, tile: int | None) -> None:
    """An empty axis gives an empty result (D5)."""
    assert shape == softmax(np.zeros(shape), axis, tile).shape


@pytest.mark.parametrize("axis", [0, -1])
def test_the_softmax_gradient_is_the_slope(
    axis: int, rng: np.random.Generator, slope: Callable[..., np.ndarray]
) -> None:
    """y (dy - sum(y dy)) matches finite differences (D5)."""
    x, dy = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    expected = slope(lambda x: float((dy * softmax(x, axis)).sum()), x)
    actual = softmax_backward(dy, softmax(x, axis), axis)
    assert expected == pytest.approx(actual, rel=1e-6, abs=1e-9)
