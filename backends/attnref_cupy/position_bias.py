"""The bias of a window's pairs from a table of displacements, and its gradient (G6)."""

from math import prod
from typing import Any

import cupy
import numpy as np

from attnref.problem import Result, TableGradients, TableProblem
from attnref_cupy.compiling import kernel
from attnref_cupy.launching import Launch
from attnref_cupy.layout import empty_as, pointer
from attnref_cupy.structures import KINDS, elements

BLOCK = 256
"""Pairs, or rows of the table, of a block."""

POSITION = np.dtype(
    [
        ("bias", "u8"),
        ("table", "u8"),
        ("bias_strides", "i8", 3),
        ("table_strides", "i8", 2),
        *((name, "i4") for name in ("bias_kind", "table_kind", "heads")),
        ("window", "i4", 3),
    ],
    align=True,
)
"""`Position` of `position_bias.cu`."""


def forward(problem: TableProblem) -> Result:
    """Look up the bias of every pair."""
    N, table = prod(problem.window), problem.table
    bias = cupy.empty((table.shape[1], N, N), table.dtype)
    launch("position_bias", problem, bias, table, N * N).run()
    return Result(bias)


def backward(problem: TableProblem, dbias: Any) -> TableGradients:
    """Add up what all pairs of equal displacement say."""
    dtable = empty_as(problem.table)
    launch("position_gradient", problem, dbias, dtable, dtable.shape[0]).run()
    return TableGradients(dtable)


def launch(name: str, problem: TableProblem, bias: Any, table: Any, numbers: int) -> Launch:
    """Make the launch that goes over so many numbers of every head."""
    told = np.zeros((), POSITION)
    told["bias"], told["table"] = pointer(bias), pointer(table)
    told["bias_strides"], told["table_strides"] = elements(bias), elements(table)
    told["bias_kind"], told["table_kind"] = KINDS[str(bias.dtype)], KINDS[str(table.dtype)]
    told["heads"] = table.shape[1]
    told["window"] = (1,) * (3 - len(problem.window)) + problem.window
    grid = table.shape[1] * -(-numbers // BLOCK)
    return Launch(kernel("position_bias.cu", name), grid, BLOCK, (told,))
