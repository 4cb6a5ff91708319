"""The precision in between, and the one rounding at the end (A6)."""

from functools import reduce

import torch

from attnref.backend import memory_order


def wide(*tensors: torch.Tensor | None) -> torch.dtype:
    """Return float32, or float64 if one of the tensors is float64."""
    dtypes = (x.dtype for x in tensors if x is not None)
    return reduce(torch.promote_types, dtypes, torch.float32)


def rounded(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Round to the dtype of an input, in its memory order (A1, A6)."""
    return in_order(x.to(like.dtype), like)


def rounded_if_any(x: torch.Tensor | None, like: torch.Tensor | None) -> torch.Tensor | None:
    """Round the gradient of an input that a call need not have."""
    return None if x is None or like is None else rounded(x, like)


def in_order(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Lay `x` out in memory as `like` is; plainly if `like` has other axes."""
    if x.ndim != like.ndim:
        return x.contiguous()
    order = memory_order(like)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return x.permute(order).contiguous().permute(back)


def lse_of(lse: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Round a log-sum-exp: float32, or float64 for float64, C-contiguous (A1, A3).

    A finite one stays finite, because minus infinity says that nothing was seen.
    """
    dtype = wide(like)
    if lse.dtype != dtype:
        limit = torch.finfo(dtype).max
        lse = torch.where(torch.isfinite(lse), lse.clamp(-limit, limit), lse)
    return lse.to(dtype).contiguous()
