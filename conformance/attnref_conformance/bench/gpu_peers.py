"""Who else computes a workload on a GPU: torch's fused kernels one by one, and others."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from attnref_conformance.bench import torch_paths
from attnref_conformance.bench.contenders import Absent, Passes, Peer
from attnref_conformance.bench.torch_paths import Way
from attnref_conformance.bench.workloads import AnyWorkload, Workload
from attnref_conformance.case import cast

KERNELS = {
    "cudnn": "CUDNN_ATTENTION",
    "flash2": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
}

MOST_SCORES = 2**31
"""Scores that torch's math kernel is asked for at most: it keeps several matrices of them for
each set of inputs, which would leave the others no memory."""

PATHS = ("eager", "sdpa", "compiled")
"""Through windows, as timm takes them."""


def read(x: Any) -> Any:
    """Copy a tensor to the host, in its own dtype."""
    import torch

    x = x.detach().cpu()
    if x.dtype is torch.bfloat16:
        return cast(x.float().numpy(), "bfloat16")
    return x.numpy()


def _passes(way: Way | Absent) -> Passes | Absent:
    if isinstance(way, Absent):
        return way
    return torch_paths.passes(way, lambda x: x, read)


def _kernel(name: str) -> Callable[[AnyWorkload], Passes | Absent]:
    def prepare(w: AnyWorkload) -> Passes | Absent:
        from torch.nn.attention import SDPBackend

        if name == "math" and isinstance(w, Workload) and _scores(w) > MOST_SCORES:
            return Absent(f"it keeps the scores, of which there are {_scores(w):,}")
        return _passes(torch_paths.sdpa(w, getattr(SDPBackend, KERNELS[name])))

    return prepare


def _scores(w: Workload) -> int:
    return w.batch * w.heads * w.queries * w.keys


def _windows(name: str) -> Callable[[AnyWorkload], Passes | Absent]:
    return lambda w: _passes(torch_paths.windows(name, w, "cuda"))


def _flex(w: AnyWorkload) -> Passes | Absent:
    return _passes(_flex_way(w))


def _flex_way(w: AnyWorkload) -> Way | Absent:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not isinstance(w, Workload):
        return Absent("see the paths through windows")
    if w.queries == 1:
        return Absent("decoding takes another of its kernels")
    compiled = torch_paths.compiled(flex_attention)
    lens = None if w.kv_lens is None else torch.tensor(w.kv_lens, device="cuda")
    seen, block_mask = _seen(w, lens), None
    if seen is not None:
        batch = None if lens is None else w.batch
        block_mask = create_block_mask(seen, batch, None, w.queries, w.keys, device="cuda")
    grouped = w.heads != w.kv_heads

    def run(q: Any, k: Any, v: Any, bias: Any = None, kv_lens: Any = None) -> Any:  # noqa: ARG001
        change = _change(w, bias)
        return compiled(q, k, v, score_mod=change, block_mask=block_mask, enable_gqa=grouped)

    return run


def _seen(w: Workload, lens: Any) -> Callable[..., Any] | None:
    if lens is not None:
        return lambda b, _h, _i, j: j < lens[b]
    if not w.causal:
        return None
    window = w.window
    if window is None:
        return lambda _b, _h, i, j: i >= j
    return lambda _b, _h, i, j: (i >= j) & (i - j <= window)


def _change(w: Workload, bias: Any) -> Callable[..., Any] | None:
    """Return what becomes of a score: a cap or a bias."""
    import torch

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


def _fa4(w: AnyWorkload) -> Passes | Absent:
    """Return FlashAttention 4's Hopper path, which takes `(B, S, H, D)`."""
    if find_spec("flash_attn") is None or find_spec("flash_attn.cute") is None:
        return Absent("flash-attn-4 is not installed")
    if not isinstance(w, Workload):
        return Absent("see the paths through windows")
    if w.bias or w.kv_lens is not None or w.dtype == "float32":
        return Absent("no bias, no lengths of padded batches, no float32")
    from flash_attn.cute import flash_attn_func

    window = (None, None) if w.window is None else (w.window, 0)
    chosen = {"causal": w.causal and w.window is None, "window_size": window}
    cap = 0.0 if w.softcap is None else w.softcap

    def run(q: Any, k: Any, v: Any) -> Any:
        out = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), softcap=cap, **chosen)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return _passes(run)


PEERS = (
    *(Peer(name, _kernel(name), "attention") for name in KERNELS),
    Peer("flex", _flex, "attention"),
    Peer("fa4", _fa4, "attention"),
    *(Peer(name, _windows(name), "window_attention_qkv") for name in PATHS),
)
"""Those of attention, and the paths of model code through windows."""
