"""What kernels of attention are told, by the names of their parameters."""

from collections.abc import Mapping
from typing import Any

import torch

from attnref_triton.call import Call, aligned, broadcast, in_eights
from attnref_triton.layout import EIGHT
from attnref_triton.plan import block
from attnref_triton.tables import Tiles


def common(call: Call, cut: Tiles) -> dict[str, Any]:
    """Say who sees whom, how scores are made, and how the kernel is cut."""
    (D, DV), width = call.sizes, block(call)
    q_side, k_side = call.sides
    return {
        **call.band,
        **table("mask", call.mask),
        **table("bias", call.bias),
        "q_side": q_side,
        "k_side": k_side,
        "n": call.entries,
        "group": call.group,
        "Sq": call.tokens[0],
        "Sk": call.tokens[1],
        "D": D // EIGHT,
        "DV": DV // EIGHT,
        "scale": call.scale,
        "softcap": call.softcap,
        "SHAPE": call.shape,
        "PRECISION": call.precision,
        "BLOCK_M": cut.m,
        "BLOCK_N": cut.n,
        "BLOCK_D": width,
        "BLOCK_DV": width,
        "WHOLE": D == DV == width,
    }


def tokens(
    call: Call, arrays: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor | None]
) -> dict[str, Any]:
    """Pass arrays of tokens and arrays of one number per row, and how they lie, in order."""
    return {
        **arrays,
        **rows,
        "strides": tuple(in_eights(call.strides(x)) for x in arrays.values()),
        "row_strides": tuple(
            (0, 0, 0, 0) if x is None else call.row_strides(x) for x in rows.values()
        ),
    }


def table(name: str, x: torch.Tensor | None) -> dict[str, Any]:
    """Pass an array that broadcasts to the scores, or nothing, and how it lies."""
    strides = (0, 0, 0, 0) if x is None else broadcast(x)
    lined = x is not None and aligned(x, strides)
    told = {name: x, f"{name}_strides": in_eights(strides) if lined else strides}
    return {**told, f"{name.upper()}_EIGHTS": lined}


def of_sinks(
    call: Call, lse: torch.Tensor, delta: torch.Tensor, dsinks: torch.Tensor
) -> dict[str, Any]:
    """Pass what the rows of a head say to its sink."""
    return {
        "lse": lse,
        "delta": delta,
        "sinks": call.sinks,
        "dsinks": dsinks,
        "row_strides": (call.row_strides(lse), call.row_strides(delta)),
        "q_side": call.sides[0],
        "n": call.entries,
        "batches": call.batch,
        "Sq": call.tokens[0],
        "BLOCK": 1024,
    }


def rows_like(call: Call) -> torch.Tensor:
    """Allocate one float32 for each row."""
    rows = call.q.shape[:2][::-1] if call.packed else call.q.shape[:3]
    return call.q.new_empty(rows, dtype=torch.float32)
