"""What attention costs: operations, bytes moved, memory kept and parameters.

`call` answers for a call of a public function, from shapes alone. `model` answers for whole
models, part by part. Calls and layers are steps that can be put together by hand, and a
`Roofline` says how long their work takes at least. Nothing is run.

Example:
    >>> import attnref
    >>> from attnref import cost
    >>> q = cost.hollow(1, 12, 1024, 64, dtype="float16")
    >>> found = cost.call(attnref.attention, q, q, q)
    >>> found.untiled.bytes / found.tiled.bytes > 7
    True
"""

from attnref.cost.attention import Attention
from attnref.cost.calls import call, hollow, of
from attnref.cost.convolutions import Convolution, depthwise_separable
from attnref.cost.counts import ON_CHIP, Cost, Setting, Step, Together, Work
from attnref.cost.layers import Embedding, Linear, Norm, Pointwise, mlp
from attnref.cost.models import Model, model
from attnref.cost.roofline import Roofline
from attnref.cost.windows import WindowAttention

__all__ = [
    "ON_CHIP",
    "Attention",
    "Convolution",
    "Cost",
    "Embedding",
    "Linear",
    "Model",
    "Norm",
    "Pointwise",
    "Roofline",
    "Setting",
    "Step",
    "Together",
    "WindowAttention",
    "Work",
    "call",
    "depthwise_separable",
    "hollow",
    "mlp",
    "model",
    "of",
]
