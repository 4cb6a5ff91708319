"""The NumPy backend: every operation, on the CPU, in memory linear in the tokens.

Start at `NumpyBackend`, then follow one operation down: `attention` cuts the call into
`sequences`, a sequence into `blocks` of query rows, and a block into `scores` and
finished `rows`; `gradients` goes the same way back.
"""

from collections.abc import Sequence

import numpy as np

from attnref.backend import Reason, not_understood, refuse
from attnref.problem import (
    AnyProblem,
    AttentionProblem,
    Gradients,
    MergeProblem,
    Problem,
    Result,
    SoftmaxProblem,
    TableProblem,
    VarlenProblem,
    WindowProblem,
)

from . import attention, gradients, merging, softmax, tables, window_gradients, windows

_VARLEN = {"softcap", "sinks", "window", "q_offset", "grouped heads", "gradients"}

UNDERSTOOD = {
    "attention": frozenset({*_VARLEN, "mask", "bias", "q_lens", "kv_lens"}),
    "attention_varlen": frozenset(_VARLEN),
    "window_attention": frozenset(
        {"bias", "key_mask", "shift", "wrap_bias", "scale per head", "qkv"}
        | {"1-D", "2-D", "3-D", "gradients"}
    ),
    "softmax": frozenset({"gradients"}),
    "merge": frozenset({"gradients"}),
    "relative_position_bias": frozenset({"gradients"}),
}
"""Operation to the features that this package implements."""


class NumpyBackend:
    """Tiled NumPy. It runs anywhere and understands everything in the specification."""

    name = "numpy"
    library = "numpy"
    masked_nonfinite = True

    def available(self) -> Sequence[Reason]:
        """Return nothing: the core itself needs NumPy."""
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """List what a later specification may ask for and this package predates."""
        return not_understood(problem, UNDERSTOOD)

    def forward(self, problem: AnyProblem) -> Result:
        """Run the problem; floating-point oddities are results here, not warnings."""
        refuse(self, problem)
        with np.errstate(all="ignore"):
            return _forward(problem)

    def backward(
        self,
        problem: AnyProblem,
        result: Result,
        dout: np.ndarray,
        dlse: np.ndarray | None = None,
    ) -> Gradients:
        """Pass gradients back from the given result, whoever computed it (E2)."""
        refuse(self, problem)
        with np.errstate(all="ignore"):
            return _backward(problem, result, dout, dlse)

    def from_numpy(self, x: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return x

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return x


def _forward(problem: AnyProblem) -> Result:
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.forward(problem)
        case WindowProblem():
            return windows.forward(problem)
        case SoftmaxProblem():
            return softmax.forward(problem)
        case MergeProblem():
            return merging.forward(problem)
        case TableProblem():
            return tables.forward(problem)
    raise AssertionError(problem)


def _backward(
    problem: AnyProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None
) -> Gradients:
    match problem:
        case AttentionProblem() | VarlenProblem():
            return gradients.backward(problem, result, dout, dlse)
        case WindowProblem():
            return window_gradients.backward(problem, result, dout, dlse)
        case SoftmaxProblem():
            return softmax.backward(problem, result, dout)
        case MergeProblem():
            return merging.backward(problem, result, dout, dlse)
        case TableProblem():
            return tables.backward(problem, dout)
    raise AssertionError(problem)


backend = NumpyBackend()
