"""What a call costs beside arithmetic: memory by length, and the host's time."""

from time import perf_counter
from typing import Any

import torch
import triton

import attnref
from attnref import normalize, registry

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
CALLS = 2000


def scale(backend: str) -> list[dict[str, Any]]:
    """Measure peak memory and time of a causal forward and backward, 4k to 128k tokens."""
    found = []
    for S in LENGTHS:
        q, k, v, dout = (
            torch.randn(1, 8, S, 128, device="cuda", dtype=torch.bfloat16) for _ in range(4)
        )
        options: dict[str, Any] = {"causal": True, "backend": backend}
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        for _ in range(2):  # the first call compiles
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            marks[0].record()
            out, lse = attnref.attention_with_lse(q, k, v, **options)
            marks[1].record()
            gradients = attnref.attention_backward(dout, q, k, v, out, lse, **options)
            marks[2].record()
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
            del out, lse, gradients
        pairs = 8 * S * S / 2
        found.append(
            {
                "S": S,
                "MiB": round(peak / 2**20, 1),
                "bytes per token": round(peak / S),
                "forward ps per pair": round(marks[0].elapsed_time(marks[1]) * 1e9 / pairs, 3),
                "backward ps per pair": round(marks[1].elapsed_time(marks[2]) * 1e9 / pairs, 3),
            }
        )
    return found


def host(backend: str) -> dict[str, float]:
    """Measure microseconds of the host per eager call of a small known shape.

    Beside the public call stand the backend alone, given a problem, torch's attention, and
    the launch through Triton of a kernel of twelve arguments that does nothing.
    """
    q, k, v = (torch.randn(1, 4, 128, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    problem, chosen = normalize.attention(q, k, v), registry.load(backend)
    with torch.no_grad():
        return {
            "the backend's forward": _per_call(lambda: chosen.forward(problem)),
            "attnref.attention": _per_call(lambda: attnref.attention(q, k, v, backend=backend)),
            "a kernel that does nothing": _per_call(lambda: _nothing[(1,)](*[q, k, v] * 4)),
            "scaled_dot_product_attention": _per_call(
                lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)
            ),
        }


@triton.jit
def _nothing(a, b, c, d, e, f, g, h, i, j, k, l):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    pass


def _per_call(run: Any) -> float:
    for _ in range(50):
        run()
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(CALLS // 10):
            run()
        best = min(best, (perf_counter() - start) / (CALLS // 10))
        torch.cuda.synchronize()
    return round(best * 1e6, 1)
