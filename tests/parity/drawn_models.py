"""What the tests of `attnref.models` beside other libraries share."""

import numpy as np
import torch
from torch import nn

from attnref import arrays

BACKENDS = ["reference", "numpy", "torch"]
LIMIT = 1e-4
"""How far a logit in float32 may be from the library's."""


def loud(model: nn.Module) -> nn.Module:
    """Draw every parameter anew, biases and scales too, so that each of them matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def in_numpy(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Take a state dict as NumPy arrays."""
    return {name: arrays.to_numpy(x) for name, x in state.items()}


def pixels(*extent: int, batch: int = 2) -> tuple[np.ndarray, torch.Tensor]:
    """Draw images, channels last for us and channels first for everybody else."""
    ours = np.random.default_rng(0).normal(size=(batch, *extent, 3)).astype(np.float32)
    return ours, torch.from_numpy(np.moveaxis(ours, -1, 1).copy())
