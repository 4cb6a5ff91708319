"""The cases: well-formed, the same in every run, and none of them vacuous."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from attnref_conformance.case import DTYPES, POSITIONAL, Call, Case, Part
from attnref_conformance.cases import ALL, together
from attnref_conformance.promises import PROMISES
from attnref_conformance.suite import Selection, known_clauses

from attnref import normalize
from attnref.reference import exact_forward

CLAUSES = (
    *("A1", "A2", "A3", "A4", "A5", "A6"),
    *("B1", "B2", "B3", "B4"),
    *("C1", "C2", "C3", "C4", "C5", "C6"),
    *("D1", "D2", "D3", "D4", "D5"),
    *("E1", "E2", "E3", "F1"),
    *("G1", "G2", "G3", "G4", "G5", "G6", "G7", "H1", "H2", "H3"),
)
"""Every clause that a backend can break; A7 and H4 are the core's."""

CONSTRAINTS = {
    "mask": ("mask",),
    "window": ("window", "causal"),
    "kv_lens": ("kv_lens",),
    "q_lens": ("q_lens",),
    "bias": ("bias",),
    "softcap": ("softcap",),
    "sinks": ("sinks",),
    "key_mask": ("key_mask",),
    "shift": ("shift",),
    "wrap_bias": ("wrap_bias",),
    "scale per head": ("scale",),
    "q_offset": ("q_offset",),
}
"""Each constraint by what a call leaves out to be without it."""

BY_NAME = {case.name: case for case in ALL}


def answer(call: Call) -> tuple[np.ndarray, ...]:
    """Return the specification's answer, unrounded."""
    positional, options = call.split(call.values)
    with np.errstate(all="ignore"):
        exact = exact_forward(getattr(normalize, call.function)(*positional, **options))
    return tuple(x for x in exact if x is not None)


def without(call: Call, names: Iterable[str]) -> Call:
    """Leave arguments out."""
    return replace(
        call,
        inputs={n: x for n, x in call.inputs.items() if n not in names},
        options={n: x for n, x in call.options.items() if n not in names},
    )


def same(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> bool:
    """Tell whether two answers agree to a millionth."""
    return all(np.allclose(x, y, 1e-6, 1e-6, equal_nan=True) for x, y in zip(a, b, strict=True))


def uses(call: Call, constraint: str) -> bool:
    """Tell whether a call has a constraint that it can do without."""
    if constraint == "window" and not call.function.startswith("attention"):
        return False  # there it is no constraint, but what a window is
    if constraint == "scale per head":
        return "scale" in call.inputs
    return bool({*CONSTRAINTS[constraint]} & {*call.inputs, *call.options})


def matters(call: Call, constraint: str) -> bool:
    """Tell whether the answer changes when one constraint alone is dropped."""
    names = CONSTRAINTS[constraint]
    if constraint == "q_offset" and call.function == "attention_varlen":
        other = replace(without(call, names), options={**call.options, "q_offset": 0})
    elif constraint == "q_offset":
        other = without(call, names)
        other = replace(other, options={**other.options, "q_offset": 0})
    else:
        other = without(call, names)
    return not same(answer(call), answer(other))


def test_ids_are_unique() -> None:
    """A report can be read by id."""
    ids = [trial.id for trial in Selection().trials()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("thing", [*ALL, *PROMISES], ids=lambda x: getattr(x, "id", x.name))
def test_names_read_like_clauses(thing: Any) -> None:
    """A clause, then words."""
    assert re.fullmatch(r"[A-H]\d(-[a-z0-9]+)+", thing.name)


def test_every_clause_that_a_backend_can_break_has_a_trial() -> None:
    """No clause is only words."""
    assert [*CLAUSES] == known_clauses()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_parts_and_dtypes_are_valid(case: Case) -> None:
    """Every case is judged in something, and in nothing twice."""
    assert set(case.dtypes) <= set(DTYPES)
    assert set(case.parts) <= set(Part)
    assert (True, True) == (bool(case.dtypes), bool(case.parts))
    assert (len(case.dtypes), len(case.parts)) == (
        len({*case.dtypes}),
        len({*case.parts}),
    )


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_inputs_are_the_same_in_every_run(case: Case) -> None:
    """Two calls of a case hold the same bytes, in a dtype that was asked for."""
    digests = []
    for _ in range(2):
        call = case.call(case.dtypes[0])
        digest = hashlib.sha256(repr((call.function, sorted(call.options.items()))).encode())
        for name, x in sorted(call.inputs.items()):
            digest.update(f"{name} {x.dtype} {x.shape}".encode() + x.tobytes())
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1]
    main = call.inputs[POSITIONAL[call.function][0]]
    assert case.dtypes[0] == main.dtype.name


def test_no_two_cases_hold_the_same_numbers() -> None:
    """A case's generator is seeded by its name."""
    first = BY_NAME["C2-causal"].call("float32").inputs["q"]
    assert not np.array_equal(first, BY_NAME["C2-window-of-one"].call("float32").inputs["q"])


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_a_case_is_legal(case: Case) -> None:
    """The specification answers it."""
    assert answer(case.call(case.dtypes[-1]))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_dropping_one_constraint_alone_changes_an_answer(constraint: str) -> None:
    """Whoever ignores it is found."""
    calls = [case.call("float64") for case in ALL if "float64" in case.dtypes]
    assert any(uses(call, constraint) and matters(call, constraint) for call in calls)


INERT = {
    ("C1-mask-without-axes", "mask"),
    ("C2-window-wider-than-the-keys", "window"),
    ("C3-offset-matters-to-nobody", "q_offset"),
    ("C3-start-with-more-keys", "q_offset"),
    ("C3-start-with-fewer-keys", "q_offset"),
    ("C3-offset-out-of-32-bits", "window"),
    ("C5-queries-past-the-keys-see-nothing", "q_offset"),
    ("F1-causal-at-the-start", "q_offset"),
    ("F1-window", "q_offset"),
    ("G3-bias-of-minus-100", "wrap_bias"),
    ("G3-wrap-bias-without-shift", "wrap_bias"),
    ("G4-3-by-3-in-windows-of-4", "shift"),
    ("G4-3-by-3-in-windows-of-7", "shift"),
    ("G4-7-by-7-in-windows-of-7", "shift"),
    ("G4-window-covers-the-map", "shift"),
    ("G4-window-is-the-map", "shift"),
    ("G5-padded-and-shifted-with-a-wrap-bias", "wrap_bias"),
    ("G7-no-batch", "bias"),
    ("G7-no-batch", "shift"),
}
"""What changes nothing on purpose: these cases judge that it does not, and a wrap
bias of -100 is as good as hiding unless scores are large."""


def test_what_a_case_asks_for_changes_its_answer() -> None:
    """In C, F and G each constraint matters, but for those that must not.

    Cases of options together are left out: where many meet, one may hide another.
    """
    inert = set()
    for case in set(ALL) - set(together.CASES):
        if case.clause[0] not in "CFG" or case.clause == "C6":
            continue
        call = case.call("float64")
        inert |= {(case.name, name) for name in CONSTRAINTS
                  if uses(call, name) and not matters(call, name)}  # fmt: skip
    assert INERT == inert


def test_every_map_is_cut_into_windows() -> None:
    """A case of G differs from one window over the map, but for those that are one."""
    alike = set()
    for case in (case for case in ALL if case.clause[0] == "G"):
        call = case.call("float64")
        if (
            call.function == "relative_position_bias"
            or not call.inputs[POSITIONAL[call.function][0]].size
        ):
            continue
        main = call.values[POSITIONAL[call.function][0]]
        G = main.shape[1:-3] if "qkv" in call.function else main.shape[1:-2]
        whole = without(call, ("shift", "bias", "key_mask", "wrap_bias", "scale", "window"))
        whole = replace(whole, options={"window": G})
        if same(answer(call), answer(whole)):
            alike.add(case.name)
    assert {"G2-one-window", "G4-window-is-the-map"} == alike


@pytest.mark.parametrize(
    "name",
    [
        "C6-nan-in-a-query",
        "C6-infinity-in-a-visible-value",
        "C6-infinite-score",
        "C6-nan-in-bias",
        "C6-nan-in-a-visible-key",
    ],
)
def test_what_is_not_finite_spoils_some_rows_and_not_all(name: str) -> None:
    """A backend that spoils everything, or nothing, is found."""
    spoiled = ~np.isfinite(answer(BY_NAME[name].call("float64"))[0]).all(axis=-1)
    assert (True, False) == (bool(spoiled.any()), bool(spoiled.all()))


@pytest.mark.usefixtures("shapes_checked")
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_no_answer_is_trivial(case: Case) -> None:
    """Zeros of the right shape are not the answer, unless nothing is to be seen."""
    out = answer(case.call("float64" if "float64" in case.dtypes else case.dtypes[0]))[0]
    trivial = not out.size or not np.nan_to_num(out).any()
    assert trivial == (case.name in TRIVIAL)


TRIVIAL = {
    "A4-no-keys",
    "A4-no-keys-but-sinks",
    "A4-no-queries",
    "A4-no-batch",
    "A4-no-heads",
    "A4-values-of-size-zero",
    "C3-offset-far-before",
    "C5-no-row-sees-anything",
    "D3-nothing-and-nothing",
    "D5-axis-of-size-zero",
    "D5-no-slices",
    "F1-no-sequence",
    "G7-no-batch",
}
"""Cases whose answer is empty, or zero because nobody sees anything."""


@pytest.mark.parametrize("length", ["q_lens", "kv_lens"])
def test_who_knows_one_length_only_is_judged_past_it(length: str) -> None:
    """A backend that declines all other options still meets NaN past a length (C4)."""
    calls = [case.call("float32") for case in ALL if case.clause == "C4"]
    alone = [c for c in calls if not c.options and {length} == c.inputs.keys() - {"q", "k", "v"}]

    assert any(np.isnan(x).any() for call in alone for x in call.inputs.values())
