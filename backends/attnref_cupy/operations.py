"""Sends each kind of problem to the module that computes it."""

from typing import Any

from attnref.problem import (
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
from attnref_cupy import attention, merging, position_bias, softmax, windows


def again(problem: Problem) -> Result | None:
    """Answer a call whose like ran before; `None` if none did."""
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.again(problem)
        case WindowProblem():
            return windows.again(problem)
    return None


def back_again(problem: Problem, result: Result, dout: Any, dlse: Any) -> Gradients | None:
    """Pass gradients back through a call whose like ran before; `None` if none did."""
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.back_again(problem, result, dout, dlse)
        case WindowProblem():
            return windows.back_again(problem, result, dout, dlse)
    return None


def forward(problem: Problem) -> Result:
    """Run any problem."""
    match problem:
        case AttentionProblem() | VarlenProblem():
            return attention.forward(problem)
        case WindowProblem():
            return windows.forward(problem)
        case TableProblem():
            return position_bias.forward(problem)
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
        case WindowProblem():
            return windows.backward(problem, result, dout, dlse)
        case TableProblem():
            return position_bias.backward(problem, dout)
        case SoftmaxProblem():
            return softmax.backward(problem, result, dout)
        case MergeProblem():
            return merging.backward(problem, result, dout, dlse)
    raise AssertionError(problem)
