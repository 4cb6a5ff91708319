"""Faults of clause family H: what a backend says of itself, who computes, what comes back."""

import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

import attnref
from attnref.errors import Reason, UnsupportedError
from attnref.problem import Problem, Result
from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("H2")
class AcceptsEverything(Tiled):
    """Declares support for whatever it is asked."""

    def unsupported(self, problem: Problem) -> Any:
        return []


@breaks("H2")
class RefusesInWordsOnly(Tiled):
    """Declines soft caps, and computes them when called."""

    def unsupported(self, problem: Problem) -> Any:
        return super().unsupported(problem)

    def forward(self, problem: Any) -> Result:
        with np.errstate(all="ignore"):
            return self.attended(problem)


@breaks("H1")
class FallsBackSilently(Tiled):
    """Hands soft caps to another backend without a word."""

    def attended(self, p: Any) -> Result:
        if p.operation != "attention" or p.softcap is None:
            return super().attended(p)
        names = ("scale", "softcap", "window", "mask", "bias", "sinks", "q_lens", "kv_lens")
        options = {name: getattr(p, name) for name in names}
        return attnref.attention_with_lse(
            p.q, p.k, p.v, q_offset=p.offset, backend="reference", **options
        )


@breaks("H1")
class Prints(Tiled):
    """Talks while it works."""

    def attended(self, p: Any) -> Result:
        print("launching", p.q.shape)  # noqa: T201  # that is the fault
        return super().attended(p)


@breaks("H1")
class Warns(Tiled):
    """Leaks the warnings of its arithmetic."""

    def rows(self, d: Dense, dtype: str) -> Any:
        warnings.warn("overflow encountered", RuntimeWarning, stacklevel=2)
        return super().rows(d, dtype)


@breaks("H1")
class Exits(Tiled):
    """Ends the process where it should raise."""

    def attended(self, p: Any) -> Result:
        if getattr(p, "softcap", None) is not None:
            sys.exit("not implemented")
        return super().attended(p)


@breaks("H2")
class RefusesWithAnotherError(Tiled):
    """Declines what it never heard of, and raises the wrong error when called."""

    def forward(self, problem: Any) -> Result:
        if self.unsupported(problem):
            raise NotImplementedError("no such kernel")
        return super().forward(problem)


@breaks("H2")
class ReasonsAreStrings(Tiled):
    """Declines by sentences without a code."""

    def unsupported(self, problem: Problem) -> Any:
        return [str(reason) for reason in super().unsupported(problem)]


@breaks("H2")
class PromisesWhatItRefuses(Tiled):
    """Declares sinks supported, and refuses them when called."""

    def forward(self, problem: Any) -> Result:
        if getattr(problem, "sinks", None) is not None:
            why = Reason("sinks", "sinks are not implemented", "sinks")
            raise UnsupportedError("attention", {self.name: [why]}, requested=self.name)
        return super().forward(problem)


@breaks("H2")
class RefusesForwardAlone(Tiled):
    """Declines soft caps, and computes their gradients all the same."""

    def unsupported(self, problem: Problem) -> Any:
        capped = getattr(problem, "softcap", None) is not None
        said = Reason("softcap", "soft caps are not implemented", "softcap")
        return [*super().unsupported(problem), *([said] if capped else [])]

    def backward(self, problem: Any, result: Result, dout: Any, dlse: Any = None) -> Any:
        if getattr(problem, "softcap", None) is None:
            return super().backward(problem, result, dout, dlse)
        with np.errstate(all="ignore"):
            return self.attention_gradients(problem, result, dout, dlse)


@breaks("H2")
class OptionsDropped(Tiled):
    """Ignores soft caps and sinks where they come with a bias."""

    def pieces(self, p: Any) -> Any:
        if getattr(p, "bias", None) is not None and p.operation == "attention":
            p = replace(p, softcap=None, sinks=None)
        return super().pieces(p)


@breaks("H3")
class ReturnsLists(Tiled):
    """Returns lists of numbers instead of arrays."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out.tolist(), lse)


@breaks("H3")
class ReturnsAPlainTuple(Tiled):
    """Returns a pair without names."""

    def forward(self, problem: Any) -> Any:
        return tuple(super().forward(problem))


@breaks("H3")
class LseMissing(Tiled):
    """Returns no log-sum-exp."""

    def attended(self, p: Any) -> Result:
        return Result(super().attended(p).out, None)
