"""Sends each kind of problem to the module that computes it."""

from typing import Any

from attnref.problem import (
    AttentionProblem,
    Gradients,
    MergeProblem,
    Problem,
    Result,
    SoftmaxProblem,
    VarlenProblem,
)
from attnref_cupy import attention, merging, softmax


def forward(problem: Problem) -> Result:
    """Run any problem."""
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.forward(problem)
        case SoftmaxProblem():
            return softmax.forward(problem)
        case MergeProblem():
            return merging.forward(problem)
    raise AssertionError(problem)


def backward(problem: Problem, result: Result, dout: Any, dlse: Any) -> Gradients:
    """Pass gradients back through any problem."""
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.backward(problem, result, dout, dlse)
        case SoftmaxProblem():
            return softmax.backward(problem, result, dout)
        case MergeProblem():
            return merging.backward(problem, result, dout, dlse)
    raise AssertionError(problem)
