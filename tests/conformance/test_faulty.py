"""The judge judged: every fault fails on the clause that it breaks, honesty passes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from attnref_conformance import faulty
from attnref_conformance.faulty import FAULTS, HONEST
from attnref_conformance.faulty.matrix import shared_oracle
from attnref_conformance.profiles import PROFILES
from attnref_conformance.report import examples
from attnref_conformance.suite import Selection, known_clauses, resolve, run

from attnref import cli

NARROW = (("--quick", "--dtype", "float32"), ("--dtype", "float32"), ("--dtype", "float16"), ())
"""How much of the clause is run: more only where less lets the fault pass."""


@pytest.fixture
def failures_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a failure small takes longer than finding it, and is judged elsewhere."""
    monkeypatch.setattr(examples, "_elsewhere", lambda *_: [])


@pytest.mark.usefixtures("failures_stay_as_they_are")
@pytest.mark.parametrize("name", FAULTS)
def test_the_command_fails_a_fault_on_its_clause(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and the page names the clause and the case; the judge did not err."""
    clause = FAULTS[name].clause
    words = ["conform", f"attnref_conformance.faulty:{name}", "--clause", clause, "-n", "0"]
    statuses = []
    for narrower in NARROW:
        capsys.readouterr()
        statuses.append(cli.main([*words, *narrower]))
        if statuses[-1]:
            break
    assert 1 == statuses[-1]
    said = capsys.readouterr().out
    assert f"{name} does not conform in this part of the suite" in said
    assert re.search(rf"^{clause} (FAIL|CRASH): \d+ cases?, ", said, re.MULTILINE)
    assert re.search(rf"^  {clause}-[\w-]+\[\w+\]$", said, re.MULTILINE)
    assert "ERROR" not in said


@pytest.mark.parametrize("name", ["dropped_rescale", "exits"])
def test_a_command_of_its_own_fails_a_fault(name: str) -> None:
    """As a stranger runs it: another process, which survives what ends processes."""
    words = ["conform", f"attnref_conformance.faulty:{name}", "--clause", FAULTS[name].clause]
    command = [str(Path(sys.executable).with_name("attnref")), *words, "--quick"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (1, "") == (ran.returncode, ran.stderr)
    assert f"{name} does not conform in this part of the suite" in ran.stdout


@pytest.mark.usefixtures("shapes_checked")
@pytest.mark.parametrize("family", "ABCDEFGH")
def test_no_honest_variant_is_accused(family: str) -> None:
    """Other tiles, orders, accumulators and roundings are right."""
    accused = {}
    with shared_oracle() as forget:
        for trial in Selection(clauses=(family,), quick=True).trials():
            forget()
            outcomes = {name: trial.run(backend) for name, backend in HONEST.items()}
            accused |= {(n, o.id): o.message for n, o in outcomes.items() if o.status.failure}
    assert {} == accused


def test_an_honest_variant_passes_the_whole_suite() -> None:
    """No case, in any dtype, accuses the innocent; `nox -s kill_matrix` runs all variants."""
    outcomes = run(HONEST["honest_half_weights_128"], Selection().trials())
    assert {} == {o.id: o.message for o in outcomes if o.status.failure}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_what_it_is(name: str) -> None:
    """Name, clause and meaning are fit for a table."""
    fault = FAULTS[name]
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    assert (name, name) == (fault.name, fault.backend.name)
    assert fault.clause in known_clauses()
    assert re.fullmatch(r"[A-Z][^|\n]{10,}\.", fault.meaning)


def test_there_are_many_faults_and_many_honest_variants() -> None:
    """At least a hundred and ten, and eight."""
    assert len(FAULTS) >= 110
    assert len(HONEST) >= 8


def test_every_meaning_is_told_once() -> None:
    """No fault is there twice, and what two clauses share is said in two ways."""
    meanings = [(fault.clause, fault.meaning) for fault in FAULTS.values()]
    assert len(meanings) == len({*meanings})


def test_every_clause_that_is_judged_has_a_fault() -> None:
    """What is judged is known to be judged."""
    assert {*known_clauses()} == {fault.clause for fault in FAULTS.values()}


def test_a_fault_does_not_inherit_a_memory() -> None:
    """Some faults remember calls, and each run begins with none."""
    assert FAULTS["stale_cache"].backend is not FAULTS["stale_cache"].backend


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


def test_the_command_passes_an_honest_variant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit status is 0, and the last line says so."""
    words = ["conform", "attnref_conformance.faulty:honest_16", "--clause", "C5"]
    assert 0 == cli.main(words)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"honest_16 conforms in this part of the suite: \d+ PASS", last)
