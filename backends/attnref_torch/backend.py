"""What attnref asks of a backend, answered; the work is in `operations`."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from attnref.backend import Reason, not_understood, refuse
from attnref.problem import Gradients, Problem, Result

if TYPE_CHECKING:
    import torch

_SCORES = frozenset({"softcap", "sinks", "window", "q_offset", "grouped heads"})
_MAPS = frozenset({"1-D", "2-D", "3-D", "qkv", "shift", "wrap_bias", "key_mask"})
_GRADIENTS = frozenset({"gradients"})

UNDERSTOOD = {
    "attention": _GRADIENTS | _SCORES | {"mask", "bias", "q_lens", "kv_lens"},
    "attention_varlen": _GRADIENTS | _SCORES,
    "window_attention": _GRADIENTS | _MAPS | {"bias", "scale per head"},
    "softmax": _GRADIENTS,
    "merge": _GRADIENTS,
    "relative_position_bias": _GRADIENTS,
}
"""Operation to the features of it that are implemented; the rest is refused (H2)."""


class TorchBackend:
    """Every operation, on CPU and CUDA tensors.

    Torch's fused kernels round weights to a half dtype before they meet the values, so
    that is the profile; whatever does not go through them is rounded once, at the end.

    Args:
        device: Where `from_numpy` puts arrays; calls run where their arrays are.
    """

    name = "torch"
    library = "torch"
    profile = "half-weights"
    masked_nonfinite = True

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def available(self) -> Sequence[Reason]:
        """Look for torch without importing it."""
        if find_spec("torch") is None:
            missing = "torch is not installed: pip install attnref[torch]"
            return [Reason("not-installed", missing)]
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse unknown features and unknown devices."""
        reasons = not_understood(problem, UNDERSTOOD)
        kind = problem.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            limit = f"runs on cpu and cuda, and these tensors are on {problem.device}"
            reasons.append(Reason("device", limit, limit=("cpu", "cuda")))
        return reasons

    def forward(self, problem: Problem) -> Result:
        """Run the problem."""
        refuse(self, problem)
        from attnref_torch import operations  # loads torch

        return operations.forward(problem)

    def backward(
        self,
        problem: Problem,
        result: Result,
        dout: "torch.Tensor",
        dlse: "torch.Tensor | None" = None,
    ) -> Gradients:
        """Pass gradients back."""
        refuse(self, problem)
        from attnref_torch import operations  # loads torch

        return operations.backward(problem, result, dout, dlse)

    def from_numpy(self, x: np.ndarray) -> "torch.Tensor":
        """Make a tensor, with x's strides where torch has such strides."""
        import torch

        if min(x.strides, default=0) < 0 or not x.flags.writeable:
            x = x.copy()
        if x.dtype.name == "bfloat16":
            return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(self.device)
        return torch.from_numpy(x).to(self.device)

    def to_numpy(self, x: "torch.Tensor") -> np.ndarray:
        """Read a tensor, bfloat16 as that of ml_dtypes."""
        import torch

        x = x.detach().cpu()
        if x.dtype is torch.bfloat16:
            from ml_dtypes import bfloat16

            return x.view(torch.int16).numpy().view(bfloat16)
        return x.numpy()
