"""Problems: frozen, resolved, with every derived fact a property."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from attnref import normalize
from attnref.problem import Problem, Result, SoftmaxProblem, split_qkv

Q, K = np.zeros((2, 4, 3, 5), np.float16), np.zeros((2, 2, 6, 5), np.float16)
V = np.zeros((2, 2, 6, 7), np.float16)
LENS = np.array([1, 2])
T, CU = np.zeros((4, 2, 3)), np.array([0, 1, 4])
MAP = np.zeros((1, 4, 6, 2, 3), np.float32)


def test_a_problem_cannot_be_changed() -> None:
    """Whoever holds a problem can rely on it."""
    problem = normalize.softmax(Q)
    with pytest.raises(FrozenInstanceError):
        problem.axis = 0  # type: ignore[misc]


def test_a_problem_knows_its_letters() -> None:
    """Sizes carry the notation's letters (A1)."""
    assert (2, 4, 2, 3, 6, 5, 7) == normalize.attention(Q, K, V).sizes
    assert (
        "B",
        "Hq",
        "Hkv",
        "Sq",
        "Sk",
        "D",
        "Dv",
    ) == normalize.attention(Q, K, V).sizes._fields


@pytest.mark.parametrize(
    ("dtype", "lse"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_facts_are_taken_from_the_main_array(dtype: str, lse: str) -> None:
    """Library, dtype and device of q decide; lse is float32 or float64 (A3)."""
    x = torch.zeros((1, 1, 2, 3), dtype=getattr(torch, dtype))
    problem = normalize.attention(x, x, x)
    assert ("torch", dtype, "cpu", lse) == (
        problem.library,
        problem.dtype,
        problem.device,
        problem.lse_dtype,
    )


def test_the_arrays_of_a_call_are_those_given() -> None:
    """Absent ones do not appear, numbers neither."""
    problem = normalize.attention(Q, K, V, scale=1.0, kv_lens=LENS)
    assert {"q", "k", "v", "kv_lens"} == set(problem.arrays)
    assert LENS is problem.arrays["kv_lens"]


FEATURES: dict[str, tuple[Any, set[str]]] = {
    "plain attention": (lambda: normalize.attention(Q, Q, Q), set()),
    "every option of attention": (
        lambda: normalize.attention(
            Q,
            K,
            V,
            mask=np.ones((3, 6), bool),
            bias=np.zeros((3, 6)),
            softcap=1.0,
            sinks=np.zeros(4),
            q_lens=LENS,
            kv_lens=LENS,
            causal=True,
            q_offset="end",
        ),
        {
            "mask",
            "bias",
            "softcap",
            "sinks",
            "q_lens",
            "kv_lens",
            "window",
            "q_offset",
            "grouped heads",
        },
    ),
    "an offset that is a number": (
        lambda: normalize.attention(Q, Q, Q, causal=True, q_offset=3),
        {"window"},
    ),
    "plain packed": (lambda: normalize.attention_varlen(T, T, T, CU, CU), set()),
    "every option of packed": (
        lambda: normalize.attention_varlen(
            T,
            T[:, :1],
            T[:, :1],
            CU,
            CU,
            softcap=1.0,
            sinks=np.zeros(2),
            window=(1, 1),
            q_offset="end",
        ),
        {"softcap", "sinks", "window", "q_offset", "grouped heads"},
    ),
    "plain windows": (
        lambda: normalize.window_attention(MAP, MAP, MAP, window=2),
        {"2-D"},
    ),
    "every option of windows": (
        lambda: normalize.window_attention_qkv(
            np.stack([MAP] * 3, -3),
            window=2,
            shift=1,
            wrap_bias=-1.0,
            bias=np.zeros((2, 4, 4)),
            key_mask=np.ones((1, 4, 6), bool),
            scale=np.ones(2),
        ),
        {"2-D", "shift", "wrap_bias", "bias", "key_mask", "scale per head", "qkv"},
    ),
    "a wrap bias that nothing wraps": (
        lambda: normalize.window_attention(MAP, MAP, MAP, window=2, wrap_bias=-1.0),
        {"2-D"},
    ),
    "softmax": (lambda: normalize.softmax(Q), set()),
    "gradients": (
        lambda: normalize.softmax(torch.zeros(2, requires_grad=True)),
        {"gradients"},
    ),
}


@pytest.mark.parametrize(("make", "expected"), FEATURES.values(), ids=FEATURES)
def test_features_are_what_a_call_asks_for(make: Any, expected: set[str]) -> None:
    """Every optional part in use is listed, and nothing else (H2)."""
    assert expected == make().features


def test_a_call_is_described_in_one_line() -> None:
    """Operation, main array, device, then what it asks for."""
    problem = normalize.attention(Q, K, V, causal=True, q_offset=1)
    assert "attention: q float16 (2, 4, 3, 5) cpu, causal, grouped heads" == str(problem)
    assert "softmax: x float16 (2, 4, 3, 5) cpu" == str(normalize.softmax(Q))


def test_gradients_are_noted_when_torch_asks() -> None:
    """Any differentiable input that requires grad makes the call differentiable."""
    x, bias = torch.zeros((1, 1, 2, 3)), torch.zeros((2, 2), requires_grad=True)
    assert normalize.attention(x, x, x, bias=bias).with_gradients
    assert normalize.attention(x, x, x, bias=bias).with_lse
    assert not normalize.attention(x, x, x).with_gradients
    assert not normalize.attention(x, x, x).with_lse
    assert normalize.attention(x, x, x, with_lse=True).with_lse
    with torch.no_grad():
        assert not normalize.attention(x, x, x, bias=bias).with_gradients


@pytest.mark.parametrize("packed", [False, True], ids=["parts", "packed"])
def test_a_packed_projection_has_one_gradient(packed: bool) -> None:
    """qkv is differentiable in place of q, k and v (G1)."""
    qkv = np.zeros((1, 4, 3, 2, 5))
    parts = split_qkv(qkv)
    problem = (
        normalize.window_attention_qkv(qkv, window=2)
        if packed
        else normalize.window_attention(**parts, window=2)
    )
    expected = ("qkv", "bias", "scale") if packed else ("q", "k", "v", "bias", "scale")
    assert expected == problem.differentiable
    assert (qkv is problem.qkv) == packed
    assert not problem.scale_per_head


def test_the_views_of_a_projection_are_not_copies() -> None:
    """q, k and v lie in the packed array, and follow it to another (G1)."""
    qkv = np.arange(24.0).reshape(1, 4, 3, 2, 1)
    problem = normalize.window_attention_qkv(qkv, window=2)
    assert all(np.shares_memory(qkv, x) for x in (problem.q, problem.k, problem.v))
    other = qkv + 1
    moved = problem.with_arrays({"qkv": other})
    assert np.shares_memory(other, moved.v)
    assert np.array_equal(other[..., 2, :, :], moved.v)
    plain = normalize.window_attention(**split_qkv(qkv), window=2)
    assert plain.with_arrays({"q": other[..., 0, :, :]}).qkv is None


def test_a_problem_about_other_arrays_is_the_same_problem() -> None:
    """Only the named arrays change."""
    problem = normalize.softmax(Q, axis=1)
    moved = problem.with_arrays({"x": V})
    assert (V.shape, 1) == (moved.x.shape, moved.axis)
    assert isinstance(moved, SoftmaxProblem)
    assert problem.x is Q


def test_a_bare_problem_asks_for_nothing() -> None:
    """The base class has no features of its own."""
    assert frozenset() == Problem().features
    assert frozenset({"gradients"}) == Problem(with_gradients=True).features


def test_a_result_may_have_no_log_sum_exp() -> None:
    """Operations without one leave it out."""
    assert Result(Q).lse is None


def test_a_copy_has_no_new_fields() -> None:
    """A misspelt name is an error, and not a copy of what was there."""
    x = np.zeros((1, 1, 2, 4))
    with pytest.raises(TypeError, match="AttentionProblem has no kv_len"):
        normalize.attention(x, x, x).with_arrays({"kv_len": x})
