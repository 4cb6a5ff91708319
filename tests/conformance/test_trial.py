"""One trial: every status, and every promise that a backend can break."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attnref_conformance.case import Call, Case, Part, cast
from attnref_conformance.cases.build import attention
from attnref_conformance.dense import longest
from attnref_conformance.honest import Tiled
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import run
from attnref_conformance.trial import Trial

from attnref import normalize
from attnref.backend import refuse
from attnref.errors import Reason, UnsupportedError
from attnref.problem import AttentionGradients, Problem, Result

SMALL = attention("B1-small", {"B": 1, "Hq": 2, "Hkv": 2, "Sq": 37, "D": 8, "Dv": 8})
BUSY = Reason("machine", "needs another machine")


def judged(
    backend: Tiled, part: Part = Part.OUT, dtype: str = "float32", case: Case = SMALL
) -> Outcome:
    """Judge a backend on the small case."""
    return Trial(case, part, dtype).run(backend)


class Answers(Tiled):
    """A backend that does something else with its result."""

    masked_nonfinite = False

    def __init__(self, change: Callable[[Any, Result], Any]) -> None:
        super().__init__("answers")
        self.change = change

    def attended(self, p: Any) -> Any:
        """Compute honestly, then change the result."""
        return self.change(p, super().attended(p))


class Declines(Tiled):
    """A backend that gives the reasons it was told to give."""

    reasons: tuple[Any, ...] = (BUSY,)

    def unsupported(self, problem: Problem) -> Any:
        """Give the reasons."""
        return self.reasons


@pytest.mark.parametrize("part", Part)
def test_an_honest_answer_passes(part: Part) -> None:
    """A pass says what was called, how long it took, and how near the limit it came."""
    outcome = judged(Tiled(), part)
    suffix = "" if part is Part.OUT else f"-{part}"
    level = {Part.OUT: 1, Part.LSE: 2, Part.GRADIENTS: 3}[part]
    features = ("gradients",) if part is Part.GRADIENTS else ()
    assert (
        f"B1-small{suffix}[float32]",
        "B1",
        level,
        "attention",
        "float32",
        features,
    ) == (
        outcome.id,
        outcome.clause,
        outcome.level,
        outcome.operation,
        outcome.dtype,
        outcome.features,
    )
    assert (Status.PASS, "") == (outcome.status, outcome.message)
    assert 0 < outcome.utilisation < 1
    assert 0 < outcome.ratio < 4
    assert 0 < outcome.ulp < 1e4
    assert -1 < outcome.bias < 1
    assert 0 < outcome.elements
    assert 37 == outcome.length
    assert outcome.element is None
    assert 0 < outcome.seconds


def test_a_poor_answer_within_the_limit_is_remarked_upon() -> None:
    """Less than the bound, and more than four times what honesty errs, is QUALITY."""

    def rough(_: Any, result: Result) -> Result:
        return Result(result.out * np.float32(1 + 40 * 2.0**-24), None)

    outcome = judged(Answers(rough))
    assert Status.QUALITY is outcome.status
    assert outcome.message.endswith("times the error of an honest computation in this precision")
    assert 4 < outcome.ratio
    assert 0 < outcome.utilisation < 1


def test_units_in_the_last_place_are_those_of_the_dtype_of_the_case() -> None:
    """A float64 gradient of a bias in a half precision call has digits that nobody computed."""
    case = attention("B3-mixed", {"Sq": 9}, given={"bias": lambda d: d.normal("Sq Sk", "float64")})
    outcome = judged(Tiled(), Part.GRADIENTS, "float16", case)
    assert Status.PASS is outcome.status
    assert 0 < outcome.ulp < 2.0**11


def test_a_wrong_answer_is_quoted() -> None:
    """The outcome holds the element, what it is and what it must be."""
    outcome = judged(Answers(lambda _, result: Result(result.out + 1, None)))
    assert Status.FAIL is outcome.status
    assert outcome.element is not None
    assert "out" == outcome.element.array
    got, expected = float(outcome.element.got), float(outcome.element.expected)
    assert pytest.approx(1.0, rel=1e-6) == got - expected


def test_a_declared_refusal_is_unsupported() -> None:
    """Who says so beforehand, and refuses when called, is within his rights."""
    outcome = judged(Declines())
    assert (Status.UNSUPPORTED, "needs another machine", ("machine",)) == (
        outcome.status,
        outcome.message,
        outcome.codes,
    )


def test_an_unusable_machine_is_unsupported() -> None:
    """Reasons of `available` count like those of `unsupported`."""

    class Absent(Declines):
        """Needs a machine that is not there."""

        reasons = ()

        def available(self) -> Any:
            """Say why nothing can run."""
            return [BUSY]

        def forward(self, problem: Any) -> Any:
            """Refuse."""
            raise UnsupportedError(str(problem), {self.name: [BUSY]})

    assert Status.UNSUPPORTED is judged(Absent()).status


class ComputesAllTheSame(Declines):
    """Refuses in words and computes in deeds."""

    def forward(self, problem: Any) -> Result:
        """Compute."""
        return self.attended(problem)


class RefusesAllTheSame(Tiled):
    """Declares support and refuses."""

    def forward(self, problem: Any) -> Any:
        """Refuse."""
        raise UnsupportedError(str(problem), {self.name: [BUSY]})


class GivesWords(Declines):
    """Gives a string for a reason."""

    reasons = ("no time",)


class GivesNoCode(Declines):
    """Gives a reason without a code."""

    reasons = (Reason("", "no time"),)


class GivesNoSentence(Declines):
    """Gives a reason without a sentence."""

    reasons = (Reason("time", ""),)


class ReturnsPlainGradients(Tiled):
    """Returns gradients without names."""

    def attention_gradients(self, *args: Any) -> Any:
        """Drop the names."""
        return tuple(super().attention_gradients(*args))


class ReturnsAnExtraGradient(Tiled):
    """Returns the gradient of a bias that was not there."""

    def attention_gradients(self, *args: Any) -> Any:
        """Add a gradient."""
        done = super().attention_gradients(*args)
        return done._replace(dbias=np.zeros(1, np.float32))


class LeavesOutAGradient(Tiled):
    """Returns no gradient of the keys."""

    def attention_gradients(self, *args: Any) -> Any:
        """Drop a gradient."""
        done = super().attention_gradients(*args)
        return AttentionGradients(done.dq, None, done.dv)


def _halves(p: Any, result: Result) -> Result:
    p.k[...] *= 0.5
    return result


def _prints(_: Any, result: Result) -> Result:
    print("made it")
    return result


def _complains(_: Any, result: Result) -> Result:
    print("made it", file=sys.stderr)
    return result


def _warns(_: Any, result: Result) -> Result:
    warnings.warn("divided by zero", RuntimeWarning, stacklevel=1)
    return result


FAILURES: dict[str, tuple[Tiled, Part, str]] = {
    "computes-what-it-declined": (
        ComputesAllTheSame(),
        Part.OUT,
        "declined the call in words and computed it when called",
    ),
    "refuses-what-it-declared": (
        RefusesAllTheSame(),
        Part.OUT,
        "declared the call supported and refused it: no backend ",
    ),
    "gives-words-for-a-reason": (
        GivesWords(),
        Part.OUT,
        "gave 'no time' for a reason; ",
    ),
    "gives-no-code": (GivesNoCode(), Part.OUT, "gave Reason(code='', "),
    "gives-no-sentence": (GivesNoSentence(), Part.OUT, "gave Reason(code='time', "),
    "returns-a-view": (
        Answers(lambda p, r: Result(p.v, r.lse)),
        Part.OUT,
        "returned an array that shares memory with an input",
    ),
    "mutates-an-input": (Answers(_halves), Part.OUT, "modified k"),
    "prints": (Answers(_prints), Part.OUT, "printed 'made it\\n'"),
    "prints-errors": (Answers(_complains), Part.OUT, "printed 'made it\\n'"),
    "warns": (
        Answers(_warns),
        Part.OUT,
        "leaked a warning: RuntimeWarning: divided by zero",
    ),
    "returns-a-plain-tuple": (
        Answers(lambda _, r: tuple(r)),
        Part.OUT,
        "returned a tuple, not the named Result",
    ),
    "returns-plain-gradients": (
        ReturnsPlainGradients(),
        Part.GRADIENTS,
        "returned a tuple, not the named gradients",
    ),
    "returns-no-lse": (
        Answers(lambda _, r: Result(r.out)),
        Part.LSE,
        "returned no lse",
    ),
    "returns-an-extra-gradient": (
        ReturnsAnExtraGradient(),
        Part.GRADIENTS,
        "returned dbias, for which there was no input",
    ),
    "leaves-out-a-gradient": (LeavesOutAGradient(), Part.GRADIENTS, "returned no dk"),
    "wrong-shape": (
        Answers(lambda _, r: Result(r.out[..., :1].copy(), r.lse)),
        Part.OUT,
        "out has shape (1, 2, 37, 1) and must have (1, 2, 37, 8)",
    ),
    "wrong-dtype": (
        Answers(lambda _, r: Result(r.out.astype(np.float64), r.lse)),
        Part.OUT,
        "out is float64 and must be float32",
    ),
    "wrong-number": (Answers(lambda _, r: Result(r.out + 1, r.lse)), Part.OUT, "out["),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_broken_promise_fails(name: str) -> None:
    """Each is found alone, and the message says what it was."""
    backend, part, message = FAILURES[name]
    outcome = judged(backend, part)
    assert (Status.FAIL, message) == (outcome.status, outcome.message[: len(message)])


def raises(error: BaseException) -> Tiled:
    """Make a backend that raises instead of answering."""

    def change(_: Any, __: Result) -> Any:
        raise error

    return Answers(change)


CRASHES = {
    "value-error": (raises(ValueError("boom")), "ValueError: boom"),
    "exit": (raises(SystemExit(3)), "SystemExit: 3"),
    "returns-nothing": (
        Answers(lambda _, r: Result(None, r.lse)),  # type: ignore[arg-type]
        "",
    ),
}


@pytest.mark.parametrize("name", ["value-error", "exit"])
def test_an_exception_is_a_crash(name: str) -> None:
    """Even one that would end the process."""
    backend, message = CRASHES[name]
    outcome = judged(backend)
    assert (Status.CRASH, message) == (outcome.status, outcome.message)


def test_an_answer_that_is_nothing_is_a_failure() -> None:
    """It is told as such, and does not stop the judge."""
    assert judged(CRASHES["returns-nothing"][0]).status.failure


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)], ids=type)
def test_raising_something_else_than_a_refusal_is_a_crash(error: BaseException) -> None:
    """What was declined must be refused, and not fall over."""

    class FallsOver(Declines):
        """Declines, and falls over when called."""

        def forward(self, problem: Any) -> Any:
            """Fall over."""
            raise error

    outcome = judged(FallsOver())
    said = f"declined the call and, called, raised {type(error).__name__}: {error}"
    assert (Status.CRASH, said) == (outcome.status, outcome.message)


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)], ids=type)
def test_unsupported_never_raises(error: BaseException) -> None:
    """Asking is no reason to fall over."""

    class Startles(Declines):
        """Falls over when asked."""

        def unsupported(self, problem: Problem) -> Any:
            """Fall over."""
            raise error

    assert Status.CRASH is judged(Startles()).status


def test_a_failure_of_the_judge_is_an_error() -> None:
    """Where reading an array fails, nothing is known of the answer."""

    class Unreadable(Tiled):
        """Its arrays cannot be read."""

        def to_numpy(self, x: Any) -> np.ndarray:
            """Fail."""
            raise OSError("no such memory")

    outcome = judged(Unreadable())
    assert (Status.ERROR, "the judge failed: OSError: no such memory") == (
        outcome.status,
        outcome.message,
    )


def test_a_case_that_cannot_be_made_is_an_error() -> None:
    """A mistake in the suite does not stop the run."""

    def build(_: np.random.Generator, __: str) -> Call:
        raise LookupError("no numbers")

    outcome = judged(Tiled(), case=Case("B1-impossible", build))
    assert (Status.ERROR, "the judge failed: LookupError: no numbers") == (
        outcome.status,
        outcome.message,
    )


def test_the_run_goes_on_after_every_failure() -> None:
    """One outcome per trial, whatever happened before."""
    trials = [Trial(SMALL, part, "float32") for part in Part]
    for backend in (raises(SystemExit(3)), ComputesAllTheSame(), Tiled()):
        assert [t.id for t in trials] == [o.id for o in run(backend, trials)]


def test_a_backend_that_does_not_run_fails() -> None:
    """The trace shows the backend, or nothing was proved."""

    class Nameless(Tiled):
        """Calls itself something else every time it is asked."""

        count = 0

        @property
        def name(self) -> str:
            """Return another name."""
            self.count += 1
            return f"nameless-{self.count}"

        @name.setter
        def name(self, _: str) -> None:
            pass

    outcome = judged(Nameless())
    assert Status.FAIL is outcome.status
    assert outcome.message.startswith("did not run: the trace shows attention forward on")


def _hidden_nan(rng: np.random.Generator, dtype: str) -> Call:
    x = rng.normal(size=(1, 1, 5, 4))
    v = x.copy()
    v[..., 3, :] = np.nan
    mask = np.arange(5) != 3
    inputs = {"q": cast(x, dtype), "k": cast(x, dtype), "v": cast(v, dtype)}
    return Call("attention", {**inputs, "mask": mask})


class Promises(Answers):
    """A backend that promises to ignore what is hidden."""

    masked_nonfinite = True


@pytest.mark.parametrize(
    ("kind", "change", "status"),
    [
        (Answers, lambda _, r: Result(r.out * np.nan, r.lse), Status.QUALITY),
        (Promises, lambda _, r: Result(r.out * np.nan, r.lse), Status.FAIL),
        (Promises, lambda _, r: r, Status.PASS),
        (Answers, _halves, Status.FAIL),
        (Answers, _warns, Status.FAIL),
    ],
    ids=["not-promised", "promised-and-broken", "kept", "mutates", "warns"],
)
def test_a_matter_of_quality_is_about_values_alone(
    kind: type[Answers], change: Any, status: Status
) -> None:
    """Without a promise wrong values are forgiven, and nothing else is."""
    case = Case("C6-hidden-nan", _hidden_nan, promised="masked_nonfinite")
    assert status is judged(kind(change), case=case).status


class Drifts(Answers):
    """A backend whose last bit depends on how often it was called."""

    def __init__(self) -> None:
        self.calls = 0
        super().__init__(self.drifted)

    def drifted(self, _: Any, result: Result) -> Result:
        """Move every other answer by one unit in the last place."""
        self.calls += 1
        up = np.nextafter(result.out, result.out.dtype.type(np.inf))
        return Result(up if self.calls % 2 else result.out, result.lse)


@pytest.mark.parametrize("part", [Part.OUT, Part.LSE])
def test_whether_bits_are_repeated_is_reported_or_promised(part: Part) -> None:
    """Every case and part is called twice in one of its dtypes; a promise makes it a failure."""
    dtypes = [d for d in SMALL.dtypes if Trial(SMALL, part, d).called_twice]
    assert 1 == len(dtypes)
    case = attention("B1-plain", dtypes=("float32",))
    assert "bitwise" == judged(Tiled(), part, case=case).determinism
    told = judged(Drifts(), part, case=case)
    assert (Status.PASS, "varies") == (told.status, told.determinism)
    promises = Drifts()
    promises.deterministic = True  # type: ignore[attr-defined]
    broken = judged(promises, part, case=case)
    assert (Status.FAIL, "gave other bits the second time, and promises to be `deterministic`") == (
        broken.status,
        broken.message,
    )


def test_an_exact_case_allows_no_error() -> None:
    """One unit in the last place is too much."""
    case = attention(
        "A6-zero-scores",
        {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 4, "Sk": 8, "D": 4, "Dv": 4},
        q=lambda d: cast(np.zeros(d.shape("B Hq Sq D")), d.dtype),
        v=lambda d: cast(np.ones(d.shape("B Hkv Sk Dv")), d.dtype),
        exact=True,
    )
    ulp = Answers(lambda _, r: Result(np.nextafter(r.out, np.float32(2)), r.lse))
    assert Status.PASS is judged(Tiled(), case=case).status
    assert Status.FAIL is judged(ulp, case=case).status


def test_refuse_is_enough() -> None:
    """The first line of a `forward` makes a declared refusal."""

    class Small(Declines):
        """Refuses by the helper."""

        def forward(self, problem: Any) -> Any:
            """Refuse."""
            refuse(self, problem)

    assert Status.UNSUPPORTED is judged(Small()).status


@pytest.mark.parametrize(
    ("problem", "keys"),
    [
        (normalize.attention(*[np.zeros((1, 2, 5, 4))] * 3), 5),
        (
            normalize.attention_varlen(
                *[np.zeros((9, 2, 4))] * 3, *[np.array([0, 2, 9])] * 2
            ),
            7,
        ),
        (normalize.window_attention(*[np.zeros((1, 8, 8, 2, 4))] * 3, window=4), 16),
        (normalize.softmax(np.zeros((3, 7, 4)), axis=1), 7),
        (normalize.merge(*[np.zeros((3, 4)), np.zeros(3)] * 2), 0),
    ],
    ids=["attention", "packed", "windows", "softmax", "merge"],
)  # fmt: skip
def test_the_length_of_a_case_is_that_of_its_longest_row(problem: Problem, keys: int) -> None:
    """A packed batch counts its longest sequence, a map the tokens of a window."""
    assert keys == longest(problem)
