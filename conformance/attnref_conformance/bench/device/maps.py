"""Window attention: Swin's stages as data, the common ways to compute them, and a row of each.

A row is judged by bytes: `q`, `k`, `v` read once and `out` written once forward, and the same
with `out`, `dout` and three gradients backward. What takes some tens of microseconds is
replayed from a CUDA graph that holds a call for every set of inputs, one after another;
the peers' backward passes, which autograd runs, are queued instead.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

import attnref
from attnref_conformance.bench.device.timing import CACHE, timed


class MapWorkload(NamedTuple):
    """One call of `attnref.window_attention_qkv` on square maps in bfloat16.

    Attributes:
        stage: What the row is called.
        batch: B.
        side: Extent of both axes.
        heads: H.
        shift: Of both axes.
        window: Of both axes.
        columns: D.
    """

    stage: str
    batch: int
    side: int
    heads: int
    shift: int = 0
    window: int = 7
    columns: int = 32

    @property
    def name(self) -> str:
        """What tells it from others."""
        channels = self.heads * self.columns
        map_ = f"B {self.batch}, {self.side}x{self.side}, C {channels}"
        return f"{self.stage}: {map_}, window {self.window}, shift {self.shift}"

    def bytes(self, passes: str) -> int:
        """Bytes that a pass has to read and write."""
        arrays = 4 if passes == "forward" else 8
        return arrays * 2 * self.batch * self.side**2 * self.heads * self.columns


def _both(*stages: MapWorkload) -> list[MapWorkload]:
    return [w._replace(shift=s) for w in stages for s in (0, w.window // 2) if s == 0 or w.shift]


TABLES = {
    "windows": _both(
        MapWorkload("Swin-T 1", 128, 56, 3, 3),
        MapWorkload("Swin-T 2", 128, 28, 6, 3),
        MapWorkload("Swin-T 3", 128, 14, 12, 3),
        MapWorkload("Swin-T 4", 128, 7, 24),
        MapWorkload("448 pixels", 4, 448, 3, 3),
        MapWorkload("window 8", 128, 64, 3, 4, window=8),
        MapWorkload("window 12", 32, 96, 4, 6, window=12),
        MapWorkload("window 16", 32, 64, 4, 8, window=16),
    )
}
"""Name to rows."""

PEERS = ("eager", "sdpa", "compiled")


def measure(w: MapWorkload, backend: str, copy: float) -> dict[str, Any]:
    """Time a workload on a backend and on the common ways, forward and backward.

    Args:
        w: The row.
        backend: Whose kernels.
        copy: GB/s of a large copy, which the rates are held to.

    Returns:
        The row; `wrong` instead of times if the results do not hold.
    """
    torch.manual_seed(0)
    sets = [_inputs(w) for _ in range(min(16, -(-CACHE // w.bytes("forward")) + 1))]
    options: dict[str, Any] = {"window": w.window, "shift": w.shift, "backend": backend}
    row: dict[str, Any] = {"workload": w.name, "call": w._asdict(), "absent": {}}
    row["error"], row["limit"] = _verify(w, sets[0], options)
    if not row["error"] <= row["limit"]:
        return {**row, "wrong": True}

    def ours(qkv: torch.Tensor, bias: torch.Tensor, _: torch.Tensor) -> Any:
        return attnref.window_attention_qkv(qkv, bias=bias, **options)

    forward: dict[str, Callable[..., Any]] = {backend: ours}
    for name in PEERS:
        way = _way(name, w)
        forward[name] = lambda qkv, bias, _, way=way: way(qkv, bias)
    with torch.no_grad():
        calls = {name: _replayed(run, sets) for name, run in forward.items()}
        row["forward"] = _rates(w, "forward", timed(calls), len(sets), copy)
    back = {backend: _replayed(_backward, [_answered(x, options) for x in sets])}
    for name in PEERS:
        back[name] = _queued(_recorded(_way(name, w), sets[0]), len(sets))
    row["backward"] = _rates(w, "backward", timed(back), len(sets), copy)
    return row


def _inputs(w: MapWorkload) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw `(qkv, bias, dout)`."""
    N, kind = w.window**2, {"device": "cuda", "dtype": torch.bfloat16}
    qkv = torch.randn(w.batch, w.side, w.side, 3, w.heads, w.columns, **kind)
    dout = torch.randn(w.batch, w.side, w.side, w.heads, w.columns, **kind)
    return qkv, torch.randn(w.heads, N, N, **kind), dout


def _way(name: str, w: MapWorkload) -> Callable[..., torch.Tensor]:
    """Return the path that model code takes: roll, partition, attend, reverse, roll back."""
    hidden = _hidden(w)

    def attend(q: Any, k: Any, v: Any, bias: Any) -> torch.Tensor:
        mask = bias[None] if hidden is None else bias[None, None] + hidden[None, :, None]
        if name == "sdpa":
            repeated = len(q) // (1 if hidden is None else len(hidden))
            full = mask.expand(repeated, *mask.shape[1:]).reshape(-1, *mask.shape[-3:])
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=full)
        s = (q * w.columns**-0.5) @ k.transpose(-2, -1)
        s = (s.view(-1, *mask.shape[1:-3], *s.shape[1:]) + mask).view(s.shape)
        weighted: torch.Tensor = s.softmax(-1) @ v
        return weighted

    def run(qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        B, R, H, D, W = w.batch, w.side, w.heads, w.columns, w.window
        x = qkv.view(B, R, R, 3 * H * D)
        if w.shift:
            x = torch.roll(x, (-w.shift, -w.shift), (1, 2))
        x = x.view(B, R // W, W, R // W, W, 3, H, D).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = x.reshape(3, -1, H, W * W, D).unbind(0)
        out = attend(q, k, v, bias)
        out = out.view(B, R // W, R // W, H, W, W, D).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(B, R, R, H * D)
        if w.shift:
            out = torch.roll(out, (w.shift, w.shift), (1, 2))
        return out.view(B, R, R, H, D)

    return torch.compile(run, dynamic=False) if name == "compiled" else run


def _hidden(w: MapWorkload) -> torch.Tensor | None:
    """Return what wrapped pairs are given: minus infinity, `(windows, N, N)`."""
    if not w.shift:
        return None
    x = (torch.arange(w.side, device="cuda") - w.shift) // w.window
    region = x[:, None] * w.side + x
    region = torch.roll(region, (-w.shift, -w.shift), (0, 1))
    n = w.side // w.window
    region = region.view(n, w.window, n, w.window).transpose(1, 2).reshape(n * n, -1)
    wrapped = region[:, :, None] != region[:, None, :]
    none = torch.zeros(wrapped.shape, device="cuda", dtype=torch.bfloat16)
    return none.masked_fill(wrapped, float("-inf"))


def _verify(w: MapWorkload, tensors: Any, options: dict[str, Any]) -> tuple[float, float]:
    """Compare one map with float64, and with twice what rounding alone makes."""
    qkv, bias, _ = tensors
    out = attnref.window_attention_qkv(qkv, bias=bias, **options)[-1:]
    one, naive = w._replace(batch=1), qkv[-1:]
    exact = _way("exact", one)(naive.double(), bias.double())
    error = (out.double() - exact).abs().max().item()
    rounding = (_way("eager", one)(naive, bias).double() - exact).abs().max().item()
    return error, 2 * rounding


def _answered(tensors: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    """Attend, and return what a backward pass is given."""
    qkv, bias, dout = tensors
    out, lse = attnref.window_attention_qkv_with_lse(qkv, bias=bias, **options)
    return dout, qkv, out, lse, {"bias": bias, **options}


def _backward(dout: Any, qkv: Any, out: Any, lse: Any, options: dict[str, Any]) -> Any:
    return attnref.window_attention_qkv_backward(dout, qkv, out, lse, **options)


def _recorded(way: Callable[..., torch.Tensor], tensors: Any) -> tuple[Any, ...]:
    qkv, bias, dout = tensors
    inputs = [qkv.detach().requires_grad_(), bias.detach().requires_grad_()]
    return way(*inputs), inputs, dout


def _replayed(run: Callable[..., Any], sets: list[Any]) -> Callable[[int], object]:
    """Capture a call for each set of inputs in one graph."""
    for given in sets[:1] * 3:
        run(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for given in sets:
            run(*given)
    return lambda _: graph.replay()


def _queued(recorded: tuple[Any, ...], times: int) -> Callable[[int], object]:
    """Pass gradients back through what autograd recorded, so many times, one after another."""
    out, inputs, dout = recorded

    def run(_: int) -> None:
        for _ in range(times):
            torch.autograd.grad(out, inputs, dout, retain_graph=True)

    return run


def _rates(
    w: MapWorkload, passes: str, times: dict[str, list[float]], calls: int, copy: float
) -> dict[str, Any]:
    return {
        name: {
            "ms": [round(t / calls, 5) for t in quartiles],
            "GB/s": round(w.bytes(passes) * calls / quartiles[1] / 1e6),
            "of copy": round(w.bytes(passes) * calls / quartiles[1] / 1e6 / copy, 3),
        }
        for name, quartiles in times.items()
    }
