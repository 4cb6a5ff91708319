"""The plainest failure of every clause is shown, whatever the backend does meanwhile."""

from pathlib import Path
from typing import Any

import pytest
from attnref_conformance import replay
from attnref_conformance.faulty import FAULTS
from attnref_conformance.report import examples
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection, run

NAMED = "attnref_conformance.faulty:empty_rows_nan"

DANGEROUS = """
import os, time
from attnref_conformance.faulty import FAULTS

Wrong = type(FAULTS["empty_rows_nan"].backend)

class Dangerous(Wrong):
    def forward(self, problem):
        if problem.q.shape[-1] < 24:
            {what}
        return super().forward(problem)

backend = Dangerous("dangerous")
"""


def judged(*clauses: str) -> list[Outcome]:
    """Judge the faulty backend on some clauses."""
    backend = FAULTS["empty_rows_nan"].backend
    return list(run(backend, Selection(clauses=clauses, dtypes=("float32",)).trials()))


def wrong() -> Any:
    """Return a backend that a program is written for, and that is not called."""
    return FAULTS["empty_rows_nan"].backend


def calls(outcomes: Any) -> dict[str, Outcome]:
    """Return the outcomes that have a program, by clause."""
    return {o.clause: o for o in outcomes if o.call}


@pytest.mark.parametrize("named", ["", NAMED], ids=["here", "elsewhere"])
def test_one_failure_of_every_clause_is_shown(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its cause, and small where there was time; the others stay as they were."""
    monkeypatch.setattr(examples, "SECONDS", 120.0)
    monkeypatch.setattr(examples, "_EACH", 60.0)
    outcomes = judged("C5", "A4")
    told = examples.with_calls(outcomes, FAULTS["empty_rows_nan"].backend, named)
    shown = calls(told)
    assert {o.clause for o in outcomes if o.status.failure} == set(shown)
    assert "`attention`" in shown["C5"].cause
    assert "must be finite" in shown["C5"].cause
    assert "attnref.attention" in shown["C5"].call
    assert named or "np.array(" in shown["C5"].call
    assert [o.id for o in outcomes] == [o.id for o in told]
    assert [o.status for o in outcomes] == [o.status for o in told]


@pytest.mark.parametrize("what", ["os._exit(3)", "os.abort()"], ids=["exits", "dies"])
def test_a_backend_that_dies_on_a_smaller_call_costs_no_report(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case is shown as it was judged, and the next clause all the same."""
    (tmp_path / "dangerous.py").write_text(DANGEROUS.format(what=what), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    shown = calls(examples.with_calls(judged("C5", "B4"), wrong(), "dangerous:backend"))
    assert "given('C5-" in shown["C5"].call.replace('"', "'")
    assert "from dangerous import backend" in shown["C5"].call


def test_a_backend_that_hangs_on_a_smaller_call_costs_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, and then ended."""
    text = DANGEROUS.format(what="time.sleep(600)")
    (tmp_path / "dangerous.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(examples, "SECONDS", 1.0)
    monkeypatch.setattr(examples, "_STARTING", 2.0)
    shown = calls(examples.with_calls(judged("C5"), wrong(), "dangerous:backend"))
    assert "C5" in shown


@pytest.mark.parametrize("message", ["the process died; signal 11", "hung: no answer within 30 s"])
def test_what_ended_a_worker_is_not_tried_again(message: str) -> None:
    """Its case is shown, and the backend left alone."""
    about = {"level": 1, "operation": "attention", "dtype": "float32", "features": ()}
    crash = Outcome("B1-default-scale[float32]", "B1", status=Status.CRASH,
                    message=message, **about)  # fmt: skip
    (told,) = examples.with_calls([crash], wrong(), "no_such:backend")
    assert f"`attention`: {message.partition(';')[0]}" == told.cause
    assert "result = attnref.attention(" in told.call


def test_a_case_that_the_suite_does_not_have_has_no_program() -> None:
    """A drawn one brings its own, which is kept."""
    about = {"level": 0, "operation": "attention", "dtype": "float32", "features": ()}
    unknown = Outcome("B1-not-there[float32]", "B1", status=Status.FAIL, **about)
    drawn = Outcome("B1-drawn[float32]", "B1", status=Status.FAIL, call="x = 1\n", **about)
    assert [unknown, drawn] == list(examples.with_calls([unknown, drawn], wrong(), ""))


def test_what_cannot_be_written_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in writing a program does not take the report with it."""

    def fails(*_: Any) -> str:
        raise KeyError("complex64")

    monkeypatch.setattr(replay, "program", fails)
    shown = calls(examples.with_calls(judged("C5"), wrong(), ""))
    assert "# no program could be written: KeyError: 'complex64'\n" == shown["C5"].call


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("-inf", "`lse` must be -inf"),
        ("nan", "`lse` must be spoiled"),
        ("1", "`lse` must be finite"),
    ],
)
def test_a_cause_says_what_a_special_value_must_be(expected: str, said: str) -> None:
    """Without a number."""
    found = next(o for o in judged("C5") if o.element is not None)
    element = type(found.element)("lse", (0,), "0", expected, "not a number", "0", 1, 2)
    about = {"level": 1, "operation": "merge", "dtype": "float32", "features": ()}
    failed = Outcome(
        "D3-two-parts-lse[float32]", "D3", status=Status.CRASH, element=element, **about
    )
    (told,) = examples.with_calls([failed], wrong(), "no_such:backend")
    assert f"`merge`: {said}" == told.cause
