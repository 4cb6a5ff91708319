"""The judge judged: every fault fails on the clause that it breaks, honesty passes."""

import re

import pytest
from attnref_conformance import faulty
from attnref_conformance.faulty import FAULTS, HONEST
from attnref_conformance.profiles import PROFILES
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection, known_clauses, resolve, run

from attnref import cli

COMMANDS = (
    "plain_order",
    "stale_cache",
    "scale_in_half",
    "cap_gradient_forgotten",
    "mask_inverted",
    "empty_rows_nan",
    "dropped_rescale",
    "merge_by_sigmoid",
    "gradient_without_delta",
    "shared_sums_in_half",
    "sequences_meet",
    "wrap_pairs_visible",
    "shift_of_the_previous_call",
    "accepts_everything",
)
"""The faults that are also put through the real command."""


def first_failure(name: str) -> Outcome:
    """Run the trials of a fault's clause until one fails."""
    fault = FAULTS[name]
    trials = Selection(clauses=(fault.clause,)).trials()
    return next(o for o in run(fault.backend, trials) if o.status.failure)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_on_the_clause_that_it_breaks(name: str) -> None:
    """No fault survives, and none is the judge's own failure."""
    outcome = first_failure(name)
    assert FAULTS[name].clause == outcome.clause
    assert outcome.status in (Status.FAIL, Status.CRASH)
    assert outcome.message


WHOLE = ("honest_16", "honest_half_weights_128")
"""The honest variants that are put through everything."""


@pytest.mark.parametrize("name", [name for name in HONEST if name not in WHOLE])
def test_an_honest_variant_passes(name: str) -> None:
    """Other tiles, orders and roundings are right: nothing is even remarked upon."""
    found = {o.id: o.message for o in run(HONEST[name], Selection(quick=True).trials())
             if o.status is not Status.PASS}  # fmt: skip
    assert {} == found


@pytest.mark.parametrize("name", WHOLE)
def test_an_honest_variant_passes_the_whole_suite(name: str) -> None:
    """No case of the suite, in any dtype, accuses the innocent."""
    accused = {o.id: o.message for o in run(HONEST[name], Selection().trials())
               if o.status.failure}  # fmt: skip
    assert {} == accused


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_what_it_is(name: str) -> None:
    """Name, clause and meaning are fit for a table."""
    fault = FAULTS[name]
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    assert (name, name) == (fault.name, fault.backend.name)
    assert fault.clause in known_clauses()
    assert re.fullmatch(r"[A-Z].{10,}\.", fault.meaning)


def test_every_meaning_is_told_once() -> None:
    """No fault is there twice."""
    assert len(FAULTS) == len({fault.meaning for fault in FAULTS.values()})


def test_every_clause_that_a_backend_alone_can_break_has_a_fault() -> None:
    """What is judged is known to be judged; A4 is a promise of the core."""
    assert {*known_clauses()} - {"A4"} == {fault.clause for fault in FAULTS.values()}


def test_every_family_has_a_fault() -> None:
    """From A to H."""
    assert [*"ABCDEFGH"] == sorted({fault.clause[0] for fault in FAULTS.values()})


def test_faults_and_honest_variants_are_found_by_name() -> None:
    """Each can be named on the command line."""
    found = resolve("attnref_conformance.faulty:half_lse")
    assert ("half_lse", FAULTS["half_lse"].kind) == (found.name, type(found))
    assert HONEST["honest_64"] is resolve("attnref_conformance.faulty:honest_64")
    with pytest.raises(AttributeError, match="perfect"):
        _ = faulty.perfect


def test_honest_variants_cover_every_profile() -> None:
    """Each profile's limits are met by somebody."""
    assert {*PROFILES} == {getattr(b, "profile", "") for b in HONEST.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_fails_a_fault(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 1, and the page names the clause and the case."""
    clause = FAULTS[name].clause
    words = ["conform", f"attnref_conformance.faulty:{name}", "--clause", clause]
    assert 1 == cli.main(words)
    said = capsys.readouterr().out
    assert f"{name} does not conform in this part of the suite" in said
    assert re.search(rf"^{clause} (FAIL|CRASH): \d+ cases?, ", said, re.MULTILINE)
    assert re.search(rf"^  {clause}-[\w-]+\[\w+\]$", said, re.MULTILINE)


def test_the_command_passes_an_honest_variant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit status is 0, and the last line says so."""
    words = ["conform", "attnref_conformance.faulty:honest_16", "--clause", "C5"]
    assert 0 == cli.main(words)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"honest_16 conforms in this part of the suite: \d+ PASS", last)
