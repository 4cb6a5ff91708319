"""Other libraries' models on attnref: one call on a built model, and its undo.

`accelerate` finds the window attention of timm's, torchvision's and Hugging Face's Swin
models and lets it run on attnref: shift, cut, attention and reverse become one call on
the map as it is. Weights, names and results stay what they were; what cannot be replaced
exactly is not replaced, and the report says why.

The libraries are never imported for their own sake: a model that is there has already
loaded the one that it is from.
"""

from attnref.integrations.replacing import accelerate, restore
from attnref.integrations.report import Report

__all__ = ["Report", "accelerate", "restore"]
