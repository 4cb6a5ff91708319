"""Visibility: mask, window, alignment and lengths, pair by pair (C1 to C4)."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnref.spec.visibility import in_window, key_span, visible, within

BOUND = st.one_of(st.none(), st.integers(0, 6))


def sees(p: int, j: int, left: int | None, right: int | None) -> bool:
    """State clause C2 once more, for one pair of Python integers."""
    return not (left is not None and j < p - left) and not (right is not None and j > p + right)


@given(p=st.integers(-9, 9), j=st.integers(0, 9), left=BOUND, right=BOUND)
def test_a_window_includes_both_of_its_ends(
    p: int, j: int, left: int | None, right: int | None
) -> None:
    """The key j is seen iff p - left <= j <= p + right, None being unbounded (C2)."""
    assert sees(p, j, left, right) == bool(in_window(p, j, left, right))


def test_causality_is_a_right_bound_of_zero() -> None:
    """With a right bound of zero a query sees itself and what came before (C2)."""
    got = in_window(np.arange(3)[:, None], np.arange(3), None, 0)
    assert np.array_equal(np.tril(np.ones((3, 3), bool)), got)


def test_a_position_is_inside_its_sequence_below_the_length() -> None:
    """The length itself is the first position outside (C4)."""
    assert [True, True, False] == within(np.arange(3), 2).tolist()


@given(
    first=st.integers(-8, 12),
    more=st.integers(0, 5),
    left=BOUND,
    right=BOUND,
    Sk=st.integers(0, 8),
)
def test_the_key_span_is_the_hull_of_what_is_visible(
    first: int, more: int, left: int | None, right: int | None, Sk: int
) -> None:
    """No visible key lies outside the span, which is empty when none is."""
    last = first + more
    seen = [j for j in range(Sk) if any(sees(p, j, left, right) for p in range(first, last + 1))]
    start, stop = key_span(first, last, left, right, Sk)
    assert 0 <= start <= stop <= Sk
    assert seen == list(range(start, stop))


@pytest.mark.parametrize(
    "mask_shape",
    [None, (), (5,), (4, 1), (4, 5), (1, 4, 5), (2, 1, 1, 5), (2, 3, 4, 5)],
    ids=str,
)
@pytest.mark.parametrize("window", [(None, None), (None, 0), (1, None), (1, 2)], ids=str)
@pytest.mark.parametrize("offset", [0, -2, 3, "per entry"])
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
def test_every_constraint_intersects_with_the_others(
    mask_shape: tuple[int, ...] | None,
    window: tuple[int | None, int | None],
    offset: int | str,
    lengths: bool,
    rng: np.random.Generator,
) -> None:
    """A pair is visible iff mask, window and lengths all agree (C1 to C4)."""
    B, H, Sq, Sk = 2, 3, 4, 5
    mask = None if mask_shape is None else np.asarray(rng.random(mask_shape) < 0.6)
    stand = np.array([-1, 2]) if isinstance(offset, str) else offset
    q_lens, kv_lens = (np.array([3, 0]), np.array([5, 2])) if lengths else (None, None)
    got = visible(
        B,
        Sq,
        Sk,
        window=window,
        q_offset=stand,
        mask=mask,
        q_lens=q_lens,
        kv_lens=kv_lens,
    )
    got = np.broadcast_to(got, (B, H, Sq, Sk))
    full = np.broadcast_to(True if mask is None else mask, (B, H, Sq, Sk))
    for b, h, i, j in product(range(B), range(H), range(Sq), range(Sk)):
        p = i + int(np.broadcast_to(stand, B)[b])
        expected = bool(full[b, h, i, j]) and sees(p, j, *window)
        if lengths:
            expected = expected and i < q_lens[b] and j < kv_lens[b]
        assert expected == got[b, h, i, j]


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_positions_do_not_wrap_around(kind: type) -> None:
    """An offset near the end of 32 bits stays what it is (C3)."""
    far = np.array([2**31 - 1], kind)
    options = {"mask": None, "q_lens": None, "kv_lens": None}
    assert not visible(1, 4, 4, window=(3, None), q_offset=far, **options).any()
    assert visible(1, 4, 4, window=(None, 0), q_offset=far, **options).all()
    assert not visible(1, 4, 4, window=(None, 0), q_offset=-far, **options).any()


@pytest.mark.parametrize(("B", "Sq", "Sk"), [(0, 2, 3), (1, 0, 3), (1, 2, 0)])
def test_zero_sizes_give_empty_visibility(B: int, Sq: int, Sk: int) -> None:
    """Zero sizes are legal everywhere (A4)."""
    got = visible(B, Sq, Sk, window=(0, 0), q_offset=0, mask=None, q_lens=None, kv_lens=None)
    assert (B, 1, Sq, Sk) == got.shape
