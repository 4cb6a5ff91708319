"""Arrays, described to the unit that copies tiles of them (the tensor memory accelerator)."""

from typing import Any, NamedTuple

import torch

from attnref_triton.call import Call, broadcast


def described(x: torch.Tensor, rows: int, columns: int | None = None) -> Any:
    """Describe an array of tokens to TMA, which copies so many rows of a head at a time.

    A head is an axis of its own, so that what lies past its last token or column is neither
    read, but taken as zeros, nor written.
    """
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    block = [1, 1, rows, columns or x.shape[-1]]
    dtypes = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.uint8: gl.uint8}
    layout = gl.NVMMASharedLayout.get_default_for(block, dtypes[x.dtype])
    return TensorDescriptor(x, list(x.shape), strides_of(x), block, layout)


def described_floats(x: torch.Tensor, rows: int, columns: int) -> Any:
    """Describe a matrix of float32 to TMA: in tiles, or in pieces of one row, laid as they are."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    block = [rows, columns]
    if rows == 1:
        layout = gl.NVMMASharedLayout(0, 32, rank=2)
    else:
        layout = gl.NVMMASharedLayout.get_default_for(block, gl.float32)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), block, layout)


def strides_of(x: torch.Tensor) -> list[int]:
    """Return strides as TMA wants them, also of axes of length one."""
    sixteen = 16 // x.element_size()
    return [sixteen if n == 1 else s for n, s in zip(x.shape[:-1], x.stride(), strict=False)] + [1]


def as_batch(x: torch.Tensor) -> torch.Tensor:
    """See packed sequences as one entry of a batch."""
    return x.transpose(0, 1)[None] if x.ndim == 3 else x


def condensed(x: torch.Tensor) -> torch.Tensor:
    """Give axes of entries and heads the length one along which all are the same."""
    b, h = (1 if s == 0 else n for s, n in zip(x.stride()[:2], x.shape[:2], strict=True))
    return x[:b, :h]


def same_for_queries(x: torch.Tensor) -> bool:
    """Tell whether a bias or a mask is the same for all queries: no tile of it is copied."""
    return x.ndim < 2 or x.shape[-2] == 1 or x.stride(-2) == 0


class Table(NamedTuple):
    """What is added to scores or hides them, as kernels take it.

    Attributes:
        kind: `"bias"`, `"mask"`, or `"no"` if a call has neither.
        array: A descriptor of tiles, or a tensor, if it is the same for all queries.
        shared: What places of an entry and of a head are multiplied by: to find them along axes
            that may be one for all, or in memory.
        keyed: Whether it is the same for all queries.
    """

    kind: str = "no"
    array: Any = None
    shared: tuple[int, ...] = (0, 0)
    keyed: bool = False


def table_of(call: Call, rows: int, keys: int) -> Table:
    """Describe the bias or the mask of a call."""
    kind, x = ("bias", call.bias) if call.mask is None else ("mask", call.mask.view(torch.uint8))
    if x is None:
        return Table()
    if same_for_queries(x):
        return Table(kind, x, broadcast(x)[:2], keyed=True)
    x = condensed(x)
    return Table(kind, described(x, rows, keys), tuple(int(n > 1) for n in x.shape[:2]))


def parts_of(D: int) -> int:
    """Say in how many parts of equal width the columns of queries and keys are copied."""
    return 1 if D & (D - 1) == 0 else D // 64


def blocks(columns: int) -> int:
    """Round columns up to whole blocks of shared memory."""
    return -(-columns // 64) * 64
