"""What forward and backward passes return; an entry is `None` where there was no such input."""

from typing import NamedTuple

from attnref.arrays import Array


class Result(NamedTuple):
    """What a forward pass returns.

    Attributes:
        out: The weighted values, in q's shape with v's last axis and in q's dtype. For
            `softmax` the weights, for `relative_position_bias` the bias.
        lse: The natural log-sum-exp of every row, float32 (float64 for float64);
            `None` for operations that have none, and allowed to be `None` where the
            problem says `with_lse=False`.
    """

    out: Array
    lse: Array = None


class AttentionGradients(NamedTuple):
    """Gradients of `attention` and `attention_varlen`."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None = None
    dsinks: Array | None = None


class WindowGradients(NamedTuple):
    """Gradients of `window_attention`; of a packed projection, one packed array."""

    dq: Array | None
    dk: Array | None
    dv: Array | None
    dbias: Array | None = None
    dscale: Array | None = None
    dqkv: Array | None = None


class SoftmaxGradients(NamedTuple):
    """Gradient of `softmax`."""

    dx: Array


class MergeGradients(NamedTuple):
    """Gradients of `merge`."""

    dout_a: Array
    dlse_a: Array
    dout_b: Array
    dlse_b: Array


class TableGradients(NamedTuple):
    """Gradient of `relative_position_bias`."""

    dtable: Array


Gradients = (
    AttentionGradients | WindowGradients | SoftmaxGradients | MergeGradients | TableGradients
)
