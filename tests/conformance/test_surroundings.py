"""Promises about the machine: kept, broken, or not judged where it lacks what they need."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attnref_conformance import surroundings
from attnref_conformance.caller import Caller
from attnref_conformance.honest import Tiled
from attnref_conformance.promises import PROMISES
from attnref_conformance.status import Status
from attnref_conformance.surroundings import NotHere

from attnref.problem import Result

BY_NAME = {promise.name: promise for promise in PROMISES}
FAR = BY_NAME["A1-heads-far-apart"]
THREADS = BY_NAME["A5-several-threads"]


class OneScratch(Tiled):
    """Computes every call in the same scratch memory."""

    def __init__(self) -> None:
        super().__init__("one_scratch")
        self.scratch: Any = None

    def attended(self, p: Any) -> Result:
        """Put the result aside, and pick up whatever lies there."""
        self.scratch = super().attended(p)
        time.sleep(1e-4)
        return self.scratch


class Narrow(Tiled):
    """Counts the elements between heads in 32 bits."""

    def attended(self, p: Any) -> Result:
        """Forget the last head where it lies too far away."""
        result = super().attended(p)
        if p.q.strides[1] // p.q.itemsize * (p.q.shape[1] - 1) >= 2**31:
            result.out[:, -1] = 0
        return result


class Immutable(Tiled):
    """Its arrays are read-only."""

    def from_numpy(self, x: np.ndarray) -> Any:
        """Lock the array."""
        x.flags.writeable = False
        return x


def test_honest_calls_do_not_meet_in_threads() -> None:
    """Each has its own state."""
    assert Status.PASS is THREADS.run(Tiled()).status


def test_calls_that_meet_in_threads_are_found() -> None:
    """A scratch that all calls share gives one the answer of another."""
    outcome = THREADS.run(OneScratch())
    assert Status.FAIL is outcome.status


def test_heads_may_lie_far_apart() -> None:
    """Their distance does not fit into 32 bits."""
    outcome = FAR.run(Tiled())
    assert outcome.status in (Status.PASS, Status.NOT_RUN)
    assert Status.PASS is outcome.status or "GiB of memory are needed" in outcome.message


def test_a_distance_in_32_bits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last head is wrong; where there is room, nothing keeps that from being seen."""
    monkeypatch.setattr(surroundings, "_free", lambda *_: 2**40)
    outcome = FAR.run(Narrow("narrow"))
    assert (Status.FAIL, "answered differently when heads lie 2^31 elements apart") == (
        outcome.status,
        outcome.message,
    )


def test_without_room_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome is NOT RUN with the reason, and belongs to no level."""
    monkeypatch.setattr(surroundings, "_free", lambda *_: 2**30)
    outcome = FAR.run(Tiled())
    assert (Status.NOT_RUN, 0) == (outcome.status, outcome.level)
    assert "6 GiB of memory are needed, and 1 free" == outcome.message


def test_arrays_that_cannot_be_overwritten_cannot_lie_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library of immutable arrays has no strides to get wrong."""
    monkeypatch.setattr(surroundings, "FAR", 2**14)
    outcome = FAR.run(Immutable())
    assert "numpy has no arrays that can be overwritten" == outcome.message


@pytest.mark.parametrize(
    "name",
    ["A5-a-stream-of-the-caller", "A5-a-second-device", "A1-more-elements-than-32-bits-count"],
)
def test_what_takes_a_gpu_is_not_judged_without(name: str) -> None:
    """And is no pass."""
    outcome = BY_NAME[name].run(Tiled())
    assert (Status.NOT_RUN, 0) == (outcome.status, outcome.level)
    assert "the backend's arrays are on cpu, not on a GPU" == outcome.message


def test_the_memory_that_is_free_is_read(tmp_path: Path) -> None:
    """In bytes, from where Linux tells; nothing is free where nobody does."""
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  9 kB\nMemAvailable:  3 kB\n", encoding="utf-8")
    assert 3072 == surroundings._free(np.zeros(1), told)
    assert 0 == surroundings._free(np.zeros(1), tmp_path / "nowhere")


class Library:
    """A GPU library of which the tests need the device."""

    def __init__(self, name: str, devices: int) -> None:
        self.__name__, self.devices = name, devices
        self.cuda = self.runtime = self

    def device_count(self) -> int:
        """Count as torch does."""
        return self.devices

    getDeviceCount = device_count  # CuPy's name


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_a_second_device_takes_two(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is not enough, and is told."""
    monkeypatch.setattr(surroundings, "_on_cuda", lambda _: Library(library, 1))
    with pytest.raises(NotHere, match="this machine has 1 device"):
        surroundings.second_device(Caller(Tiled(), "float32"))


def test_libraries_that_are_not_known_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is guessed about their streams."""
    monkeypatch.setattr(surroundings.arrays, "device", lambda _: "cuda:0")
    with pytest.raises(NotHere, match="nothing is known of the streams and devices of numpy"):
        surroundings.side_stream(Caller(Tiled(), "float32"))
