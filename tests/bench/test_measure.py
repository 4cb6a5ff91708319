"""A row is verified before and after it is timed, and says who is absent and what is wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from attnref_conformance.bench import cpu, measure, naive, verify
from attnref_conformance.bench.contenders import Absent, Passes, Peer
from attnref_conformance.bench.measure import Plan, Turns
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload, Workload

from attnref import registry
from attnref.errors import UnsupportedError

PLAIN = Workload(2, 4, 2, 160, 160, 16, causal=True, dtype="float32")
ROWS = {
    "grouped and causal": PLAIN,
    "sliding": PLAIN._replace(window=16),
    "a bias": PLAIN._replace(causal=False, bias="broadcast"),
    "a dense bias": PLAIN._replace(queries=40, keys=40, bias="dense"),
    "lengths": PLAIN._replace(causal=False, kv_lens=(3, 100)),
    "decoding": PLAIN._replace(causal=False, queries=1, backward=False),
    "half precision": PLAIN._replace(dtype="float16", backward=False),
    "shifted maps": MapWorkload("map", 2, 14, 2, 3, columns=8, dtype="float32"),
    "maps": MapWorkload("map", 2, 8, 2, 0, window=4, columns=8, dtype="float32"),
}
QUICK = Plan(repeats=5)


def rows(w: AnyWorkload, backend: Any = None, machine: Any = None, plan: Plan = QUICK) -> list[Any]:
    backend = backend or registry.load("numpy")
    return measure.measure("table", w, machine or cpu.Processor(), backend, plan)


@pytest.mark.parametrize("w", ROWS.values(), ids=ROWS)
def test_the_backend_and_its_peers_hold(w: AnyWorkload) -> None:
    """Forward and backward, and each is timed as often as it was asked."""
    found = rows(w)
    assert ["forward", "backward"][: 1 + w.backward] == [row.passes for row in found]
    for row in found:
        assert row.wrong == ""
        assert next(iter(row.timings)) == "numpy"
        assert ("naive numpy" in row.timings) == (w.dtype == "float32")
        assert {len(t.samples) for t in row.timings.values()} == {5}
        assert row.timings["numpy"].used <= 1
        assert all(t.used <= verify.PEERS for t in row.timings.values())
        assert all(t.peak is None or t.peak >= 0 for t in row.timings.values())
        assert row.clock == "perf_counter"


def test_the_peers_of_a_row_are_timed_or_named_as_absent() -> None:
    """JAX has no bottom-right alignment, wherever it is installed; torch has no window."""
    (row,) = rows(PLAIN._replace(window=16, backward=False))
    assert row.absent["torch sdpa"] == "no soft cap and no window"
    assert {"torch sdpa", "jax", "naive numpy", "numpy"} == row.absent.keys() | row.timings.keys()


def test_only_the_peers_and_passes_that_were_asked_for() -> None:
    """Others are not even absent."""
    (row,) = rows(PLAIN, plan=Plan(peers=["naive numpy"], repeats=5, passes=["forward"]))
    assert ["numpy", "naive numpy"] == [*row.timings]
    assert {} == row.absent


def test_what_has_no_room_for_its_scores_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how much they need."""
    monkeypatch.setattr(naive, "free_memory", lambda: 2**20)
    found = naive.prepare(PLAIN)
    assert isinstance(found, Absent)
    assert "its scores need 0.0 GiB, and 0.0 are free" == found.reason


class Changed:
    """A backend that does something to its results."""

    def __init__(self, change: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
        self._numpy, self._change, self._back = registry.load("numpy"), change, back

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numpy, name)

    def forward(self, problem: Any) -> Any:
        return self._change(self._numpy.forward(problem))

    def backward(self, *given: Any) -> Any:
        return self._back(self._numpy.backward(*given))


def _off(result: Any) -> Any:
    return result._replace(out=result.out + np.float32(0.1))


def _nan(result: Any) -> Any:
    out = result.out.copy()
    out[-1, -1, -1, -1] = np.nan
    return result._replace(out=out)


@pytest.mark.parametrize(
    ("change", "said"), [(_off, "wrong: an error of "), (_nan, "wrong: an error of inf times")]
)
def test_a_wrong_result_is_not_timed(change: Callable[[Any], Any], said: str) -> None:
    """Neither is what would follow from it."""
    (row,) = rows(PLAIN, Changed(change, lambda x: x))
    assert row.wrong.startswith(said)
    assert {} == row.timings


def test_a_wrong_gradient_is_not_timed() -> None:
    """The forward pass is."""
    back = Changed(lambda x: x, lambda g: g._replace(dq=g.dq + np.float32(1)))
    forward, backward = rows(PLAIN, back)
    assert ("", True) == (forward.wrong, bool(forward.timings))
    assert ("wrong", {}) == (backward.wrong[:5], backward.timings)


def test_a_result_that_goes_wrong_while_it_is_timed_is_not_told() -> None:
    """It is verified after the last turn, too."""
    calls = []

    def later(result: Any) -> Any:
        calls.append(1)
        return _off(result) if len(calls) > 8 else result

    (row,) = rows(PLAIN, Changed(later, lambda x: x))
    assert ("wrong", {}) == (row.wrong[:5], row.timings)


def test_what_the_backend_cannot_run_says_why() -> None:
    """It is absent from its own row, and not wrong."""

    def refuse(_: Any) -> Any:
        raise UnsupportedError("a call", {}, requested="numpy")

    (row,) = rows(PLAIN, Changed(refuse, lambda x: x))
    assert ("", {}, ["numpy"]) == (row.wrong, row.timings, [*row.absent])


class OnePeer(cpu.Processor):
    """A machine with one peer."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()

        def prepare(w: AnyWorkload) -> Passes | Absent:
            way = naive.prepare(w)
            assert isinstance(way, Passes)
            return way._replace(forward=lambda x: change(way.forward(x)))

        self.peers = (Peer("theirs", prepare),)


def test_a_wrong_peer_is_absent() -> None:
    """Its time would be of something else."""
    (row,) = rows(PLAIN._replace(backward=False), machine=OnePeer(lambda out: 2 * out))
    assert ["numpy"] == [*row.timings]
    assert row.absent["theirs"].startswith("wrong: an error of ")


def test_a_peer_that_goes_wrong_later_is_absent() -> None:
    """After it was timed, too."""
    calls: list[int] = []

    def later(out: Any) -> Any:
        calls.append(1)
        return 2 * out if len(calls) > 8 else out

    (row,) = rows(PLAIN._replace(backward=False), machine=OnePeer(later))
    assert row.absent["theirs"].startswith("wrong: an error of ")


def test_a_peer_that_fails_is_absent() -> None:
    """With the first line of what it said."""

    def fail(_: Any) -> Any:
        raise RuntimeError("out of memory\nand more")

    (row,) = rows(PLAIN._replace(backward=False), machine=OnePeer(fail))
    assert "out of memory" == row.absent["theirs"]


class Replayed(cpu.Processor):
    """A machine whose turn makes two calls, as a graph does, on a clock of its own."""

    def turns(
        self, w: AnyWorkload, passes: str, ready: Mapping[str, tuple[Passes, list[Any]]]
    ) -> Turns:
        plain = super().turns(w, passes, ready)
        return Turns(plain.runs, 2, _Second(), "a graph")


class _Second:
    name = "seconds"

    def settle(self) -> None: ...

    def time(self, run: Any, turn: int) -> Callable[[], float]:
        run(turn)
        return lambda: 1.0

    def finish(self) -> None: ...


def test_turns_of_several_calls_are_told_by_the_call() -> None:
    """And a row says how it was timed."""
    (row,) = rows(PLAIN._replace(backward=False), machine=Replayed())
    assert (0.5,) * 5 == row.timings["numpy"].samples
    assert "a graph" == row.clock


def test_inputs_are_never_zeros_and_no_cache_holds_them() -> None:
    """The same in every run; the small ones are as many as are allowed."""
    machine = cpu.Processor()
    sets = machine.sets(PLAIN)
    assert cpu.MOST_SETS == len(sets)
    assert all(0.5 < x.std() < 1.5 for given in sets for x in given.values())
    assert not np.array_equal(sets[0]["q"], sets[1]["q"])
    assert np.array_equal(sets[0]["q"], machine.sets(PLAIN)[0]["q"])
    large = Workload(1, 2, 2, 65536, 65536, 64, dtype="float32")
    assert 1 == max(1, -(-cpu.CACHE // large.bytes))


def test_ceilings_are_measured() -> None:
    """A copy, a product, and how many threads multiply."""
    found = cpu.Processor().ceilings(2**16, 64)
    assert {"copy", "product", "threads"} == found.keys()
    assert all(x > 0 for x in found.values())


@pytest.mark.parametrize("gone", ["torch", "jax"])
def test_libraries_that_are_not_installed_are_named(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As absent."""
    monkeypatch.setattr(cpu, "find_spec", lambda name: None if name == gone else object())
    found = {peer.name: peer for peer in cpu.Processor().peers}
    peer = "torch sdpa" if gone == "torch" else "jax"
    assert Absent(f"{gone} is not installed") == found[peer].prepare(PLAIN)
    if gone == "torch":
        assert Absent("torch is not installed") == found["torch windows"].prepare(ROWS["maps"])
