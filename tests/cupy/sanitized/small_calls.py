"""Small calls of every kernel, for NVIDIA's compute-sanitizer: it tells what a result does not.

On a machine with a GPU, once without it, so that kernels are compiled and kept, then under it:

    python tests/cupy/sanitized/small_calls.py
    compute-sanitizer --tool memcheck python tests/cupy/sanitized/small_calls.py
    compute-sanitizer --tool racecheck python tests/cupy/sanitized/small_calls.py

`memcheck` finds what is read or written outside of an array, since each has memory of its own
here; `racecheck` finds what is read from shared memory before or while another thread writes
it. Arguments choose among the names of `CALLS`; results that are not finite end the run.
"""

import sys
from collections.abc import Callable
from typing import Any

import cupy
import ml_dtypes
import numpy as np

import attnref

HALF = np.dtype("float16")
BRAIN = np.dtype(ml_dtypes.bfloat16)
SINGLE = np.dtype("float32")

rng = np.random.default_rng(0)


def drawn(shape: tuple[int, ...], dtype: Any = HALF) -> Any:
    """Draw an array on the device."""
    x = rng.normal(size=shape).astype(dtype)
    return cupy.asarray(x.view(np.int16)).view(dtype) if dtype == BRAIN else cupy.asarray(x)


def finite(*arrays: Any) -> None:
    """Stop if a number is none."""
    for x in arrays:
        if x is not None:
            assert np.isfinite(np.asarray(x.get()).astype("f4")).all()


def attend(D: int, dtype: Any, q: int = 150, k: int = 75, **options: Any) -> None:
    """Attend and pass gradients back, with two heads for each one of keys."""
    given = [drawn((2, h, n, D), dtype) for h, n in ((4, q), (2, k), (2, k))]
    result = attnref.attention_with_lse(*given, backend="cupy", **options)
    dout, dlse = drawn(result.out.shape, dtype), drawn(result.lse.shape, SINGLE)
    made = attnref.attention_backward(dout, *given, *result, dlse=dlse, backend="cupy", **options)
    finite(result.out, result.lse, *made)


def dense() -> None:
    """Attend with heads of every width, and every option."""
    for D, dtype in ((32, HALF), (64, BRAIN), (96, HALF), (128, BRAIN), (20, HALF), (64, SINGLE)):
        attend(D, dtype)
        attend(D, dtype, causal=True, q_offset="end", k=300)
    for D in (64, 128):
        attend(D, BRAIN, bias=drawn((1, 4, 1, 75), BRAIN))
        attend(D, BRAIN, bias=drawn((2, 4, 150, 75), SINGLE), softcap=2.0)
        attend(D, HALF, mask=cupy.asarray(rng.random((2, 1, 150, 75)) < 0.9), softcap=2.0)
    attend(256, HALF, q=70, k=70, sinks=drawn((4,), SINGLE))


def packed() -> None:
    """Attend inside sequences that lie end to end."""
    starts = cupy.asarray(np.array([0, 70, 71, 140], np.int32))
    for D in (64, 128):
        given = [drawn((140, h, D)) for h in (4, 2, 2)]
        options = {"causal": True, "q_offset": "end", "backend": "cupy"}
        result = attnref.attention_varlen_with_lse(*given, starts, starts, **options)
        dout = drawn(result.out.shape)
        made = attnref.attention_varlen_backward(dout, *given, *result, starts, starts, **options)
        finite(result.out, result.lse, made.dq, made.dk, made.dv)


def windows() -> None:
    """Attend inside windows, by kernels of every width and by products."""
    for G, D, dtype, options in (
        ((14, 14), 32, BRAIN, {"window": 7, "shift": 3}),
        ((9, 10), 16, HALF, {"window": 4, "shift": 3}),
        ((3, 5, 4), 64, HALF, {"window": (2, 3, 2), "shift": (1, 2, 0)}),
        ((14, 7), 128, HALF, {"window": 7}),
        ((8, 8), 32, SINGLE, {"window": 4, "shift": 2}),
    ):
        N = int(np.prod(np.broadcast_to(options["window"], len(G))))
        qkv, bias = drawn((2, *G, 3, 3, D), dtype), drawn((3, N, N), dtype)
        told: dict[str, Any] = {**options, "bias": bias, "backend": "cupy"}
        result = attnref.window_attention_qkv_with_lse(qkv, **told)
        dout = drawn(result.out.shape, dtype)
        made = attnref.window_attention_qkv_backward(dout, qkv, *result, **told)
        finite(result.out, result.lse, made.dqkv, made.dbias)


def others() -> None:
    """Softmax, merging, and a bias from a table."""
    for dtype in (BRAIN, SINGLE):
        x = drawn((3, 5, 130), dtype)
        y = attnref.softmax(x, backend="cupy")
        finite(y, attnref.softmax_backward(x, y, backend="cupy"))
        a, b = ((drawn((2, 4, 33, 40), dtype), drawn((2, 4, 33), SINGLE)) for _ in range(2))
        m = attnref.merge(*a, *b, backend="cupy")
        dlse = drawn((2, 4, 33), SINGLE)
        made = attnref.merge_backward(a[0], dlse, *a, *b, *m, backend="cupy")
        finite(m.out, m.lse, *made)
    table = drawn((25, 3), SINGLE)
    bias = attnref.relative_position_bias(table, window=(3, 3), backend="cupy")
    dtable = attnref.relative_position_bias_backward(bias, table, window=(3, 3), backend="cupy")
    finite(bias, dtable)


CALLS: dict[str, Callable[[], None]] = {
    "dense": dense, "packed": packed, "windows": windows, "others": others,
}  # fmt: skip
"""By name, in the order in which they are made."""


if __name__ == "__main__":
    cupy.cuda.set_allocator(None)
    for name in sys.argv[1:] or CALLS:
        CALLS[name]()
        cupy.cuda.runtime.deviceSynchronize()
        print(f"{name}: done", flush=True)
