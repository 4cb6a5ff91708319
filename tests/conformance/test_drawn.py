"""Drawn problems: any valid call, the same in every run, and small where it fails."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from attnref_conformance import command, drawn, replay, strategies, suite
from attnref_conformance.case import DTYPES, Part
from attnref_conformance.drawn import Drawn, chunks, explore
from attnref_conformance.faulty import FAULTS
from attnref_conformance.honest import Tiled
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection
from attnref_conformance.trial import Trial

from attnref import cli
from attnref.errors import Reason
from attnref.problem import Problem, Result

Judge = Callable[[Trial], None]


def some(function: str, n: int = 30, dtype: str = "float32", seed: int = 0) -> list[Trial]:
    """Draw problems of one function."""
    seen: list[Trial] = []
    explore(strategies.trials(function, dtype), seen.append, n, seed)
    return seen


def spoken(trial: Trial) -> str:
    """Say everything about a call."""
    call = trial.case.call(trial.dtype)
    values = {n: (x.dtype.str, x.tolist()) for n, x in call.values.items()}
    return repr((trial.part, values, call.options, [v.written for v in call.views.values()]))


def run(program: str) -> dict[str, Any]:
    """Run a program as somebody who copied it, and return its names."""
    names: dict[str, Any] = {}
    exec(compile(program, "copied.py", "exec"), names)
    return names


class NoNumbers(Tiled):
    """Declines everything but gradients of softmax."""

    def unsupported(self, problem: Problem) -> list[Reason]:
        if problem.operation == "softmax" and problem.with_gradients:
            return []
        return [Reason("numbers", "knows no numbers")]


class Forgetful(Tiled):
    """Is wrong once, and never again."""

    wrong = False

    def forward(self, problem: Any) -> Result:
        result = super().forward(problem)
        if self.wrong or result.out.size < 50:
            return result
        self.wrong = True
        return Result((result.out + 1).astype(result.out.dtype), result.lse)


@pytest.mark.parametrize("function", strategies.FUNCTIONS)
def test_problems_are_those_of_their_seed(function: str) -> None:
    """Two runs agree; another seed draws others."""
    first, again, other = (list(map(spoken, some(function, seed=s))) for s in (0, 0, 1))
    assert first == again
    assert len({*other} - {*first}) > len(other) // 2


def test_every_option_is_drawn() -> None:
    """Drawn problems reach each feature, alignment, layout and part."""
    features, options, layouts, parts = set(), set(), set(), set()
    for function in strategies.FUNCTIONS:
        for trial in some(function, 90):
            call = trial.case.call(trial.dtype)
            options |= {*call.options} | {
                str(call.options.get(n)) for n in ("q_offset", "causal", "tile")
            }
            features |= {f"{call.inputs[n].dtype} {n}" for n in call.inputs}
            layouts |= {v.written.partition("(")[0] for v in call.views.values()}
            parts |= {trial.part, f"{trial.case.dout}, dlse {trial.case.dlse}"}
    assert {"scale", "causal", "window", "q_offset", "softcap", "shift", "wrap_bias"} <= options
    assert {"start", "end", "True", "axis", "tile", "max_q"} <= options
    assert {"bool mask", "float64 bias", "bfloat16 sinks", "int32 q_lens"} <= features
    assert {"int64 kv_lens", "int32 q_offset", "bool key_mask", "float32 scale"} <= features
    assert {"permute", "cut", "stretch"} == layouts
    assert {*Part, "like q, dlse True", "dense, dlse False", "stretched, dlse True"} <= parts


def test_an_honest_backend_passes() -> None:
    """Each trial says how many problems it drew."""
    backend = Tiled("honest", tile=16)
    outcomes = [part.run(backend) for part in chunks(100, ("float32",))]
    assert {Status.PASS} == {o.status for o in outcomes}
    assert {("drawn", 0)} == {(o.clause, o.level) for o in outcomes}
    assert 100 == sum(int(o.message.split()[0]) for o in outcomes)


def test_problems_are_shared_out_exactly() -> None:
    """Every function and dtype has its share, in trials of a few problems."""
    for n in (1, 100, 1000, 1003):
        parts = list(chunks(n, DTYPES))
        assert n == sum(part.n for part in parts)
        assert len(parts) == len({part.id for part in parts})
        assert max(part.n for part in parts) <= drawn.CHUNK
    assert set(drawn.SHARES) == set(strategies.FUNCTIONS) == {part.function for part in parts}


FAILING = {
    "dropped_rescale": ("attention", "float32"),
    "gradient_without_delta": ("attention", "float16"),
    "sequences_meet": ("attention_varlen", "float64"),
    "key_mask_ignored": ("window_attention", "float32"),
    "softmax_of_nothing_is_uniform": ("softmax", "bfloat16"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_fault_is_found_and_shown_by_a_small_program(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program fails where it is copied to, and holds few numbers."""
    function, dtype = FAILING[name]
    part = Drawn(function, dtype, 0, 80, named=f"attnref_conformance.faulty:{name}")
    outcome = part.run(FAULTS[name].backend)
    assert (Status.FAIL, part.id, "drawn", 0) == (
        outcome.status,
        outcome.id,
        outcome.clause,
        outcome.level,
    )
    assert "is wrong" in outcome.cause or "not finite" in outcome.cause or "must" in outcome.cause
    assert f"import {name} as backend" in outcome.call
    assert len(outcome.call) < 3000
    with pytest.raises(AssertionError):
        run(outcome.call)


@pytest.mark.parametrize("function", strategies.FUNCTIONS)
def test_a_program_rebuilds_the_arrays_as_they_lie_in_memory(
    function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values, dtypes and strides are those that were judged."""
    backend = Tiled("honest_16")
    for trial in some(function, 12, "bfloat16"):
        judgement = replay.Judgement(trial, backend)
        outcome = Outcome(trial.id, "drawn", 0, function, "bfloat16", (), Status.FAIL, "shown")
        named = "attnref_conformance.faulty:honest_16"
        with np.errstate(all="ignore"):
            names = run(replay.program(trial, backend, named, outcome, drawn=True))
        expected = judgement.native()
        for name, x in expected.items():
            assert x.dtype == names[name].dtype
            np.testing.assert_array_equal(x.astype(float), names[name].astype(float))
            assert x.strides == names[name].strides or 0 in x.shape or 1 in x.shape


def test_what_is_declined_is_counted() -> None:
    """A trial whose problems are all declined is, and one of which some are says so."""
    backend = NoNumbers("no_numbers")
    attention, softmax = (Drawn(f, "float32", 0, 30).run(backend) for f in ("merge", "softmax"))
    assert (Status.UNSUPPORTED, ("numbers",)) == (attention.status, attention.codes)
    assert Status.PASS == softmax.status
    assert "30 drawn, " in softmax.message
    assert softmax.message.endswith(" declined")


def test_what_is_poor_is_remarked_upon() -> None:
    """A result within its limit and worse than honest ones is a matter of quality."""

    class Rough(Tiled):
        def attended(self, p: Any) -> Result:
            out, lse = super().attended(p)
            return Result((out * (1 + 40 * 2.0**-24)).astype(out.dtype), lse)

    outcome = Drawn("attention", "float32", 0, 40).run(Rough("rough"))
    assert outcome.status in (Status.QUALITY, Status.FAIL)


def test_a_wrong_answer_that_does_not_come_again_is_found() -> None:
    """Whoever fails once has failed."""
    outcome = Drawn("attention", "float32", 0, 40).run(Forgetful("forgetful"))
    assert Status.FAIL == outcome.status
    assert "out[" in outcome.message


def test_a_failure_is_shown_even_when_there_is_no_time_to_make_it_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shrinking ends, and the smallest problem so far is reported."""
    monkeypatch.setattr(drawn, "SHRINKING", 0.0)
    outcome = Drawn("attention", "float32", 0, 40).run(FAULTS["dropped_rescale"].backend)
    assert Status.FAIL == outcome.status
    assert outcome.call


def test_a_selection_ends_with_what_is_drawn() -> None:
    """Cases come first; a worker finds the same trials by their ids."""
    selection = Selection(clauses=("C5",), dtypes=("float32",), draw=50, seed=3, named="numpy")
    trials = selection.trials()
    found = [t for t in trials if isinstance(t, Drawn)]
    assert found == trials[-len(found) :]
    assert (50, {3}, {"numpy"}) == (
        sum(t.n for t in found),
        {t.seed for t in found},
        {t.named for t in found},
    )
    assert [t.id for t in trials] == [t.id for t in pickle.loads(pickle.dumps(selection)).trials()]


def test_the_command_draws(capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn problems have a row of their own, and claim nothing."""
    words = ["conform", "reference", "--clause", "C3", "--dtype", "float64"]
    cli.main([*words, "--draw", "30"])
    assert "Any valid problem" in capsys.readouterr().out


def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Hypothesis nothing can be drawn, and nothing is run instead."""
    monkeypatch.setattr(suite, "find_spec", lambda _: None)
    assert command.USAGE == cli.main(["conform", "reference", "--draw", "1"])
    said = capsys.readouterr().out
    assert "drawn problems need Hypothesis: pip install attnref[conformance]\n" == said


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let infinities through: they are drawn on purpose."""
    with np.errstate(all="ignore"):
        yield
