"""Every misuse of an argument is refused at the boundary, in these words (A to H)."""

import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch

import attnref
from attnref import normalize
from attnref.options import DEFAULTS


def f32(*shape: int) -> np.ndarray:
    """Make float32 zeros."""
    return np.zeros(shape, np.float32)


def f64(*shape: int) -> np.ndarray:
    """Make float64 zeros."""
    return np.zeros(shape)


Q, K, V = f32(2, 4, 4, 3), f32(2, 2, 5, 3), f32(2, 2, 5, 2)
SQUARE = f32(1, 1, 4, 2)
TQ, TK_, TV, CU = f32(4, 2, 3), f32(4, 2, 3), f32(4, 2, 2), np.array([0, 1, 4])
MAP, MAP5 = f32(1, 6, 5, 2, 3), f32(1, 2, 2, 2, 2, 2, 1, 1)
OUT, LSE = f32(2, 3, 4), f32(2, 3)


Case = tuple[Callable[[], Any], str]
CASES: dict[str, Case] = {
    "q is a list": (
        lambda: attnref.attention([[1.0]], K, V),
        (
            "q is a list, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(q), or an array of the library you use"
        ),
    ),
    "q is None": (
        lambda: attnref.attention(None, K, V),
        ("q is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "mask is a string": (
        lambda: attnref.attention(Q, K, V, mask="causal"),
        (
            "mask is a str, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(mask), or an array of the library you use"
        ),
    ),
    "q has three axes": (
        lambda: attnref.attention(Q[0], K, V),
        (
            "q has 3 axes and needs 4.\n"
            "  q  float32  (4, 4, 3)  (B, Hq, Sq, D)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "v has one axis": (
        lambda: attnref.attention(Q, K, V[0, 0, 0]),
        (
            "v has 1 axis and needs 4.\n"
            "  v  float32  (2,)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "heads do not divide": (
        lambda: attnref.attention(f32(2, 8, 4, 3), f32(2, 6, 5, 3), f32(2, 6, 5, 2)),
        (
            "q has 8 heads, which is not a multiple of k's 6.\n"
            "  q  float32  (2, 8, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 6, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec.scores (A2)"
        ),
    ),
    "heads without key heads": (
        lambda: attnref.attention(Q, f32(2, 0, 5, 3), f32(2, 0, 5, 2)),
        (
            "q has 4 heads, which is not a multiple of k's 0.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 0, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec.scores (A2)"
        ),
    ),
    "dtypes disagree": (
        lambda: attnref.attention(Q, K.astype("float16"), V),
        (
            "k is float16 and q is float32; they must agree.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float16  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  v  float32  (2, 2, 5, 2)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "q is an integer array": (
        lambda: attnref.attention(Q.astype("int32"), K, V),
        (
            "q is int32; float16, bfloat16, float32, float64 are taken.\n"
            "  q  int32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "v is complex": (
        lambda: attnref.attention(Q, K, V.astype("complex64")),
        (
            "v is complex64; float16, bfloat16, float32, float64 are taken.\n"
            "  v  complex64  (2, 2, 5, 2)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "head sizes disagree": (
        lambda: attnref.attention(Q, f32(2, 2, 5, 4), V),
        (
            "q has a head size of 3 and k has 4.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 2, 5, 4)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "numbers of keys disagree": (
        lambda: attnref.attention(Q, K, f32(2, 2, 6, 2)),
        (
            "k has 5 keys and v has 6.\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  v  float32  (2, 2, 6, 2)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "key heads disagree": (
        lambda: attnref.attention(Q, K, f32(2, 1, 5, 2)),
        (
            "k has 2 heads and v has 1.\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  v  float32  (2, 1, 5, 2)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "batches of q and k disagree": (
        lambda: attnref.attention(Q, f32(3, 2, 5, 3), f32(3, 2, 5, 2)),
        (
            "q has a batch of 2 and k has 3.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (3, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "batches of k and v disagree": (
        lambda: attnref.attention(Q, K, f32(3, 2, 5, 2)),
        (
            "k has a batch of 2 and v has 3.\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  v  float32  (3, 2, 5, 2)  (B, Hkv, Sk, Dv)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "mask of integers": (
        lambda: attnref.attention(Q, K, V, mask=np.ones((4, 5), "int64")),
        (
            "mask is int64; it must be bool, True where a key may be seen.\n"
            "  mask  int64  (4, 5)  broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.visibility (C1)\n"
            "  hint pass mask != 0"
        ),
    ),
    "mask of floats": (
        lambda: attnref.attention(Q, K, V, mask=f32(4, 5)),
        (
            "mask is float32; it must be bool, True where a key may be seen.\n"
            "  mask  float32  (4, 5)  broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.visibility (C1)\n"
            "  hint an additive mask is a bias: attention(..., bias=mask)"
        ),
    ),
    "mask that does not broadcast": (
        lambda: attnref.attention(Q, K, V, mask=np.ones((2, 5), bool)),
        (
            "mask does not broadcast to (B, Hq, Sq, Sk) = (2, 4, 4, 5).\n"
            "  q     float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k     float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  mask  bool     (2, 5)        broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.visibility (C1)\n"
            "  hint a padding mask (B, Sk) is passed as mask[:, None, None, :]"
        ),
    ),
    "mask of rank five": (
        lambda: attnref.attention(Q, K, V, mask=np.ones((1, 2, 4, 4, 5), bool)),
        (
            "mask does not broadcast to (B, Hq, Sq, Sk) = (2, 4, 4, 5).\n"
            "  q     float32  (2, 4, 4, 3)     (B, Hq, Sq, D)\n"
            "  k     float32  (2, 2, 5, 3)     (B, Hkv, Sk, D)\n"
            "  mask  bool     (1, 2, 4, 4, 5)  broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.visibility (C1)"
        ),
    ),
    "bias that does not broadcast": (
        lambda: attnref.attention(Q, K, V, bias=f32(2, 4, 5)),
        (
            "bias does not broadcast to (B, Hq, Sq, Sk) = (2, 4, 4, 5).\n"
            "  q     float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k     float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  bias  float32  (2, 4, 5)     broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.scores (B3)\n"
            "  hint a bias (B, Sq, Sk) is passed as bias[:, None]"
        ),
    ),
    "mask of another number of heads": (
        lambda: attnref.attention(Q, K, V, mask=np.ones((2, 3, 4, 5), bool)),
        (
            "mask does not broadcast to (B, Hq, Sq, Sk) = (2, 4, 4, 5).\n"
            "  q     float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k     float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  mask  bool     (2, 3, 4, 5)  broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.visibility (C1)\n"
            "  hint the head axis is Hq or 1"
        ),
    ),
    "bias for padding": (
        lambda: attnref.attention(Q, K, V, bias=f32(2, 5)),
        (
            "bias does not broadcast to (B, Hq, Sq, Sk) = (2, 4, 4, 5).\n"
            "  q     float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k     float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  bias  float32  (2, 5)        broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec.scores (B3)\n"
            "  hint a bias (B, Sk) is passed as bias[:, None, None, :]"
        ),
    ),
    "heads behind tokens": (
        lambda: attnref.attention(f32(2, 8, 4, 3), f32(2, 6, 2, 3), f32(2, 6, 2, 5)),
        (
            "q has 8 heads, which is not a multiple of k's 6.\n"
            "  q  float32  (2, 8, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 6, 2, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec.scores (A2)\n"
            "  hint if these are (B, S, H, D), pass q.swapaxes(1, 2) and so on"
        ),
    ),
    "q is a masked array": (
        lambda: attnref.attention(np.ma.masked_array(Q), K, V),
        "q is a masked array, and attnref needs a dense one.\n  see attnref.dispatch (H3)",
    ),
    "q is sparse": (
        lambda: attnref.attention(*(torch.zeros(2, 2, 4, 3).to_sparse() for _ in range(3))),
        "q is a sparse tensor, and attnref needs a dense one.\n  see attnref.dispatch (H3)",
    ),
    "x is nested": (
        lambda: attnref.softmax(torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged)),
        "x is a nested tensor, and attnref needs a dense one.\n  see attnref.dispatch (H3)",
    ),
    "max_q is too small": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU, max_q=2),
        (
            "max_q is 2, and the longest sequence of cu_q has 3 tokens.\n"
            "  cu_q  int64  (3,)  (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "bias of integers": (
        lambda: attnref.attention(Q, K, V, bias=np.zeros((4, 5), "int8")),
        (
            "bias is int8; float16, bfloat16, float32, float64 are taken.\n"
            "  bias  int8  (4, 5)  broadcasts to (B, Hq, Sq, Sk)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "sinks of the wrong shape": (
        lambda: attnref.attention(Q, K, V, sinks=f32(2)),
        (
            "sinks must have shape (4,).\n"
            "  sinks  float32  (2,)  (Hq,)\n"
            "  see attnref.spec.softmax (D4)"
        ),
    ),
    "sinks of integers": (
        lambda: attnref.attention(Q, K, V, sinks=np.zeros(4, "int32")),
        (
            "sinks is int32; float16, bfloat16, float32, float64 are taken.\n"
            "  sinks  int32  (4,)  (Hq,)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "window is negative": (
        lambda: attnref.attention(Q, K, V, window=(-1, 0), q_offset="end"),
        (
            "window's left bound is -1; it must be an integer of at least 0.\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window is negative on the right": (
        lambda: attnref.attention(Q, K, V, window=(None, -1), q_offset="end"),
        (
            "window's right bound is -1; it must be an integer of at least 0.\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window is a number": (
        lambda: attnref.attention(Q, K, V, window=128, q_offset="end"),
        (
            "window is 128; it must be a pair (left, right).\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window has three bounds": (
        lambda: attnref.attention(Q, K, V, window=(1, 2, 3), q_offset="end"),
        (
            "window is (1, 2, 3); it must be a pair (left, right).\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window holds a float": (
        lambda: attnref.attention(Q, K, V, window=(1.5, 0), q_offset="end"),
        (
            "window's left bound is 1.5; it must be an integer of at least 0.\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window holds a bool": (
        lambda: attnref.attention(Q, K, V, window=(True, 0), q_offset="end"),
        (
            "window's left bound is True; it must be an integer of at least 0.\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "window is too far": (
        lambda: attnref.attention(Q, K, V, window=(0, 2**63 - 1), q_offset="end"),
        (
            "window's right bound is 9223372036854775807; positions are 64-bit, and "
            "2**61 is the most.\n"
            "  see attnref.spec.visibility (C2)\n"
            "  hint None leaves a side unbounded"
        ),
    ),
    "causal is a number": (
        lambda: attnref.attention(Q, K, V, causal=1, q_offset="end"),
        ("causal is 1; it must be True or False.\n  see attnref.spec.visibility (C2)"),
    ),
    "causal is None": (
        lambda: attnref.attention(Q, K, V, causal=None),
        ("causal is None; it must be True or False.\n  see attnref.spec.visibility (C2)"),
    ),
    "causal with unequal lengths": (
        lambda: attnref.attention(Q, K, V, causal=True),
        (
            "causal or a window needs q_offset, because there are 4 "
            "queries and 5 keys.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec.visibility (C3)\n"
            "  hint q_offset='start' lines up the first positions, q_offset='end' the "
            "last"
        ),
    ),
    "window with unequal lengths": (
        lambda: attnref.attention(Q, K, V, window=(1, None)),
        (
            "causal or a window needs q_offset, because there are 4 "
            "queries and 5 keys.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.spec.visibility (C3)\n"
            "  hint q_offset='start' lines up the first positions, q_offset='end' the "
            "last"
        ),
    ),
    "causal with lengths": (
        lambda: attnref.attention(SQUARE, SQUARE, SQUARE, causal=True, kv_lens=np.array([4])),
        (
            "causal or a window needs q_offset, because there are lengths.\n"
            "  q        float32  (1, 1, 4, 2)  (B, Hq, Sq, D)\n"
            "  k        float32  (1, 1, 4, 2)  (B, Hkv, Sk, D)\n"
            "  kv_lens  int64    (1,)          (B,)\n"
            "  see attnref.spec.visibility (C3)\n"
            "  hint q_offset='start' lines up the first positions, q_offset='end' the "
            "last"
        ),
    ),
    "q_offset is another word": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset="middle"),
        (
            "q_offset is 'middle'.\n"
            "  see attnref.spec.visibility (C3)\n"
            "  hint q_offset='start' lines up the first positions, q_offset='end' the "
            "last"
        ),
    ),
    "q_offset is a float": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=1.0),
        (
            "q_offset is 1.0; it must be an integer, an integer array, 'start' or "
            "'end'.\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset is a bool": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=True),
        (
            "q_offset is True; it must be an integer, an integer array, 'start' or "
            "'end'.\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset is too far": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=-(2**62)),
        (
            "q_offset is -4611686018427387904; positions are 64-bit, and 2**61 is the "
            "most.\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset array is too far": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=np.array([0, 2**62])),
        (
            "q_offset[1] is 4611686018427387904; positions are 64-bit, "
            "and 2**61 is the "
            "most.\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset array of floats": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=np.zeros(2)),
        (
            "q_offset is float64; int32 and int64 are taken.\n"
            "  q_offset  float64  (2,)  (B,)\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset array of the wrong shape": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=np.zeros(3, "int32")),
        (
            "q_offset must have shape (2,).\n"
            "  q_offset  int32  (3,)  (B,)\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "q_offset array of another library": (
        lambda: attnref.attention(Q, K, V, causal=True, q_offset=torch.zeros(2, dtype=torch.int32)),
        (
            "q is a numpy array and q_offset is a torch array.\n"
            "  q         float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  q_offset  int32    (2,)          (B,)\n"
            "  see attnref.dispatch (H3)\n"
            "  hint make q_offset a numpy array; nothing is moved unasked"
        ),
    ),
    "q_lens past the queries": (
        lambda: attnref.attention(Q, K, V, q_lens=np.array([4, 5])),
        (
            "q_lens[1] is 5; lengths lie between 0 and 4.\n"
            "  q_lens  int64  (2,)  (B,)\n"
            "  see attnref.spec.visibility (C4)"
        ),
    ),
    "kv_lens below zero": (
        lambda: attnref.attention(Q, K, V, kv_lens=np.array([-1, 5])),
        (
            "kv_lens[0] is -1; lengths lie between 0 and 5.\n"
            "  kv_lens  int64  (2,)  (B,)\n"
            "  see attnref.spec.visibility (C4)"
        ),
    ),
    "kv_lens of the wrong shape": (
        lambda: attnref.attention(Q, K, V, kv_lens=np.array([5])),
        (
            "kv_lens must have shape (2,).\n"
            "  kv_lens  int64  (1,)  (B,)\n"
            "  see attnref.spec.visibility (C4)"
        ),
    ),
    "kv_lens of floats": (
        lambda: attnref.attention(Q, K, V, kv_lens=np.array([5.0, 5.0])),
        (
            "kv_lens is float64; int32 and int64 are taken.\n"
            "  kv_lens  float64  (2,)  (B,)\n"
            "  see attnref.spec.visibility (C4)"
        ),
    ),
    "kv_lens is a list": (
        lambda: attnref.attention(Q, K, V, kv_lens=[5, 5]),
        (
            "kv_lens is a list, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(kv_lens), or an array of the library you use"
        ),
    ),
    "kv_lens of small integers": (
        lambda: attnref.attention(Q, K, V, kv_lens=np.array([5, 5], "uint8")),
        (
            "kv_lens is uint8; int32 and int64 are taken.\n"
            "  kv_lens  uint8  (2,)  (B,)\n"
            "  see attnref.spec.visibility (C4)"
        ),
    ),
    "softcap is zero": (
        lambda: attnref.attention(Q, K, V, softcap=0.0),
        (
            "softcap is 0.0; it must be a finite number greater than "
            "zero; None is off.\n"
            "  see attnref.spec.scores (B2)"
        ),
    ),
    "softcap is negative": (
        lambda: attnref.attention(Q, K, V, softcap=-30.0),
        (
            "softcap is -30.0; it must be a finite number greater than zero; None is "
            "off.\n"
            "  see attnref.spec.scores (B2)"
        ),
    ),
    "softcap is NaN": (
        lambda: attnref.attention(Q, K, V, softcap=math.nan),
        (
            "softcap is nan; it must be a finite number greater than "
            "zero; None is off.\n"
            "  see attnref.spec.scores (B2)"
        ),
    ),
    "softcap is infinite": (
        lambda: attnref.attention(Q, K, V, softcap=math.inf),
        (
            "softcap is inf; it must be a finite number greater than "
            "zero; None is off.\n"
            "  see attnref.spec.scores (B2)"
        ),
    ),
    "softcap is a string": (
        lambda: attnref.attention(Q, K, V, softcap="30"),
        (
            "softcap is '30'; it must be a finite number greater than zero; None is "
            "off.\n"
            "  see attnref.spec.scores (B2)"
        ),
    ),
    "scale is infinite": (
        lambda: attnref.attention(Q, K, V, scale=math.inf),
        ("scale is inf; it must be a finite number.\n  see attnref.spec.scores (B1)"),
    ),
    "scale is a bool": (
        lambda: attnref.attention(Q, K, V, scale=True),
        ("scale is True; it must be a finite number.\n  see attnref.spec.scores (B1)"),
    ),
    "scale is an array": (
        lambda: attnref.attention(Q, K, V, scale=np.float32([2.0])),
        (
            "scale is array([2.], dtype=float32); it must be a finite number.\n"
            "  see attnref.spec.scores (B1)"
        ),
    ),
    "head size zero without scale": (
        lambda: attnref.attention(Q[..., :0], K[..., :0], V),
        (
            "q has a head size of 0, so scale has no default.\n"
            "  q  float32  (2, 4, 4, 0)  (B, Hq, Sq, D)\n"
            "  see attnref.spec (A4)\n"
            "  hint attention(..., scale=1.0)"
        ),
    ),
    "arrays of two libraries": (
        lambda: attnref.attention(Q, torch.from_numpy(K), V),
        (
            "q is a numpy array and k is a torch array.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.dispatch (H3)\n"
            "  hint make k a numpy array; nothing is moved unasked"
        ),
    ),
    "arrays on two devices": (
        lambda: attnref.attention(
            torch.from_numpy(Q),
            torch.empty((2, 2, 5, 3), device="meta"),
            torch.from_numpy(V),
        ),
        (
            "q is on cpu and k is on meta.\n"
            "  q  float32  (2, 4, 4, 3)  (B, Hq, Sq, D)\n"
            "  k  float32  (2, 2, 5, 3)  (B, Hkv, Sk, D)\n"
            "  see attnref.dispatch (H3)\n"
            "  hint put k on cpu; nothing is moved unasked"
        ),
    ),
    "packed q with a batch": (
        lambda: attnref.attention_varlen(Q, TK_, TV, CU, CU),
        (
            "q has 4 axes and needs 3.\n"
            "  q  float32  (2, 4, 4, 3)  (Tq, Hq, D)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "offsets not from zero": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, np.array([1, 3]), np.array([0, 3])),
        (
            "cu_q starts at 1, not at 0.\n"
            "  cu_q  int64  (2,)  (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "offsets that fall": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, np.array([0, 3, 2])),
        (
            "cu_k falls from 3 to 2 at 2.\n"
            "  cu_k  int64  (3,)  (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "offsets past the end": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, np.array([0, 2, 5]), CU),
        (
            "cu_q ends at 5, past the 4 tokens of q.\n"
            "  q     float32  (4, 2, 3)  (Tq, Hq, D)\n"
            "  cu_q  int64    (3,)       (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "key offsets past the end": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, np.array([0, 2, 9])),
        (
            "cu_k ends at 9, past the 4 tokens of k.\n"
            "  k     float32  (4, 2, 3)  (Tk, Hkv, D)\n"
            "  cu_k  int64    (3,)       (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "offsets that are empty": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU[:0], CU[:0]),
        (
            "cu_q is empty; it starts with 0.\n"
            "  cu_q  int64  (0,)  (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "offsets of two lengths": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, np.array([0, 3])),
        (
            "cu_q has 3 entries and cu_k has 2.\n"
            "  cu_q  int64  (3,)  (sequences + 1,)\n"
            "  cu_k  int64  (2,)  (sequences + 1,)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "offsets of floats": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU * 1.0),
        (
            "cu_k is float64; int32 and int64 are taken.\n"
            "  cu_k  float64  (3,)  (sequences + 1,)\n"
            "  see attnref.spec.packed (F1)"
        ),
    ),
    "offsets of two axes": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU[None], CU[None]),
        (
            "cu_q has 2 axes and needs 1.\n"
            "  cu_q  int64  (1, 3)  (sequences + 1,)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "offsets are None": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, None, None),
        ("cu_q is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "packed causal without q_offset": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU.copy(), causal=True),
        (
            "causal or a window needs q_offset, because cu_k is not cu_q.\n"
            "  q     float32  (4, 2, 3)  (Tq, Hq, D)\n"
            "  k     float32  (4, 2, 3)  (Tk, Hkv, D)\n"
            "  cu_q  int64    (3,)       (sequences + 1,)\n"
            "  cu_k  int64    (3,)       (sequences + 1,)\n"
            "  see attnref.spec.visibility (C3)\n"
            "  hint q_offset='start' lines up the first positions, q_offset='end' the "
            "last"
        ),
    ),
    "packed q_offset of the wrong shape": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU, causal=True, q_offset=np.array([0])),
        (
            "q_offset must have shape (2,).\n"
            "  q_offset  int64  (1,)  (sequences,)\n"
            "  see attnref.spec.visibility (C3)"
        ),
    ),
    "packed heads do not divide": (
        lambda: attnref.attention_varlen(f32(4, 3, 2), f32(4, 2, 2), f32(4, 2, 2), CU, CU),
        (
            "q has 3 heads, which is not a multiple of k's 2.\n"
            "  q  float32  (4, 3, 2)  (Tq, Hq, D)\n"
            "  k  float32  (4, 2, 2)  (Tk, Hkv, D)\n"
            "  see attnref.spec.scores (A2)"
        ),
    ),
    "packed sinks of the wrong shape": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU, sinks=f32(3)),
        (
            "sinks must have shape (2,).\n"
            "  sinks  float32  (3,)  (Hq,)\n"
            "  see attnref.spec.softmax (D4)"
        ),
    ),
    "max_q is negative": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU, max_q=-1),
        ("max_q is -1; it must be an integer of at least 0.\n  see attnref.spec.packed (F1)"),
    ),
    "max_k is a float": (
        lambda: attnref.attention_varlen(TQ, TK_, TV, CU, CU, max_k=2.0),
        ("max_k is 2.0; it must be an integer of at least 0.\n  see attnref.spec.packed (F1)"),
    ),
    "map of five spatial axes": (
        lambda: attnref.window_attention(MAP5, MAP5, MAP5, window=2),
        (
            "q has 8 axes and needs 4 to 6: one to three of them are spatial.\n"
            "  q  float32  (1, 2, 2, 2, 2, 2, 1, 1)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "map without spatial axes": (
        lambda: attnref.window_attention(Q[0], Q[0], Q[0], window=2),
        (
            "q has 3 axes and needs 4 to 6: one to three of them are spatial.\n"
            "  q  float32  (4, 4, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "map keys of another shape": (
        lambda: attnref.window_attention(MAP, MAP[:, :4], MAP, window=2),
        (
            "k must have shape (1, 6, 5, 2, 3).\n"
            "  k  float32  (1, 4, 5, 2, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "map values of another shape": (
        lambda: attnref.window_attention(MAP, MAP, MAP[:, :4], window=2),
        (
            "v must have shape (1, 6, 5, 2, 3).\n"
            "  v  float32  (1, 4, 5, 2, 3)  (B, *G, H, Dv)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "map values without axes": (
        lambda: attnref.window_attention(MAP, MAP, MAP[0, 0, 0, 0, 0], window=2),
        (
            "v is a float32, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(v), or an array of the library you use"
        ),
    ),
    "shift as large as the window": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=(4, 2), shift=2),
        (
            "shift is 2 on axis 1, where the window is 2; it must be smaller.\n"
            "  q  float32  (1, 6, 5, 2, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G2)"
        ),
    ),
    "shift is negative": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=4, shift=-1),
        ("shift is -1; it must be an integer of at least 0.\n  see attnref.spec.windows (G2)"),
    ),
    "window of another rank": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=(4, 4, 4)),
        (
            "window is (4, 4, 4) and the map has 2 spatial axes.\n"
            "  q  float32  (1, 6, 5, 2, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G2)\n"
            "  hint an integer means every axis"
        ),
    ),
    "shift of another rank": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=4, shift=(1,)),
        (
            "shift is (1,) and the map has 2 spatial axes.\n"
            "  q  float32  (1, 6, 5, 2, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G2)\n"
            "  hint an integer means every axis"
        ),
    ),
    "window of zero": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=0),
        ("window is 0; it must be an integer of at least 1.\n  see attnref.spec.windows (G2)"),
    ),
    "window of zero on one axis": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=(4, 0)),
        ("window[1] is 0; it must be an integer of at least 1.\n  see attnref.spec.windows (G2)"),
    ),
    "window of floats": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2.0),
        ("window is 2.0; it must be an integer of at least 1.\n  see attnref.spec.windows (G2)"),
    ),
    "map bias of another window": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, bias=f32(2, 9, 9)),
        (
            "bias must have shape (2, 4, 4).\n"
            "  bias  float32  (2, 9, 9)  (H, N, N)\n"
            "  see attnref.spec.windows (G6)"
        ),
    ),
    "map with an empty axis": (
        lambda: attnref.window_attention(MAP[:, :0], MAP[:, :0], MAP[:, :0], window=2),
        (
            "the map has extent 0 on axis 0; it must be at least 1.\n"
            "  q  float32  (1, 0, 5, 2, 3)  (B, *G, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "wrap_bias is NaN": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, wrap_bias=math.nan),
        (
            "wrap_bias is nan; it must be a finite number, or -inf to hide wrapped "
            "pairs.\n"
            "  see attnref.spec.windows (G3)"
        ),
    ),
    "wrap_bias is plus infinity": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, wrap_bias=math.inf),
        (
            "wrap_bias is inf; it must be a finite number, or -inf to hide wrapped "
            "pairs.\n"
            "  see attnref.spec.windows (G3)"
        ),
    ),
    "wrap_bias is None": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, wrap_bias=None),
        (
            "wrap_bias is None; it must be a finite number, or -inf to hide wrapped "
            "pairs.\n"
            "  see attnref.spec.windows (G3)"
        ),
    ),
    "key_mask of integers": (
        lambda: attnref.window_attention(
            MAP, MAP, MAP, window=2, key_mask=np.ones((1, 6, 5), "uint8")
        ),
        (
            "key_mask is uint8; it must be bool, True where a key may be seen.\n"
            "  key_mask  uint8  (1, 6, 5)  (B, *G)\n"
            "  see attnref.spec.windows (G6)\n"
            "  hint pass key_mask != 0"
        ),
    ),
    "key_mask of another map": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, key_mask=np.ones((1, 6), bool)),
        (
            "key_mask must have shape (1, 6, 5).\n"
            "  key_mask  bool  (1, 6)  (B, *G)\n"
            "  see attnref.spec.windows (G6)"
        ),
    ),
    "map scale of the wrong shape": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, scale=f32(3)),
        (
            "scale must have shape (2,).\n"
            "  scale  float32  (3,)  (H,)\n"
            "  see attnref.spec.windows (G6)"
        ),
    ),
    "map scale is NaN": (
        lambda: attnref.window_attention(MAP, MAP, MAP, window=2, scale=math.nan),
        ("scale is nan; it must be a finite number.\n  see attnref.spec.scores (B1)"),
    ),
    "map head size zero without scale": (
        lambda: attnref.window_attention(MAP[..., :0], MAP[..., :0], MAP, window=2),
        (
            "q has a head size of 0, so scale has no default.\n"
            "  q  float32  (1, 6, 5, 2, 0)  (B, *G, H, D)\n"
            "  see attnref.spec (A4)\n"
            "  hint attention(..., scale=1.0)"
        ),
    ),
    "qkv without an axis of three": (
        lambda: attnref.window_attention_qkv(f32(1, 6, 5, 2, 2, 3), window=2),
        (
            "qkv must hold q, k and v on its third axis from the end, which has length "
            "2.\n"
            "  qkv  float32  (1, 6, 5, 2, 2, 3)  (B, *G, 3, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "qkv of too few axes": (
        lambda: attnref.window_attention_qkv(f32(6, 3, 2, 3), window=2),
        (
            "qkv has 4 axes and needs 5 to 7: one to three of them are spatial.\n"
            "  qkv  float32  (6, 3, 2, 3)  (B, *G, 3, H, D)\n"
            "  see attnref.spec.windows (G1)"
        ),
    ),
    "qkv is a list": (
        lambda: attnref.window_attention_qkv([1.0], window=2),
        (
            "qkv is a list, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(qkv), or an array of the library you use"
        ),
    ),
    "qkv of integers": (
        lambda: attnref.window_attention_qkv(np.zeros((1, 6, 3, 2, 2), "int64"), window=2),
        (
            "q is int64; float16, bfloat16, float32, float64 are taken.\n"
            "  q  int64  (1, 6, 2, 2)  (B, *G, H, D)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "table of other rows": (
        lambda: attnref.relative_position_bias(f32(10, 2), window=(2, 2)),
        (
            "table has 10 rows; window (2, 2) has 9 displacements.\n"
            "  table  float32  (10, 2)  (prod(2 * window - 1), H)\n"
            "  see attnref.spec.windows (G6)"
        ),
    ),
    "table of one axis": (
        lambda: attnref.relative_position_bias(f32(9), window=(2, 2)),
        (
            "table has 1 axis and needs 2.\n"
            "  table  float32  (9,)  (prod(2 * window - 1), H)\n"
            "  see attnref.spec (A1)"
        ),
    ),
    "table of integers": (
        lambda: attnref.relative_position_bias(np.zeros((9, 2), "int32"), window=(2, 2)),
        (
            "table is int32; float16, bfloat16, float32, float64 are taken.\n"
            "  table  int32  (9, 2)  (prod(2 * window - 1), H)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "table window is a number": (
        lambda: attnref.relative_position_bias(f32(9, 2), window=2),
        (
            "window is 2; a table needs one extent per axis, for one to three axes.\n"
            "  table  float32  (9, 2)  (prod(2 * window - 1), H)\n"
            "  see attnref.spec.windows (G6)\n"
            "  hint window=(7, 7) for an image"
        ),
    ),
    "table window is empty": (
        lambda: attnref.relative_position_bias(f32(1, 2), window=()),
        (
            "window is (); a table needs one extent per axis, for one to three axes.\n"
            "  table  float32  (1, 2)  (prod(2 * window - 1), H)\n"
            "  see attnref.spec.windows (G6)\n"
            "  hint window=(7, 7) for an image"
        ),
    ),
    "table window of zero": (
        lambda: attnref.relative_position_bias(f32(1, 2), window=(0,)),
        ("window[0] is 0; it must be an integer of at least 1.\n  see attnref.spec.windows (G2)"),
    ),
    "softmax past the axes": (
        lambda: attnref.softmax(Q, axis=4),
        (
            "axis is 4 and x has 4 axes.\n"
            "  x  float32  (2, 4, 4, 3)  (...)\n"
            "  see attnref.spec.softmax (D5)"
        ),
    ),
    "softmax axis is a float": (
        lambda: attnref.softmax(Q, axis=1.0),
        (
            "axis is 1.0 and x has 4 axes.\n"
            "  x  float32  (2, 4, 4, 3)  (...)\n"
            "  see attnref.spec.softmax (D5)"
        ),
    ),
    "softmax tile of zero": (
        lambda: attnref.softmax(Q, tile=0),
        ("tile is 0; it must be an integer of at least 1.\n  see attnref.spec.softmax (D5)"),
    ),
    "softmax of integers": (
        lambda: attnref.softmax(np.arange(3)),
        (
            "x is int64; float16, bfloat16, float32, float64 are taken.\n"
            "  x  int64  (3,)  (...)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "softmax of a list": (
        lambda: attnref.softmax([0.0, 1.0]),
        (
            "x is a list, not an array of a library that speaks DLPack.\n"
            "  see attnref.dispatch (H3)\n"
            "  hint np.asarray(x), or an array of the library you use"
        ),
    ),
    "merge of two dtypes": (
        lambda: attnref.merge(OUT, LSE, OUT.astype("float16"), LSE),
        (
            "out_b is float16 and out_a is float32; they must agree.\n"
            "  out_a  float32  (2, 3, 4)  (..., Dv)\n"
            "  out_b  float16  (2, 3, 4)  (..., Dv)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "merge of two shapes": (
        lambda: attnref.merge(OUT, LSE, OUT[:1], LSE),
        (
            "out_b must have shape (2, 3, 4).\n"
            "  out_b  float32  (1, 3, 4)  (..., Dv)\n"
            "  see attnref.spec.softmax (D3)"
        ),
    ),
    "merge with a half lse": (
        lambda: attnref.merge(OUT, LSE, OUT, LSE.astype("float16")),
        (
            "lse_b is float16; with out_a it is float32.\n"
            "  out_a  float32  (2, 3, 4)  (..., Dv)\n"
            "  lse_b  float16  (2, 3)     (...)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "merge of float64 with a float32 lse": (
        lambda: attnref.merge(OUT.astype("float64"), LSE, OUT.astype("float64"), LSE),
        (
            "lse_a is float32; with out_a it is float64.\n"
            "  out_a  float64  (2, 3, 4)  (..., Dv)\n"
            "  lse_a  float32  (2, 3)     (...)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "merge with an lse of another shape": (
        lambda: attnref.merge(OUT, LSE[:1], OUT, LSE),
        (
            "lse_a must have shape (2, 3).\n"
            "  lse_a  float32  (1, 3)  (...)\n"
            "  see attnref.spec.softmax (D3)"
        ),
    ),
    "merge of scalars": (
        lambda: attnref.merge(*[np.zeros((), np.float32)] * 4),
        (
            "out_a has no axis of values.\n"
            "  out_a  float32  ()  (..., Dv)\n"
            "  see attnref.spec.softmax (D3)"
        ),
    ),
    "merge of None": (
        lambda: attnref.merge(OUT, None, OUT, LSE),
        ("lse_a is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "dout of another shape": (
        lambda: attnref.attention_backward(f32(2, 4, 4, 3), Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4)),
        (
            "dout must have shape (2, 4, 4, 2).\n"
            "  dout  float32  (2, 4, 4, 3)  (B, Hq, Sq, Dv)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "dout of another dtype": (
        lambda: attnref.attention_backward(f64(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4)),
        (
            "dout is float64; it must be float32.\n"
            "  dout  float64  (2, 4, 4, 2)  (B, Hq, Sq, Dv)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "dout of another library": (
        lambda: attnref.attention_backward(
            torch.zeros(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4)
        ),
        (
            "dout is a torch array on cpu; the inputs are numpy arrays on cpu.\n"
            "  dout  float32  (2, 4, 4, 2)  (B, Hq, Sq, Dv)\n"
            "  see attnref.dispatch (H3)"
        ),
    ),
    "dout is None": (
        lambda: attnref.attention_backward(None, Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4)),
        ("dout is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "lse is None": (
        lambda: attnref.attention_backward(f32(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), None),
        ("lse is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "lse of another shape": (
        lambda: attnref.attention_backward(
            f32(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4, 1)
        ),
        (
            "lse must have shape (2, 4, 4).\n"
            "  lse  float32  (2, 4, 4, 1)  (B, Hq, Sq)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "dlse of another dtype": (
        lambda: attnref.attention_backward(
            f32(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4), dlse=f64(2, 4, 4)
        ),
        (
            "dlse is float64; it must be float32.\n"
            "  dlse  float64  (2, 4, 4)  (B, Hq, Sq)\n"
            "  see attnref.spec (A3)"
        ),
    ),
    "dout on another device": (
        lambda: attnref.attention_backward(
            torch.zeros((2, 4, 4, 2), device="meta"),
            *map(torch.from_numpy, (Q, K, V, f32(2, 4, 4, 2), f32(2, 4, 4))),
        ),
        (
            "dout is a torch array on meta; the inputs are torch arrays on cpu.\n"
            "  dout  float32  (2, 4, 4, 2)  (B, Hq, Sq, Dv)\n"
            "  see attnref.dispatch (H3)"
        ),
    ),
    "packed dout of another shape": (
        lambda: attnref.attention_varlen_backward(TQ, TQ, TK_, TV, f32(4, 2, 3), f32(2, 4), CU, CU),
        (
            "dout must have shape (4, 2, 2).\n"
            "  dout  float32  (4, 2, 3)  (Tq, Hq, Dv)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "packed lse the wrong way round": (
        lambda: attnref.attention_varlen_backward(TV, TQ, TK_, TV, TV, f32(4, 2), CU, CU),
        (
            "lse must have shape (2, 4).\n"
            "  lse  float32  (4, 2)  (Hq, Tq)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "map dout of another shape": (
        lambda: attnref.window_attention_backward(
            MAP[:, :4], MAP, MAP, MAP, MAP, MAP[..., 0], window=2
        ),
        (
            "dout must have shape (1, 6, 5, 2, 3).\n"
            "  dout  float32  (1, 4, 5, 2, 3)  (B, *G, H, Dv)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "map lse of another shape": (
        lambda: attnref.window_attention_backward(MAP, MAP, MAP, MAP, MAP, MAP, window=2),
        (
            "lse must have shape (1, 6, 5, 2).\n"
            "  lse  float32  (1, 6, 5, 2, 3)  (B, *G, H)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "packed map dlse of another shape": (
        lambda: attnref.window_attention_qkv_backward(
            MAP, f32(1, 6, 5, 3, 2, 3), MAP, MAP[..., 0], window=2, dlse=MAP
        ),
        (
            "dlse must have shape (1, 6, 5, 2).\n"
            "  dlse  float32  (1, 6, 5, 2, 3)  (B, *G, H)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "dbias of another shape": (
        lambda: attnref.relative_position_bias_backward(f32(2, 4, 5), f32(9, 2), window=(2, 2)),
        (
            "dbias must have shape (2, 4, 4).\n"
            "  dbias  float32  (2, 4, 5)  (H, N, N)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "dy of another shape": (
        lambda: attnref.softmax_backward(Q[0], Q),
        (
            "dy must have shape (2, 4, 4, 3).\n"
            "  dy  float32  (4, 4, 3)  (...)\n"
            "  see attnref.spec.gradients (E1)"
        ),
    ),
    "dlse of a merge is None": (
        lambda: attnref.merge_backward(OUT, None, OUT, LSE, OUT, LSE, OUT, LSE),
        ("dlse is None; it must be an array.\n  see attnref.dispatch (H3)"),
    ),
    "merged out of another dtype": (
        lambda: attnref.merge_backward(OUT, LSE, OUT, LSE, OUT, LSE, OUT.astype("float64"), LSE),
        (
            "out is float64; it must be float32.\n"
            "  out  float64  (2, 3, 4)  (..., Dv)\n"
            "  see attnref.spec (A3)"
        ),
    ),
}


@pytest.mark.parametrize(("misuse", "wording"), CASES.values(), ids=CASES)
def test_a_misuse_is_refused_in_these_words(misuse: Callable[[], Any], wording: str) -> None:
    """The fact, the arrays with their letters, where the rule is, and what to do."""
    with pytest.raises(attnref.InvalidProblem) as caught:
        misuse()
    assert wording == str(caught.value)


def test_a_number_beyond_floats_is_refused() -> None:
    """An integer that no float holds is not a finite number (B1)."""
    with pytest.raises(attnref.InvalidProblem, match="it must be a finite number"):
        normalize.attention(Q, K, V, scale=10**309)


@pytest.mark.parametrize(
    "backward",
    ["attention", "attention_varlen", "window_attention", "window_attention_qkv"],
)
def test_every_backward_needs_the_log_sum_exp(backward: str) -> None:
    """Without lse there is nothing to form the weights from; None is refused (E1)."""
    rest: dict[str, tuple[Any, ...]] = {
        "attention": (f32(2, 4, 4, 2), Q, K, V, f32(2, 4, 4, 2), None),
        "attention_varlen": (TV, TQ, TK_, TV, TV, None, CU, CU),
        "window_attention": (MAP, MAP, MAP, MAP, MAP, None),
        "window_attention_qkv": (MAP, f32(1, 6, 5, 3, 2, 3), MAP, None),
    }
    options = {"window": 2} if "window" in backward else {}
    with pytest.raises(attnref.InvalidProblem, match="lse is None; it must be an array"):
        getattr(attnref, f"{backward}_backward")(*rest[backward], **options)


def test_values_on_a_device_are_not_looked_at() -> None:
    """Lengths and offsets that the host does not hold are preconditions (A7)."""
    x = torch.empty((1, 1, 4, 2), device="meta")
    lens = torch.empty(1, dtype=torch.int32, device="meta")
    problem = normalize.attention(x, x, x, kv_lens=lens, q_offset=lens, causal=True)
    assert lens is problem.kv_lens
    assert lens is problem.q_offset
    packed = torch.empty((4, 1, 2), device="meta")
    assert lens is normalize.attention_varlen(packed, packed, packed, lens, lens).cu_q


@pytest.mark.parametrize("D", [1, 4, 64, 300])
def test_the_scale_defaults_to_the_root_of_the_head_size(D: int) -> None:
    """1 / sqrt(D), for every function that scores (B1)."""
    x = f32(1, 2, 2, D)
    expected = 1.0 / math.sqrt(D)
    assert expected == normalize.attention(x, x, x).scale
    assert expected == normalize.attention_varlen(x[0], x[0], x[0], CU[:2], CU[:2]).scale
    assert expected == normalize.window_attention(x, x, x, window=2).scale


@pytest.mark.parametrize("scale", [0, -1.5, np.float32(2.0)], ids=repr)
def test_any_finite_scale_is_legal(scale: float) -> None:
    """Zero, negative and NumPy's numbers are numbers (B1)."""
    assert float(scale) == normalize.attention(Q, K, V, scale=scale).scale


def test_a_head_size_of_zero_is_legal_with_a_scale() -> None:
    """D = 0 has no default scale and takes an explicit one (A4)."""
    assert 2.0 == normalize.attention(Q[..., :0], K[..., :0], V, scale=2.0).scale


@pytest.mark.parametrize(
    ("causal", "window", "expected"),
    [
        (False, None, (None, None)),
        (True, None, (None, 0)),
        (False, (2, 3), (2, 3)),
        (True, (2, 3), (2, 0)),
        (True, (None, 3), (None, 0)),
        (True, [4, None], (4, 0)),
        (np.bool_(True), (np.int64(1), None), (1, 0)),
    ],
    ids=str,
)
def test_causality_is_the_right_end_of_the_window(
    causal: bool,
    window: Any,
    expected: tuple[int | None, int | None],
) -> None:
    """causal=True caps the right bound to zero and keeps the left (C2)."""
    x = f32(1, 1, 4, 2)
    assert expected == normalize.attention(x, x, x, causal=causal, window=window).window


@pytest.mark.parametrize(
    ("q_offset", "expected"),
    [("start", 0), ("end", 1), (-3, -3), (np.int32(7), 7)],
    ids=repr,
)
def test_an_alignment_is_resolved_to_a_number(q_offset: Any, expected: int) -> None:
    """Without lengths, 'start' is 0 and 'end' is Sk - Sq (C3)."""
    problem = normalize.attention(Q, K, V, causal=True, q_offset=q_offset)
    assert expected == problem.q_offset
    assert expected == problem.offset


@pytest.mark.parametrize(
    ("lens", "expected"),
    [
        ({"kv_lens": np.array([2, 5])}, [-2, 1]),
        ({"q_lens": np.array([1, 4], np.int32)}, [4, 1]),
        ({"q_lens": np.array([1, 4]), "kv_lens": np.array([2, 5], np.int32)}, [1, 1]),
    ],
    ids=["kv_lens", "q_lens", "both"],
)
def test_the_end_is_that_of_each_length(lens: dict[str, Any], expected: list[int]) -> None:
    """With lengths, 'end' is kv_lens or Sk minus q_lens or Sq (C3)."""
    problem = normalize.attention(Q, K, V, causal=True, q_offset="end", **lens)
    assert "end" == problem.q_offset
    assert expected == problem.offset.tolist()


def test_the_end_of_packed_sequences_is_that_of_each() -> None:
    """'end' is the difference of each sequence's lengths (C3, F1)."""
    problem = normalize.attention_varlen(
        TQ, TK_, TV, CU, np.array([0, 3, 4]), causal=True, q_offset="end"
    )
    assert [2, -2] == problem.offset.tolist()
    assert 5 == normalize.attention_varlen(TQ, TK_, TV, CU, CU, causal=True, q_offset=5).offset


def test_an_array_of_offsets_is_kept() -> None:
    """One offset per batch entry passes as it is (C3)."""
    offsets = np.array([3, -1])
    problem = normalize.attention(Q, K, V, window=(1, 1), q_offset=offsets)
    assert offsets is problem.offset


@pytest.mark.parametrize("q_offset", [None, "end", 3, np.array([1, 2])], ids=repr)
def test_an_alignment_without_a_window_has_no_effect(q_offset: Any) -> None:
    """Unless positions matter, the offset is zero (C3)."""
    problem = normalize.attention(Q, K, V, q_offset=q_offset, kv_lens=np.array([1, 2]))
    assert 0 == problem.q_offset


def test_an_alignment_that_cannot_matter_may_be_left_out() -> None:
    """Equal sizes without lengths, or one array of offsets for both, need none (C3)."""
    assert 0 == normalize.attention(SQUARE, SQUARE, SQUARE, causal=True).q_offset
    assert 0 == normalize.attention_varlen(TQ, TK_, TV, CU, CU, causal=True).q_offset


def test_a_window_is_taken_apart_per_axis() -> None:
    """An int means every axis; a covered axis has no shift (G2, G4)."""
    problem = normalize.window_attention(MAP, MAP, MAP, window=5, shift=2)
    assert (5, 5) == problem.window
    assert (2, 0) == problem.shift
    assert (6, 5) == problem.extents
    problem = normalize.window_attention(MAP, MAP, MAP, window=[2, 3], shift=(1, 0))
    assert (2, 3) == problem.window
    assert (1, 0) == problem.shift


@pytest.mark.parametrize(
    ("wrap_bias", "expected"),
    [
        (-math.inf, -math.inf),
        (np.float32(-math.inf), -math.inf),
        (-100, -100.0),
        (0.5, 0.5),
    ],
    ids=repr,
)
def test_wrap_bias_is_a_number_or_minus_infinity(wrap_bias: float, expected: float) -> None:
    """Minus infinity hides, any finite number is a bias (G3)."""
    problem = normalize.window_attention(MAP, MAP, MAP, window=2, wrap_bias=wrap_bias)
    assert expected == problem.wrap_bias


def test_the_softmax_axis_is_counted_from_the_front() -> None:
    """A negative axis is resolved (D5)."""
    assert [3, 1, 0] == [normalize.softmax(Q, axis=a).axis for a in (-1, 1, -4)]


def test_hints_are_kept() -> None:
    """max_q and max_k reach the backend as integers (F1)."""
    problem = normalize.attention_varlen(TQ, TK_, TV, CU, CU, max_q=np.int32(3), max_k=3)
    assert (3, 3) == (problem.max_q, problem.max_k)


def test_softcap_is_a_float() -> None:
    """An integer cap is as good as a float (B2)."""
    assert 30.0 == normalize.attention(Q, K, V, softcap=30).softcap


@pytest.mark.parametrize(
    "function",
    [normalize.attention, normalize.attention_varlen, normalize.window_attention],
)
def test_the_defaults_that_are_shown_are_those_that_are_used(
    function: Callable[..., Any],
) -> None:
    """`options.DEFAULTS` and the signatures behind the public functions agree."""
    for name, parameter in signature(function).parameters.items():
        if name in DEFAULTS:
            assert DEFAULTS[name] == parameter.default
        elif name not in ("with_lse", "window"):
            assert parameter.default in (None, parameter.empty)
