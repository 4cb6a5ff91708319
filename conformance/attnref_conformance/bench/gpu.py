"""Rows on a GPU that torch sees, beside its kernels, `flex_attention`, FlashAttention 4 and windows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from attnref.backend import Backend
from attnref_conformance.bench import contenders, gpu_peers, overhead
from attnref_conformance.bench.contenders import Given, Passes
from attnref_conformance.bench.measure import Turns
from attnref_conformance.bench.method import Run, timed
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload
from attnref_conformance.case import cast

CACHE = 256 * 2**20
"""Bytes that inputs have to exceed together, so that no cache holds them from call to call."""

FILLER = 4 * 2**30
"""Bytes of a copy before each turn: the host queues the turn meanwhile, so that no time of
the host is measured, and what a cache held is gone."""

SHORT = 50e-6
"""Seconds under which a call is replayed from a graph rather than launched."""


class EventClock:
    """Seconds of the device, between two events in its queue."""

    name = "CUDA events"

    def __init__(self, filler: int = FILLER) -> None:
        self._filler = torch.empty(filler // 2, dtype=torch.int16, device="cuda")

    def settle(self) -> None:
        """Copy something large."""
        half = len(self._filler) // 2
        self._filler[half:].copy_(self._filler[:half])

    def time(self, run: Run, turn: int) -> Callable[[], float]:
        """Queue a run between two events."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(turn)
        end.record()
        return lambda: start.elapsed_time(end) / 1e3

    def finish(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()


class Gpu:
    """A `Machine` whose arrays are torch's, on the current device."""

    name = "cuda"

    def __init__(self) -> None:
        self.peers: Sequence[contenders.Peer] = gpu_peers.PEERS

    def sets(self, w: AnyWorkload) -> list[Given]:
        """Draw standard normal inputs, the same in every run."""
        # By a generator of its own: a capture that fails leaves torch's in no state to draw.
        draw = torch.Generator("cuda").manual_seed(0)
        least, most = (4, 16) if isinstance(w, MapWorkload) else (1, 4)
        return [self._given(w, draw) for _ in range(min(max(-(-CACHE // w.bytes), least), most))]

    def _given(self, w: AnyWorkload, draw: torch.Generator) -> Given:
        kind: dict[str, Any] = {
            "device": "cuda",
            "dtype": getattr(torch, w.dtype),
            "generator": draw,
        }
        given = {name: torch.randn(*shape, **kind) for name, shape in w.shapes.items()}
        lens = getattr(w, "kv_lens", None)
        if lens is not None:
            given["kv_lens"] = torch.tensor(lens, dtype=torch.int32, device="cuda")
        return given

    def read(self, x: Any) -> Any:
        """Copy a part of a tensor to the host."""
        return gpu_peers.read(x)

    def ours(self, w: AnyWorkload, backend: Backend) -> Passes:
        """Return a backend's passes; to another library tensors go without a copy."""
        passes = contenders.ours(w, backend, _taker(backend.library))
        if backend.library != "cupy":
            return passes
        from attnref_conformance.bench import cupy_path  # loads CuPy

        return cupy_path.among_torch(passes)

    def turns(
        self, w: AnyWorkload, passes: str, ready: Mapping[str, tuple[Passes, list[Any]]]
    ) -> Turns:
        """Time single calls by events, and short ones as a graph of a call for each set.

        What autograd runs cannot be captured; it is queued as often, one after another.
        """
        clock = EventClock()
        single = {name: _in_turn(getattr(way, passes), xs) for name, (way, xs) in ready.items()}
        shortest = min(t[0] for t in timed(single, clock, 1).values())
        if not isinstance(w, MapWorkload) and shortest >= SHORT:
            return Turns(single, 1, clock, clock.name)
        calls, runs, how = 1, {}, {}
        for name, (way, xs) in ready.items():
            calls = len(xs)
            runs[name], how[name] = _together(getattr(way, passes), xs)
        told = "CUDA graph replay"
        if queued := [name for name, one in how.items() if one != told]:
            told += f"; {', '.join(queued)}: queued calls between events"
        return Turns(runs, calls, clock, told)

    def peak(self, run: Callable[[], Any]) -> int | None:
        """Return the bytes that torch's allocator hands out at most."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before

    def release(self) -> None:
        """Let other processes have what torch's allocator keeps."""
        torch.cuda.empty_cache()

    def ceilings(self, elements: int = 2**30, side: int = 8192) -> dict[str, float]:
        """Measure a large copy and a large product in bfloat16.

        Args:
            elements: Of what is copied.
            side: Of the factors.
        """
        x = torch.randn(elements, device="cuda", dtype=torch.bfloat16)
        y, a = torch.empty_like(x), x[: side * side].view(side, side)
        b = torch.empty_like(a)
        runs = {"copy": lambda _: y.copy_(x), "product": lambda _: torch.mm(a, a, out=b)}
        took = {name: sorted(t)[len(t) // 2] for name, t in timed(runs, EventClock()).items()}
        return {"copy": 4 * elements / took["copy"], "product": 2 * side**3 / took["product"]}

    def overhead(self, backend: Backend) -> dict[str, tuple[float, ...]]:
        """Time the host in a backend's calls, in Triton's launch and in torch's call."""
        take = _taker(backend.library)

        def given(x: Any) -> Any:
            return take(torch.from_numpy(x).to("cuda", torch.bfloat16))

        calls = overhead.calls(backend, given, torch.cuda.synchronize)
        return {**calls, **overhead.device_launch()}

    def facts(self) -> dict[str, str]:
        """Describe the device."""
        return {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }


def _taker(library: str) -> Callable[[Any], Any]:
    if library == "cupy":
        from attnref_conformance.bench import cupy_path  # loads CuPy

        return cupy_path.take
    if library == "numpy":
        return lambda x: cast(gpu_peers.read(x), str(x.dtype).removeprefix("torch."))
    return lambda x: x


def _in_turn(run: Callable[[Any], Any], inputs: list[Any]) -> Run:
    return lambda n: run(inputs[n % len(inputs)])


def _together(run: Callable[[Any], Any], inputs: list[Any]) -> tuple[Run, str]:
    """Return a run of a call for every set, and how it is launched."""

    def queued(_: int) -> None:
        for x in inputs:
            run(x)

    try:
        return _captured(queued), "CUDA graph replay"
    except RuntimeError:
        torch.cuda.synchronize()
        return queued, "queued"


def _captured(calls: Run) -> Run:
    for turn in range(3):
        calls(turn)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls(0)
    return lambda _: graph.replay()
