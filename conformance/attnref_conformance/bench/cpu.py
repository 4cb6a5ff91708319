"""Rows on a processor, beside torch, JAX and NumPy as one writes it down."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from attnref.backend import Backend
from attnref_conformance.bench import contenders, machine, naive, overhead, torch_paths
from attnref_conformance.bench.contenders import Absent, Given, Passes, Peer
from attnref_conformance.bench.measure import Turns
from attnref_conformance.bench.method import HostClock, timed
from attnref_conformance.bench.workloads import AnyWorkload, Workload
from attnref_conformance.case import cast

CACHE = 64 * 2**20
"""Bytes that inputs have to exceed together, so that no cache holds them from call to call."""

MOST_SETS = 4


class Processor:
    """A `Machine` whose arrays are NumPy's."""

    name = "cpu"

    def __init__(self) -> None:
        self.peers: Sequence[Peer] = (
            Peer("torch sdpa", _sdpa, "attention"),
            Peer("torch windows", _windows, "window_attention_qkv"),
            Peer("naive numpy", naive.prepare),
            Peer("jax", _jax, "attention"),
        )

    def sets(self, w: AnyWorkload) -> list[Given]:
        """Draw standard normal inputs, the same in every run."""
        rng, lens = np.random.default_rng(0), getattr(w, "kv_lens", None)
        extra = {} if lens is None else {"kv_lens": np.array(lens, np.int32)}
        count = max(1, min(MOST_SETS, -(-CACHE // max(w.bytes, 1))))
        return [
            {n: cast(rng.standard_normal(s, np.float32), w.dtype) for n, s in w.shapes.items()}
            | extra
            for _ in range(count)
        ]

    def read(self, x: Any) -> np.ndarray:
        """Return it: it is a NumPy array."""
        return np.asarray(x)

    def ours(self, w: AnyWorkload, backend: Backend) -> Passes:
        """Return a backend's passes."""
        return contenders.ours(w, backend, backend.from_numpy)

    def turns(
        self, w: AnyWorkload, passes: str, ready: Mapping[str, tuple[Passes, list[Any]]]
    ) -> Turns:
        """Time single calls by the host's clock."""
        runs = {name: _in_turn(getattr(way, passes), xs) for name, (way, xs) in ready.items()}
        clock = HostClock()
        return Turns(runs, 1, clock, clock.name)

    def peak(self, run: Callable[[], Any]) -> int | None:
        """Return the bytes of the host that a call takes."""
        return machine.peak(run)

    def release(self) -> None:
        """Nothing is kept."""

    def overhead(self, backend: Backend) -> dict[str, tuple[float, ...]]:
        """Time what surrounds a backend's calls."""
        return overhead.calls(backend)

    def ceilings(self, elements: int = 2**26, side: int = 2048) -> dict[str, float]:
        """Measure a large copy and a large product in float32, and how many threads multiply.

        Args:
            elements: Of what is copied.
            side: Of the factors.
        """
        x = np.random.default_rng(0).standard_normal(elements, np.float32)
        y, a = np.empty_like(x), x[: side * side].reshape(side, side)
        b = np.empty_like(a)
        runs = {"copy": lambda _: np.copyto(y, x), "product": lambda _: np.matmul(a, a, out=b)}
        took = {name: sorted(t)[len(t) // 2] for name, t in timed(runs, HostClock(), 9).items()}
        return {
            "copy": 2 * x.nbytes / took["copy"],
            "product": 2 * side**3 / took["product"],
            "threads": machine.busy(lambda: np.matmul(a, a, out=b)),
        }


def _in_turn(run: Callable[[Any], Any], inputs: list[Any]) -> Callable[[int], object]:
    return lambda n: run(inputs[n % len(inputs)])


def _sdpa(w: AnyWorkload) -> Passes | Absent:
    if find_spec("torch") is None:
        return Absent("torch is not installed")
    way = torch_paths.sdpa(w)
    return way if isinstance(way, Absent) else _torch(way)


def _windows(w: AnyWorkload) -> Passes | Absent:
    if find_spec("torch") is None:
        return Absent("torch is not installed")
    way = torch_paths.windows("eager", w, "cpu")
    return way if isinstance(way, Absent) else _torch(way)


def _torch(way: torch_paths.Way) -> Passes:
    import torch

    return torch_paths.passes(way, torch.from_numpy, lambda x: x.detach().numpy())


def _jax(w: AnyWorkload) -> Passes | Absent:
    if find_spec("jax") is None:
        return Absent("jax is not installed")
    if not isinstance(w, Workload):
        return Absent("has no attention inside windows")
    if w.softcap is not None or (w.causal and w.queries != w.keys):
        return Absent("no soft cap, and causal only where queries and keys are as many")
    import jax

    jax.config.update("jax_platforms", "cpu")  # else it runs on the GPU of a machine that has one
    from attnref_conformance.bench.jax_path import prepare

    return prepare(w)
