"""Gradients against finite differences, 50 digits and torch's tape (B3, C4, C5, E)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from attnref.spec.attention import attention, dense
from attnref.spec.gradients import (
    attention_backward,
    dense_backward,
    row_delta,
    sink_gradient,
    sum_to,
    weights,
)
from attnref.spec.scores import repeat_heads
from attnref.spec.softmax import merge_rows, merge_rows_backward

INF, NAN = np.inf, np.nan
near = partial(pytest.approx, rel=1e-6, abs=1e-8)
close = partial(pytest.approx, rel=1e-12, abs=1e-13)

B, HQ, HKV, SQ, SK, D, DV = 2, 4, 2, 3, 4, 3, 2
Case = dict[str, Any]


@pytest.fixture
def x(rng: np.random.Generator) -> Case:
    """Draw q, k and v."""
    return {
        "q": rng.normal(size=(B, HQ, SQ, D)),
        "k": rng.normal(size=(B, HKV, SK, D)),
        "v": rng.normal(size=(B, HKV, SK, DV)),
    }


@pytest.fixture
def seeds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the gradients of out and lse."""
    return rng.normal(size=(B, HQ, SQ, DV)), rng.normal(size=(B, HQ, SQ))


def loss(seeds: tuple[np.ndarray, np.ndarray], **case: Any) -> float:
    """Weigh out and lse by the seeds; a row of minus infinity does not count."""
    out, lse = attention(**case)
    dout, dlse = seeds
    return float((dout * out).sum() + (dlse * np.where(lse == -INF, 0.0, lse)).sum())


def backward(seeds: tuple[np.ndarray, np.ndarray], **case: Any) -> dict[str, Any]:
    """Run the specification's backward on its own forward."""
    return attention_backward(*seeds, out=(r := attention(**case)).out, lse=r.lse, **case)._asdict()


def some_options(rng: np.random.Generator) -> dict[str, Case]:
    """Name one set of options per clause."""
    mask = rng.random((B, 1, SQ, SK)) < 0.7
    mask[0, 0, 1] = False
    lens = {"q_lens": np.array([3, 1]), "kv_lens": np.array([2, 4])}
    alone: dict[str, Case] = {
        "plain": {},
        "negative scale": {"scale": -1.3},
        "zero scale": {"scale": 0.0},
        "window": {"window": (1, 1)},
        "offset per entry": {"window": (1, 0), "q_offset": np.array([1, -2])},
        "mask with an empty row": {"mask": mask},
        "softcap": {"softcap": 0.8},
        "sinks": {"sinks": np.array([0.2, -1.0, 1.0, -INF])},
        "lengths": lens,
    }
    all_of_them: Case = {}
    for options in alone.values():
        all_of_them |= options
    return alone | {"everything": all_of_them | {"scale": 0.9}}


OPTIONS = list(some_options(np.random.default_rng(0)))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_of_q_k_v_and_sinks_are_the_slopes(
    name: str,
    x: Case,
    seeds: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    slope: Callable[..., np.ndarray],
) -> None:
    """Through out and lse at once, all match finite differences (E1, D4)."""
    case = x | {"scale": 0.7} | some_options(rng)[name]
    got = backward(seeds, **case)
    for n in "qkv":
        assert slope(lambda t, n=n: loss(seeds, **{**case, n: t}), case[n]) == near(got[f"d{n}"])
    if "sinks" in case:
        expected = slope(lambda t: loss(seeds, **{**case, "sinks": t}), case["sinks"])
        assert expected == near(got["dsinks"])
        assert 0.0 == got["dsinks"][3]
    else:
        assert got["dsinks"] is None
    assert got["dbias"] is None


SHAPES = [
    (),
    (1,),
    (SK,),
    (SQ, 1),
    (SQ, SK),
    (1, 1, SK),
    (HQ, 1, 1),
    (HQ, SQ, SK),
    (B, 1, 1, SK),
    (1, HQ, SQ, 1),
    (B, 1, SQ, SK),
    (B, HQ, SQ, SK),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_bias_gradient_is_summed_over_its_broadcast(
    shape: tuple[int, ...],
    x: Case,
    seeds: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    slope: Callable[..., np.ndarray],
) -> None:
    """At every broadcast shape dbias matches finite differences, in that shape (B3)."""
    case = x | {
        "scale": 0.7,
        "softcap": 2.0,
        "bias": np.asarray(rng.normal(size=shape)),
    }
    got = backward(seeds, **case)["dbias"]
    assert shape == got.shape
    assert slope(lambda t: loss(seeds, **{**case, "bias": t}), case["bias"]) == near(got)


def test_gradients_agree_with_50_digits(rng: np.random.Generator) -> None:
    """One head, softcap, bias and sink: the formulas of E1 and D4 hold to rounding."""
    case = {
        "q": rng.normal(size=(1, 1, 2, 2)),
        "k": rng.normal(size=(1, 1, 3, 2)),
        "v": rng.normal(size=(1, 1, 3, 2)),
        "bias": rng.normal(size=(2, 3)),
        "sinks": rng.normal(size=1),
    }
    seeds = rng.normal(size=(1, 1, 2, 2)), rng.normal(size=(1, 1, 2))
    got = backward(seeds, **case, scale=0.75, softcap=1.25)
    exact = {n: [mpmath.mpf(float(t)) for t in a.ravel()] for n, a in case.items()}

    def precise(p: dict[str, list[Any]]) -> Any:
        total = mpmath.mpf(0)
        for i in range(2):
            e = [mpmath.exp(p["sinks"][0])]
            for j in range(3):
                a = mpmath.mpf("0.75") * sum(p["q"][2 * i + d] * p["k"][2 * j + d] for d in (0, 1))
                e.append(mpmath.exp(1.25 * mpmath.tanh(a / 1.25) + p["bias"][3 * i + j]))
            l = mpmath.fsum(e)  # the letter of the equation
            total += float(seeds[1][0, 0, i]) * mpmath.log(l)
            for d in (0, 1):
                out = sum(e[1 + j] * p["v"][2 * j + d] for j in range(3)) / l
                total += float(seeds[0][0, 0, i, d]) * out
        return total

    with mpmath.workdps(50):
        h = mpmath.mpf(10) ** -18
        for name, flat in exact.items():
            for n in range(len(flat)):
                up, down = (
                    {**exact, name: [*flat[:n], flat[n] + s * h, *flat[n + 1 :]]} for s in (1, -1)
                )
                expected = float((precise(up) - precise(down)) / (2 * h))
                assert expected == close(got[f"d{name}"].ravel()[n])


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_gradients_agree_with_torchs_tape(
    causal: bool,
    x: Case,
    seeds: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Grouped heads, cap, bias, sinks, lse: torch finds the same (E1, E3)."""
    case = x | {"bias": rng.normal(size=(HQ, 1, SK)), "sinks": rng.normal(size=HQ)}
    window = (None, 0) if causal else (None, None)
    got = backward(seeds, **case, scale=0.7, softcap=1.5, window=window, q_offset=1)
    t = {n: torch.from_numpy(a).requires_grad_() for n, a in case.items()}
    k, v = (t[n].repeat_interleave(HQ // HKV, 1) for n in "kv")
    s = 1.5 * torch.tanh(0.7 * t["q"] @ k.mT / 1.5) + t["bias"]
    if causal:
        s = s.masked_fill(~torch.ones(SQ, SK, dtype=torch.bool).tril(1), -INF)
    s = torch.cat([t["sinks"][:, None, None].expand(B, HQ, SQ, 1), s], -1)
    dout, dlse = map(torch.from_numpy, seeds)
    ((s.softmax(-1)[..., 1:] @ v * dout).sum() + (s.logsumexp(-1) * dlse).sum()).backward()
    for n, tensor in t.items():
        assert tensor.grad.numpy() == close(got[f"d{n}"])


def test_no_gradient_passes_through_an_empty_row(
    x: Case, seeds: tuple[np.ndarray, np.ndarray]
) -> None:
    """A row that sees nothing gives zeros, no NaN, and ignores dlse (C5, E1)."""
    got = backward(seeds, **x, scale=1.0, mask=np.zeros((), bool), bias=np.ones((SQ, SK)))
    for name in ("dq", "dk", "dv", "dbias"):
        assert not got[name].any()


def test_an_empty_row_passes_only_dlse_to_its_sink(
    x: Case, seeds: tuple[np.ndarray, np.ndarray]
) -> None:
    """With nothing but the sink in sight, dsinks is the sum of dlse (D4)."""
    got = backward(seeds, **x, scale=1.0, mask=np.zeros((), bool), sinks=np.ones(HQ))
    assert seeds[1].sum(axis=(0, 2)) == close(got["dsinks"])


def test_nothing_past_a_length_reaches_a_gradient(
    x: Case, seeds: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> None:
    """NaN past a length of an input, result or seed changes no gradient (C4)."""
    q_lens, kv_lens = np.array([2, 3]), np.array([4, 1])
    bias = rng.normal(size=(B, 1, SQ, SK))
    fixed = {
        "scale": 1.0,
        "q_lens": q_lens,
        "kv_lens": kv_lens,
        "sinks": rng.normal(size=HQ),
    }
    rows = attention(**x, bias=bias, **fixed)
    clean = attention_backward(*seeds, **x, bias=bias, **fixed, **rows._asdict())
    for array in (x["q"], *seeds, *rows):
        array[0, :, 2:] = NAN
    x["k"][1, :, 1:] = x["v"][1, :, 1:] = bias[0, :, 2:] = bias[1, ..., 1:] = NAN
    dirty = attention_backward(*seeds, **x, bias=bias, **fixed, **rows._asdict())
    for expected, actual in zip(clean, dirty, strict=True):
        assert np.array_equal(expected, actual)
    assert not dirty.dq[0, :, 2:].any()
    assert not dirty.dk[1, :, 1:].any()
    assert not dirty.dv[1, :, 1:].any()


def test_parts_of_a_merged_problem_contribute(
    x: Case, seeds: tuple[np.ndarray, np.ndarray]
) -> None:
    """With the merged out and lse, the halves' gradients add up to the whole's (E2)."""
    whole = backward(seeds, **x, scale=1.0)
    rows = attention(**x, scale=1.0)
    halves = [
        {"k": x["k"][:, :, at], "v": x["v"][:, :, at]} for at in (slice(0, 1), slice(1, None))
    ]
    a, b = (
        attention_backward(*seeds, q=x["q"], **half, **rows._asdict(), scale=1.0) for half in halves
    )
    assert whole["dq"] == close(a.dq + b.dq)
    assert whole["dk"] == close(np.concatenate([a.dk, b.dk], axis=2))
    assert whole["dv"] == close(np.concatenate([a.dv, b.dv], axis=2))


def test_gradients_through_a_merge_are_those_of_the_whole(
    x: Case, seeds: tuple[np.ndarray, np.ndarray]
) -> None:
    """Merge, pass back to a part and through it: the chain closes (D3, E1)."""
    part, rest = ({n: x[n][:, :, at] for n in "kv"} for at in (slice(0, 2), slice(2, None)))
    rows, others = (attention(x["q"], **p, scale=1.0) for p in (part, rest))
    dout, dlse = merge_rows_backward(*seeds, rows, merge_rows(rows, others))
    got = attention_backward(dout, dlse, x["q"], **part, **rows._asdict(), scale=1.0)
    assert backward(seeds, **x, scale=1.0)["dk"][:, :, :2] == close(got.dk)


def test_weights_are_zero_where_nothing_is_seen() -> None:
    """Invisible positions and rows of lse = -inf weigh zero, by selection (C5, E1)."""
    s = np.array([[[[0.0, NAN], [0.0, 0.0]]]])
    seen = np.array([[[[True, False], [True, True]]]])
    got = weights(s, np.array([[[np.log(2.0), -INF]]]), seen)
    assert np.array_equal([[0.5, 0.0], [0.0, 0.0]], got[0, 0])


def test_what_pairs_say_about_the_scale_adds_up_to_its_slope(
    x: Case,
    seeds: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    slope: Callable[..., np.ndarray],
) -> None:
    """dscale sums to the slope of each head's scale; hidden pairs say nothing (E1, G6)."""
    q, k, v = x["q"], repeat_heads(x["k"], HQ), repeat_heads(x["v"], HQ)
    seen, scale = np.ones((B, 1, SQ, SK), bool), rng.normal(size=(HQ, 1, 1))
    seen[..., 2] = False

    def loss(scale: np.ndarray) -> float:
        rows = dense(q, k, v, seen, scale=scale)
        return sum(float((d * r).sum()) for d, r in zip(seeds, rows, strict=True))

    got = dense_backward(*seeds, q, k, v, *dense(q, k, v, seen, scale=scale), seen, scale=scale)
    assert slope(loss, scale) == near(got.dscale.sum(axis=(0, 2, 3), keepdims=True)[0])
    assert not got.dscale[..., 2].any()


def test_a_hidden_pair_is_left_out_by_selection(
    x: Case, seeds: tuple[np.ndarray, np.ndarray]
) -> None:
    """NaN in a hidden key and value changes neither dS nor dscale nor dv (E1)."""
    q, k, v = x["q"], repeat_heads(x["k"], HQ), repeat_heads(x["v"], HQ)
    seen = np.ones((B, 1, SQ, SK), bool)
    seen[..., 2] = False
    rows = dense(q, k, v, seen, scale=1.0)
    clean = dense_backward(*seeds, q, k, v, *rows, seen, scale=1.0)
    k[:, :, 2] = v[:, :, 2] = NAN
    dirty = dense_backward(*seeds, q, k, v, *rows, seen, scale=1.0)
    for name in ("dS", "dscale", "dv"):
        assert np.array_equal(getattr(clean, name), getattr(dirty, name))


def test_delta_is_the_row_sum_of_products(rng: np.random.Generator) -> None:
    """delta_i = sum_d dout_id out_id (E1)."""
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    assert np.einsum("bid,bid->bi", a, b) == close(row_delta(a, b))


@pytest.mark.parametrize("shape", [*SHAPES, (0,)], ids=str)
def test_sum_to_is_the_transpose_of_broadcasting(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """<broadcast b, x> = <b, sum_to x> for every shape that broadcasts (B3)."""
    full = (B, HQ, SQ, shape[-1] if shape == (0,) else SK)
    b, x = np.asarray(rng.normal(size=shape)), rng.normal(size=full)
    summed = sum_to(x, shape)
    assert isinstance(summed, np.ndarray)
    assert shape == summed.shape
    assert float((np.broadcast_to(b, full) * x).sum()) == close(float((b * summed).sum()))


def test_nothing_is_summed_to_more_axes_than_it_has() -> None:
    """A broadcast adds axes and takes none away (B3)."""
    with pytest.raises(ValueError, match="shorter"):
        sum_to(np.ones(2), (1, 2))


def test_a_sink_that_is_none_has_no_gradient() -> None:
    """A sink of minus infinity weighs zero, even on a row of minus infinity (D4)."""
    sink = np.array([[[-INF, 0.0]]])
    got = sink_gradient(sink, np.array([[[-INF, 0.0]]]), np.zeros((1, 1, 2)), np.ones((1, 1, 2)))
    assert [1.0] == got.tolist()


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
def test_gradients_of_zero_sizes_have_their_shapes(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]
) -> None:
    """Each size may be zero; every gradient has its input's shape (A4)."""
    rows = attention(np.ones(q), np.ones(k), np.ones(v), scale=1.0)
    g = attention_backward(
        rows.out,
        np.ones(q[:3]),
        np.ones(q),
        np.ones(k),
        np.ones(v),
        *rows,
        scale=1.0,
        bias=np.zeros((q[2], k[2])),
        sinks=np.zeros(q[1]),
    )
    shapes = [x.shape for x in g]
    assert [q, k, v, (q[2], k[2]), (q[1],)] == shapes
    assert all(np.isfinite(x).all() for x in g)
