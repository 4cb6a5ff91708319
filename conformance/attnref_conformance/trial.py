"""One case, in one dtype and part, judged on one backend.

A trial asks the backend first. What it declines is called all the same and must be
refused; what it accepts must run on it and nowhere else, leave its inputs alone, print
and warn nothing, and return what was expected within the limit.
"""

import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

import attnref
from attnref import arrays, normalize
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.errors import Reason, UnsupportedError
from attnref.problem import AnyProblem, Gradients, Problem, Result
from attnref.reference import wide
from attnref.spec.softmax import Rows, merge_rows
from attnref_conformance import honest, oracle
from attnref_conformance.case import Call, Case, Part, cast, stretch
from attnref_conformance.compare import Comparison, compare
from attnref_conformance.dense import longest
from attnref_conformance.memory import Guarded, poison, same_bits
from attnref_conformance.oracle import Expected
from attnref_conformance.overheard import overheard
from attnref_conformance.profiles import DEFAULT, Arithmetic, arithmetic
from attnref_conformance.status import Element, Outcome, Status

QUALITY_FACTOR = 4.0
"""How much worse than an honest computation a result may be before it is remarked upon."""

_LEVELS = {
    "attention": {Part.OUT: 1, Part.LSE: 2, Part.GRADIENTS: 3},
    "softmax": {Part.OUT: 1, Part.GRADIENTS: 3},
    "merge": {Part.LSE: 2, Part.GRADIENTS: 3},
    "attention_varlen": dict.fromkeys(Part, 5),
    "window_attention": dict.fromkeys(Part, 4),
    "window_attention_qkv": dict.fromkeys(Part, 4),
    "relative_position_bias": dict.fromkeys(Part, 4),
}


def level_of(function: str, *, gradients: bool) -> int:
    """Return the level that an operation, or its gradients, belong to."""
    levels = _LEVELS[function]
    return levels[Part.GRADIENTS] if gradients else min(levels.values())


_WITH_LSE = ("attention", "attention_varlen", "window_attention", "window_attention_qkv")


@dataclass(frozen=True)
class Trial:
    """A case in one dtype and one part."""

    case: Case
    part: Part
    dtype: str

    @property
    def clause(self) -> str:
        """The clause judged."""
        return self.case.clause

    @property
    def id(self) -> str:
        """The stable id that reports use."""
        suffix = "" if self.part is Part.OUT else f"-{self.part}"
        return f"{self.case.name}{suffix}[{self.dtype}]"

    def run(self, backend: Backend) -> Outcome:
        """Judge the backend."""
        start = time.perf_counter()
        try:
            outcome = Judgement(self, backend).outcome()
        except Exception as error:  # noqa: BLE001  # a case that cannot be made; the run goes on
            message = f"the judge failed: {type(error).__name__}: {error}"
            outcome = replace(self._blank, status=Status.ERROR, message=message)
        return replace(outcome, seconds=time.perf_counter() - start)

    def about(self) -> Outcome:
        """Describe the trial without any backend, as the beginning of an outcome."""
        try:
            level, operation, features = _kind(self.case, self.part)
        except Exception:  # noqa: BLE001  # a case that cannot be made still has a name
            return self._blank
        return replace(self._blank, level=level, operation=operation, features=features)

    @property
    def called_twice(self) -> bool:
        """Whether the same call is made again: every case and part in one of its dtypes."""
        at = zlib.crc32(f"{self.case.name}-{self.part}".encode()) % len(self.case.dtypes)
        return self.case.dtypes[at] == self.dtype

    @property
    def _blank(self) -> Outcome:
        return Outcome(self.id, self.clause, 0, "", self.dtype, (), Status.PASS)


@lru_cache(maxsize=4096)
def _kind(case: Case, part: Part) -> tuple[int, str, tuple[str, ...]]:
    """Return level, operation and features, which are the same in every dtype."""
    call, problem = _described(Trial(case, part, case.dtypes[0]))
    return _LEVELS[call.function][part], call.function, tuple(sorted(problem.features))


def _described(trial: Trial) -> tuple[Call, AnyProblem]:
    """Make the call of a trial, and the problem that it poses, in NumPy's arrays."""
    call = trial.case.call(trial.dtype)
    positional, options = call.split(call.values)
    lse = {"with_lse": True} if _wants_lse(trial.part, call) else {}
    problem: AnyProblem = getattr(normalize, call.function)(*positional, **options, **lse)
    return call, replace(problem, with_gradients=trial.part is Part.GRADIENTS)


def _wants_lse(part: Part, call: Call) -> bool:
    return part is not Part.OUT and call.function in _WITH_LSE


class Finding(Exception):  # noqa: N818  # a verdict, not an error of the judge
    """Something is wrong with the backend."""

    def __init__(
        self, message: str, status: Status = Status.FAIL, element: Element | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.element = status, element


class Judgement:
    """The state of one trial while it runs."""

    def __init__(self, trial: Trial, backend: Backend) -> None:
        self.trial, self.backend = trial, backend
        self.given: tuple[Result, np.ndarray, np.ndarray | None] | None = None
        self.guarded = Guarded(backend)
        self.determinism = ""
        self.call, self.problem = _described(trial)

    @property
    def wants_lse(self) -> bool:
        """Whether the forward is asked for the log-sum-exp as well."""
        return _wants_lse(self.trial.part, self.call)

    @property
    def arithmetic(self) -> Arithmetic:
        return arithmetic(getattr(self.backend, "profile", DEFAULT), self.trial.dtype)

    @property
    def _misses(self) -> Status:
        """What a wrong value is: a matter of quality where the backend promised nothing."""
        promised = self.trial.case.promised
        kept = promised is None or getattr(self.backend, promised, False)
        return Status.FAIL if kept else Status.QUALITY

    def outcome(self) -> Outcome:
        """Judge, and turn whatever happens into an outcome."""
        about = Outcome(
            id=self.trial.id,
            clause=self.trial.case.clause,
            level=_LEVELS[self.call.function][self.trial.part],
            operation=self.call.function,
            dtype=self.trial.dtype,
            features=tuple(sorted(self.problem.features)),
            status=Status.PASS,
            length=longest(self.problem),
        )
        try:
            return self._judge(about)
        except Finding as finding:
            return replace(
                about, status=finding.status, message=str(finding), element=finding.element
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            message = f"the judge failed: {type(error).__name__}: {error}"
            return replace(about, status=Status.ERROR, message=message)

    def _judge(self, about: Outcome) -> Outcome:
        native = self.native()
        problem = self.problem.with_arrays(
            {n: x for n, x in native.items() if n in self.problem.arrays}
        )
        reasons = declined(self.backend, problem)
        if reasons:
            must_refuse(self.backend, problem)
            if self.trial.part is Part.GRADIENTS:
                self._must_refuse_backward(problem)
            return unsupported(about, reasons)
        run = self._run_backward if self.trial.part is Part.GRADIENTS else self._run_forward
        orders = {n: arrays.memory_order(x) for n, x in problem.arrays.items()}
        expected, answers = run(native)
        about = replace(about, determinism=self.determinism)
        first = self._compared(about, expected, answers[0], orders)
        for again in answers[1:]:
            try:
                self._compared(about, expected, again, orders)
            except Finding as finding:
                said = f"answered differently the second time: {finding}"
                raise Finding(said, finding.status, finding.element) from None
        return first

    def _must_refuse_backward(self, problem: Problem) -> None:
        """Call the backward of what was declined: it must be refused as well."""
        exact, _ = oracle.forward(self.problem, self.arithmetic)
        out = self.backend.from_numpy(cast(exact.out, self.problem.dtype))
        lse = exact.lse
        if lse is not None:
            lse = self.backend.from_numpy(cast(lse, self.problem.lse_dtype))
        must_refuse(self.backend, problem, Result(out, lse))

    def native(self) -> dict[str, Array]:
        """Turn the inputs into the backend's arrays, and take views of those."""
        given = {}
        for name, x in self.call.inputs.items():
            native = self.guarded.array(name, x)
            if name in self.call.views:
                try:
                    native = self.call.views[name].take(native)
                except (ValueError, TypeError, IndexError, AttributeError):
                    # The library has no such view; the values are passed contiguously.
                    native = self.backend.from_numpy(self.call.values[name].copy())
            given[name] = native
        return given

    def _run_forward(self, native: Mapping[str, Array]) -> "_Answers":
        _, expected = oracle.forward(self.problem, self.arithmetic)
        name = self.call.function + ("_with_lse" if self.wants_lse else "")
        positional, options = self.call.split(native)
        answers = self._watched(name, positional, options, native, expected)
        if name in ("attention", "attention_varlen", "softmax", "relative_position_bias") or (
            not self.wants_lse and self.call.function in _WITH_LSE
        ):
            return {"out": expected["out"]}, [{"out": answer} for answer in answers]
        for answer in answers:
            if not isinstance(answer, Result):
                raise Finding(f"returned a {type(answer).__name__}, not a named (out, lse)")
        return expected, [answer._asdict() for answer in answers]

    def stored(self) -> tuple[Result, dict[str, np.ndarray]]:
        """Return an exact result, and what the backward is given by name."""
        exact, forward = oracle.forward(self.problem, self.arithmetic)
        if self.trial.case.merged:
            exact = _merged(exact)
        rng = np.random.default_rng(len(self.trial.case.name))
        given = {"out": self._like_main(exact.out), "dout": self._dout(rng, exact.out.shape)}
        if exact.lse is not None:
            given["lse"] = cast(exact.lse, forward["lse"].dtype)
            if self.trial.case.dlse:
                given["dlse"] = cast(rng.normal(size=exact.lse.shape), forward["lse"].dtype)
        if self.call.poison:
            self._poison(given)
        return exact, given

    def _run_backward(self, native: dict[str, Array]) -> "_Answers":
        exact, given = self.stored()
        stored = Result(given["out"], given.get("lse"))
        self.given = (stored, given["dout"], given.get("dlse"))
        result = exact
        if self.call.function in ("softmax", "merge"):
            # What their backward is given is data like any other: the stored values.
            lse = None if exact.lse is None else wide(given["lse"])
            result = Result(wide(given["out"]), lse)
        expected = oracle.backward(
            self.problem, result, given["dout"], given.get("dlse"), self.arithmetic
        )
        theirs = {n: self.theirs(n, x) for n, x in given.items()}
        positional, options = self.call.split(native)
        positional, options = backward_arguments(self.call.function, positional, options, theirs)
        answers = self._watched(
            f"{self.call.function}_backward", positional, options, {**native, **theirs}, expected
        )
        if self.call.function in ("softmax", "relative_position_bias"):
            return expected, [{next(iter(expected)): answer} for answer in answers]
        named = [answer._asdict() for answer in answers]
        for answer in named:
            absent = [n for n, x in answer.items() if n not in expected and x is not None]
            if absent:
                raise Finding(f"returned {', '.join(absent)}, for which there was no input")
        return expected, named

    def _like_main(self, x: np.ndarray) -> np.ndarray:
        """Lay an array out in memory as the main input is, as results of a forward are."""
        axes = arrays.memory_order(getattr(self.problem, self.problem.main))
        axes = axes if len(axes) == x.ndim else tuple(range(x.ndim))
        dense = cast(np.ascontiguousarray(x.transpose(axes)), self.problem.dtype)
        return dense.transpose(np.argsort(axes))

    def _dout(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the gradient that the backward is given, laid out as the case says."""
        if self.trial.case.dout == "stretched":
            return np.broadcast_to(
                cast(rng.normal(size=(1,) * len(shape)), self.problem.dtype), shape
            )
        if self.trial.case.dout == "dense":
            return cast(rng.normal(size=shape), self.problem.dtype)
        return self._like_main(rng.normal(size=shape))

    def theirs(self, name: str, x: np.ndarray) -> Array:
        """Turn a given array into the backend's, strides of zero included."""
        if x.size and x.flags.c_contiguous:
            return self.guarded.array(name, x)
        if x.size == 0 or x.ndim == 0 or any(x.strides):
            return self.backend.from_numpy(x.copy(order="K"))
        one = self.backend.from_numpy(x[(slice(1),) * x.ndim].copy())
        try:
            return stretch(*x.shape).take(one)
        except (ValueError, TypeError, AttributeError):
            return self.backend.from_numpy(x.copy())

    def _poison(self, given: dict[str, np.ndarray]) -> None:
        """Put NaN where a backward may not look: past the last row of a sequence."""
        p = self.problem
        if self.call.function == "attention_varlen":
            last = int(p.cu_q[-1])
            for name, x in given.items():
                if x.flags.writeable:
                    (x if name in ("out", "dout") else x.T)[last:] = np.nan
            return
        for b, n in enumerate(wide(p.q_lens).tolist()):
            for x in given.values():
                if x.flags.writeable:
                    x[b, :, n:] = np.nan

    def _watched(
        self,
        name: str,
        positional: list[Array],
        options: dict[str, Any],
        given: Mapping[str, Array],
        expected: Mapping[str, Expected],
    ) -> list[Any]:
        """Call a public function, and hold the backend to everything it promised.

        Returns:
            The answer, and a second one if that of the same call again has other bits.
        """

        def call() -> Any:
            poison(self.backend, [(x.value.shape, x.dtype) for x in expected.values()])
            formal = _Formal(self.backend)
            with watched():
                return getattr(attnref, name)(*positional, **options, backend=formal)

        before = {n: self.guarded.read(n, x) for n, x in given.items()}
        with attnref.trace() as ran:
            answers = [call()]
        if {run.backend for run in ran} != {self.backend.name}:
            raise Finding("did not run: the trace shows " + (", ".join(map(str, ran)) or "nothing"))
        if self.trial.called_twice:
            answers += self._unless_the_same(answers[0], call())
        for n, x in given.items():
            change = self.guarded.change(n, before[n], self.guarded.read(n, x))
            if change:
                raise Finding(change)
        for answer in answers:
            self._not_aliased(answer, given)
        return answers

    def _unless_the_same(self, first: Any, again: Any) -> list[Any]:
        """Compare two answers to one call bit by bit; equal ones need no second look."""
        pairs = zip(_results(first), _results(again), strict=False)
        same = all(same_bits(self.backend, x, y) for x, y in pairs)
        self.determinism = "bitwise" if same else "varies"
        if not same and getattr(self.backend, "deterministic", False):
            raise Finding("gave other bits the second time, and promises to be `deterministic`")
        return [] if same else [again]

    def _not_aliased(self, answer: Any, given: Mapping[str, Array]) -> None:
        """Overwrite the inputs where they can be; the results must not notice."""
        results = [x for x in _results(answer) if x is not None]
        kept = [np.array(self.backend.to_numpy(x)).tobytes() for x in results]
        for x in given.values():
            try:
                x[...] = 1
            except (TypeError, ValueError, RuntimeError):
                continue  # read-only, stretched or immutable: nothing can be overwritten
        for x, bytes_before in zip(results, kept, strict=True):
            if np.array(self.backend.to_numpy(x)).tobytes() != bytes_before:
                raise Finding("returned an array that shares memory with an input")

    def _compared(
        self,
        about: Outcome,
        expected: Mapping[str, Expected],
        returned: Mapping[str, Any],
        orders: Mapping[str, tuple[int, ...]],
    ) -> Outcome:
        found: list[Comparison] = []
        ratio = 0.0
        floor = honest.errors(self.problem, expected, self.given)
        if self.trial.dtype == "float64" or self.arithmetic.product:
            # The oracle has no digits to spare, and no honest computation is in TF32.
            floor = dict.fromkeys(floor, 0.0)
        for name, want in expected.items():
            native = returned[name]
            if native is None:
                raise Finding(f"returned no {name}")
            if self.trial.case.exact and not self.arithmetic.product:
                want = replace(want, bound=np.zeros_like(want.bound))  # noqa: PLW2901
            plain = tuple(range(want.value.ndim))
            order = orders[want.follows] if want.follows else plain
            order = order if len(order) == len(plain) else plain
            got = compare(name, native, self.backend.to_numpy(native), want, order)
            if got.problem:
                raise Finding(got.problem, self._misses, got.element)
            found.append(got)
            if floor[name] > 0:
                ratio = max(ratio, got.error / floor[name])
        leans = max(found, key=lambda c: abs(c.bias) * c.elements**0.5)
        about = replace(
            about,
            utilisation=max(c.utilisation for c in found),
            ulp=max((c.ulp for c in found if c.dtype == self.trial.dtype), default=0.0),
            bias=leans.bias,
            elements=leans.elements,
            ratio=ratio,
        )
        if ratio > QUALITY_FACTOR:
            message = f"{ratio:.1f} times the error of an honest computation in this precision"
            return replace(about, status=Status.QUALITY, message=message)
        return about


_Answers = tuple[dict[str, Expected], list[dict[str, Any]]]
"""What must come back, and what came back: once, or twice where the two differ."""


def _results(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


class _Formal:
    """A backend that is held to the form of its answers: named tuples and nothing else."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, problem: Problem) -> Result:
        return _named(self._backend.forward(problem), Result, "Result")

    def backward(self, *given: Any) -> Any:
        return _named(self._backend.backward(*given), Gradients, "gradients of the operation")


def _named(answer: Any, kind: Any, meant: str) -> Any:
    if not isinstance(answer, kind):
        raise Finding(f"returned a {type(answer).__name__}, not the named {meant}")
    return answer


def _merged(part: Result) -> Result:
    """Merge a result with that of other keys, of about the same weight."""
    rng = np.random.default_rng(0)
    other = Rows(rng.normal(size=part.out.shape), part.lse + rng.normal(size=part.lse.shape))
    return Result(*merge_rows(Rows(*part), other))


def declined(backend: Backend, problem: Problem) -> list[Reason]:
    """Ask a backend for its reasons, and hold the answer to its form."""
    with watched():
        reasons = [*backend.available(), *backend.unsupported(problem)]
    said: list[object] = list(reasons)
    wrong = [r for r in said if not (isinstance(r, Reason) and r.code and r.sentence)]
    if wrong:
        raise Finding(f"gave {wrong[0]!r} for a reason; a Reason with code and sentence is meant")
    return reasons


def unsupported(about: Outcome, reasons: Sequence[Reason]) -> Outcome:
    """Return the outcome of a case that was declined and refused."""
    said = tuple(map(str, reasons))
    codes = tuple(reason.code for reason in reasons)
    return replace(
        about, status=Status.UNSUPPORTED, message="; ".join(said), codes=codes, reasons=said
    )


def must_refuse(backend: Backend, problem: Problem, result: Result | None = None) -> None:
    """Call what was declined, beneath the dispatcher: it must be refused.

    With a `result` it is the backward that is called.
    """
    with quiet():
        try:
            if result is None:
                backend.forward(problem)
            else:
                backend.backward(problem, result, result.out)
        except UnsupportedError:
            return
        except (Exception, SystemExit) as error:
            raised = f"{type(error).__name__}: {error}"
            said = f"declined the call and, called, raised {raised}"
            raise Finding(said, Status.CRASH) from error
    raise Finding("declined the call in words and computed it when called")


def backward_arguments(
    function: str, positional: list[Array], options: dict[str, Any], given: Mapping[str, Array]
) -> tuple[list[Array], dict[str, Any]]:
    """Arrange the arguments of a backward function as its signature has them."""
    dlse = {"dlse": given["dlse"]} if "dlse" in given else {}
    if function == "softmax":
        kept = {k: v for k, v in options.items() if k == "axis"}
        return [given["dout"], given["out"]], kept
    if function == "relative_position_bias":
        return [given["dout"], *positional], options
    if function == "merge":
        return [given["dout"], given["dlse"], *positional, given["out"], given["lse"]], options
    inputs, offsets = (positional[:3], positional[3:])
    if function == "window_attention_qkv":
        inputs, offsets = positional, []
    ordered = [given["dout"], *inputs, given["out"], given["lse"], *offsets]
    return ordered, {**options, **dlse}


@contextmanager
def watched() -> Iterator[None]:
    """Turn what a backend raises, prints or warns into findings."""
    with quiet():
        try:
            yield
        except Finding:
            raise
        except UnsupportedError as error:
            raise Finding(f"declared the call supported and refused it: {error}") from None
        except (Exception, SystemExit) as error:
            raise Finding(f"{type(error).__name__}: {error}", Status.CRASH) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Turn what a backend prints or warns into findings."""
    with warnings.catch_warnings(record=True) as heard, overheard() as printed:
        warnings.simplefilter("always")
        yield
    if heard:
        raise Finding(f"leaked a warning: {heard[0].category.__name__}: {heard[0].message}")
    if printed():
        raise Finding(f"printed {printed()[:80]!r}")
