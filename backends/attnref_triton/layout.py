"""How results lie in memory: as the inputs they belong to do (A1)."""

import torch

from attnref.backend import memory_order

EIGHT = 8
"""Elements of a half precision in sixteen bytes, which a thread loads at a time."""


def eights(n: int) -> int:
    """Round up to a multiple of eight."""
    return -(-n // EIGHT) * EIGHT


def is_aligned(x: torch.Tensor) -> bool:
    """Tell whether columns are adjacent and rows begin at multiples of eight elements."""
    *outer, column = x.stride()
    rows = all(s % EIGHT == 0 for s, n in zip(outer, x.shape, strict=False) if n > 1)
    return x.data_ptr() % 16 == 0 and rows and (column == 1 or x.shape[-1] == 1)


def columns_in_eights(x: torch.Tensor) -> torch.Tensor:
    """Return an array whose rows can be read sixteen bytes at a time: `x`, or a copy.

    A copy has as many columns of zeros as it takes: they change no product (A1 allows it).
    """
    width = eights(x.shape[-1])
    if width == x.shape[-1] and is_aligned(x):
        return x
    return torch.nn.functional.pad(x, (0, width - x.shape[-1])).contiguous()


def room_for(due: torch.Tensor) -> torch.Tensor:
    """Return where a kernel can write a result that is due: there, or into a buffer."""
    *outer, width = due.shape
    if width % EIGHT == 0 and is_aligned(due):
        return due
    return due.new_empty((*outer, eights(width)))


def settle(due: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Bring a result from where a kernel wrote it to where it is due."""
    return due if made is due else due.copy_(made[..., : due.shape[-1]])


def empty_as(x: torch.Tensor, last: int | None = None) -> torch.Tensor:
    """Allocate a tensor that lies as `x` does, perhaps with another last axis."""
    shape = x.shape if last is None else (*x.shape[:-1], last)
    if x.is_contiguous():
        return x.new_empty(shape)
    order = memory_order(x)
    return x.new_empty([shape[axis] for axis in order]).permute(_inverse(order))


def in_order_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Lay `y`, of the same shape, out in memory as `x` is."""
    if x.is_contiguous():
        return y.contiguous()
    order = memory_order(x)
    return y.permute(order).contiguous().permute(_inverse(order))


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
