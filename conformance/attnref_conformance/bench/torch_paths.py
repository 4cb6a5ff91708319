"""How model code written in torch computes attention and windows, on any device."""

from collections.abc import Callable
from typing import Any

from attnref_conformance.bench.contenders import Absent, Given, Passes
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload, Workload

Way = Callable[..., Any]
"""Takes the inputs of a workload in the order of its shapes, without `dout`."""


def passes(way: Way, take: Callable[[Any], Any], read: Callable[[Any], Any]) -> Passes:
    """Make passes of a differentiable function.

    Args:
        way: Takes the arrays in their order; `kv_lens` by name.
        take: Turns one given array into a tensor.
        read: Turns a tensor into a NumPy array.
    """
    import torch

    def taken(given: Given) -> dict[str, Any]:
        return {name: take(x) for name, x in given.items()}

    def split(x: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        named = {"kv_lens": x["kv_lens"]} if "kv_lens" in x else {}
        return [y for n, y in x.items() if n not in ("dout", "kv_lens")], named

    def forward(x: dict[str, Any]) -> Any:
        given, named = split(x)
        with torch.no_grad():
            return way(*given, **named)

    def record(x: dict[str, Any]) -> tuple[Any, Any, Any]:
        given, named = split(x)
        inputs = [y.detach().requires_grad_() for y in given]
        out = way(*inputs, **named)
        return out.detach(), None, (out, inputs, x["dout"])

    def backward(state: Any) -> Any:
        out, inputs, dout = state
        return torch.autograd.grad(out, inputs, dout, retain_graph=True)

    return Passes(taken, forward, record, backward, read)


def sdpa(w: AnyWorkload, kernel: Any = None) -> Way | Absent:
    """Return `scaled_dot_product_attention`, with one of its kernels alone if it is named."""
    import torch
    from torch.nn import functional
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if isinstance(w, MapWorkload):
        return Absent("see the paths through windows")
    if w.softcap is not None or w.window is not None:
        return Absent("no soft cap and no window")
    masked = bool(w.bias) or w.kv_lens is not None
    if masked and kernel is SDPBackend.FLASH_ATTENTION:
        return Absent("no bias and no mask")
    grouped, causal = w.heads != w.kv_heads, w.causal and w.queries > 1
    kernels = list(SDPBackend.__members__.values())[1:] if kernel is None else kernel

    def run(q: Any, k: Any, v: Any, bias: Any = None, kv_lens: Any = None) -> Any:
        seen = bias
        if kv_lens is not None:
            places = torch.arange(w.keys, device=q.device)
            seen = (places < kv_lens[:, None])[:, None, None]
        with sdpa_kernel(kernels):
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, is_causal=causal, enable_gqa=grouped
            )

    return run


def windows(name: str, w: AnyWorkload, device: str) -> Way | Absent:
    """Return the path of model code: roll, partition, attend, reverse, roll back.

    Args:
        name: `"eager"`, `"sdpa"` or `"compiled"`.
        w: The workload.
        device: Where the mask of a shifted map is kept, as a model keeps it.
    """
    if isinstance(w, Workload):
        return Absent("a path through windows")
    plain = _path(name, w, _hidden(w, device))
    return compiled(plain) if name == "compiled" else plain


def compiled(way: Way) -> Way:
    """Compile for each shape, and never run the eager form in silence.

    That is what dynamo does from its ninth compilation of a function on.
    """
    import torch

    torch._dynamo.config.recompile_limit = 256  # noqa: SLF001
    torch._dynamo.config.accumulated_recompile_limit = 4096  # noqa: SLF001
    return torch.compile(way, dynamic=False)


def _path(name: str, w: MapWorkload, hidden: Any) -> Way:
    import torch

    attend = _attend(name, w, hidden)

    def run(qkv: Any, bias: Any) -> Any:
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

    return run


def _attend(name: str, w: MapWorkload, hidden: Any) -> Way:
    from torch.nn import functional

    def attend(q: Any, k: Any, v: Any, bias: Any) -> Any:
        mask = bias[None] if hidden is None else bias[None, None] + hidden[None, :, None]
        if name == "sdpa":
            repeated = len(q) // (1 if hidden is None else len(hidden))
            full = mask.expand(repeated, *mask.shape[1:]).reshape(-1, *mask.shape[-3:])
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=full)
        s = (q * w.columns**-0.5) @ k.transpose(-2, -1)
        s = (s.view(-1, *mask.shape[1:-3], *s.shape[1:]) + mask).view(s.shape)
        return s.softmax(-1) @ v

    return attend


def _hidden(w: MapWorkload, device: str) -> Any:
    """Return what wrapped pairs are given: minus infinity, `(windows, N, N)`."""
    import torch

    if not w.shift:
        return None
    x = (torch.arange(w.side, device=device) - w.shift) // w.window
    region = x[:, None] * w.side + x
    region = torch.roll(region, (-w.shift, -w.shift), (0, 1))
    n = w.side // w.window
    region = region.view(n, w.window, n, w.window).transpose(1, 2).reshape(n * n, -1)
    wrapped = region[:, :, None] != region[:, None, :]
    none = torch.zeros(wrapped.shape, device=device, dtype=getattr(torch, w.dtype))
    return none.masked_fill(wrapped, float("-inf"))
