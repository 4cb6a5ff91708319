"""What a backend promises beyond numbers: refusing the unknown, remembering nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from attnref.backend import Backend
from attnref.problem import Result
from attnref_conformance import surroundings
from attnref_conformance.caller import Caller, Declined, overwritten, same
from attnref_conformance.case import DTYPES, cast
from attnref_conformance.status import Outcome, Status
from attnref_conformance.surroundings import NotHere
from attnref_conformance.trial import Finding, declined, level_of, must_refuse, unsupported
from attnref_conformance.vacuous import OPERATIONS, SIZES, Wanted, plain_problem


def _refuses(caller: Caller, operation: str, change: Callable[[type[Any]], dict[str, Any]]) -> None:
    """Describe a call of tomorrow: it must be declined, and refused both ways."""
    problem = plain_problem(caller.backend, Wanted(operation, frozenset(), caller.dtype), *SIZES[0])
    kind = type(problem)
    newer = type("Newer", (kind,), {"__slots__": (), **change(kind)})
    later = newer(**{f.name: getattr(problem, f.name) for f in fields(problem)})
    if not declined(caller.backend, later):
        raise Finding("declared support for what it cannot have heard of")
    must_refuse(caller.backend, later)
    must_refuse(caller.backend, later, Result(getattr(problem, problem.main), None))


def _with_a_feature(kind: type[Any]) -> dict[str, Any]:
    return {"_features": lambda p: {*kind._features(p), "unheard of"}}  # noqa: SLF001


def _of_an_operation(_: type[Any]) -> dict[str, Any]:
    return {"operation": "unheard_of"}


def _refuses_a_feature(operation: str) -> Callable[[Caller], None]:
    return lambda caller: _refuses(caller, operation, _with_a_feature)


def _refuses_an_operation(caller: Caller) -> None:
    _refuses(caller, "attention", _of_an_operation)


def _shapes_in_turn(caller: Caller) -> None:
    """Call with a shape, another, and the first again: the first answer comes back."""
    first = caller.attend(*caller.qkv(9))
    caller.attend(*caller.qkv(70, seed=1))
    same(first, caller.attend(*caller.qkv(9)), "after a call of another shape")


def _contents_in_turn(caller: Caller) -> None:
    """Overwrite the same arrays between calls: each call sees what they hold then."""
    given = caller.qkv()
    before = caller.attend(*given)
    for seed in (1, 2, 3):
        others = caller.qkv(seed=seed)
        wanted = caller.attend(*others)
        if np.array_equal(before, wanted):
            raise Finding("gave one answer to two different calls")
        if not all(overwritten(x, y) for x, y in zip(given, others, strict=True)):
            given = caller.qkv(seed=seed)  # immutable arrays can only be replaced
        same(wanted, caller.attend(*given), "when the same arrays hold other contents")


def _gradients_in_turn(caller: Caller) -> None:
    """Overwrite what a backward pass was given: gradients follow what the arrays hold then."""
    kept, last = None, np.zeros(0)
    for seed in range(3):
        given = caller.answered(*caller.qkv(seed=seed), seed=100 + seed)
        wanted = caller.gradients(*given)
        if np.array_equal(last, wanted):
            raise Finding("gave the same gradients to two different calls")
        last = wanted
        if kept is None or not all(overwritten(x, y) for x, y in zip(kept, given, strict=True)):
            kept = given  # immutable arrays can only be replaced
        again = caller.gradients(*kept)
        same(wanted, again, "when gradients are asked of the same arrays with other contents")


def _options_in_turn(caller: Caller) -> None:
    """Overwrite optional arrays between calls: each call sees what they hold then."""
    given, backend = caller.qkv(), caller.backend
    rng = np.random.default_rng(0)
    for name in ("mask", "bias", "kv_lens", "sinks"):
        kept, last = None, (np.zeros(0), np.zeros(0))
        for _ in range(3):
            x = _option(rng, name, caller.dtype)
            wanted = caller.attend(*given, **{name: backend.from_numpy(x.copy())})
            if np.array_equal(last[1], wanted) and not np.array_equal(last[0], x):
                raise Finding(f"gave one answer to two different arrays for {name}")
            last = (x, wanted)
            if kept is None or not overwritten(kept, backend.from_numpy(x.copy())):
                kept = backend.from_numpy(x.copy())
            again = caller.attend(*given, **{name: kept})
            same(wanted, again, f"when the same {name} holds other contents")


def _option(rng: np.random.Generator, name: str, dtype: str) -> np.ndarray:
    if name == "mask":
        return np.asarray(rng.random((9, 9)) < 0.7)
    if name == "kv_lens":
        return rng.integers(1, 9, 1).astype(np.int32)
    return cast(rng.normal(size=(9, 9) if name == "bias" else 2), dtype)


def _results_are_kept(caller: Caller) -> None:
    """A result belongs to its caller: later calls of the same shape leave it alone."""
    held = caller.call("attention", *caller.qkv())
    before = caller.values(held)
    for seed in (1, 2):
        caller.attend(*caller.qkv(seed=seed))
    same(before, caller.values(held), "in a result that was already returned")


def _windows_in_turn(caller: Caller) -> None:
    """A map that one window covers drops its shift, and only for that call (G4)."""

    def attend(side: int) -> np.ndarray:
        x = caller.array(1, side, side, 2, 32, seed=side)
        return caller.values(caller.call("window_attention", x, x, x, window=4, shift=2))

    first = attend(8)
    attend(4)
    same(first, attend(8), "after a call with a smaller map")


def _biases_in_turn(caller: Caller) -> None:
    """A position bias belongs to its call (G7), and another one gives another answer."""
    x = caller.array(1, 8, 8, 2, 32, seed=0)
    biases = (caller.array(2, 16, 16, seed=n) for n in (1, 2))
    first, second = (
        caller.values(caller.call("window_attention", x, x, x, window=4, bias=bias))
        for bias in biases
    )
    if np.array_equal(first, second):
        raise Finding("gave one answer to two different biases")


@dataclass(frozen=True)
class Promise:
    """A check of the protocol, shaped like a trial.

    Attributes:
        name: Clause and what is promised.
        keep: Raises a `Finding` if the promise is broken.
        dtype: The dtype that it is judged in.
        quick: Part of the quick profile.
    """

    name: str
    keep: Callable[[Caller], None]
    dtype: str
    level: int = 1
    operation: str = "attention"
    quick: bool = True

    @property
    def id(self) -> str:
        """The stable id that reports use."""
        return f"{self.name}[{self.dtype}]"

    @property
    def clause(self) -> str:
        """The clause that the promise belongs to."""
        return self.name.partition("-")[0]

    def about(self) -> Outcome:
        """Describe the promise without any backend, as the beginning of an outcome."""
        return Outcome(
            self.id, self.clause, self.level, self.operation, self.dtype, (), Status.PASS
        )

    def run(self, backend: Backend) -> Outcome:
        """Judge the backend."""
        start = time.perf_counter()
        about = self.about()
        try:
            self.keep(Caller(backend, self.dtype))
        except NotHere as lack:
            # What this machine cannot show stands in the way of no level.
            about = replace(about, status=Status.NOT_RUN, level=0, message=str(lack))
        except Declined as refusal:
            about = unsupported(about, refusal.reasons)
        except Finding as finding:
            about = replace(about, status=finding.status, message=str(finding))
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            message = f"the judge failed: {type(error).__name__}: {error}"
            about = replace(about, status=Status.ERROR, message=message)
        return replace(about, seconds=time.perf_counter() - start)


_UNHEARD = "H2-refuses-a-feature-it-never-heard-of"

_KEPT: tuple[tuple[str, Callable[[Caller], None], str], ...] = (
    (_UNHEARD, _refuses_a_feature("attention"), "attention"),
    *(
        (f"{_UNHEARD}-in-{name.replace('_', '-')}", _refuses_a_feature(name), name)
        for name in OPERATIONS
        if name != "attention"
    ),
    ("H2-refuses-an-operation-it-never-heard-of", _refuses_an_operation, "attention"),
    ("A5-shapes-in-turn", _shapes_in_turn, "attention"),
    ("A5-contents-in-turn", _contents_in_turn, "attention"),
    ("A5-gradients-in-turn", _gradients_in_turn, "attention"),
    ("A5-options-in-turn", _options_in_turn, "attention"),
    ("A5-results-are-kept", _results_are_kept, "attention"),
    ("A5-several-threads", surroundings.several_threads, "attention"),
    ("G7-maps-in-turn", _windows_in_turn, "window_attention"),
    ("G7-biases-in-turn", _biases_in_turn, "window_attention"),
)

_SURROUNDINGS: tuple[tuple[str, Callable[[Caller], None], str], ...] = (
    ("A5-a-stream-of-the-caller", surroundings.side_stream, "float32"),
    ("A5-a-second-device", surroundings.second_device, "float32"),
    ("A1-heads-far-apart", surroundings.far_apart, "float16"),
    ("A1-more-elements-than-32-bits-count", surroundings.many_elements, "float16"),
)

PROMISES = (
    *(
        Promise(name, keep, dtype, level_of(operation, gradients="gradients" in name), operation)
        for name, keep, operation in _KEPT
        for dtype in DTYPES
    ),
    *(Promise(name, keep, dtype, quick=False) for name, keep, dtype in _SURROUNDINGS),
)
"""Every promise; ids are unique and stable."""
