"""Attention against 50 digits and against torch, whole and by tiles (A to D)."""

from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnref.spec.attention import attention, keep
from attnref.spec.softmax import Rows, merge_rows

INF, NAN = np.inf, np.nan
TILES = [None, 1, 2, 3, 64]
close = partial(pytest.approx, rel=1e-12, abs=1e-13, nan_ok=True)

B, HQ, HKV, SQ, SK, D, DV = 2, 4, 2, 4, 5, 3, 2


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw q, k and v of the sizes above."""
    return {
        "q": rng.normal(size=(B, HQ, SQ, D)),
        "k": rng.normal(size=(B, HKV, SK, D)),
        "v": rng.normal(size=(B, HKV, SK, DV)),
    }


def every_option(rng: np.random.Generator) -> dict[str, Any]:
    """Draw a value for each option of attention."""
    return {
        "scale": -0.7,
        "window": (2, 1),
        "q_offset": np.array([1, -1]),
        "mask": rng.random((B, 1, SQ, SK)) < 0.8,
        "bias": rng.normal(size=(HQ, SQ, 1)),
        "softcap": 1.5,
        "sinks": np.array([0.3, -INF, 2.0, -1.0]),
        "q_lens": np.array([4, 3]),
        "kv_lens": np.array([4, 5]),
    }


def exact(  # every option, in loops
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float,
    window: tuple[int | None, int | None] = (None, None),
    q_offset: Any = 0,
    mask: Any = None,
    bias: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
    q_lens: Any = None,
    kv_lens: Any = None,
) -> Rows:
    """Attend in 50 digits, one query and one key at a time, with no tricks."""
    B, Hq, Sq, Dv = *q.shape[:3], v.shape[-1]
    Sk, group = k.shape[2], Hq // k.shape[1]
    m = np.broadcast_to(True if mask is None else mask, (B, Hq, Sq, Sk))
    added = np.broadcast_to(0.0 if bias is None else bias, (B, Hq, Sq, Sk))
    offset = np.broadcast_to(q_offset, B)
    out, lse = np.zeros((B, Hq, Sq, Dv)), np.full((B, Hq, Sq), -INF)
    for b, h, i in np.ndindex(B, Hq, Sq):
        if q_lens is not None and i >= q_lens[b]:
            continue
        p, terms, values = i + int(offset[b]), [], []
        for j in range(Sk):
            left, right = window
            hidden = (
                not m[b, h, i, j]
                or (left is not None and j < p - left)
                or (right is not None and j > p + right)
                or (kv_lens is not None and j >= kv_lens[b])
                or added[b, h, i, j] == -INF
            )
            if hidden:
                continue
            g = h // group
            s = scale * mpmath.fdot(zip(q[b, h, i], k[b, g, j], strict=True))
            s = s if softcap is None else softcap * mpmath.tanh(s / softcap)
            terms.append(mpmath.exp(s + mpmath.mpf(float(added[b, h, i, j]))))
            values.append(v[b, g, j])
        total = mpmath.fsum(terms)
        if sinks is not None and sinks[h] != -INF:
            total += mpmath.exp(mpmath.mpf(float(sinks[h])))
        if total:
            lse[b, h, i] = float(mpmath.log(total))
            for d in range(Dv):
                column = [mpmath.mpf(float(x[d])) for x in values]
                out[b, h, i, d] = float(mpmath.fdot(zip(terms, column, strict=True)) / total)
    return Rows(out, lse)


OPTIONS = [
    "none",
    "window",
    "q_offset",
    "mask",
    "bias",
    "softcap",
    "sinks",
    "lens",
    "all",
]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("option", OPTIONS)
def test_attention_agrees_with_50_digits(
    option: str, tile: int | None, rng: np.random.Generator
) -> None:
    """Each option alone, and all at once, whole and by any tile (A2, B to D)."""
    x, given = inputs(rng), every_option(rng)
    names = {"lens": ["q_lens", "kv_lens"], "all": list(given), "none": []}.get(option, [option])
    names += ["window"] if option == "q_offset" else []
    chosen = {"scale": 0.6, **{n: given[n] for n in names}}
    with mpmath.workdps(50):
        expected = exact(**x, **chosen)
    actual = attention(**x, **chosen, tile=tile)
    assert expected.out == close(actual.out)
    assert expected.lse == close(actual.lse)


@pytest.mark.parametrize(
    "shape",
    [(), (SK,), (SQ, 1), (SQ, SK), (HQ, 1, SK), (B, 1, 1, SK), (B, HQ, SQ, SK)],
    ids=str,
)
def test_the_tile_never_changes_the_meaning(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Dense and tiled agree for masks and biases of every shape (B3, C1, D1)."""
    x = inputs(rng)
    mask = np.asarray(rng.random(shape) < 0.5)
    options = {"scale": 0.9, "mask": mask, "bias": np.asarray(rng.normal(size=shape))}
    dense = attention(**x, **options)
    for tile in TILES[1:]:
        tiled = attention(**x, **options, tile=tile)
        assert dense.out == close(tiled.out)
        assert dense.lse == close(tiled.lse)


@pytest.mark.parametrize("scale", [0.5, -0.5, 0.0])
@pytest.mark.parametrize("extra", ["nothing", "causal", "mask", "bias"])
def test_attention_agrees_with_torch(extra: str, scale: float, rng: np.random.Generator) -> None:
    """Where meanings agree, torch's math path in float64 gives the same."""
    x = inputs(rng) | {"q": rng.normal(size=(B, HQ, SK, D))}
    mask, bias = rng.random((B, 1, SK, SK)) < 0.7, rng.normal(size=(1, HQ, SK, SK))
    mask |= np.eye(SK, dtype=bool)
    mine = {
        "causal": {"window": (None, 0)},
        "mask": {"mask": mask},
        "bias": {"bias": bias},
    }
    theirs = {
        "causal": {"is_causal": True},
        "mask": {"attn_mask": torch.from_numpy(mask)},
        "bias": {"attn_mask": torch.from_numpy(bias)},
    }
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(torch.from_numpy(x[n]) for n in "qkv"),
            scale=scale,
            enable_gqa=True,
            **theirs.get(extra, {}),
        )
    actual = attention(**x, scale=scale, **mine.get(extra, {}))
    assert expected.numpy() == close(actual.out)


def test_a_negative_scale_prefers_the_unlike(rng: np.random.Generator) -> None:
    """A scale of minus one equals negated queries (B1)."""
    x = inputs(rng)
    expected = attention(-x["q"], x["k"], x["v"], scale=1.0)
    actual = attention(**x, scale=-1.0)
    assert expected.out == close(actual.out)
    assert expected.lse == close(actual.lse)


@pytest.mark.parametrize("tile", TILES)
def test_rows_that_see_nothing_are_zero(tile: int | None, rng: np.random.Generator) -> None:
    """By mask, by bias, by window or without keys: zero and -inf, and no NaN (C5)."""
    x = inputs(rng)
    ways: list[dict[str, Any]] = [
        {"mask": np.zeros((SQ, SK), bool)},
        {"bias": np.full((SQ, SK), -INF)},
        {"window": (0, 0), "q_offset": 99},
        {"kv_lens": np.zeros(B, np.int64)},
        {"q_lens": np.zeros(B, np.int64)},
    ]
    for way in ways:
        out, lse = attention(**x, scale=1.0, **way, tile=tile)
        assert np.array_equal(np.zeros((B, HQ, SQ, DV)), out)
        assert np.array_equal(np.full((B, HQ, SQ), -INF), lse)


@pytest.mark.parametrize("tile", TILES)
def test_a_sink_answers_for_real_rows_only(tile: int | None, rng: np.random.Generator) -> None:
    """A real row that sees nothing has lse = sink; rows past q_lens keep -inf (D4)."""
    sinks = np.array([0.5, -INF, 2.0, -3.0])
    out, lse = attention(
        **inputs(rng),
        scale=1.0,
        mask=np.zeros((), bool),
        sinks=sinks,
        q_lens=np.array([SQ, 1]),
        tile=tile,
    )
    expected = np.broadcast_to(sinks[:, None], (B, HQ, SQ)).copy()
    expected[1, :, 1:] = -INF
    assert np.array_equal(np.zeros(out.shape), out)
    assert np.array_equal(expected, lse)


@pytest.mark.parametrize("tile", TILES)
def test_each_entry_of_a_batch_is_attention_by_itself(
    tile: int | None, rng: np.random.Generator
) -> None:
    """A batch of any size gives what its entries give alone, sinks included (A1, D4)."""
    x = {n: np.concatenate([a, a[:1] + 1.0]) for n, a in inputs(rng).items()}
    options = {"scale": 1.0, "sinks": rng.normal(size=HQ), "tile": tile}
    whole = attention(**x, **options)
    for b in range(B + 1):
        alone = attention(**{n: a[b : b + 1] for n, a in x.items()}, **options)
        assert alone.out[0] == close(whole.out[b])
        assert alone.lse[0] == close(whole.lse[b])


@pytest.mark.parametrize("tile", TILES)
def test_a_bias_of_minus_infinity_is_a_mask(tile: int | None, rng: np.random.Generator) -> None:
    """For finite scores, selecting by bias equals selecting by mask (B4)."""
    x, mask = inputs(rng), rng.random((B, HQ, SQ, SK)) < 0.5
    masked = attention(**x, scale=1.0, softcap=2.0, mask=mask, tile=tile)
    biased = attention(**x, scale=1.0, softcap=2.0, bias=np.where(mask, 0.0, -INF), tile=tile)
    assert masked.out == close(biased.out)
    assert masked.lse == close(biased.lse)


def test_no_finite_bias_hides_a_key() -> None:
    """A row of equally enormous negative biases still attends (B4)."""
    x = np.zeros((1, 1, 1, 1))
    v = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    bias = np.full((1, 2), -1e300)
    out, _ = attention(x, np.zeros((1, 1, 2, 1)), v, scale=1.0, bias=bias)
    assert 2.0 == out[0, 0, 0, 0]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=["NaN", "+inf", "-inf"])
@pytest.mark.parametrize("where", ["k", "v", "bias"])
def test_what_is_invisible_influences_nothing(
    where: str, bad: float, tile: int | None, rng: np.random.Generator
) -> None:
    """Non-finite values at invisible positions leave every row as it was (C6)."""
    x, mask = inputs(rng), np.ones((SQ, SK), bool)
    mask[:, 2] = False
    bias = rng.normal(size=(SQ, SK))
    clean = attention(**x, scale=1.0, mask=mask, bias=bias, tile=tile)
    if where == "bias":
        bias[:, 2] = bad
    else:
        x[where][:, :, 2] = bad
    dirty = attention(**x, scale=1.0, mask=mask, bias=bias, tile=tile)
    assert np.array_equal(clean.out, dirty.out)
    assert np.array_equal(clean.lse, dirty.lse)


@pytest.mark.parametrize("tile", TILES)
def test_a_nan_query_spoils_its_own_row(tile: int | None, rng: np.random.Generator) -> None:
    """A non-finite row is told, and no other row hears of it (C6)."""
    x = inputs(rng)
    clean = attention(**x, scale=1.0, tile=tile)
    x["q"][1, 2, 3] = NAN
    out, lse = attention(**x, scale=1.0, tile=tile)
    assert np.isnan(out[1, 2, 3]).all()
    assert np.isnan(lse[1, 2, 3])
    out[1, 2, 3], lse[1, 2, 3] = clean.out[1, 2, 3], clean.lse[1, 2, 3]
    assert np.array_equal(clean.out, out)
    assert np.array_equal(clean.lse, lse)


@pytest.mark.parametrize("rest", [(), (3,)], ids=["numbers", "vectors"])
def test_only_zeros_are_kept_past_a_length(rest: tuple[int, ...]) -> None:
    """Past its length a sequence holds zeros, whatever stood there (C4)."""
    expected = np.zeros((2, 1, 4, *rest))
    expected[0, :, :1] = expected[1, :, :3] = 5.0
    x = np.where(expected == 0, NAN, expected)
    assert np.array_equal(expected, keep(x, np.array([1, 3])))
    assert x is keep(x, None)


@pytest.mark.parametrize("tile", TILES)
def test_nothing_past_a_length_matters(tile: int | None, rng: np.random.Generator) -> None:
    """NaN in k, v and bias past kv_lens, in q past q_lens, changes nothing (C4)."""
    x, bias = inputs(rng), rng.normal(size=(B, 1, SQ, SK))
    q_lens, kv_lens = np.array([2, 4]), np.array([5, 3])
    options = {"scale": 1.0, "q_lens": q_lens, "kv_lens": kv_lens, "tile": tile}
    clean = attention(**x, bias=bias, **options)
    x["q"][0, :, 2:], x["k"][1, :, 3:], x["v"][1, :, 3:] = NAN, NAN, NAN
    bias[0, :, 2:], bias[1, :, :, 3:] = NAN, NAN
    dirty = attention(**x, bias=bias, **options)
    assert np.array_equal(clean.out, dirty.out)
    assert np.array_equal(clean.lse, dirty.lse)
    assert np.array_equal(np.zeros((HQ, 2, DV)), dirty.out[0, :, 2:])
    assert np.array_equal(np.full((HQ, 2), -INF), dirty.lse[0, :, 2:])


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((0, 2, 3, 4), (0, 1, 5, 4), (0, 1, 5, 2)),
        ((1, 0, 3, 4), (1, 0, 5, 4), (1, 0, 5, 2)),
        ((1, 0, 3, 4), (1, 2, 5, 4), (1, 2, 5, 2)),
        ((1, 2, 0, 4), (1, 1, 5, 4), (1, 1, 5, 2)),
        ((1, 2, 3, 4), (1, 1, 5, 4), (1, 1, 5, 0)),
        ((1, 2, 3, 4), (1, 1, 0, 4), (1, 1, 0, 2)),
        ((1, 2, 3, 0), (1, 1, 5, 0), (1, 1, 5, 2)),
    ],
    ids=["B=0", "Hq=Hkv=0", "Hq=0", "Sq=0", "Dv=0", "Sk=0", "D=0"],
)
@pytest.mark.parametrize("tile", [None, 2])
def test_zero_sizes_are_legal(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], tile: int | None
) -> None:
    """Each size may be zero; no keys see nothing, and D = 0 weighs equally (A4)."""
    out, lse = attention(np.ones(q), np.ones(k), np.ones(v), scale=1.0, tile=tile)
    assert (*q[:3], v[3]) == out.shape
    assert q[:3] == lse.shape
    if k[2] == 0:
        assert (out == 0).all()
        assert (lse == -INF).all()
    elif q[3] == 0:
        assert 1.0 == close(float(out.mean()))
        assert np.log(5) == close(float(lse.mean()))


def test_disjoint_keys_merge_to_the_whole(rng: np.random.Generator) -> None:
    """Two halves, merged, are attention over both; the sink counts once (D3)."""
    x, sinks = inputs(rng), rng.normal(size=HQ)
    whole = attention(**x, scale=1.0, sinks=sinks)
    left = attention(x["q"], x["k"][:, :, :2], x["v"][:, :, :2], scale=1.0, sinks=sinks)
    right = attention(x["q"], x["k"][:, :, 2:], x["v"][:, :, 2:], scale=1.0)
    merged = merge_rows(left, right)
    assert whole.out == close(merged.out)
    assert whole.lse == close(merged.lse)
