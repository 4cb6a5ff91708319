"""attnref on torch: plain tensor expressions and torch's own fused attention.

This package is the exemplar for authors of backends. Read it in this order:

1. `backend` says what can be run and what cannot.
2. `operations` sends each kind of problem to its module.
3. `call` is the one form that all attention is brought to; `forward` and `backward`
   compute it, by blocks of query rows.
4. `attention`, `packed` and `windows` bring their problems to that form.
5. `fused` is the shortcut through `scaled_dot_product_attention`.
6. `softmax` holds the two operations that are no attention.
7. `rounding` decides the precision in between and rounds once at the end.

Importing it does not import torch, so that listing the backends stays cheap, and
possible where torch is not installed.
"""

from attnref_torch.backend import TorchBackend

__all__ = ["TorchBackend", "backend"]

backend = TorchBackend()
