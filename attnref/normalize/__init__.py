"""From a user's arguments to a problem: every argument error is raised here.

One function per public operation. Each checks what the caller gave, resolves every
default, and returns the frozen description that the rest of attnref works with.
"""

from attnref.normalize.arguments import like
from attnref.normalize.attention import attention, attention_varlen
from attnref.normalize.softmax import merge, softmax
from attnref.normalize.windows import (
    relative_position_bias,
    window_attention,
    window_attention_qkv,
)

__all__ = [
    "attention",
    "attention_varlen",
    "like",
    "merge",
    "relative_position_bias",
    "softmax",
    "window_attention",
    "window_attention_qkv",
]
