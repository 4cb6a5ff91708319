"""Backends that do not stay within their call: they hang, die, print and exit.

`attnref_conformance.faulty` has wrong answers; these are wrong guests. Each would end, block
or litter the process that calls it, so none is judged but in a worker's:
`attnref conform attnref_conformance.unruly:hangs --clause D1 --timeout 2`. All of them behave
until they are given 15 queries or keys, so that a run has something to go on with.
"""

import ctypes
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnref.backend import Backend
from attnref.problem import AttentionProblem, Result
from attnref_conformance.honest import Tiled
from attnref_conformance.status import Status

Deed = Callable[[Any, Result], Any]


@dataclass(frozen=True)
class Guest:
    """A backend that misbehaves.

    Attributes:
        backend: The backend.
        status: What a run calls it.
        said: What its message holds.
        meaning: What it does.
    """

    backend: Backend
    status: Status
    said: str
    meaning: str


class Unruly(Tiled):
    """Does something else than computing where there are 15 queries or keys."""

    def __init__(self, name: str, deed: Deed) -> None:
        super().__init__(name)
        self.deed = deed

    def attended(self, p: Any) -> Any:
        result = super().attended(p)
        provoked = isinstance(p, AttentionProblem) and 15 in (p.sizes.Sq, p.sizes.Sk)
        return self.deed(p, result) if provoked else result


UNRULY: dict[str, Guest] = {}
"""Every such backend by name."""


def _guest(status: Status, said: str) -> Callable[[Deed], Deed]:
    def register(deed: Deed) -> Deed:
        name = deed.__name__.lstrip("_")
        UNRULY[name] = Guest(Unruly(name, deed), status, said, (deed.__doc__ or "").strip())
        return deed

    return register


@_guest(Status.CRASH, "hung: no answer within ")
def _hangs(_: Any, __: Result) -> Any:
    """Never comes back."""
    while True:
        time.sleep(0.1)


@_guest(Status.CRASH, "the process died: exit status 3")
def _leaves(_: Any, __: Result) -> Any:
    """Ends the process without a word."""
    os._exit(3)


@_guest(Status.CRASH, "the process died: signal 11 (SIGSEGV)")
def _segfaults(_: Any, result: Result) -> Result:
    """Reads memory that is nobody's."""
    ctypes.string_at(0)
    return result


@_guest(Status.CRASH, "the process died: signal 6 (SIGABRT)")
def _aborts(_: Any, __: Result) -> Any:
    """Aborts, as a failed assertion in C++ does."""
    os.abort()


@_guest(Status.CRASH, "the process died: signal 9 (SIGKILL)")
def _is_killed(_: Any, result: Result) -> Result:
    """Is killed, as by a machine that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return result


@_guest(Status.CRASH, "SystemExit: 0")
def _exits(_: Any, __: Result) -> Any:
    """Exits as if all were well."""
    sys.exit(0)


@_guest(Status.CRASH, "KeyboardInterrupt")
def _interrupts(_: Any, __: Result) -> Any:
    """Raises what Ctrl-C raises."""
    raise KeyboardInterrupt


@_guest(Status.FAIL, "printed 'made it\\n'")
def _prints(_: Any, result: Result) -> Result:
    """Prints."""
    print("made it")  # noqa: T201
    return result


@_guest(Status.FAIL, "printed 'made it in C\\n'")
def _prints_in_c(_: Any, result: Result) -> Result:
    """Prints beneath Python, into C's buffer."""
    ctypes.CDLL(None).printf(b"made it in C\n")
    return result


@_guest(Status.FAIL, "printed 'made it to the descriptor\\n'")
def _writes_to_a_descriptor(_: Any, result: Result) -> Result:
    """Writes to where standard error is."""
    os.write(2, b"made it to the descriptor\n")
    return result


@_guest(Status.FAIL, "leaked a warning: RuntimeWarning: divided by zero")
def _warns(_: Any, result: Result) -> Result:
    """Leaks a warning."""
    warnings.warn("divided by zero", RuntimeWarning, stacklevel=1)
    return result


@_guest(Status.FAIL, "returned a list, not the named Result")
def _returns_a_list(_: Any, result: Result) -> Any:
    """Returns the wrong type."""
    return [*result]


@_guest(Status.FAIL, "modified v")
def _mutates(p: Any, result: Result) -> Result:
    """Overwrites an input."""
    if p.v.flags.writeable:
        p.v[...] = 0
    return result


@_guest(Status.FAIL, "wrote outside k")
def _writes_past_the_end(p: Any, result: Result) -> Result:
    """Clears one element too many."""
    if p.k.flags.c_contiguous and p.k.base is not None:
        end = p.k.__array_interface__["data"][0] + p.k.nbytes
        ctypes.memset(end, 0, p.k.itemsize)
    return result


@_guest(Status.FAIL, "shares memory with an input")
def _returns_a_view(p: Any, result: Result) -> Result:
    """Returns an input as its result."""
    return Result(np.broadcast_to(p.v[..., :1, :1, :1], result.out.shape), result.lse)


@_guest(Status.CRASH, "ValueError: cannot")
def _raises_the_wrong_error(_: Any, __: Result) -> Any:
    """Raises something else than a refusal."""
    raise ValueError("cannot")


@_guest(Status.FAIL, "answered differently the second time: ")
def _answers_once(p: Any, result: Result, seen: set[Any] = set()) -> Result:  # noqa: B006
    """Answers well the first time, and otherwise the second."""
    key = (p.with_lse, p.dtype, p.q.shape, p.k.shape, p.q.tobytes())
    if key in seen:
        return Result((result.out + 1).astype(result.out.dtype), result.lse)
    seen.add(key)
    return result


@_guest(Status.FAIL, "of out must not be non-finite")
def _leaves_rows_unwritten(_: Any, result: Result) -> Result:
    """Returns memory that it never wrote."""
    out = np.empty_like(result.out, order="C")
    out[..., :-1, :] = result.out[..., :-1, :]
    return Result(out, result.lse)


def __getattr__(name: str) -> Backend:
    """Return a backend by name."""
    if name in UNRULY:
        return UNRULY[name].backend
    raise AttributeError(name)
