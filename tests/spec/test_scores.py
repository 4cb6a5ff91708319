"""Scores: scale, soft cap, bias, grouped heads (A2, B1 to B3)."""

from functools import partial

import mpmath
import numpy as np
import pytest

from attnref.spec.scores import repeat_heads, scores, similarity, soft_cap, sum_heads

close = partial(pytest.approx, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize(("Hq", "Hkv"), [(1, 1), (4, 1), (4, 2), (6, 3), (3, 3)])
def test_a_query_head_reads_the_head_of_its_group(
    Hq: int, Hkv: int, rng: np.random.Generator
) -> None:
    """Query head h reads key/value head h // (Hq // Hkv) (A2)."""
    x = rng.normal(size=(2, Hkv, 3, 4))
    repeated = repeat_heads(x, Hq)
    assert (2, Hq, 3, 4) == repeated.shape
    for h in range(Hq):
        assert np.array_equal(x[:, h // (Hq // Hkv)], repeated[:, h])


@pytest.mark.parametrize(("Hq", "Hkv"), [(1, 1), (4, 1), (4, 2), (6, 3)])
def test_sum_heads_is_the_transpose_of_repeat_heads(
    Hq: int, Hkv: int, rng: np.random.Generator
) -> None:
    """For any x and y, <repeat x, y> = <x, sum y> (E3)."""
    x, y = rng.normal(size=(2, Hkv, 3, 4)), rng.normal(size=(2, Hq, 3, 4))
    expected = (repeat_heads(x, Hq) * y).sum()
    assert expected == close((x * sum_heads(y, Hkv)).sum())


@pytest.mark.parametrize("Hkv", [0, 2])
def test_no_query_heads_read_nothing(Hkv: int) -> None:
    """Without query heads both directions give arrays of the right, empty shape."""
    assert (2, 0, 3, 4) == repeat_heads(np.ones((2, Hkv, 3, 4)), 0).shape
    assert (2, Hkv, 3, 4) == sum_heads(np.ones((2, 0, 3, 4)), Hkv).shape
    assert 0.0 == sum_heads(np.ones((2, 0, 3, 4)), Hkv).sum()


@pytest.mark.parametrize("scale", [1.0, 0.125, 0.0, -3.0])
def test_the_scale_multiplies_the_accumulated_product(
    scale: float, rng: np.random.Generator
) -> None:
    """Scores agree with 50-digit sums for any sign of the scale (B1)."""
    q, k = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5))
    with mpmath.workdps(50):
        expected = np.array(
            [
                [[float(scale * mpmath.fdot(zip(i, j, strict=True))) for j in k[b]] for i in q[b]]
                for b in range(2)
            ]
        )
    assert expected == close(similarity(q, k, scale))


def test_a_scale_per_head_multiplies_its_own_head(rng: np.random.Generator) -> None:
    """An array of scales is as good as one number per head (G6)."""
    q, k = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 6, 5))
    scale = np.array([0.5, -2.0, 0.0])
    got = similarity(q, k, scale[:, None, None])
    for h in range(3):
        assert similarity(q[:, h], k[:, h], float(scale[h])) == close(got[:, h])


def test_a_head_size_of_zero_scores_zero() -> None:
    """An empty sum is zero (A4)."""
    assert np.array_equal(np.zeros((2, 3)), similarity(np.ones((2, 0)), np.ones((3, 0)), 7.0))


@pytest.mark.parametrize("cap", [0.5, 1.0, 30.0])
def test_the_soft_cap_is_a_scaled_tanh(cap: float) -> None:
    """The cap agrees with 50 digits and bounds every score (B2)."""
    a = np.array([[-1e4, -2.0, -1e-9, 0.0, 1e-9, 3.0, 1e4]])
    with mpmath.workdps(50):
        expected = np.array([[float(cap * mpmath.tanh(mpmath.mpf(x) / cap)) for x in a[0]]])
    assert expected == close(soft_cap(a, cap))
    assert (np.abs(soft_cap(a, cap)) <= cap).all()


def test_no_cap_changes_nothing() -> None:
    """Without a cap the score itself passes (B2)."""
    a = np.array([[1.0, -np.inf, 2.0]])
    assert a is soft_cap(a, None)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (3, 4), (2, 1, 4), (2, 3, 4)], ids=str)
def test_the_bias_broadcasts_and_comes_after_the_cap(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """A bias is added to the capped score and is not capped itself (B3)."""
    q, k = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5))
    bias = np.asarray(rng.normal(size=shape) * 100)
    expected = 2.0 * np.tanh(0.7 * np.einsum("bid,bjd->bij", q, k) / 2.0) + bias
    assert expected == close(scores(q, k, scale=0.7, softcap=2.0, bias=bias))


def test_a_bias_of_minus_infinity_survives_the_cap() -> None:
    """The order cap, then bias keeps a hidden position hidden (B4)."""
    got = scores(
        np.ones((1, 1)),
        np.ones((1, 1)),
        scale=1.0,
        softcap=3.0,
        bias=np.array([-np.inf]),
    )
    assert -np.inf == got[0, 0]
