"""The same call again and again: what a schedule taken from an atomic counter may not change.

On a machine with a Hopper GPU:

    python tests/triton/hopper/repeats.py --times 10000

Forward, and `dk` and `dv` backward, must have the same bits each time. `dq` is added up in no
fixed order: the largest change of a number is printed, in roundings of the largest number of
its row, and may not pass `ROUNDINGS`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

import attnref

ROUNDINGS = 2.0
"""Roundings to the dtype of `dq`, by which repeated results may differ: one each."""

EPS = torch.finfo(torch.bfloat16).eps

S, HEADS = 528, 24
"""Tokens, beyond whole tiles, and heads of two entries: more tiles than programs."""


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Draw an array on the device."""
    return torch.randn(*shape, device="cuda", dtype=dtype)


Passes = tuple[Callable[[], Any], Callable[[], Any]]
"""A call forward and one back."""


def forms() -> list[tuple[str, Callable[[], Passes]]]:
    """List names, and what makes calls that run different kernels."""
    lens = {"kv_lens": [S, 300], "window": (200, 50), "q_offset": "end"}
    listed: list[tuple[str, Callable[[], Passes]]] = []
    for D in (64, 128, 256):
        listed += [
            (f"causal, D {D}", partial(dense, D, causal=True)),
            (f"soft cap, sinks, D {D}", partial(dense, D, softcap=20.0, sinks=(HEADS,))),
            (f"lengths, left bound, D {D}", partial(dense, D, **lens)),
            (f"packed, D {D}", partial(packed, D)),
        ]
    for D in (64, 128):
        listed += [
            (f"bias, D {D}", partial(dense, D, bias=(1, HEADS, S, S))),
            (f"bias of keys, D {D}", partial(dense, D, bias=(2, 1, 1, S))),
            (f"mask, D {D}", partial(dense, D, mask=(2, 1, S, S))),
        ]
    return listed


def dense(D: int, **options: Any) -> Passes:
    """Draw two entries of a batch; what is drawn beside them is given by its shape."""
    if "sinks" in options:
        options["sinks"] = drawn(*options["sinks"], dtype=torch.float32)
    if "bias" in options:
        options["bias"] = drawn(*options["bias"])
    if "mask" in options:
        options["mask"] = drawn(*options["mask"]) < 0.5
    if "kv_lens" in options:
        options["kv_lens"] = torch.tensor(options["kv_lens"], device="cuda", dtype=torch.int32)
    q, k, v, dout = (drawn(2, HEADS, S, D) for _ in range(4))
    options["backend"] = "triton"
    result = attnref.attention_with_lse(q, k, v, **options)
    return (
        lambda: attnref.attention_with_lse(q, k, v, **options),
        lambda: attnref.attention_backward(dout, q, k, v, *result, **options),
    )


def packed(D: int) -> Passes:
    """Draw packed sequences."""
    starts = torch.tensor([0, 700, 700, 1337, 2000], device="cuda", dtype=torch.int32)
    q, k, v, dout = (drawn(2000, HEADS, D) for _ in range(4))
    told: dict[str, Any] = {"causal": True, "q_offset": "end", "backend": "triton"}
    result = attnref.attention_varlen_with_lse(q, k, v, starts, starts, **told)
    back = attnref.attention_varlen_backward
    return (
        lambda: attnref.attention_varlen_with_lse(q, k, v, starts, starts, **told),
        lambda: back(dout, q, k, v, *result, starts, starts, **told),
    )


class Changes:
    """How far results are from the first ones, kept on the device while a call is repeated."""

    def __init__(self, first: Any) -> None:
        self.first = {n: x for n, x in first._asdict().items() if x is not None}
        self.rows = {
            n: x.abs().amax(-1, keepdim=True).float().clamp_min(1e-20) * EPS
            for n, x in self.first.items()
        }
        self.worst = {n: torch.zeros((), device="cuda") for n in self.first}

    def add(self, again: Any) -> None:
        """Hold results against the first."""
        for n, x in self.first.items():
            change = ((getattr(again, n).float() - x.float()).abs() / self.rows[n]).nan_to_num(0)
            self.worst[n] = torch.maximum(self.worst[n], change.max())


def repeated(name: str, call: Callable[[], Any], times: int) -> bool:
    """Repeat a call, print what changed, and tell whether it may."""
    changes = Changes(call())
    for _ in range(times):
        changes.add(call())
    worst = {n: float(x) for n, x in changes.worst.items()}
    right = all(x <= (ROUNDINGS if n == "dq" else 0) for n, x in worst.items())
    told = ", ".join(f"{n} {x:.2f}" for n, x in worst.items() if x) or "the same bits"
    print(f"{'' if right else 'WRONG '}{name}: {told}", flush=True)
    return right


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat every form both ways, each in a process of its own: most of the time is compiling."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--form", type=int, help="repeat this form alone, in this process")
    told = parser.parse_args(arguments)
    ready = forms()
    if told.form is not None:
        name, make = ready[told.form]
        forward, back = make()
        right = repeated(f"{name}, forward", forward, told.times)
        return int(not (repeated(f"{name}, back", back, told.times) and right))
    command = [sys.executable, __file__, "--times", str(told.times), "--form"]
    with ThreadPoolExecutor(told.processes) as pool:
        runs = [pool.submit(subprocess.run, [*command, str(n)]) for n in range(len(ready))]
    return int(any(run.result().returncode for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())
