"""The suite: what a selection holds, and how a backend is found."""

import sys
from pathlib import Path

import pytest
from attnref_conformance import faulty, suite
from attnref_conformance.case import DTYPES
from attnref_conformance.promises import PROMISES
from attnref_conformance.suite import Selection

from attnref import registry
from attnref.errors import AttnrefError, UnknownBackend


def clauses(selection: Selection) -> set[str]:
    """Return the clauses that a selection judges."""
    return {trial.clause for trial in selection.trials()}


def test_everything_is_selected_by_default() -> None:
    """No case and no promise is left out, and the order is that of the clauses."""
    trials = Selection().trials()
    found = [trial.clause for trial in trials]
    assert sorted(found) == found
    assert set(PROMISES) <= set(trials)
    assert not Selection().partial


def test_a_clause_selects_its_own_trials() -> None:
    """No other clause comes along."""
    assert {"C5"} == clauses(Selection(clauses=("C5",)))


def test_a_family_selects_its_clauses() -> None:
    """One letter stands for all of them."""
    assert {"D1", "D2", "D3", "D4", "D5"} == clauses(Selection(clauses=("D",)))


def test_clauses_add_up() -> None:
    """Naming two selects both."""
    assert {"C5", "E1", "E2", "E3"} == clauses(Selection(clauses=("C5", "E")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_selects_its_trials(dtype: str) -> None:
    """Promises are kept in every dtype."""
    trials = Selection(dtypes=(dtype,)).trials()
    assert {dtype} == {trial.dtype for trial in trials}
    assert {p for p in PROMISES if p.dtype == dtype} <= set(trials)


def test_the_quick_selection_is_small() -> None:
    """Two dtypes, no long case, every promise in them that any machine can keep."""
    quick, whole = Selection(quick=True).trials(), Selection().trials()
    assert {"float32", "float16"} == {trial.dtype for trial in quick}
    assert len(quick) < len(whole) / 2
    promises = {p for p in PROMISES if p.quick and p.dtype in ("float32", "float16")}
    assert promises <= set(quick) < set(whole)
    assert not any("thousands" in trial.id for trial in quick)


def test_the_quick_selection_judges_every_clause() -> None:
    """A first impression is one of everything."""
    assert clauses(Selection()) == clauses(Selection(quick=True))


@pytest.mark.parametrize(
    "selection",
    [Selection(clauses=("A1",)), Selection(dtypes=("float32",)), Selection(quick=True)],
    ids=["clause", "dtype", "quick"],
)
def test_leaving_anything_out_is_partial(selection: Selection) -> None:
    """A partial run claims no level."""
    assert selection.partial


def test_naming_every_dtype_is_whole() -> None:
    """In any order."""
    assert not Selection(dtypes=DTYPES[::-1]).partial


def test_unknown_clauses_are_told() -> None:
    """With those that there are."""
    assert "" == suite.unknown(["C5", "A"])
    said = suite.unknown(["C5", "C55"])
    assert said.startswith("no case judges clause 'C55'; there are A1, A2")


def test_a_backend_is_found_by_its_registered_name() -> None:
    """As a call would name it."""
    assert registry.load("reference") is suite.resolve("reference")


def test_a_backend_is_found_as_module_and_object() -> None:
    """So that nothing has to be packaged to be judged."""
    assert faulty.HONEST["honest_64"] is suite.resolve("attnref_conformance.faulty:honest_64")


def test_an_unknown_name_is_told_with_its_neighbour() -> None:
    """A typing error is not a mystery."""
    with pytest.raises(UnknownBackend, match="Did you mean 'reference'"):
        suite.resolve("refrence")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:backend", "ModuleNotFoundError: No module named"),
        ("attnref_conformance.honest:backend", "AttributeError: "),
        (":backend", "ValueError: Empty module name"),
        ("broken:backend", "SyntaxError: "),
        ("attnref_conformance.case:DTYPES", "is not a backend; see attnref.backend"),
        ("attnref.reference:Reference", "is a class; name an instance of it"),
    ],
    ids=["no-module", "no-object", "no-name", "syntax-error", "no-backend", "a-class"],
)
def test_what_is_no_backend_says_why(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever somebody's import raises becomes one sentence."""
    (tmp_path / "broken.py").write_text("backend = (\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(AttnrefError) as error:
        suite.resolve(name)
    assert str(error.value).startswith(repr(name))
    assert said in str(error.value)
