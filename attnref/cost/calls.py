"""From a call of a public function to what it costs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from attnref import arrays
from attnref.api.public import described
from attnref.arrays import Array
from attnref.cost.attention import Attention
from attnref.cost.counts import ON_CHIP, Cost, Setting, Step, Together
from attnref.cost.windows import WindowAttention
from attnref.errors import InvalidProblem
from attnref.problem import AttentionProblem, Problem, Sizes, VarlenProblem, WindowProblem


def hollow(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Make an array of any size without its memory: every stride is zero.

    Args:
        *shape: Its extents.
        dtype: Its dtype; `bfloat16` needs ml_dtypes.

    Returns:
        An array of zeros that cannot be written to.

    Example:
        >>> hollow(64, 32, 65536, 128).nbytes // 2**30
        64
    """
    return np.broadcast_to(np.zeros((), arrays.numpy_dtype(dtype)), shape)


def call(
    function: Callable[..., Any],
    *args: Array,
    backward: bool = False,
    on_chip: int | None = ON_CHIP,
    **options: Any,
) -> Cost:
    """Say what a call costs, from the shapes of its arrays; nothing is run.

    Args:
        function: A public function of attention, e.g. `attnref.attention`.
        *args: Its arrays, which may be `hollow`.
        backward: Count the backward pass, and not the forward pass.
        on_chip: Bytes of fast memory that one tile may fill; `None` is as much as is needed.
        **options: Its options. The values of a mask, of lengths and of offsets are read.

    Returns:
        What it costs with tiles, and with the matrix of weights in memory.

    Raises:
        InvalidProblem: The call has no meaning, or no cost is known for the function.
        UnknownArgument: The function has no such option.

    Example:
        >>> import attnref
        >>> q = hollow(1, 12, 1024, 64, dtype="float16")
        >>> cost = call(attnref.attention, q, q, q, causal=True)
        >>> cost.tiled.multiply_adds == 12 * (1024 * 1025 // 2) * 2 * 64
        True
    """
    problem = described(function, *args, **options)
    if function.__name__.endswith("_with_lse"):
        problem = replace(problem, with_lse=True)
    setting = Setting(dtype=problem.dtype, on_chip=on_chip)
    step = of(problem)
    return step.backward(setting) if backward else step.forward(setting)


def of(problem: Problem) -> Step:
    """Return what a problem costs, as far as that follows from its description.

    Raises:
        InvalidProblem: It is no problem of attention.
    """
    if isinstance(problem, AttentionProblem):
        return _attention(problem)
    if isinstance(problem, VarlenProblem):
        return _varlen(problem)
    if isinstance(problem, WindowProblem):
        return _windows(problem)
    raise InvalidProblem(
        f"{problem.operation} has no cost model.",
        hint="attention, attention_varlen, window_attention and window_attention_qkv have one",
    )


def _attention(p: AttentionProblem) -> Attention:
    return Attention(
        sizes=p.sizes,
        window=p.window,
        q_offset=_whole(p.offset),
        q_lens=None if p.q_lens is None else _listed(p.q_lens),
        kv_lens=None if p.kv_lens is None else _listed(p.kv_lens),
        mask=None if p.mask is None else arrays.to_numpy(p.mask),
        bias=None if p.bias is None else tuple(p.bias.shape),
        softcap=p.softcap is not None,
        lse=p.with_lse,
    )


def _varlen(p: VarlenProblem) -> Together:
    """Describe each sequence as a batch of its own; those that are alike, once."""
    starts = (arrays.to_numpy(p.cu_q), arrays.to_numpy(p.cu_k))
    lengths = [np.diff(cu).tolist() for cu in starts]
    places = np.broadcast_to(_whole(p.offset), (len(lengths[0]),)).tolist()
    alike = Counter(zip(places, *lengths, strict=True))
    heads, D = p.q.shape[1:]
    kv_heads, Dv = p.v.shape[1:]
    return Together(
        tuple(
            (
                times,
                Attention(
                    sizes=Sizes(1, heads, kv_heads, Sq, Sk, D, Dv),
                    window=p.window,
                    q_offset=offset,
                    softcap=p.softcap is not None,
                    lse=p.with_lse,
                ),
            )
            for (offset, Sq, Sk), times in alike.items()
        )
    )


def _windows(p: WindowProblem) -> WindowAttention:
    B, *G, H, D = p.q.shape
    return WindowAttention(
        B=B,
        G=tuple(G),
        H=H,
        D=D,
        Dv=p.v.shape[-1],
        window=p.window,
        shift=p.shift,
        bias=p.bias is not None,
        key_mask=None if p.key_mask is None else arrays.to_numpy(p.key_mask),
        wrap=p.wrap_bias != float("-inf"),
        lse=p.with_lse,
    )


def _whole(offset: int | Array) -> int | tuple[int, ...]:
    return offset if isinstance(offset, int) else _listed(offset)


def _listed(x: Array) -> tuple[int, ...]:
    return tuple(arrays.to_numpy(x).tolist())
