"""What surrounds a kernel: the host's time of a call, of `explain`, and of importing."""

import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

import attnref
from attnref import normalize
from attnref.backend import Backend
from attnref.problem import Problem, Result
from attnref_conformance.bench.method import HostClock, timed

BATCH = 50
"""Calls that are timed as one, because a clock's step is not small beside a call."""

TURNS = 30

IMPORTS = 15

_IMPORT = """
from time import perf_counter
import {first}
start = perf_counter()
import {second}
print(perf_counter() - start)
"""


class Done:
    """A backend whose work is done: each call gets the same result.

    What its calls take is what surrounds a backend, to a tenth of a microsecond. The difference
    of a call and the backend alone is the same, but of numbers that vary by more than that.

    Args:
        backend: Whose answers it gives to everything else.
        result: Of every call.
    """

    def __init__(self, backend: Backend, result: Result) -> None:
        self._backend, self._result = backend, result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, problem: Problem) -> Result:
        """Return the result."""
        return self._result


def calls(
    backend: Backend,
    take: Callable[[np.ndarray], Any] | None = None,
    wait: Callable[[], object] = lambda: None,
    turns: int = TURNS,
) -> dict[str, tuple[float, ...]]:
    """Time an eager call of a small shape seen before, and what it is made of.

    Args:
        backend: Whose.
        take: Turns a NumPy array into one of its library, on its device.
        wait: Empties the queue of its device.
        turns: Each of `BATCH` calls.

    Returns:
        What was called, to seconds of one call in every turn; `"dispatch"` is a call above a
        backend whose work is done.
    """
    rng = np.random.default_rng(0)
    made = take or backend.from_numpy
    q, k, v = (made(rng.standard_normal((1, 4, 128, 64), np.float32)) for _ in range(3))
    problem = normalize.attention(q, k, v)
    done: Any = Done(backend, backend.forward(problem))
    runs = {
        "attention": lambda: attnref.attention(q, k, v, backend=backend),
        "the backend alone": lambda: backend.forward(problem),
        "explain": lambda: attnref.explain(attnref.attention, q, k, v, backend=backend),
        "describe": lambda: normalize.attention(q, k, v),
        "dispatch": lambda: attnref.attention(q, k, v, backend=done),
    }
    found = timed({name: _often(run) for name, run in runs.items()}, HostClock(wait), turns)
    return {name: tuple(t / BATCH for t in times) for name, times in found.items()}


def _often(run: Callable[[], object]) -> Callable[[int], object]:
    def batch(_: int) -> None:
        for _ in range(BATCH):
            run()

    return batch


def imports(times: int = IMPORTS) -> dict[str, tuple[float, ...]]:
    """Time `import attnref` in fresh processes, where NumPy is loaded already.

    Args:
        times: Processes.

    Returns:
        `"import attnref, beyond numpy"`, and beside it the processes that import nothing but
        NumPy, which says how much a process' start varies.
    """
    found: dict[str, list[float]] = {"import attnref, beyond numpy": [], "import numpy": []}
    for _ in range(times):
        found["import attnref, beyond numpy"].append(_process("numpy", "attnref"))
        found["import numpy"].append(_process("sys", "numpy"))
    return {name: tuple(seconds) for name, seconds in found.items()}


def _process(first: str, second: str) -> float:
    program = _IMPORT.format(first=first, second=second)
    words = [sys.executable, "-P", "-c", program]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def device_launch(turns: int = TURNS) -> dict[str, tuple[float, ...]]:
    """Time Triton's launch of a kernel of twelve arguments that does nothing, and torch's call.

    Needs a GPU. The queue is emptied between turns, so that nothing waits for the device.
    """
    import torch

    from attnref_conformance.bench.nothing import nothing

    kernel: Any = nothing
    launch = kernel[(1,)]
    q = torch.zeros(1, 4, 128, 64, device="cuda", dtype=torch.bfloat16)
    runs: dict[str, Callable[[], object]] = {
        "a kernel that does nothing": lambda: launch(*[q] * 12),
        "scaled_dot_product_attention": lambda: torch.nn.functional.scaled_dot_product_attention(
            q, q, q
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 3):
        for name, run in runs.items():
            torch.cuda.synchronize()
            start = perf_counter()
            for _ in range(BATCH):
                run()
            if turn >= 3:
                found[name].append((perf_counter() - start) / BATCH)
    return {name: tuple(seconds) for name, seconds in found.items()}
