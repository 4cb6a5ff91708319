"""A failing case becomes a program that fails, and is made as small as it goes."""

from typing import Any

import numpy as np
import pytest
from attnref_conformance import replay
from attnref_conformance.case import Part, cut
from attnref_conformance.cases.build import attention
from attnref_conformance.faulty import FAULTS
from attnref_conformance.honest import Tiled
from attnref_conformance.smallest import smallest
from attnref_conformance.status import Status
from attnref_conformance.trial import Trial

WRONG_NUMBERS = {
    "heads_interleaved": "A2-groups-of-three[float32]",
    "cap_after_bias": "B2-soft-cap-with-bias[float32]",
    "future_visible": "C2-causal[float64]",
    "empty_rows_lse_plus": "C5-first-rows-see-nothing-lse[float32]",
    "empty_rows_nan": "C5-first-rows-see-nothing[bfloat16]",
    "reads_past_lengths": "C4-key-lengths[float32]",
    "merge_by_sigmoid": "D3-nothing-comes-first-lse[float32]",
    "softmax_of_nothing_is_uniform": "D5-special-slices[float16]",
    "gradient_without_delta": "B1-default-scale-gradients[float32]",
    "sequences_meet": "F1-three-sequences[float32]",
    "shift_the_other_way": "G2-map-of-8x8-by-4[float32]",
    "key_mask_ignored": "G6-key-mask[float32]",
}


def failing(name: str, case: str) -> tuple[Any, Any, Any]:
    """Judge a faulty backend by the first trial that it fails, of the clause of a case."""
    backend = FAULTS[name].backend
    trials = [replay.find(case)] if replay.find(case) else []
    clause = FAULTS[name].clause
    trials += [t for t in replay.trials() if t.clause == clause and isinstance(t, Trial)]
    for trial in trials:
        outcome = trial.run(backend)
        if outcome.status is Status.FAIL:
            return trial, backend, outcome
    raise AssertionError(f"{name} passes {clause}")


def run(program: str) -> None:
    """Run a program as somebody who copied it."""
    exec(compile(program, "copied.py", "exec"), {})


@pytest.mark.parametrize(("name", "case"), WRONG_NUMBERS.items(), ids=WRONG_NUMBERS)
def test_a_wrong_number_becomes_a_program_that_fails(
    name: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is wrong, and is small enough to be read."""
    trial, backend, outcome = failing(name, case)
    small = smallest(trial, backend, outcome, seconds=60.0)
    program = replay.program(
        small.trial, backend, f"attnref_conformance.faulty:{name}", small.outcome
    )
    with pytest.raises(AssertionError):
        run(program)
    assert f"{small.outcome.element.array}[" in capsys.readouterr().out
    assert "given(" not in program, program
    assert len(program) < 3000


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("plain_order", "A1-tokens-before-heads[float32]"),
        ("half_lse", "D2-lse-of-large-scores-lse[float16]"),
        ("mutated_input", "A5-contents-in-turn[float32]"),
        ("accepts_everything", "H2-refuses-a-feature-it-never-heard-of[float32]"),
    ],
)
def test_a_broken_promise_is_judged_again(name: str, case: str) -> None:
    """What no number shows ends with the judge's own verdict."""
    trial, backend = replay.find(case), FAULTS[name].backend
    outcome = trial.run(backend)
    program = replay.program(trial, backend, f"attnref_conformance.faulty:{name}", outcome)
    with pytest.raises(AssertionError, match="FAIL: "):
        run(program)


def test_a_crash_is_called_again() -> None:
    """What it raises is what is to be seen."""

    class Crashes(Tiled):
        """Divides by zero."""

        def attended(self, p: Any) -> Any:
            """Crash."""
            return 1 / 0

    trial = replay.find("B1-default-scale[float32]")
    outcome = trial.run(Crashes("crashes"))
    assert Status.CRASH is outcome.status
    program = replay.program(trial, Crashes("crashes"), "crashes", outcome)
    assert program.startswith("# B1-default-scale[float32]: CRASH: ZeroDivisionError")
    assert 'backend = load("crashes")' in program.replace("'", '"')
    assert program.endswith("result = attnref.attention(q, k, v, backend=backend)\n")


def test_large_arrays_are_drawn_again_and_not_written_out() -> None:
    """The program says what they are, and the numbers are those of the case."""
    name = "B1-default-scale-gradients[float32]"
    trial, backend = replay.find(name), FAULTS["gradient_without_delta"].backend
    outcome = trial.run(backend)
    program = replay.program(
        trial, backend, "attnref_conformance.faulty:gradient_without_delta", outcome
    )
    assert 'q = case["q"]' in program
    assert "# float32 (" in program
    assert (
        "attnref.attention_backward(dout, q, k, v, out, lse, dlse=dlse, backend=backend)" in program
    )
    with pytest.raises(AssertionError):
        run(program)


def test_the_arrays_of_a_case_come_under_their_views() -> None:
    """A kernel that cannot take strides must get them."""
    q = replay.given("A1-tokens-before-heads[float32]", Tiled())["q"]
    assert not q.flags.c_contiguous


@pytest.mark.parametrize("named", ["mine:backend", "mine:other"])
def test_a_backend_is_imported_as_it_was_named(named: str) -> None:
    """From where the command found it."""
    trial, backend = replay.find("B1-default-scale[float32]"), FAULTS["half_sums"].backend
    outcome = trial.run(FAULTS["constant_answer"].backend)
    program = replay.program(trial, backend, named, outcome)
    as_backend = "" if named.endswith("backend") else " as backend"
    assert f"from mine import {named.partition(':')[2]}{as_backend}\n" in program


def test_arrays_of_another_library_are_made_by_the_backend() -> None:
    """Its `from_numpy` is how the judge makes them too."""

    class Foreign(Tiled):
        """Says that it computes with something else."""

        library = "cupy"

    trial = Trial(attention("B1-tiny", {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 1, "D": 1, "Dv": 1}),
                  Part.OUT, "bfloat16")  # fmt: skip
    outcome = trial.run(FAULTS["constant_answer"].backend)
    program = replay.program(trial, Foreign("foreign"), "foreign", outcome)
    assert "q = backend.from_numpy(np.array([[[[" in program
    assert "ml_dtypes.bfloat16))" in program
    assert "import ml_dtypes\n" in program


def test_the_smallest_call_drops_what_does_not_matter() -> None:
    """Sizes, a mask, a cap and grouped heads go; what the fault needs stays."""
    case = attention(
        "B3-much",
        {"Sq": 9},
        given={"bias": lambda d: d.normal("Hq Sq Sk"), "mask": lambda d: d.mask("B 1 Sq Sk")},
        options={"softcap": 5.0, "causal": True},
    )
    backend = FAULTS["bias_transposed"].backend
    trial = Trial(case, Part.OUT, "float32")
    small = smallest(trial, backend, trial.run(backend), seconds=60.0)
    call = small.trial.case.call("float32")
    assert Status.FAIL is small.outcome.status
    assert {"q", "k", "v", "bias"} == set(call.inputs)
    assert not call.options
    assert (1, 1, 2) == call.inputs["q"].shape[:3]


def test_the_smallest_call_fails_in_the_same_way() -> None:
    """A wrong number does not become a NaN, nor a wrong out a wrong lse."""
    trial, backend, outcome = failing("empty_rows_nan", "C5-first-rows-see-nothing[float32]")
    small = smallest(trial, backend, outcome, seconds=60.0).outcome
    assert outcome.element is not None
    assert small.element is not None
    assert (outcome.element.array, "not a number") == (small.element.array, small.element.error)


def test_the_smallest_call_that_crashes_raises_the_same() -> None:
    """A ValueError does not become a TypeError, and a soft cap that raises stays."""

    class Raises(Tiled):
        """Has no soft cap, and does not say so."""

        def attended(self, p: Any) -> Any:
            """Raise for a soft cap, and otherwise for a single key."""
            if p.k.shape[2] == 1:
                raise TypeError("one key")
            if p.softcap:
                raise ValueError("no soft cap")
            return super().attended(p)

    trial = replay.find("B2-soft-cap-before-bias[float32]")
    small = smallest(trial, Raises(), trial.run(Raises()), seconds=60.0)
    call = small.trial.case.call("float32")
    assert "ValueError: no soft cap" == small.outcome.message
    assert ({"q", "k", "v"}, {"softcap"}, 2) == (
        set(call.inputs), set(call.options), call.inputs["k"].shape[2]
    )  # fmt: skip


def test_views_go_first() -> None:
    """A fault that strides do not matter to is shown without them."""
    case = attention(
        "B1-sign", {"Sq": 5}, views={"q": cut(..., slice(2, None))}, options={"scale": -0.7},
        k=lambda d: d.normal("B Hkv Sk D")[..., :-2],
    )  # fmt: skip
    trial, backend = Trial(case, Part.OUT, "float32"), FAULTS["scale_sign_lost"].backend
    outcome = trial.run(backend)
    assert Status.FAIL is outcome.status
    assert not smallest(trial, backend, outcome).trial.case.call("float32").views


def test_looking_for_the_smallest_ends_in_time() -> None:
    """Given no time, the call stays as it was but for its views."""
    trial, backend, outcome = failing("future_visible", "C2-causal[float32]")
    small = smallest(trial, backend, outcome, seconds=0.0)
    shapes = [c.case.call("float32").values["q"].shape for c in (trial, small.trial)]
    assert shapes[0] == shapes[1]
    assert np.prod(shapes[0]) > 100
