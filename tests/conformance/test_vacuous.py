"""What was declared and never exercised: found, told once, and told what to do."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from attnref_conformance.honest import Tiled
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection
from attnref_conformance.trial import Judgement, Trial
from attnref_conformance.vacuous import (
    SIZES,
    Declared,
    Wanted,
    declared,
    plain_problem,
    vacuous,
    wanted,
)

from attnref.errors import Reason
from attnref.problem import Problem

HONEST = Tiled()
TRIALS = [t for t in Selection(dtypes=("float32",)).trials() if isinstance(t, Trial)]
OUTCOMES = [trial.about() for trial in TRIALS]
WANTED = wanted(OUTCOMES)


class Only(Tiled):
    """Declines what a test tells it to."""

    def __init__(self, declines: Any) -> None:
        super().__init__("only")
        self.declines = declines

    def unsupported(self, problem: Problem) -> Any:
        """Decline by a rule."""
        if self.declines(problem):
            return [Reason("size", "sizes must be multiples of 16")]
        return super().unsupported(problem)


def size(problem: Problem) -> int:
    """Return the number of queries, or of tokens."""
    axis = {"attention": -2, "attention_varlen": 0}.get(problem.operation)
    return 0 if axis is None else problem.q.shape[axis]


@cache
def problems() -> list[Problem]:
    """Return what every trial calls."""
    return [Judgement(trial, HONEST).problem for trial in TRIALS]


def found(backend: Tiled) -> list[Outcome]:
    """Judge nothing but what a backend declines, and return what is vacuous."""
    outcomes = []
    for problem, about in zip(problems(), OUTCOMES, strict=True):
        said = tuple(map(str, backend.unsupported(problem)))
        status = Status.UNSUPPORTED if said else Status.PASS
        outcomes.append(replace(about, status=status, reasons=said))
    return vacuous(declared(backend, WANTED), outcomes)


def test_whoever_runs_everything_claims_nothing_in_vain() -> None:
    """Every claim of an honest backend was exercised by some case."""
    assert len(WANTED) == len(declared(HONEST, WANTED))
    assert [] == found(HONEST)


@pytest.mark.parametrize(
    "asked", WANTED, ids=lambda w: "-".join([w.operation, *sorted(w.features)])
)
def test_a_plain_call_has_the_features_of_the_cases(asked: Wanted) -> None:
    """And no others, but the window that an alignment needs."""
    problem = plain_problem(HONEST, asked, *SIZES[0])
    assert asked.operation == problem.operation
    assert asked.features <= problem.features
    assert problem.features - asked.features <= {"window", "2-D"}


def test_multiples_alone_are_a_claim_that_nobody_saw() -> None:
    """Softcaps for even sizes only: every case was declined, and the claim stands open."""
    outcomes = found(Only(lambda p: "softcap" in p.features and size(p) % 128))
    assert {"attention", "attention_varlen"} == {o.operation for o in outcomes}
    assert "H2-exercised-attention-grouped-heads-softcap[float32]" in {o.id for o in outcomes}
    first = next(o for o in outcomes if o.operation == "attention")
    assert (Status.VACUOUS, "H2", 1, "attention", "float32", ("grouped heads", "softcap")) == (
        first.status, first.clause, first.level, first.operation, first.dtype, first.features
    )  # fmt: skip
    assert first.message.startswith(
        "declared support for attention: q float32 (1, 4, 128, 64) cpu, grouped heads, softcap, "
        "and declined every case of attention with grouped heads and softcap in float32: "
    )
    assert "because sizes must be multiples of 16. Accept them, for example by padding" in (
        first.message
    )


def test_gradients_that_are_declined_by_shape_are_found() -> None:
    """Every gradient case declined, and gradients claimed for convenient shapes."""
    outcomes = found(Only(lambda p: p.with_gradients and size(p) % 128))
    assert {"attention", "attention_varlen"} == {o.operation for o in outcomes}
    assert {3, 5} == {o.level for o in outcomes}
    assert all("gradients" in o.features for o in outcomes)


def test_every_shape_of_the_suite_declined_is_found() -> None:
    """The plain call is claimed, and says everything."""
    outcomes = found(Only(lambda p: p.operation == "attention" and size(p) != 128))
    assert ["H2-exercised-attention[float32]"] == [o.id for o in outcomes]


@pytest.mark.parametrize("features", [{"softcap"}, {"mask", "bias"}, {"gradients"}, {"window"}])
def test_what_is_declined_whatever_its_size_is_no_claim(features: set[str]) -> None:
    """An honest decline is UNSUPPORTED, and takes nothing else along."""
    assert [] == found(Only(lambda p: features <= p.features))


def test_a_case_that_failed_was_exercised() -> None:
    """It is a failure already."""
    claim = Declared(Wanted("softmax", frozenset(), "float32"), "softmax: x")
    failed = [replace(o, status=Status.FAIL) for o in OUTCOMES if o.operation == "softmax"]
    assert [] == vacuous([claim], failed)


def test_a_backend_that_falls_over_when_asked_claims_nothing() -> None:
    """Its trials say so."""
    assert [] == declared(Only(lambda _: math.sqrt(-1)), WANTED[:5])
