"""The clauses that a report quotes are those of the normative page."""

import re

import pytest
from attnref_conformance.clauses import clause, clauses
from attnref_conformance.suite import known_clauses


def test_every_clause_that_is_judged_can_be_quoted() -> None:
    """With a title and a text."""
    assert set(known_clauses()) <= set(clauses())
    assert all(c.title and c.text for c in clauses().values())


def test_a_clause_is_its_title_and_its_sentences() -> None:
    """The page's marks and links are gone, code stays marked."""
    found = clause("C5")
    assert "A row that sees nothing" == found.title
    assert found.text.startswith("`out = 0`, `lse = -inf` (with a sink: D4), no gradient")
    assert found.text.endswith("so that a NaN is not mistaken for it.")


@pytest.mark.parametrize("name", clauses())
def test_no_text_runs_into_the_next(name: str) -> None:
    """Neither a heading nor a link to a record is left in it."""
    assert not re.search(r"^#|\]\(", clause(name).text, flags=re.MULTILINE)


def test_a_clause_that_there_is_not_is_empty() -> None:
    """A report of a newer suite can still be read."""
    assert ("Z9", "", "") == (clause("Z9").id, clause("Z9").title, clause("Z9").text)
