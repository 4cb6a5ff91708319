"""Independent units of work on all cores, with one thread of BLAS in each.

Many products at a time on one thread each beat one at a time on many: what lies between
them runs in parallel, too. BLAS's threads are the process's, so that while a call spreads,
products elsewhere in the process run on one thread as well. Without threadpoolctl BLAS
keeps its threads, and units run one after the other.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

WORTH = 2**21
"""Scores from which on threads are worth waking."""

T, R = TypeVar("T"), TypeVar("R")


def spread(work: Callable[[T], R], units: Iterable[T], scores: int) -> list[R]:
    """Do every unit of some work that holds so many scores in all, in any order.

    Results come in the order of the units, so that sums of them do not depend on threads.
    """
    units = list(units)
    cores, pools = _cores(), _pools()
    if pools is None or cores == 1 or len(units) == 1 or scores < WORTH:
        return [work(unit) for unit in units]

    def alone(unit: T) -> R:
        with np.errstate(all="ignore"):  # a thread starts with the default
            return work(unit)

    with pools.limit(limits=1, user_api="blas"):
        return [done.result() for done in [_executor(cores).submit(alone, u) for u in units]]


def _cores() -> int:
    count = getattr(os, "sched_getaffinity", None)
    return len(count(0)) if count else os.cpu_count() or 1


@cache
def _executor(cores: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores, "attnref-numpy")


@cache
def _pools() -> Any:
    """Find the thread pools of BLAS, if threadpoolctl is there to ask for."""
    if find_spec("threadpoolctl") is None:
        return None
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
