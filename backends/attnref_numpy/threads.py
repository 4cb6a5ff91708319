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
from threading import Lock
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

    with _one_thread_of_blas:
        try:
            waited = [_executor(cores).submit(alone, unit) for unit in units]
        except RuntimeError:  # the interpreter is ending, and starts no thread any more
            return [work(unit) for unit in units]
        return [done.result() for done in waited]


def shares(units: int) -> int:
    """Tell in how many parts to cut each of some units, so that no core waits for long."""
    cores = 1 if _pools() is None else _cores()
    return 1 if cores == 1 or units >= 4 * cores else -(-4 * cores // max(units, 1))


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


class _OneThreadOfBlas:
    """Holds BLAS at one thread while any call spreads; the last one gives its threads back.

    Each call for itself would have the second take one thread for what BLAS has always had.
    """

    def __init__(self) -> None:
        self.lock, self.calls = Lock(), 0
        self.limit: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if self.calls == 0:
                self.limit = _pools().limit(limits=1, user_api="blas")
            self.calls += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.calls -= 1
            if self.calls == 0:
                self.limit.restore_original_limits()


_one_thread_of_blas = _OneThreadOfBlas()


def _after_fork() -> None:
    """Forget threads that only the parent has."""
    global _one_thread_of_blas  # noqa: PLW0603
    _executor.cache_clear()
    _one_thread_of_blas = _OneThreadOfBlas()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
