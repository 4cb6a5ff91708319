"""Who computes a workload: the passes of one implementation, and those of a backend."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import attnref
from attnref.backend import Backend
from attnref_conformance.bench.workloads import AnyWorkload, Workload

Given = Mapping[str, Any]
"""Name to array, in the library that a machine's inputs are made with."""


class Passes(NamedTuple):
    """How one implementation runs one workload.

    Attributes:
        take: Turns what is given into what it works on; not timed.
        forward: Returns the result.
        record: Runs forward and returns `(result, log-sum-exp or None, state)`; not timed.
        backward: Takes a state and returns the gradient of q, or of qkv, first.
        read: Turns an array, or a part of one, into a NumPy array.
    """

    take: Callable[[Given], Any]
    forward: Callable[[Any], Any]
    record: Callable[[Any], tuple[Any, Any, Any]]
    backward: Callable[[Any], Any]
    read: Callable[[Any], Any]


class Absent(NamedTuple):
    """Why an implementation does not run a workload."""

    reason: str


class Peer(NamedTuple):
    """Somebody else.

    Attributes:
        name: What tables call it.
        prepare: Returns its passes of a workload, or why there are none.
        function: The only public function that it has an equal of; empty for all.
    """

    name: str
    prepare: Callable[[AnyWorkload], Passes | Absent]
    function: str = ""


def ours(w: AnyWorkload, backend: Backend, take: Callable[[Any], Any]) -> Passes:
    """Return the passes of a backend, through the public functions.

    Args:
        w: The workload.
        backend: Who runs.
        take: Turns one given array into one of the backend's library.
    """
    options: dict[str, Any] = {**w.options, "backend": backend}
    names = ("q", "k", "v") if isinstance(w, Workload) else ("qkv",)
    call, with_lse, back = (
        getattr(attnref, w.function + suffix) for suffix in ("", "_with_lse", "_backward")
    )

    def taken(given: Given) -> dict[str, Any]:
        return {name: take(x) for name, x in given.items()}

    def more(x: dict[str, Any]) -> dict[str, Any]:
        return options | {name: y for name, y in x.items() if name in ("bias", "kv_lens")}

    def forward(x: dict[str, Any]) -> Any:
        return call(*(x[n] for n in names), **more(x))

    def record(x: dict[str, Any]) -> tuple[Any, Any, Any]:
        out, lse = with_lse(*(x[n] for n in names), **more(x))
        return out, lse, (x["dout"], *(x[n] for n in names), out, lse, more(x))

    def backward(state: Any) -> Any:
        *arrays, chosen = state
        return back(*arrays, **chosen)

    return Passes(taken, forward, record, backward, backend.to_numpy)
