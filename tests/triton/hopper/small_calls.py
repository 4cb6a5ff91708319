"""Small calls of every Hopper kernel, for NVIDIA's compute-sanitizer.

On a machine with a Hopper GPU, once without it, so that kernels are compiled and kept, then
under it:

    python tests/triton/hopper/small_calls.py
    compute-sanitizer --tool memcheck python tests/triton/hopper/small_calls.py
    compute-sanitizer --tool racecheck python tests/triton/hopper/small_calls.py

`memcheck` finds what is read or written outside of an array, for torch is told to give each one
memory of its own; `racecheck` finds what is read from shared memory before or while another
thread writes it. Arguments choose among the names of `CALLS`; NaN in a result, and calls that
do not take the path, end the run.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch

import attnref

HALF, BRAIN = torch.float16, torch.bfloat16


def drawn(*shape: int, dtype: torch.dtype = BRAIN) -> torch.Tensor:
    """Draw an array on the device."""
    return torch.randn(*shape, device="cuda").to(dtype)


def numbers(*arrays: torch.Tensor | None) -> None:
    """Stop if a result is none; a row that sees nobody has an lse of minus infinity."""
    for x in arrays:
        assert x is None or not x.isnan().any()


def attend(
    D: int, dtype: torch.dtype = BRAIN, DV: int = 0, q: int = 330, k: int = 200, **options: Any
) -> None:
    """Attend and pass gradients back, with two heads for each one of keys."""
    given = [drawn(2, h, n, d, dtype=dtype) for h, n, d in ((2, q, D), (1, k, D), (1, k, DV or D))]
    on_path(*given, **options)
    result = attnref.attention_with_lse(*given, backend="triton", **options)
    dout, dlse = (
        drawn(*result.out.shape, dtype=dtype),
        drawn(*result.lse.shape, dtype=torch.float32),
    )
    back = attnref.attention_backward
    numbers(*result, *back(dout, *given, *result, dlse=dlse, backend="triton", **options))


def on_path(*given: torch.Tensor, **options: Any) -> None:
    """Stop if a call does not take the path forward."""
    said = str(attnref.explain(attnref.attention, *given, **options))
    assert "Hopper path: runs" in said, said


def plain() -> None:
    """Attend with heads of every width, and by every bound."""
    for D, dtype in ((64, HALF), (128, BRAIN), (40, BRAIN), (256, HALF), (160, BRAIN)):
        attend(D, dtype)
        attend(D, dtype, causal=True, q_offset="end", k=400)
    attend(192, DV=128, window=(70, 30), q_offset="start")


def scores() -> None:
    """Attend with what changes scores: a cap, sinks, a bias, a mask."""
    for D in (64, 128):
        attend(D, softcap=20.0, sinks=drawn(2, dtype=torch.float32))
        attend(D, bias=drawn(1, 2, 330, 200))
        attend(D, mask=(drawn(2, 1, 330, 208) < 1.0)[..., :200])
        attend(D, bias=drawn(2, 1, 1, 200), causal=True, q_offset="end")


def lengths() -> None:
    """Attend where only the device knows how long an entry is."""
    lens = torch.tensor([200, 90], device="cuda", dtype=torch.int32)
    starts = torch.tensor([3, -20], device="cuda", dtype=torch.int32)
    for D in (64, 128, 256):
        attend(D, kv_lens=lens, causal=True, q_offset="end")
        attend(D, window=(60, 0), q_offset=starts)


def packed() -> None:
    """Attend inside sequences that lie end to end."""
    starts = torch.tensor([0, 600, 601, 1800], device="cuda", dtype=torch.int32)
    told: dict[str, Any] = {"causal": True, "q_offset": "end", "backend": "triton"}
    for D in (64, 128, 256):
        given = [drawn(1800, h, D) for h in (2, 1, 1)]
        result = attnref.attention_varlen_with_lse(*given, starts, starts, **told)
        back = attnref.attention_varlen_backward
        numbers(*result, *back(drawn(1800, 2, D), *given, *result, starts, starts, **told))


CALLS: dict[str, Callable[[], None]] = {
    "plain": plain, "scores": scores, "lengths": lengths, "packed": packed,
}  # fmt: skip
"""By name, in the order in which they are made."""


if __name__ == "__main__":
    for name in sys.argv[1:] or CALLS:
        CALLS[name]()
        torch.cuda.synchronize()
        print(f"{name}: done", flush=True)
