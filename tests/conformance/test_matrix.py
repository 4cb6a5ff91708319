"""The kill matrix: what it counts, what it writes, and that the committed page is current."""

import re
from pathlib import Path

import pytest
from attnref_conformance import oracle
from attnref_conformance.faulty import FAULTS, HONEST, matrix
from attnref_conformance.faulty.matrix import Row, by_case, judge, page, shared_oracle, survivors
from attnref_conformance.suite import Selection

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kill-matrix.md"

SINKS = Selection(clauses=("D4",), dtypes=("float32",))


def ids(selection: Selection) -> set[str]:
    """Return the ids of the trials of a selection."""
    return {trial.id for trial in selection.trials()}


def test_a_case_is_its_parts_and_dtypes() -> None:
    """Its trials lie together."""
    cases = by_case(SINKS)
    assert ids(SINKS) == {trial.id for trials in cases for trial in trials}
    assert all(len({matrix._name(trial) for trial in trials}) == 1 for trials in cases)


def test_a_case_counts_once_and_honesty_passes() -> None:
    """Whatever parts of it fail."""
    rows = judge(["sink_past_a_length", "honest_64"], by_case(SINKS), ids(SINKS))
    fault, honest = rows["sink_past_a_length"], rows["honest_64"]
    assert ({"D4"}, {}) == ({*fault.failed}, honest.failed)
    assert fault.failed["D4"] < fault.cases == honest.cases
    assert [] == survivors(rows)


def test_a_fault_meets_its_own_clause_whole_and_of_others_what_is_chosen() -> None:
    """A partial matrix is partial for the other clauses alone."""
    rows = judge(["sink_scaled", "cap_ignored", "honest_64"], by_case(SINKS), set())
    assert {matrix._name(trial) for trial in SINKS.trials()} == rows["sink_scaled"].cases
    assert (set(), set()) == (rows["cap_ignored"].cases, rows["honest_64"].cases)


def test_workers_share_the_cases() -> None:
    """And find what one process finds."""
    selection = Selection(clauses=("H3",), quick=True)
    rows = matrix.matrix(["lse_missing"], selection, workers=2)
    alone = judge(["lse_missing"], by_case(Selection()), ids(selection))
    assert alone == rows


def test_the_oracle_is_asked_once_per_trial_and_profile() -> None:
    """And again after it was told to forget."""
    trial = SINKS.trials()[0]
    forward, asked = oracle.forward, []

    def counted(*given: object) -> object:
        asked.append(given)
        return forward(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "forward", counted)
        with shared_oracle() as forget:
            for name in ("honest_16", "honest_64", "honest_half_weights", "honest_tf32"):
                assert "PASS" == trial.run(HONEST[name]).status
            counts = [len(asked)]
            forget()
            trial.run(HONEST["honest_16"])
            counts.append(len(asked))
    assert [2, 3] == counts
    assert oracle.forward is forward


def test_survivors_and_the_accused_are_named() -> None:
    """A fault that others notice has survived its clause all the same."""
    rows = {
        "sink_scaled": Row({"B1": {"B1-default-scale"}}),
        "cap_ignored": Row({"B2": {"B2-soft-cap"}}),
        "honest_16": Row(),
        "honest_64": Row({"A1": {"A1-contiguous"}}),
    }
    assert ["sink_scaled", "honest_64"] == survivors(rows)


def made(selection: Selection = SINKS) -> str:
    """Return the page on which two faults are as they should be and one is not."""
    rows = {name: Row() for name in HONEST}
    rows["sink_scaled"] = Row({"D4": {"D4-sinks"}, "E1": {"E1-x", "E1-y"}}, {"D4-sinks"})
    rows["cap_ignored"] = Row({"E1": {"E1-x"}})
    return page(rows, selection)


def test_the_page_says_who_was_killed_where() -> None:
    """One line each, and the sum above them."""
    text = made()
    assert "- **1 of 2 faults** are killed on the clause that they break." in text
    assert "| `sink_scaled` | Scales the sinks like scores. | D4 | yes | 3 | E1 |" in text
    assert "| `cap_ignored` | Ignores the soft cap. | B2 | **no** | 1 | E1 |" in text
    assert f"- **{len(HONEST)} of {len(HONEST)} honest variants** fail no case." in text


def test_the_page_says_how_much_was_run() -> None:
    """Everything, or what was left out."""
    assert "and every case of the others." in made(Selection())
    assert "of the others, and by honest variants, the quick cases in float32 were met." in made(
        Selection(quick=True, dtypes=("float32",))
    )


def test_the_program_fails_where_somebody_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes the page first, and names them."""
    rows = {**{name: Row() for name in HONEST}, "cap_ignored": Row({"E1": {"E1-x"}})}
    asked = []
    monkeypatch.setattr(matrix, "matrix", lambda *given: asked.append(given) or rows)
    words = [str(tmp_path / "page.md"), "-n", "3", "--quick", "--dtype", "float32"]
    assert 1 == matrix.main(words)
    assert [([*FAULTS, *HONEST], Selection(quick=True, dtypes=("float32",)), 3)] == asked
    assert "cap_ignored: {'E1': {'E1-x'}}" in capsys.readouterr().out
    rows["cap_ignored"] = Row({"B2": {"B2-soft-cap"}})
    assert 0 == matrix.main(words)
    assert (tmp_path / "page.md").read_text().startswith("# Kill matrix\n")


def test_the_committed_page_is_of_these_faults_and_nobody_survives() -> None:
    """Every fault with its clause, killed; every honest variant, accused of nothing."""
    text = PAGE.read_text(encoding="utf-8")
    row = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (\w\d) \| (yes|\*\*no\*\*) \|", re.MULTILINE)
    expected = {(f.name, f.meaning, f.clause, "yes") for f in FAULTS.values()}
    assert expected == {*row.findall(text)}
    row = re.compile(r"^\| `(honest_\w+)` \| [^|]+ \| [\w-]+ \| ([^|]+) \|$", re.MULTILINE)
    honest = row.findall(text)
    assert {(name, "none") for name in HONEST} == {*honest}
    assert "## Faults that a CPU does not show" in text
