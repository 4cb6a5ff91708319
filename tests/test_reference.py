"""The reference backend: the specification, rounded once, as the kind that came in."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
import torch

import attnref
from attnref import arrays, normalize, reference
from attnref.backend import is_backend
from attnref.problem import Problem, Result, SoftmaxProblem
from attnref.spec import attention, gradients, packed, softmax, windows

RNG = np.random.default_rng(7)
CU = np.array([0, 1, 4])


def draw(*shape: int) -> np.ndarray:
    """Draw normal numbers."""
    return RNG.normal(size=shape)


class Call(NamedTuple):
    """A public function, its backward, and the specification's answers."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    inputs: dict[str, Any]
    options: dict[str, Any]
    exact: Callable[..., Any]
    exact_backward: Callable[..., Any]


Q, K, V = draw(2, 4, 3, 5), draw(2, 2, 6, 5), draw(2, 2, 6, 2)
MAP, MAPV = draw(2, 5, 4, 2, 3), draw(2, 5, 4, 2, 2)
LENS = {"q_lens": np.array([3, 1]), "kv_lens": np.array([6, 4])}
WINDOWS = {"window": (2, 3), "shift": (1, 2)}


def merged(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> softmax.Rows:
    """Merge as the specification does."""
    return softmax.merge_rows(softmax.Rows(out_a, lse_a), softmax.Rows(out_b, lse_b))


CALLS: dict[str, Call] = {
    "attention": Call(
        attnref.attention_with_lse,
        attnref.attention_backward,
        {
            "q": Q,
            "k": K,
            "v": V,
            "bias": draw(4, 3, 1),
            "sinks": draw(4),
            "mask": RNG.random((3, 6)) < 0.8,
            **LENS,
        },
        {"causal": True, "q_offset": "end", "softcap": 2.0, "scale": 0.5},
        lambda **x: attention.attention(
            **x, window=(None, 0), softcap=2.0, scale=0.5, q_offset=np.array([3, 3])
        ),
        lambda dout, dlse, rows, **x: gradients.attention_backward(
            dout,
            dlse,
            **x,
            **rows._asdict(),
            window=(None, 0),
            softcap=2.0,
            scale=0.5,
            q_offset=np.array([3, 3]),
        ),
    ),
    "attention_varlen": Call(
        attnref.attention_varlen_with_lse,
        attnref.attention_varlen_backward,
        {
            "q": draw(5, 2, 3),
            "k": draw(4, 1, 3),
            "v": draw(4, 1, 2),
            "cu_q": CU,
            "cu_k": CU,
            "sinks": draw(2),
        },
        {"window": (1, 1), "q_offset": "end", "scale": 0.5},
        lambda **x: packed.attention_varlen(**x, window=(1, 1), scale=0.5),
        lambda dout, dlse, rows, **x: packed.attention_varlen_backward(
            dout, dlse, **x, **rows._asdict(), window=(1, 1), scale=0.5
        ),
    ),
    "window_attention": Call(
        attnref.window_attention_with_lse,
        attnref.window_attention_backward,
        {
            "q": MAP,
            "k": MAP[::-1].copy(),
            "v": MAPV,
            "bias": draw(2, 6, 6),
            "scale": draw(2),
            "key_mask": RNG.random((2, 5, 4)) < 0.8,
        },
        {**WINDOWS, "wrap_bias": -1.0},
        lambda **x: windows.window_attention(**x, **WINDOWS, wrap_bias=-1.0),
        lambda dout, dlse, rows, **x: windows.window_attention_backward(
            dout, dlse, **x, **rows._asdict(), **WINDOWS, wrap_bias=-1.0
        ),
    ),
}
KINDS = {
    "numpy": np.asarray,
    "torch": torch.from_numpy,
    "array_api_strict": array_api_strict.asarray,
}


def values(x: Any) -> np.ndarray:
    """Read an array of any library."""
    return arrays.to_numpy(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_the_specification_is_what_runs(name: str, kind: str) -> None:
    """Forward and backward are the specification's, in the caller's library (H3)."""
    call, make = CALLS[name], KINDS[kind]
    inputs = {n: make(x) for n, x in call.inputs.items()}
    if name == "attention_varlen" and kind == "numpy":
        assert inputs["cu_q"] is inputs["cu_k"]
    rows = call.forward(**inputs, **call.options, backend="reference")
    expected = call.exact(**call.inputs)
    for a, b in zip(expected, rows, strict=True):
        assert kind == arrays.library(b)
        assert np.array_equal(a, values(b))
    dout, dlse = draw(*expected.out.shape), draw(*expected.lse.shape)
    got = call.backward(
        dout=make(dout),
        dlse=make(dlse),
        **inputs,
        out=rows.out,
        lse=rows.lse,
        **call.options,
        backend="reference",
    )
    exact = call.exact_backward(dout, dlse, expected, **call.inputs)
    for a, b in zip(exact, got, strict=True):
        if a is None:
            assert b is None
        else:
            assert kind == arrays.library(b)
            assert np.array_equal(a, values(b))


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_projection_gives_one_gradient(kind: str) -> None:
    """qkv in, dqkv out: the three parts in their places (G1)."""
    make, qkv = KINDS[kind], np.stack([MAP, MAP[::-1], MAP * 2], axis=-3)
    parts = dict(zip("qkv", np.moveaxis(qkv, -3, 0), strict=True))
    rows = attnref.window_attention_qkv_with_lse(make(qkv), **WINDOWS, backend="reference")
    expected = windows.window_attention(**parts, **WINDOWS, scale=1 / math.sqrt(3))
    assert np.array_equal(expected.out, values(rows.out))
    alone = attnref.window_attention_qkv(make(qkv), **WINDOWS, backend="reference")
    assert np.array_equal(expected.out, values(alone))
    dout = draw(*expected.out.shape)
    got = attnref.window_attention_qkv_backward(
        make(dout), make(qkv), *rows, **WINDOWS, backend="reference"
    )
    exact = windows.window_attention_backward(
        dout,
        np.zeros(expected.lse.shape),
        **parts,
        **expected._asdict(),
        **WINDOWS,
        scale=1 / math.sqrt(3),
    )
    assert np.array_equal(np.stack(exact[:3], axis=-3), values(got.dqkv))
    assert (None, None) == (got.dbias, got.dscale)


@pytest.mark.parametrize("kind", KINDS)
def test_softmax_merge_and_table(kind: str) -> None:
    """The remaining operations, forward and backward, are the specification's too."""
    make = KINDS[kind]
    x, dy = draw(3, 4), draw(3, 4)
    y = attnref.softmax(make(x), axis=0, tile=2, backend="reference")
    assert np.array_equal(softmax.softmax(x, 0, 2), values(y))
    dx = attnref.softmax_backward(make(dy), y, axis=0, backend="reference")
    assert np.array_equal(softmax.softmax_backward(dy, values(y), 0), values(dx))

    parts = [draw(3, 2), draw(3), draw(3, 2), draw(3)]
    rows = attnref.merge(*map(make, parts), backend="reference")
    whole = merged(*parts)
    assert np.array_equal(whole.out, values(rows.out))
    dout, dlse = draw(3, 2), draw(3)
    got = attnref.merge_backward(
        make(dout), make(dlse), *map(make, parts), *rows, backend="reference"
    )
    for n in (0, 2):
        part = softmax.Rows(*parts[n : n + 2])
        exact = softmax.merge_rows_backward(dout, dlse, part, whole)
        assert np.array_equal(exact.out, values(got[n]))
        assert np.array_equal(exact.lse, values(got[n + 1]))

    table, dbias = draw(15, 2), draw(2, 6, 6)
    bias = attnref.relative_position_bias(make(table), window=(2, 3), backend="reference")
    assert np.array_equal(windows.relative_position_bias(table, (2, 3)), values(bias))
    dtable = attnref.relative_position_bias_backward(
        make(dbias), make(table), window=(2, 3), backend="reference"
    )
    exact_table = windows.relative_position_bias_backward(dbias, (2, 3))
    assert np.array_equal(exact_table, values(dtable))
    assert {kind} == {arrays.library(x) for x in (y, dx, *rows, *got, bias, dtable)}


def test_functions_without_lse_return_the_array() -> None:
    """`attention` and its relatives return `out` itself."""
    case, x = CALLS["attention"], CALLS["attention_varlen"]
    for function, call in (
        (attnref.attention, case),
        (attnref.attention_varlen, x),
        (attnref.window_attention, CALLS["window_attention"]),
    ):
        out = function(**call.inputs, **call.options, backend="reference")
        assert np.array_equal(call.exact(**call.inputs).out, out)


DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_results_are_rounded_once_to_the_inputs_dtype(dtype: str, kind: str) -> None:
    """All is computed in float64; results follow their inputs (A3, A6)."""
    kinds = arrays.numpy_dtype(dtype)
    low = [x.astype(kinds) for x in (Q, K, V)]
    bias, sinks = draw(3, 6).astype(np.float32), draw(4).astype(np.float64)
    like = torch.zeros(1) if kind == "torch" else np.zeros(1)
    q, k, v, b, s = (arrays.from_numpy(x, like) for x in (*low, bias, sinks))
    rows = attnref.attention_with_lse(q, k, v, bias=b, sinks=s, backend="reference")
    exact = attention.attention(
        *(x.astype(np.float64) for x in low),
        bias=bias.astype(np.float64),
        sinks=sinks,
        scale=1 / math.sqrt(5),
    )
    lse_dtype = "float64" if dtype == "float64" else "float32"
    assert (dtype, lse_dtype) == tuple(map(arrays.dtype_name, rows))
    assert np.array_equal(exact.lse.astype(lse_dtype), values(rows.lse))
    distance = np.abs(values(rows.out).astype(np.float64) - exact.out)
    for toward in (-np.inf, np.inf):
        neighbour = np.nextafter(values(rows.out), np.array(toward, kinds)).astype(np.float64)
        assert (distance <= np.abs(neighbour - exact.out)).all()
    got = attnref.attention_backward(rows.out, q, k, v, *rows, bias=b, sinks=s, backend="reference")
    dtypes = [arrays.dtype_name(x) for x in got]
    assert [dtype, dtype, dtype, "float32", "float64"] == dtypes


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (1 + 2**-8 + 2**-40, 1 + 2**-7),
        (1 + 2**-8 - 2**-40, 1.0),
        (1 + 2**-8, 1.0),
        (-1 - 2**-8 - 2**-40, -1 - 2**-7),
        (1 + 3 * 2**-8 - 2**-40, 1 + 2**-7),
        (1 + 3 * 2**-8, 1 + 2**-6),
        (0.1, float(ml_dtypes.bfloat16(0.1))),
        (1e300, np.inf),
        (-np.inf, -np.inf),
        (np.inf, np.inf),
        (0.0, 0.0),
        (2.0**-133 * (1.5 + 2**-30), 2.0**-132),
        (2.0**-200, 0.0),
    ],
)
def test_bfloat16_is_rounded_to_nearest_once(x: float, expected: float) -> None:
    """A tie in float32 that is none in float64 is not rounded as one (A6)."""
    got = reference.rounded(np.array([x]), "bfloat16", np.zeros(1))
    assert expected == float(got[0])


def test_nan_stays_nan_in_bfloat16() -> None:
    """Rounding to odd leaves NaN alone (C6)."""
    assert np.isnan(float(reference.rounded(np.array([np.nan]), "bfloat16", np.zeros(1))[0]))


def test_results_lie_in_memory_as_their_inputs_do() -> None:
    """out follows q, each gradient its input, lse is C-contiguous (A1)."""
    q = np.ascontiguousarray(Q.swapaxes(1, 2)).swapaxes(1, 2)
    k = np.asfortranarray(K)
    v = np.concatenate([V, V], axis=-1)[..., :2]
    rows = attnref.attention_with_lse(q, k, v, backend="reference")
    assert arrays.memory_order(q) == arrays.memory_order(rows.out)
    assert not rows.out.flags.c_contiguous
    assert rows.lse.flags.c_contiguous
    got = attnref.attention_backward(rows.out, q, k, v, *rows, backend="reference")
    assert arrays.memory_order(q) == arrays.memory_order(got.dq)
    assert got.dk.flags.f_contiguous
    assert got.dv.flags.c_contiguous


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_inputs_are_neither_modified_nor_aliased(name: str, kind: str) -> None:
    """Read-only inputs suffice, and no result shares memory with one (A5)."""
    call, make = CALLS[name], KINDS[kind]
    inputs = {n: make(x.copy()) for n, x in call.inputs.items()}
    rows = call.forward(**inputs, **call.options, backend="reference")
    got = call.backward(
        dout=rows.out,
        **inputs,
        out=rows.out,
        lse=rows.lse,
        **call.options,
        backend="reference",
    )
    for n, x in inputs.items():
        assert np.array_equal(call.inputs[n], values(x))
        for y in (*rows, *(g for g in got if g is not None)):
            assert not np.shares_memory(values(x), values(y))


def test_small_operations_do_not_alias() -> None:
    """softmax, merge and the table return fresh arrays (A5)."""
    x, one = np.zeros((1, 1)), np.ones((1, 1))
    nothing = np.array([-np.inf])
    assert not np.shares_memory(x, attnref.softmax(x, backend="reference"))
    rows = attnref.merge(one, np.zeros(1), x, nothing, backend="reference")
    assert not any(np.shares_memory(one, y) for y in rows)
    bias = attnref.relative_position_bias(one, window=(1,), backend="reference")
    assert not np.shares_memory(one, bias)


def test_axes_may_be_missing() -> None:
    """A single merged row and a bias of one number keep their shapes (B3, D3)."""
    out, zero = np.ones(3), np.zeros(())
    rows = attnref.merge(out, zero, out, zero, backend="reference")
    assert ((3,), ()) == (rows.out.shape, rows.lse.shape)
    got = attnref.merge_backward(out, zero, out, zero, out, zero, *rows, backend="reference")
    assert [(3,), (), (3,), ()] == [x.shape for x in got]
    rows = attnref.attention_with_lse(Q, K, V, bias=zero, backend="reference")
    grads = attnref.attention_backward(rows.out, Q, K, V, *rows, bias=zero, backend="reference")
    assert isinstance(grads.dbias, np.ndarray)
    assert () == grads.dbias.shape


def test_an_array_of_offsets_reaches_the_specification() -> None:
    """Offsets per entry are read like any other array (C3)."""
    offsets = np.array([1, -2], np.int32)
    out = attnref.attention(Q, K, V, window=(1, 0), q_offset=offsets, backend="reference")
    expected = attention.attention(Q, K, V, window=(1, 0), q_offset=offsets, scale=1 / math.sqrt(5))
    assert np.array_equal(expected.out, out)
    x = CALLS["attention_varlen"].inputs
    given = {**x, "cu_k": CU.copy(), "q_offset": offsets, "window": (1, 0)}
    out = attnref.attention_varlen(**given, backend="reference")
    assert np.array_equal(packed.attention_varlen(**given, scale=1 / math.sqrt(3)).out, out)


def test_trouble_makes_no_noise() -> None:
    """NaN and infinities pass without a warning (C6)."""
    x = np.array([[[[np.nan], [np.inf]]]])
    assert not np.isfinite(attnref.attention(x, x, x, backend="reference")).any()


def test_the_reference_refuses_nothing() -> None:
    """It is a backend without a reason against any call (H1)."""
    assert is_backend(reference.backend)
    assert [] == list(reference.backend.available())
    assert [] == list(reference.backend.unsupported(normalize.softmax(Q)))
    assert Q is reference.backend.from_numpy(Q)
    assert Q is reference.backend.to_numpy(Q)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Newer(SoftmaxProblem):
    """A call with a feature that the reference has never heard of."""

    def _features(self) -> set[str]:
        return {"unheard of"}


def test_what_is_newer_is_refused_both_ways() -> None:
    """The backward looks for itself: a result may come from elsewhere (H2)."""
    problem = Newer(x=Q, axis=3)
    with pytest.raises(attnref.UnsupportedError, match="unheard of is not implemented"):
        reference.backend.forward(problem)
    with pytest.raises(attnref.UnsupportedError, match="unheard of is not implemented"):
        reference.backend.backward(problem, Result(Q, None), Q)


def test_a_problem_of_no_kind_is_a_bug() -> None:
    """Both directions assert that they know every problem."""
    with pytest.raises(AssertionError):
        reference.exact_forward(Problem())
    with pytest.raises(AssertionError):
        reference.exact_backward(Problem(), Result(Q, None), Q, None)


def test_tensors_without_values_are_refused() -> None:
    """There is nothing to read, and `explain` says the same."""
    x = torch.zeros(2, 3, device="meta")
    assert attnref.explain(attnref.softmax, x, backend="reference").runs is None
    with pytest.raises(attnref.UnsupportedError, match="tensors on meta have no values"):
        attnref.softmax(x, backend="reference")


@pytest.mark.parametrize("backend", ["reference", "numpy", "torch"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_row_that_sees_something_has_a_finite_lse(backend: str, sign: int) -> None:
    """A bias beyond float32 does not make it look empty (A3)."""
    q, bias = np.ones((1, 1, 1, 2), np.float32), np.full((1, 2), sign * 1e300)
    k = np.ones((1, 1, 2, 2), np.float32)
    out, lse = attnref.attention_with_lse(q, k, k, bias=bias, backend=backend)
    assert (1.0, sign * float(np.finfo(np.float32).max)) == (out[0, 0, 0, 0], lse[0, 0, 0])
