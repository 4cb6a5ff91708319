"""Packed sequences: each is attention by itself (F1)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from attnref.spec.attention import attention
from attnref.spec.gradients import attention_backward
from attnref.spec.packed import attention_varlen, attention_varlen_backward, sequences

NAN = np.nan
near = partial(pytest.approx, rel=1e-6, abs=1e-8)

CU_Q = np.array([0, 2, 2, 5], np.int32)
CU_K = np.array([0, 3, 4, 4], np.int32)
TQ, TK = 6, 6
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window of one": {"window": (0, 0)},
    "window": {"window": (1, 0), "q_offset": np.array([1, 0, -1])},
    "all": {
        "window": (2, 1),
        "q_offset": 1,
        "softcap": 1.5,
        "sinks": np.array([0.5, -1.0]),
    },
}


@pytest.fixture
def x(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw three sequences: two and three, none and one, three and no keys."""
    return {
        "q": rng.normal(size=(TQ, 2, 3)),
        "k": rng.normal(size=(TK, 1, 3)),
        "v": rng.normal(size=(TK, 1, 2)),
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_each_sequence_is_attention_by_itself(name: str, x: dict[str, np.ndarray]) -> None:
    """A loop gives the same; rows past the last offset see nothing (F1)."""
    options = dict(OPTIONS[name])
    out, lse = attention_varlen(**x, cu_q=CU_Q, cu_k=CU_K, scale=0.8, **options)
    offset = np.broadcast_to(options.pop("q_offset", 0), 3)
    for n in range(3):
        mine, seen = slice(CU_Q[n], CU_Q[n + 1]), slice(CU_K[n], CU_K[n + 1])
        args = [
            np.moveaxis(x[t][at], 0, 1)[None]
            for t, at in zip("qkv", (mine, seen, seen), strict=True)
        ]
        expected = attention(*args, scale=0.8, q_offset=int(offset[n]), **options)
        assert np.array_equal(np.moveaxis(expected.out[0], 0, 1), out[mine])
        assert np.array_equal(expected.lse[0], lse[:, mine])
    assert not out[5:].any()
    assert (lse[:, 5:] == -np.inf).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_gradients_are_the_slopes(
    name: str,
    x: dict[str, np.ndarray],
    rng: np.random.Generator,
    slope: Callable[..., np.ndarray],
) -> None:
    """q, k, v and sinks, through out and lse, match finite differences (E1, F1)."""
    case = {**x, "cu_q": CU_Q, "cu_k": CU_K, "scale": 0.8, **OPTIONS[name]}
    dout, dlse = rng.normal(size=(TQ, 2, 2)), rng.normal(size=(2, TQ))

    def loss(**changed: np.ndarray) -> float:
        out, lse = attention_varlen(**{**case, **changed})
        return float((dout * out).sum() + (dlse * np.where(lse == -np.inf, 0.0, lse)).sum())

    rows = attention_varlen(**case)
    got = attention_varlen_backward(dout, dlse, **case, **rows._asdict())._asdict()
    for n in ("q", "k", "v", *(["sinks"] if "sinks" in case else [])):
        assert slope(lambda t, n=n: loss(**{n: t}), case[n]) == near(got[f"d{n}"])
    assert got["dbias"] is None
    assert ("sinks" in case) == (got["dsinks"] is not None)


def test_sequences_do_not_hear_of_each_other(
    x: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    """NaN in one sequence, and past the last offset, reaches no other (C4, F1)."""
    case = {"cu_q": CU_Q, "cu_k": CU_K, "scale": 1.0}
    seeds = rng.normal(size=(TQ, 2, 2)), rng.normal(size=(2, TQ))
    clean = attention_varlen(**x, **case)
    dclean = attention_varlen_backward(*seeds, **x, **case, **clean._asdict())
    x["k"][3:], x["v"][3:], x["q"][5:] = NAN, NAN, NAN
    dirty = attention_varlen(**x, **case)
    ddirty = attention_varlen_backward(*seeds, **x, **case, **dirty._asdict())
    assert np.array_equal(clean.out, dirty.out)
    assert np.array_equal(clean.lse, dirty.lse)
    assert np.array_equal(dclean.dq, ddirty.dq)
    assert np.array_equal(dclean.dk[:3], ddirty.dk[:3])


def test_no_sequences_at_all_are_legal() -> None:
    """One offset, zero, packs nothing (F1)."""
    zero = np.array([0])
    out, lse = attention_varlen(
        np.ones((2, 1, 3)),
        np.ones((0, 1, 3)),
        np.ones((0, 1, 2)),
        zero,
        zero,
        scale=1.0,
    )
    assert (2, 1, 2) == out.shape
    assert (lse == -np.inf).all()


def test_one_sequence_is_a_batch_of_one(x: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Offsets (0, T) give dense attention and its gradients (F1)."""
    cu_q, cu_k = np.array([0, TQ]), np.array([0, TK])
    heads_first = [np.moveaxis(x[n], 0, 1)[None] for n in "qkv"]
    seeds = rng.normal(size=(TQ, 2, 2)), rng.normal(size=(2, TQ))
    rows, dense = (
        attention_varlen(**x, cu_q=cu_q, cu_k=cu_k, scale=1.0),
        attention(*heads_first, scale=1.0),
    )
    assert np.array_equal(dense.lse[0], rows.lse)
    got = attention_varlen_backward(*seeds, **x, **rows._asdict(), cu_q=cu_q, cu_k=cu_k, scale=1.0)
    expected = attention_backward(
        np.moveaxis(seeds[0], 0, 1)[None],
        seeds[1][None],
        *heads_first,
        *dense,
        scale=1.0,
    )
    assert np.array_equal(np.moveaxis(expected.dk[0], 0, 1), got.dk)


def test_sequences_are_walked_with_their_offsets() -> None:
    """Slices and offsets come sequence by sequence (F1)."""
    walked = list(sequences(np.array([0, 1, 3]), np.array([0, 0, 2]), np.array([4, -5])))
    assert [(slice(0, 1), slice(0, 0), 4), (slice(1, 3), slice(0, 2), -5)] == walked
