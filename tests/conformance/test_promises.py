"""Promises beyond numbers: refusing the unknown, remembering nothing."""

from typing import Any

import numpy as np
import pytest
from attnref_conformance.faulty import FAULTS, HONEST
from attnref_conformance.honest import Tiled
from attnref_conformance.promises import PROMISES, Promise
from attnref_conformance.status import Status

from attnref.errors import Reason, UnsupportedError
from attnref.problem import Problem, Result, WindowProblem

BY_NAME = {promise.name: promise for promise in PROMISES}
ANYWHERE = [promise for promise in PROMISES if promise.quick]
"""What takes neither a GPU nor much memory; for the rest see `test_surroundings.py`."""


@pytest.mark.parametrize("promise", ANYWHERE, ids=lambda p: p.id)
@pytest.mark.parametrize("name", ["honest_16", "honest_half_weights"])
def test_an_honest_backend_keeps_every_promise(name: str, promise: Promise) -> None:
    """It is a pass like any other, with a time and a level."""
    outcome = promise.run(HONEST[name])
    assert (Status.PASS, "", promise.id, promise.clause) == (
        outcome.status,
        outcome.message,
        outcome.id,
        outcome.clause,
    )
    assert 0 < outcome.seconds


@pytest.mark.parametrize(
    ("fault", "promise", "message"),
    [
        ("accepts_everything", "H2-refuses-a-feature-it-never-heard-of",
         "declared support for what it cannot have heard of"),
        ("accepts_everything", "H2-refuses-an-operation-it-never-heard-of",
         "declared support for what it cannot have heard of"),
        ("refuses_in_words_only", "H2-refuses-a-feature-it-never-heard-of",
         "declined the call in words and computed it when called"),
        ("stale_cache", "A5-contents-in-turn",
         "answered differently when the same arrays hold other contents"),
        ("transposed_remembered_by_address", "A5-gradients-in-turn",
         "answered differently when gradients are asked of the same arrays with other contents"),
        ("shift_of_the_previous_call", "G7-maps-in-turn",
         "answered differently after a call with a smaller map"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_told(fault: str, promise: str, message: str) -> None:
    """The finding says which promise was broken."""
    outcome = BY_NAME[promise].run(FAULTS[fault].backend)
    assert (Status.FAIL, message) == (outcome.status, outcome.message)


def test_a_shape_that_is_remembered_is_found() -> None:
    """A plan made for the first shape spoils the third call."""

    class Drifts(Tiled):
        """Scales its answer by how many shapes it has seen."""

        def __init__(self) -> None:
            super().__init__("drifts")
            self.shapes: set[Any] = set()

        def attended(self, p: Any) -> Result:
            """Answer worse and worse."""
            self.shapes.add(p.q.shape)
            out, lse = super().attended(p)
            return Result(out * np.float32(len(self.shapes)), lse)

    outcome = BY_NAME["A5-shapes-in-turn"].run(Drifts())
    assert "answered differently after a call of another shape" == outcome.message


def test_a_constant_answer_is_found() -> None:
    """Two different calls have two answers."""
    outcome = BY_NAME["A5-contents-in-turn"].run(FAULTS["constant_answer"].backend)
    assert "gave one answer to two different calls" == outcome.message


def test_constant_gradients_are_found() -> None:
    """Two different calls have different gradients."""

    class Still(Tiled):
        """Its gradients are zeros."""

        def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
            """Pass nothing back."""
            g = super().attention_gradients(p, result, dout, dlse)
            return g._replace(dq=g.dq * 0, dk=g.dk * 0, dv=g.dv * 0)

    outcome = BY_NAME["A5-gradients-in-turn"].run(Still("still"))
    assert "gave the same gradients to two different calls" == outcome.message


def test_arrays_that_cannot_be_overwritten_cannot_go_stale() -> None:
    """A library of immutable arrays keeps the promise by nature."""

    class Immutable(Tiled):
        """Its arrays are read-only."""

        def from_numpy(self, x: np.ndarray) -> Any:
            """Lock the array."""
            x = x.copy()
            x.flags.writeable = False
            return x

    assert Status.PASS is BY_NAME["A5-contents-in-turn"].run(Immutable()).status


def test_a_backend_without_maps_promises_nothing_about_them() -> None:
    """What is declined is not called in turn."""

    class NoMaps(Tiled):
        """Declines window attention."""

        def unsupported(self, problem: Problem) -> Any:
            """Decline maps."""
            if isinstance(problem, WindowProblem):
                return [Reason("operation", "has no maps")]
            return super().unsupported(problem)

    outcome = BY_NAME["G7-maps-in-turn"].run(NoMaps())
    assert (Status.UNSUPPORTED, ("has no maps",)) == (outcome.status, outcome.reasons)


def test_a_result_that_is_written_again_is_found() -> None:
    """A buffer that serves two calls belongs to neither caller."""

    class OneBuffer(Tiled):
        """Answers every call of a shape in the same memory."""

        def __init__(self) -> None:
            super().__init__("one_buffer")
            self.buffers: dict[Any, np.ndarray] = {}

        def attended(self, p: Any) -> Result:
            """Answer where the previous answer was."""
            out, lse = super().attended(p)
            buffer = self.buffers.setdefault((out.shape, out.dtype), out)
            buffer[...] = out
            return Result(buffer, lse)

    outcome = BY_NAME["A5-results-are-kept"].run(OneBuffer())
    assert "answered differently in a result that was already returned" == outcome.message


def test_an_option_that_is_remembered_is_found() -> None:
    """A mask prepared once spoils the calls after it was changed."""

    class OldMask(Tiled):
        """Remembers masks by the array they came in."""

        def __init__(self) -> None:
            super().__init__("old_mask")
            self.masks: dict[int, tuple[Any, np.ndarray]] = {}

        def attended(self, p: Any) -> Result:
            """Use the mask of the first call with this array."""
            if getattr(p, "mask", None) is not None:
                kept = self.masks.setdefault(id(p.mask), (p.mask, p.mask.copy()))
                p = p.with_arrays({"mask": kept[1]})
            return super().attended(p)

    outcome = BY_NAME["A5-options-in-turn"].run(OldMask())
    assert "answered differently when the same mask holds other contents" == outcome.message


def test_a_crash_is_a_crash() -> None:
    """The run goes on."""

    class Falls(Tiled):
        """Raises."""

        def attended(self, p: Any) -> Result:
            """Raise."""
            raise ArithmeticError("boom")

    outcome = BY_NAME["A5-shapes-in-turn"].run(Falls())
    assert (Status.CRASH, "ArithmeticError: boom") == (outcome.status, outcome.message)


def test_a_failure_of_the_judge_is_an_error() -> None:
    """Where no array can be made, nothing was promised or broken."""

    class Empty(Tiled):
        """Has no memory."""

        def from_numpy(self, x: np.ndarray) -> Any:
            """Fail."""
            raise MemoryError("full")

    outcome = BY_NAME["A5-shapes-in-turn"].run(Empty())
    assert (Status.ERROR, "the judge failed: MemoryError: full") == (
        outcome.status,
        outcome.message,
    )


def test_refusing_the_unknown_by_name_is_enough() -> None:
    """Declaring and raising UnsupportedError is what is asked for."""

    class Refuses(Tiled):
        """Refuses everything."""

        def unsupported(self, problem: Problem) -> Any:
            """Decline."""
            return [Reason("all", "does nothing")]

        def forward(self, problem: Any) -> Result:
            """Refuse."""
            raise UnsupportedError(str(problem), {self.name: self.unsupported(problem)})

    kept = {p.run(Refuses()).status for p in PROMISES if p.clause == "H2"}
    assert {Status.PASS} == kept
