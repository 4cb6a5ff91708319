"""Torch's own fused attention, for the calls that it means the same by.

`scaled_dot_product_attention` has no word for a row that sees nothing, gives no
log-sum-exp, and its causality is top-left. Where that is enough it means the same, with
one exception: the CPU kernels return zeros for a row whose scores are NaN, and in half
precision for some that are infinite (seen in torch 2.13; pytorch#141128), while C6 wants
to hear of it. On the CPU the kernel is therefore asked only where every score is finite
for certain; a host may look.
"""

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attnref.problem import AttentionProblem

_PRIORITY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Torch's own order prefers FlashAttention-2 to cuDNN, which is faster on Hopper."""

_PLAIN = frozenset({"grouped heads", "window"})
_BOUND = 1e30
"""A score below it leaves a sum of float32 products far from overflow."""


def expresses(problem: AttentionProblem) -> bool:
    """Tell whether the fused kernel means what this problem means."""
    p = problem
    full = p.window == (None, None)
    causal = p.window == (None, 0) and isinstance(p.offset, int) and p.offset == 0
    if p.with_lse or p.features - _PLAIN or not (full or causal):
        return False
    # A kernel that caps the maximum before it scales needs a positive scale.
    if 0 in (*p.q.shape, *p.v.shape) or p.scale <= 0:
        return False
    if p.q.device.type == "cpu":
        return p.q.shape[3] == p.v.shape[3] and _finite(p)
    return _kernel_exists(p, causal=causal)


def attention(problem: AttentionProblem) -> torch.Tensor:
    """Attend; causal rows do not notice holes in values that they do not see."""
    p, causal = problem, problem.window != (None, None)
    v, first = _filled(p.v) if causal and p.v.device.type != "cpu" else (p.v, None)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (p.q, p.k, v))
    with sdpa_kernel(_PRIORITY, set_priority=True):
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=causal,
            scale=p.scale,
            enable_gqa=p.q.shape[1] != p.k.shape[1],
        )
    if first is None:
        return out
    first = first.repeat_interleave(p.q.shape[1] // p.k.shape[1], dim=1)
    i = torch.arange(p.q.shape[2], dtype=first.dtype, device=first.device)[:, None]
    return torch.where(first <= i, torch.nan, out)


def _filled(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill the holes of v and find the first in each column, `(B, Hkv, 1, Dv)`.

    The kernels multiply hidden values by zero, and zero times NaN is NaN. A causal row
    sees a hole if the first one is not behind it, so one number per column restores
    what C6 asks for, without waiting for the device.
    """
    finite = torch.isfinite(v)
    hole, first = (~finite).to(torch.int8).max(dim=2, keepdim=True)
    never = torch.iinfo(first.dtype).max
    return torch.where(finite, v, 0.0), torch.where(hole > 0, first, never)


def _finite(p: AttentionProblem) -> bool:
    """Look whether every score and value is finite, as only a host may."""
    largest = (float(x.abs().amax()) for x in (p.q, p.k))
    bound = math.prod(largest) * p.q.shape[3] * max(1.0, p.scale)
    return bound < _BOUND and bool(torch.isfinite(p.v).all())


def _kernel_exists(p: AttentionProblem, *, causal: bool) -> bool:
    """Ask torch for a fused kernel: the unfused one needs memory of Sq x Sk."""
    from torch.backends import cuda

    gqa = p.q.shape[1] != p.k.shape[1]
    asked = cuda.SDPAParams(p.q, p.k, p.v, None, 0.0, causal, gqa)
    kernels = (
        cuda.can_use_cudnn_attention,
        cuda.can_use_flash_attention,
        cuda.can_use_efficient_attention,
    )
    return any(can_use(asked) for can_use in kernels)
