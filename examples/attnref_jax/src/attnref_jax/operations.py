"""Which module computes what."""

import jax

from attnref.problem import (
    AnyProblem,
    AttentionProblem,
    Gradients,
    MergeProblem,
    Result,
    SoftmaxProblem,
    TableProblem,
    VarlenProblem,
    WindowProblem,
)
from attnref_jax import attention, merging, packed, softmax, tables, windows


def forward(problem: AnyProblem) -> Result:
    """Run a problem that was not refused.

    Positions are 64-bit whatever JAX's default is (C3). Nothing else changes with it:
    every array here keeps the dtype that it was given or cast to.
    """
    with jax.enable_x64(True):
        return _forward(problem)


def _forward(problem: AnyProblem) -> Result:
    match problem:
        case AttentionProblem():
            return attention.forward(problem)
        case VarlenProblem():
            return packed.forward(problem)
        case WindowProblem():
            return windows.forward(problem)
        case MergeProblem():
            return merging.forward(problem)
        case SoftmaxProblem():
            return softmax.forward(problem)
        case TableProblem():
            return tables.forward(problem)
    raise AssertionError(problem)


def backward(
    problem: AnyProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> Gradients:
    """Pass gradients back through a problem that was not refused."""
    with jax.enable_x64(True):
        return _backward(problem, result, dout, dlse)


def _backward(
    problem: AnyProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> Gradients:
    match problem:
        case AttentionProblem():
            return attention.backward(problem, result, dout, dlse)
        case VarlenProblem():
            return packed.backward(problem, result, dout, dlse)
        case WindowProblem():
            return windows.backward(problem, result, dout, dlse)
        case MergeProblem():
            return merging.backward(problem, result, dout, dlse)
        case SoftmaxProblem():
            return softmax.backward(problem, result, dout)
        case TableProblem():
            return tables.backward(problem, dout)
    raise AssertionError(problem)
