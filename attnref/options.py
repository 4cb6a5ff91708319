"""The keyword arguments of the public functions, one entry each."""

from typing import Literal, Required, TypedDict

from attnref.arrays import Array
from attnref.problem import Window

DEFAULTS: dict[str, object] = {"causal": False, "shift": 0, "wrap_bias": float("-inf")}
"""What an option is when a call leaves it out, where that is not `None`."""


class AttentionOptions(TypedDict, total=False):
    """Options of `attention` and its relatives; `attnref.attention` explains them."""

    scale: float | None
    causal: bool
    window: Window | None
    q_offset: int | Array | Literal["start", "end"] | None
    mask: Array | None
    bias: Array | None
    softcap: float | None
    sinks: Array | None
    q_lens: Array | None
    kv_lens: Array | None


class VarlenOptions(TypedDict, total=False):
    """Options of `attention_varlen` and its relatives."""

    scale: float | None
    causal: bool
    window: Window | None
    q_offset: int | Array | Literal["start", "end"] | None
    softcap: float | None
    sinks: Array | None
    max_q: int | None
    max_k: int | None


class WindowOptions(TypedDict, total=False):
    """Options of `window_attention` and its relatives."""

    window: Required[int | tuple[int, ...]]
    shift: int | tuple[int, ...]
    bias: Array | None
    key_mask: Array | None
    scale: float | Array | None
    wrap_bias: float
