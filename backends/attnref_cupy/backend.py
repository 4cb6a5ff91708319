"""What attnref asks of a backend, answered; the work is in `operations`."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from attnref.backend import Reason, not_understood, refuse
from attnref.problem import (
    AttentionProblem,
    Gradients,
    Problem,
    Result,
    TableProblem,
    VarlenProblem,
    WindowProblem,
)
from attnref_cupy import machine

_SCORES = frozenset({"softcap", "sinks", "window", "q_offset", "grouped heads"})
_GRADIENTS = frozenset({"gradients"})

UNDERSTOOD = {
    "attention": _GRADIENTS | _SCORES | {"mask", "bias", "q_lens", "kv_lens"},
    "attention_varlen": _GRADIENTS | _SCORES,
    "window_attention": _GRADIENTS
    | {"bias", "key_mask", "shift", "wrap_bias", "scale per head", "qkv", "1-D", "2-D", "3-D"},
    "relative_position_bias": _GRADIENTS,
    "softmax": _GRADIENTS,
    "merge": _GRADIENTS,
}
"""Operation to the features of it that are implemented; the rest is refused (H2)."""

WIDEST = 256
"""Columns of a head: beyond it the tiles of a block do not fit into shared memory."""

WIDE_TILES = 384 * 512
"""Bytes of the tiles of a block where heads in half precision are wider than 128."""

MOST = 2**30
"""Tokens of an axis, so that positions fit into 32 bits inside a tile."""

WINDOW = 2**14
"""Tokens of a window, so that its pairs are counted in 32 bits."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


class CupyBackend:
    """Fused kernels on CuPy's arrays.

    Weights and dS are rounded to a half input dtype before their product.
    """

    name = "cupy"
    library = "cupy"
    profile = "half-weights"

    def available(self) -> Sequence[Reason]:
        """Look for CuPy, a driver, a GPU and NVRTC."""
        return machine.reasons()

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse unknown features, other devices, and what tiles do not hold."""
        reasons = not_understood(problem, UNDERSTOOD)
        if reasons:
            return reasons
        absent = machine.reasons()
        if absent:
            return absent
        if problem.dtype not in DTYPES:
            said = f"{problem.dtype} has no kernels; convert to float32"
            reasons.append(Reason("dtype", said, problem.main, DTYPES))
        about = machine.about_device(problem.device)
        reasons += about or machine.about_current(problem.device)
        match problem:
            case AttentionProblem():
                tokens = {"q": problem.sizes.Sq, "k": problem.sizes.Sk}
                columns = {"D": problem.sizes.D, "Dv": problem.sizes.Dv}
            case VarlenProblem():
                tokens = {"q": problem.q.shape[0], "k": problem.k.shape[0]}
                columns = {"D": problem.q.shape[2], "Dv": problem.v.shape[2]}
            case WindowProblem():
                from attnref_cupy import windows  # loads CuPy

                if not windows.is_fused(problem):
                    reasons += machine.about_products()
                return reasons + about_window(problem.window)
            case TableProblem():
                return reasons + about_window(problem.window)
            case _:
                return reasons
        reasons += about_sizes(columns, tokens)
        if reasons:
            return reasons
        number = int(problem.device.partition(":")[2] or 0)
        return about_shared(problem.dtype, max(columns.values()), machine.chip_of(number))

    def forward(self, problem: Problem) -> Result:
        """Run the problem; one of a form that ran before takes the short way."""
        if problem.library == "cupy":
            from attnref_cupy import operations  # loads CuPy, as whose array did

            if (result := operations.again(problem)) is not None:
                return result
        refuse(self, problem)
        from attnref_cupy import operations  # loads CuPy

        return operations.forward(problem)

    def backward(self, problem: Problem, result: Result, dout: Any, dlse: Any = None) -> Gradients:
        """Pass gradients back; a call of a form that ran before takes the short way."""
        if problem.library == "cupy":
            from attnref_cupy import operations  # loads CuPy, as whose array did

            if (gradients := operations.back_again(problem, result, dout, dlse)) is not None:
                return gradients
        refuse(self, problem)
        from attnref_cupy import operations  # loads CuPy

        return operations.backward(problem, result, dout, dlse)

    def from_numpy(self, x: np.ndarray) -> Any:
        """Make an array with x's strides, whatever they are."""
        import cupy

        if x.size == 0 or x.flags.c_contiguous:
            return cupy.asarray(x)  # which keeps no other order than this one and its reverse
        spans = [s * (n - 1) for s, n in zip(x.strides, x.shape, strict=True)]
        first = sum(s for s in spans if s < 0)
        size = sum(map(abs, spans)) + x.itemsize
        memory = np.zeros(size, np.uint8)
        origin = memory[-first : x.itemsize - first].view(x.dtype)
        np.lib.stride_tricks.as_strided(origin, x.shape, x.strides)[...] = x
        return cupy.ndarray(x.shape, x.dtype, cupy.asarray(memory).data - first, x.strides)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Read an array, bfloat16 as that of ml_dtypes."""
        return np.asarray(x.get())


def about_sizes(columns: dict[str, int], tokens: dict[str, int]) -> list[Reason]:
    """Refuse heads that are too wide, and axes that are too long."""
    reasons = [
        Reason(
            "head-size",
            f"{name} = {n} exceeds {WIDEST}; name backend='torch' or 'reference'",
            "v" if name == "Dv" else "q",
            WIDEST,
        )
        for name, n in columns.items()
        if n > WIDEST
    ]
    reasons += [
        Reason("length", f"{name} has {n} tokens, more than {MOST}", name, MOST)
        for name, n in tokens.items()
        if n > MOST
    ]
    return reasons


def about_shared(dtype: str, columns: int, chip: machine.Chip) -> list[Reason]:
    """Refuse wide heads in half precision where a block has too little shared memory."""
    if columns <= 128 or dtype not in ("float16", "bfloat16") or chip.shared >= WIDE_TILES:
        return []
    said = (
        f"heads of {columns} in {dtype} need {WIDE_TILES} bytes of shared memory, and this GPU "
        f"has {chip.shared}; convert to float32"
    )
    return [Reason("shared-memory", said, "q", 128)]


def about_window(window: tuple[int, ...]) -> list[Reason]:
    """Refuse windows of too many tokens."""
    N = prod(window)
    if N <= WINDOW:
        return []
    return [Reason("window", f"a window of {N} tokens exceeds {WINDOW}", limit=WINDOW)]
