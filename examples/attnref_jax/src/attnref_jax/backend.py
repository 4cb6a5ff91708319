"""What attnref asks of a backend, answered; the work is in `operations`."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from attnref.backend import Reason, not_understood, refuse
from attnref.problem import Gradients, Problem, Result

if TYPE_CHECKING:
    import jax

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


class JaxBackend:
    """Every operation, compiled by XLA, on the CPU."""

    name = "jax"
    library = "jax"
    masked_nonfinite = True

    def available(self) -> Sequence[Reason]:
        """Look for JAX without importing it."""
        if find_spec("jax") is None:
            return [Reason("not-installed", "JAX is not installed: pip install jax")]
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse unknown features, other devices, and float64 where JAX has none."""
        reasons = not_understood(problem, UNDERSTOOD)
        if problem.device != "cpu":
            said = f"runs on the CPU, and these arrays are on {problem.device}"
            reasons.append(Reason("device", said, limit="cpu"))
        wide = [n for n, x in problem.arrays.items() if x.dtype == np.float64]
        if wide and not _has_float64():
            remedy = 'jax.config.update("jax_enable_x64", True), or set JAX_ENABLE_X64=1'
            reasons.append(Reason("x64", f"JAX computes float64 only after {remedy}", wide[0]))
        return reasons

    def forward(self, problem: Problem) -> Result:
        """Run the problem."""
        refuse(self, problem)
        from attnref_jax import operations  # loads JAX

        return operations.forward(problem)

    def backward(
        self,
        problem: Problem,
        result: Result,
        dout: "jax.Array",
        dlse: "jax.Array | None" = None,
    ) -> Gradients:
        """Pass gradients back."""
        refuse(self, problem)
        from attnref_jax import operations  # loads JAX

        return operations.backward(problem, result, dout, dlse)

    def from_numpy(self, x: np.ndarray) -> "jax.Array":
        """Make a JAX array of the same dtype, float64 and int64 included."""
        import jax

        with jax.enable_x64(True):
            return jax.device_put(np.array(x, order="C"), jax.devices("cpu")[0])

    def to_numpy(self, x: "jax.Array") -> np.ndarray:
        """Read a JAX array, bfloat16 as that of ml_dtypes."""
        return np.asarray(x)


def _has_float64() -> bool:
    import jax

    return bool(jax.config.jax_enable_x64)
