"""Whether a result is the specification's: parts of it, against float64.

A whole result of 16384 tokens would take the specification minutes. What is checked is the
last head of the last entry, for the queries at either end: they see the fewest keys and the
most, and nothing after them was written. Of maps it is the last head of the last one, whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnref import arrays, normalize
from attnref.problem import Result
from attnref_conformance import oracle
from attnref_conformance.bench.contenders import Given
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload, Workload
from attnref_conformance.profiles import Arithmetic

ROWS = 64
"""Queries at each end."""

PEERS = 32.0
"""How many times its limit a peer may be off: it promised none, and some round the scores
to half precision. Who leaves out a mask or a scale is off by more."""

Read = Callable[[Any], np.ndarray]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a call that is a call of its own.

    Attributes:
        problem: The call.
        at: Where its rows lie in the whole one's.
        dout: What flows into its result.
    """

    problem: Any
    at: tuple[Any, ...]
    dout: np.ndarray
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def of(self, whole: Any) -> Any:
        """Return what belongs to its rows of an array with columns."""
        return whole[(*self.at, slice(None))]

    def out(self, u: Arithmetic) -> oracle.Expected:
        """Return what must come back, which every contender is held against."""
        return self._forward(u)[1]["out"]

    def gradient(self, recorded: Result | None, u: Arithmetic) -> oracle.Expected:
        """Return the gradient of q or qkv, from a result that was recorded or from its own."""
        if recorded is not None:
            return self._backward(recorded, u)
        return self._once(("backward", u), lambda: self._backward(self._forward(u)[0], u))

    def _forward(self, u: Arithmetic) -> Any:
        return self._once(("forward", u), lambda: oracle.forward(self.problem, u))

    def _backward(self, result: Result, u: Arithmetic) -> Any:
        limits = oracle.backward(self.problem, result, self.dout, None, u)
        return limits["dqkv" if "dqkv" in limits else "dq"]

    def _once(self, key: tuple[str, Arithmetic], work_out: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = work_out()
        return self._known[key]


def parts(w: AnyWorkload, given: Given, read: Read) -> list[Part]:
    """Return the parts that are checked.

    Args:
        w: The workload.
        given: Its inputs.
        read: Turns a part of an input into a NumPy array.
    """
    if isinstance(w, MapWorkload):
        last = slice(-1, None)
        at = (last, ..., last)
        qkv, bias = read(given["qkv"][(*at, slice(None))]), read(given["bias"][last])
        problem = normalize.window_attention_qkv(qkv, bias=bias, **w.options)
        return [Part(problem, at, read(given["dout"][(*at, slice(None))]))]
    return [_rows(w, given, read, *ends) for ends in _ends(w.queries)]


def _ends(queries: int) -> Iterator[tuple[int, int]]:
    if queries <= 2 * ROWS:
        yield 0, queries
    else:
        yield 0, ROWS
        yield queries - ROWS, queries


def _rows(w: Workload, given: Given, read: Read, first: int, end: int) -> Part:
    b, rows = slice(w.batch - 1, w.batch), slice(first, end)
    h, group = slice(w.heads - 1, w.heads), slice(w.kv_heads - 1, w.kv_heads)
    options = {**w.options}
    if w.causal or w.window is not None:
        options["q_offset"] = w.keys - w.queries + first
    if "bias" in given:
        lead = (b, h) if w.bias == "dense" else (slice(None), slice(None))
        options["bias"] = read(given["bias"][(*lead, rows)])
    if "kv_lens" in given:
        options["kv_lens"] = read(given["kv_lens"][b])
    q, k, v = given["q"][b, h, rows], given["k"][b, group], given["v"][b, group]
    problem = normalize.attention(read(q), read(k), read(v), **options)
    return Part(problem, (b, h, rows), read(given["dout"][b, h, rows]))


def forward(checked: list[Part], w: AnyWorkload, out: Any, read: Read, u: Arithmetic) -> float:
    """Return the largest error over its limit; infinite for another shape or a NaN."""
    shape = w.shapes["dout"]
    if tuple(out.shape) != shape or arrays.dtype_name(out) != w.dtype:
        return float("inf")
    return max(_used(read(part.of(out)), part.out(u)) for part in checked)


def backward(
    checked: list[Part], recorded: tuple[Any, Any], gradient: Any, read: Read, u: Arithmetic
) -> float:
    """Check the gradient of the queries, or of packed maps, as `forward` checks a result.

    Args:
        checked: The parts.
        recorded: The result and the log-sum-exp that the gradient was made from; without
            the latter both are the specification's.
        gradient: Of q, or of qkv.
        read: Turns a part of it into a NumPy array.
        u: What may be rounded where.
    """
    found = 0.0
    for part in checked:
        out, lse = recorded
        result = None if lse is None else Result(read(part.of(out)), read(lse[part.at]))
        found = max(found, _used(read(part.of(gradient)), part.gradient(result, u)))
    return found


def _used(got: np.ndarray, expected: oracle.Expected) -> float:
    error = np.abs(got.astype(np.float64) - expected.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.where(error > 0, error / expected.bound, 0.0)
    return float("inf") if np.isnan(error).any() else float(used.max())
