"""A backend that takes a fifth longer than another, for the experiment with planted slowdowns."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from attnref.backend import Backend
from attnref_conformance.bench.compare import PLANTED


class Slower:
    """A backend that takes a fifth longer than another, and returns the same.

    Args:
        backend: The other, whose name it keeps.
        share: Of each call's time, spent waiting.
    """

    def __init__(self, backend: Backend, share: float = PLANTED) -> None:
        self._backend, self._share = backend, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, problem: Any) -> Any:
        """Run, and wait."""
        return self._longer(self._backend.forward, problem)

    def backward(self, *given: Any) -> Any:
        """Run, and wait."""
        return self._longer(self._backend.backward, *given)

    def _longer(self, run: Callable[..., Any], *given: Any) -> Any:
        start = perf_counter()
        found = run(*given)
        until = perf_counter() + self._share * (perf_counter() - start)
        while perf_counter() < until:
            pass
        return found


class SlowerOnGpu(Slower):
    """One whose device waits: the host is done before the device has begun."""

    def _longer(self, run: Callable[..., Any], *given: Any) -> Any:
        key = run, tuple(getattr(given[0], "q", given[0]).shape)
        if key not in self._cycles:
            self._cycles[key] = round(self._share * _cycles(lambda: run(*given)))
        found = run(*given)
        sleep(self._cycles[key])
        return found

    @property
    def _cycles(self) -> dict[Any, int]:
        return self.__dict__.setdefault("_learnt", {})


def _cycles(run: Callable[[], object], calls: int = 20, long: int = 50_000_000) -> float:
    """Return how many cycles of the device a call takes, beside a wait of known length."""
    import torch

    def took(what: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        sleep(long)  # the host queues everything meanwhile
        start.record()
        what()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))

    def often() -> None:
        for _ in range(calls):
            run()

    run()
    wait = took(lambda: sleep(long))
    return took(often) / calls * long / wait


def sleep(cycles: int) -> None:
    """Queue a kernel that does nothing for so many cycles of the device's clock."""
    import torch

    torch.cuda._sleep(cycles)  # noqa: SLF001  # torch's own tests slow a device down by it
