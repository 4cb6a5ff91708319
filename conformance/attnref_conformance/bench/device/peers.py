"""Who else computes a workload: torch's fused kernels, one by one, and flex_attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnref_conformance.bench.device.workloads import Workload

Run = Callable[..., torch.Tensor]

SDPA = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash2": SDPBackend.FLASH_ATTENTION}


def peer(name: str, workload: Workload) -> Run | str:
    """Return a peer's forward pass of `(q, k, v, bias)`, or why it has none."""
    return _flex(workload) if name == "flex" else _sdpa(SDPA[name], workload)


def _sdpa(kernel: Any, w: Workload) -> Run | str:
    if w.softcap is not None or w.window is not None:
        return "no soft cap and no window"
    if w.bias and kernel is SDPBackend.FLASH_ATTENTION:
        return "no bias"
    grouped = w.heads != w.kv_heads
    causal = w.causal and w.queries > 1

    def run(q: Any, k: Any, v: Any, bias: Any) -> torch.Tensor:
        with sdpa_kernel(kernel):
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=grouped
            )

    return run


def _flex(w: Workload) -> Run | str:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if w.queries == 1:
        return "decoding takes another of its kernels"
    # One compilation per shape, and never in silence the eager form.
    torch._dynamo.config.recompile_limit = 256  # noqa: SLF001
    torch._dynamo.config.accumulated_recompile_limit = 4096  # noqa: SLF001
    compiled = torch.compile(flex_attention, dynamic=False)
    block_mask = None
    if w.causal:
        seen = _causal if w.window is None else _sliding(w.window)
        block_mask = create_block_mask(seen, None, None, w.queries, w.keys, device="cuda")
    grouped = w.heads != w.kv_heads

    def run(q: Any, k: Any, v: Any, bias: Any) -> torch.Tensor:
        change = _change(w, bias)
        return compiled(q, k, v, score_mod=change, block_mask=block_mask, enable_gqa=grouped)

    return run


def _causal(_b: Any, _h: Any, i: Any, j: Any) -> Any:
    return i >= j


def _sliding(window: int) -> Callable[..., Any]:
    def seen(_b: Any, _h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & (i - j <= window)

    return seen


def _change(w: Workload, bias: Any) -> Callable[..., Any] | None:
    """Return what becomes of a score: a cap or a bias."""
    if w.softcap is not None:
        cap = w.softcap

        def capped(s: Any, _b: Any, _h: Any, _i: Any, _j: Any) -> Any:
            return cap * torch.tanh(s / cap)

        return capped
    if bias is None:
        return None
    full = bias.expand(w.batch, w.heads, w.queries, w.keys)

    def biased(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return s + full[b, h, i, j]

    return biased
