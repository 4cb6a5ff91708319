"""The GPU's rows, with a device that is not there: CUDA is replaced, the arithmetic is not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attnref_conformance import bench
from attnref_conformance.bench import gpu, gpu_peers, measure, torch_paths
from attnref_conformance.bench.contenders import Absent, Passes
from attnref_conformance.bench.measure import Plan
from attnref_conformance.bench.workloads import MapWorkload, Workload

from attnref import registry

CUPY_PATH = "attnref_conformance.bench.cupy_path"

W = Workload(2, 4, 2, 40, 40, 16, causal=True)
MAP = MapWorkload("map", 2, 8, 2, 2, window=4, columns=8, dtype="float32")


class Event:
    """An event whose time is the number of events before it."""

    made = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0

    def record(self) -> None:
        Event.made += 1
        self.at = Event.made

    def elapsed_time(self, other: "Event") -> float:
        return float(other.at - self.at)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let what is meant for CUDA run here."""
    for name in ("empty", "randn", "tensor"):
        real = getattr(torch, name)

        def here(*given: Any, real: Any = real, device: str = "cpu", **more: Any) -> Any:
            return real(*given, **more)

        monkeypatch.setattr(torch, name, here)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda _device: generator())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    monkeypatch.setattr(gpu, "FILLER", 1024)
    monkeypatch.setattr(gpu.EventClock.__init__, "__defaults__", (1024,))
    monkeypatch.setattr(gpu, "CACHE", 2**16)
    machine = gpu.Gpu()
    usable = ("math", "eager", "sdpa")
    machine.peers = [
        peer
        if peer.name not in ("eager", "sdpa")
        else peer._replace(
            prepare=lambda w, name=peer.name: gpu_peers._passes(torch_paths.windows(name, w, "cpu"))
        )
        for peer in machine.peers
        if peer.name in usable
    ]
    return machine


def test_rows_are_timed_by_events(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each between two of them; bfloat16 is verified in bfloat16."""
    monkeypatch.setattr(gpu, "SHORT", 0.0)
    found = measure.measure("table", W, device, registry.load("torch"), Plan(repeats=5))
    for row in found:
        assert ("", "CUDA events") == (row.wrong, row.clock)
        assert {"torch", "math"} == row.timings.keys()
        assert (1e-3,) * 5 == row.timings["torch"].samples
        assert 250 == row.timings["torch"].peak


def test_short_rows_are_replayed_from_graphs(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn holds a call for each set of inputs; what cannot be captured is queued, and named."""
    replayed: list[int] = []

    class Graph:
        def replay(self) -> None:
            replayed.append(1)

    def captured(calls: Any) -> Any:
        calls(0)
        if not replayed:
            replayed.append(0)
            return lambda _: Graph().replay()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu, "_captured", captured)
    plan = Plan(repeats=5, passes=["forward"], peers=["eager"])
    (row,) = measure.measure("windows", MAP, device, registry.load("torch"), plan)
    assert "CUDA graph replay; eager: queued calls between events" == row.clock
    sets = len(device.sets(MAP))
    assert sets > 1
    assert (1e-3 / sets,) * 5 == pytest.approx(row.timings["torch"].samples)
    assert row.by_bytes


def test_ceilings_are_of_the_device(device: Any) -> None:
    """By the same clock."""
    assert {"copy": 4 * 4096 / 1e-3, "product": 2 * 64**3 / 1e-3} == pytest.approx(
        device.ceilings(4096, 64)
    )


def test_lengths_go_to_the_device(device: Any) -> None:
    """As integers."""
    (given, *_) = device.sets(W._replace(causal=False, kv_lens=(5, 40)))
    assert [5, 40] == given["kv_lens"].tolist()
    assert torch.int32 is given["kv_lens"].dtype


def test_what_fills_a_cache_is_as_many_sets_as_needed(device: Any) -> None:
    """Bounded: four of attention, sixteen of maps."""
    assert 4 == len(device.sets(W._replace(queries=8, keys=8)))
    assert 16 == len(device.sets(MAP._replace(batch=1, side=4, shift=0, heads=1)))


PEERS = {peer.name: peer for peer in gpu_peers.PEERS}


@pytest.mark.parametrize(
    ("name", "w", "why"),
    [
        ("cudnn", W._replace(softcap=30.0), "no soft cap and no window"),
        ("efficient", W._replace(window=8), "no soft cap and no window"),
        ("flash2", W._replace(bias="dense"), "no bias and no mask"),
        ("flash2", W._replace(kv_lens=(3, 40)), "no bias and no mask"),
        ("cudnn", MAP, "see the paths through windows"),
        (
            "math",
            W._replace(heads=32, queries=16384, keys=16384),
            "it keeps the scores, of which there are 17,179,869,184",
        ),
        ("flex", W._replace(queries=1), "decoding takes another of its kernels"),
        ("flex", MAP, "see the paths through windows"),
        ("eager", W, "a path through windows"),
        ("fa4", W, "flash-attn-4 is not installed"),
    ],
    ids=[
        "cap",
        "window",
        "bias",
        "lengths",
        "maps",
        "many",
        "decoding",
        "flex maps",
        "dense",
        "fa4",
    ],
)
def test_peers_say_what_they_cannot(name: str, w: Any, why: str) -> None:
    """In a sentence for the table of who is absent."""
    assert Absent(why) == PEERS[name].prepare(w)


def test_flex_is_never_the_eager_form_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled for its shape, and dynamo may compile as many as there are rows."""
    w, compiled = W._replace(causal=False), []
    monkeypatch.setattr(torch, "compile", lambda f, *, dynamic: compiled.append((f, dynamic)))
    assert isinstance(PEERS["flex"].prepare(w), Passes)
    assert [("flex_attention", False)] == [(f.__name__, dynamic) for f, dynamic in compiled]
    assert 256 <= torch._dynamo.config.recompile_limit
    cap = gpu_peers._change(w._replace(softcap=2.0), None)
    assert 2 * np.tanh(0.5) == pytest.approx(float(cap(torch.tensor(1.0), 0, 0, 0, 0)))
    bias = torch.arange(1600.0).view(1, 1, 40, 40)
    assert 43.0 == float(gpu_peers._change(w, bias)(torch.tensor(1.0), 1, 3, 1, 2))
    assert gpu_peers._change(w, None) is None


@pytest.mark.parametrize(
    ("w", "seen"),
    [
        (W, [True, True, True, False]),
        (W._replace(window=1), [False, True, True, False]),
        (W._replace(kv_lens=(2, 40), causal=False), [True, True, False, False]),
    ],
    ids=["causal", "window", "lengths"],
)
def test_flex_sees_what_the_workload_sees(w: Workload, seen: list[bool]) -> None:
    """Of query 2, the first four keys."""
    lens = None if w.kv_lens is None else torch.tensor(w.kv_lens)
    assert seen == [bool(gpu_peers._seen(w, lens)(0, 0, 2, j)) for j in range(4)]
    assert gpu_peers._seen(W._replace(causal=False), None) is None


def test_bfloat16_is_read_as_it_is() -> None:
    """And other dtypes too; a backend of NumPy's is given the same."""
    x = torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    assert ("bfloat16", [1.0, 2.5]) == (str(gpu_peers.read(x).dtype), gpu_peers.read(x).tolist())
    assert np.float32 is gpu_peers.read(x.float()).dtype.type
    assert "bfloat16" == str(gpu._taker("numpy")(x).dtype)
    assert x is gpu._taker("torch")(x)


class Cupy:
    """CuPy's streams and memory, which are torch's as long as a context lasts."""

    def __init__(self) -> None:
        self.cuda = self
        self.log: list[tuple[Any, ...]] = []

    def from_dlpack(self, x: torch.Tensor) -> np.ndarray:
        """Know no bfloat16, like some versions."""
        assert x.dtype is not torch.bfloat16
        return x.numpy()

    @contextmanager
    def _inside(self, *what: Any) -> Iterator[None]:
        self.log.append(("enter", *what))
        yield
        self.log.append(("leave", *what))

    def ExternalStream(self, at: int) -> Any:
        """Queue where a pointer says."""
        return self._inside("stream", at)

    def using_allocator(self, malloc: Any) -> Any:
        """Allocate by a function, which is tried."""
        self.log.append(("memory", malloc(64, 0)))
        return self._inside("memory")

    def PythonFunctionAllocator(self, malloc: Any, free: Any) -> Any:
        """Keep both functions."""
        free(4096, 0)
        return SimpleNamespace(malloc=malloc)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    """Let CuPy be imported that is none, and torch have a device."""
    library = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", library)
    monkeypatch.delitem(sys.modules, CUPY_PATH, raising=False)
    monkeypatch.delattr(bench, "cupy_path", raising=False)
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device=None: stream)
    monkeypatch.setattr(torch.cuda, "caching_allocator_alloc", lambda *given: ("torch's", *given))
    freed = library.log.append
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", lambda at: freed(("free", at)))
    yield library
    sys.modules.pop(CUPY_PATH, None)
    vars(bench).pop("cupy_path", None)


def test_cupy_takes_tensors_without_knowing_bfloat16(library: Cupy) -> None:
    """Their bits are passed, and read as what they are."""
    del library
    take = gpu._taker("cupy")
    x = torch.tensor([[1.0, 2.5], [3.0, -4.0]], dtype=torch.bfloat16)
    assert ("bfloat16", [[1, 3], [2.5, -4]]) == (str(take(x.T).dtype), take(x.T).tolist())
    assert np.float32 is take(x.float()).dtype.type


def test_cupy_queues_and_allocates_where_torch_does(
    device: Any, library: Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else its calls could be neither captured nor counted; what is taken is not timed."""
    ran: list[Any] = []
    plain = Passes(*(lambda x, n=n: ran.append((n, x)) for n in Passes._fields))
    monkeypatch.setattr(gpu.contenders, "ours", lambda *_: plain)
    made = device.ours(W, SimpleNamespace(library="cupy"))
    assert (plain.take, plain.read) == (made.take, made.read)
    for name in ("forward", "record", "backward"):
        library.log.clear()
        getattr(made, name)(name)
        assert [
            ("enter", "stream", 77),
            ("free", 4096),
            ("memory", ("torch's", 64, 0, 77)),
            ("enter", "memory"),
            ("leave", "memory"),
            ("leave", "stream", 77),
        ] == library.log
    assert [(n, n) for n in ("forward", "record", "backward")] == ran
