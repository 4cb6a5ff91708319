"""One row of a table: made, verified, timed beside its peers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

import attnref
from attnref_conformance.bench.device.peers import Run, peer
from attnref_conformance.bench.device.timing import CACHE, timed
from attnref_conformance.bench.device.workloads import Workload

ROWS = 64
"""Queries of each end of a head that are held to float64."""


def measure(workload: Workload, backend: str, peers: Sequence[str]) -> dict[str, Any]:
    """Time a workload on a backend and on its peers, forward and backward.

    A backend whose result does not hold is not timed: its row says `wrong`.
    """
    row: dict[str, Any] = {"workload": workload.name, "call": workload._asdict(), "absent": {}}
    sets = _inputs(workload)
    ours = _ours(workload, backend)
    forward = {backend: _in_turn(ours, sets)}
    graphs: dict[str, Any] = {}
    row["error"], row["limit"] = _verify(workload, backend, sets[0])
    if not row["error"] <= row["limit"]:
        return {**row, "wrong": True}
    for name in peers:
        found = peer(name, workload)
        if isinstance(found, str):
            row["absent"][name] = found
            continue
        try:
            with torch.no_grad():
                found(*sets[0])
            if workload.backward:
                graphs[name] = _graph(found, sets[0])
        except RuntimeError as error:
            row["absent"][name] = str(error).splitlines()[0][:120]
            continue
        forward[name] = _in_turn(found, sets)
    with torch.no_grad():
        row["forward"] = _rates(workload, "forward", timed(forward))
    if workload.backward:
        back = {backend: _our_backward(workload, backend, sets[0])}
        back |= {name: _their_backward(*graph) for name, graph in graphs.items()}
        row["backward"] = _rates(workload, "backward", timed(back))
    return row


def _inputs(w: Workload) -> list[tuple[torch.Tensor, ...]]:
    """Draw as many sets of `(q, k, v, bias)` as do not fit into a cache."""
    kind = getattr(torch, w.dtype)
    torch.manual_seed(0)
    sets = []
    for _ in range(min(4, -(-CACHE // w.bytes))):
        q = torch.randn(w.batch, w.heads, w.queries, w.columns, device="cuda", dtype=kind)
        k, v = (
            torch.randn(w.batch, w.kv_heads, w.keys, w.columns, device="cuda", dtype=kind)
            for _ in range(2)
        )
        bias = None
        if w.bias:
            lead = (w.batch, w.heads) if w.bias == "dense" else (1, 1)
            bias = torch.randn(*lead, w.queries, w.keys, device="cuda", dtype=kind)
        sets.append((q, k, v, bias))
    return sets


def _in_turn(run: Run, sets: list[tuple[Any, ...]]) -> Callable[[int], object]:
    return lambda n: run(*sets[n % len(sets)])


def _ours(w: Workload, backend: str) -> Run:
    def run(q: Any, k: Any, v: Any, bias: Any) -> torch.Tensor:
        return attnref.attention(q, k, v, bias=bias, **w.options, backend=backend)

    return run


def _our_backward(w: Workload, backend: str, tensors: Any) -> Callable[[int], object]:
    q, k, v, bias = tensors
    options = {**w.options, "bias": bias, "backend": backend}
    out, lse = attnref.attention_with_lse(q, k, v, **options)
    dout = torch.randn_like(out)
    return lambda _: attnref.attention_backward(dout, q, k, v, out, lse, **options)


def _their_backward(out: Any, inputs: Any, dout: Any) -> Callable[[int], object]:
    return lambda _: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def _graph(run: Run, tensors: Any) -> Any:
    inputs = [x.detach().requires_grad_() for x in tensors if x is not None]
    bias = inputs[3] if len(inputs) > 3 else None
    out = run(*inputs[:3], bias)
    return out, inputs, torch.randn_like(out)


def _verify(w: Workload, backend: str, tensors: Any) -> tuple[float, float]:
    """Compare some rows of a head with float64, and with twice what rounding alone makes.

    That is FlashAttention's criterion: an error at most twice that of the plain computation
    in the same dtype. Float32 is granted some units more, for powers of two by the hardware.
    """
    q, k, v, bias = tensors
    out = _ours(w, backend)(*tensors)
    b, h = w.batch - 1, w.heads - 1
    rows = torch.arange(w.queries, device="cuda")
    rows = torch.cat([rows[:ROWS], rows[-ROWS:]]).unique()
    parts = (q[b, h, rows], k[b, h * w.kv_heads // w.heads], v[b, h * w.kv_heads // w.heads])
    added = None if bias is None else bias[min(b, len(bias) - 1), min(h, bias.shape[1] - 1), rows]
    wide = [None if x is None else x.double() for x in (*parts, added)]
    exact, naive = _plain(w, rows, *wide), _plain(w, rows, *parts, added)
    error = (out[b, h, rows].double() - exact).abs().max().item()
    units = 32 * torch.finfo(torch.float32).eps * exact.abs().max().item()
    return error, 2 * (naive.double() - exact).abs().max().item() + units


def _plain(w: Workload, rows: Any, q: Any, k: Any, v: Any, bias: Any) -> torch.Tensor:
    """Attend as one would write it down, with all scores in memory."""
    s = q @ k.T * w.columns**-0.5
    if w.softcap is not None:
        s = w.softcap * torch.tanh(s / w.softcap)
    if bias is not None:
        s = s + bias
    i = rows[:, None] + (w.keys - w.queries)
    j = torch.arange(w.keys, device=s.device)[None, :]
    if w.causal:
        s = s.masked_fill(j > i, float("-inf"))
    if w.window is not None:
        s = s.masked_fill(j < i - w.window, float("-inf"))
    weighted: torch.Tensor = torch.softmax(s, dim=-1) @ v
    return weighted


def _rates(w: Workload, passes: str, times: dict[str, list[float]]) -> dict[str, Any]:
    done = w.operations(passes)
    return {
        name: {
            "ms": [round(t, 4) for t in quartiles],
            "TFLOP/s": round(done / quartiles[1] / 1e9, 1),
            **({"GB/s": round(w.bytes / quartiles[1] / 1e6)} if passes == "forward" else {}),
        }
        for name, quartiles in times.items()
    }
