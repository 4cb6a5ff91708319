"""Sends each kind of problem to the module that computes it.

Nothing is recorded for torch's tape, because `attnref.autograd` puts the whole call on
it, and a caller's autocast does not reach inside: the precision is the specification's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
from attnref_torch import attention, packed, softmax, windows


def forward(problem: Problem) -> Result:
    """Run any problem."""
    with _undisturbed(problem):
        match problem:
            case AttentionProblem():
                return attention.forward(problem)
            case VarlenProblem():
                return packed.forward(problem)
            case WindowProblem():
                return windows.forward(problem)
            case TableProblem():
                return windows.table_forward(problem)
            case SoftmaxProblem():
                return softmax.forward(problem)
            case MergeProblem():
                return softmax.merge_forward(problem)
    raise AssertionError(problem)


def backward(
    problem: Problem, result: Result, dout: torch.Tensor, dlse: torch.Tensor | None
) -> Gradients:
    """Pass gradients back through any problem."""
    with _undisturbed(problem):
        match problem:
            case AttentionProblem():
                return attention.backward(problem, result, dout, dlse)
            case VarlenProblem():
                return packed.backward(problem, result, dout, dlse)
            case WindowProblem():
                return windows.backward(problem, result, dout, dlse)
            case TableProblem():
                return windows.table_backward(problem, dout)
            case SoftmaxProblem():
                return softmax.backward(problem, result, dout)
            case MergeProblem():
                return softmax.merge_backward(problem, result, dout, dlse)
    raise AssertionError(problem)


@contextmanager
def _undisturbed(problem: Problem) -> Iterator[None]:
    kind = problem.device.partition(":")[0]
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        yield
