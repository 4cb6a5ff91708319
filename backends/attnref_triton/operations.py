"""Sends each kind of problem to the module that computes it.

A caller's tape and autocast do not reach inside: `attnref.autograd` puts the whole call on
the tape, and the precision is the specification's. Kernels run on the current stream of
the tensors' device, whichever device is current.
"""

import threading
import warnings
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
from attnref_triton import attention, merging, position_bias, softmax, windows
from attnref_triton.backend import interpreted


def forward(problem: Problem, precision: str, *, path: bool = True) -> Result:
    """Run any problem."""
    with _undisturbed(problem):
        match problem:
            case AttentionProblem() | VarlenProblem():
                return attention.forward(problem, precision, path=path)
            case WindowProblem():
                return windows.forward(problem, precision)
            case TableProblem():
                return position_bias.forward(problem)
            case SoftmaxProblem():
                return softmax.forward(problem)
            case MergeProblem():
                return merging.forward(problem)
    raise AssertionError(problem)


def backward(
    problem: Problem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    precision: str,
    *,
    path: bool = True,
) -> Gradients:
    """Pass gradients back through any problem."""
    with _undisturbed(problem):
        match problem:
            case AttentionProblem() | VarlenProblem():
                return attention.backward(problem, result, dout, dlse, precision, path=path)
            case WindowProblem():
                return windows.backward(problem, result, dout, dlse, precision)
            case TableProblem():
                return position_bias.backward(problem, dout)
            case SoftmaxProblem():
                return softmax.backward(problem, result, dout)
            case MergeProblem():
                return merging.backward(problem, result, dout, dlse)
    raise AssertionError(problem)


_INTERPRETING = threading.RLock()


@contextmanager
def _undisturbed(problem: Problem) -> Iterator[None]:
    x = getattr(problem, problem.main)
    with torch.no_grad(), torch.cuda.device_of(x):
        if interpreted():
            with _silent_interpreter():
                yield
        else:
            yield


@contextmanager
def _silent_interpreter() -> Iterator[None]:
    """Keep NumPy from warning of what a GPU does in silence.

    One thread at a time: the filters of warnings, and what the interpreter puts in the place
    of Triton's language, belong to the whole process.
    """
    with _INTERPRETING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="triton", category=RuntimeWarning)
        warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0")
        yield
