"""How things are timed: interleaved, by events on the device, in medians and quartiles."""

from collections.abc import Callable, Mapping
from statistics import quantiles
from typing import Any

import torch

REPEATS = 30
CACHE = 256 * 2**20
"""Bytes that inputs have to exceed together, so that no cache holds them from call to call."""

FILLER = 4 * 2**30
"""Bytes of a copy before each turn: the host queues the turn meanwhile, so that no time of
the host is measured, and what a cache held is gone."""


def timed(
    runs: Mapping[str, Callable[[int], object]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Time each run `repeats` times, in turns, after a warm-up.

    Args:
        runs: Name to a function of how many calls came before, by which it rotates inputs.
        repeats: Timed calls of each.

    Returns:
        Name to the first quartile, median and third quartile, in milliseconds.
    """
    for turn in range(3):
        for run in runs.values():
            run(turn)
    filler = torch.empty(FILLER // 2, dtype=torch.int16, device="cuda")
    marks: dict[str, list[Any]] = {name: [] for name in runs}
    for turn in range(repeats):
        filler[FILLER // 4 :].copy_(filler[: FILLER // 4])
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(turn)
            end.record()
            marks[name].append((start, end))
    torch.cuda.synchronize()
    return {
        name: quantiles([start.elapsed_time(end) for start, end in pairs], n=4)
        for name, pairs in marks.items()
    }
