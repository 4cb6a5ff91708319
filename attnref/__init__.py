"""attnref: attention that means one thing everywhere.

`attnref.spec` says what it means, backends run it, and the conformance suite judges them.
"""

from attnref.api.attention import (
    attention,
    attention_backward,
    attention_varlen,
    attention_varlen_backward,
    attention_varlen_with_lse,
    attention_with_lse,
)
from attnref.api.public import explain
from attnref.api.softmax import merge, merge_backward, softmax, softmax_backward
from attnref.api.windows import (
    relative_position_bias,
    relative_position_bias_backward,
    window_attention,
    window_attention_backward,
    window_attention_qkv,
    window_attention_qkv_backward,
    window_attention_qkv_with_lse,
    window_attention_with_lse,
)
from attnref.dispatch import prefer, trace
from attnref.errors import (
    AttnrefError,
    BackendLoadError,
    InvalidProblem,
    Reason,
    UnknownArgument,
    UnknownBackend,
    UnsupportedError,
)
from attnref.registry import names as backends

__all__ = [
    "AttnrefError",
    "BackendLoadError",
    "InvalidProblem",
    "Reason",
    "UnknownArgument",
    "UnknownBackend",
    "UnsupportedError",
    "attention",
    "attention_backward",
    "attention_varlen",
    "attention_varlen_backward",
    "attention_varlen_with_lse",
    "attention_with_lse",
    "backends",
    "explain",
    "merge",
    "merge_backward",
    "prefer",
    "relative_position_bias",
    "relative_position_bias_backward",
    "softmax",
    "softmax_backward",
    "trace",
    "window_attention",
    "window_attention_backward",
    "window_attention_qkv",
    "window_attention_qkv_backward",
    "window_attention_qkv_with_lse",
    "window_attention_with_lse",
]
