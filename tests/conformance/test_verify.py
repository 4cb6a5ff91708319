"""`attnref verify-report`: what was written verifies, and what was edited does not."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attnref_conformance import SUITE_VERSION
from attnref_conformance.faulty import FAULTS
from attnref_conformance.report import Report, jsonfile, verify
from attnref_conformance.status import Outcome
from attnref_conformance.suite import Selection, run
from jsonschema import Draft202012Validator

from attnref import cli

Content = dict[str, Any]


@cache
def written() -> str:
    """Return the report of a faulty backend on one clause."""
    backend = FAULTS["empty_rows_nan"].backend
    outcomes = list(run(backend, Selection(clauses=("C5",), dtypes=("float32",)).trials()))
    return jsonfile.lines(Report(backend, outcomes, partial=True).as_json())


def edited(change: Callable[[Content], Any], *, resealed: bool = True) -> verify.Verdict:
    """Verify a report after an edit; resealed, its digest is that of what it says now."""
    content = json.loads(written())
    change(content)
    return verify.verify(json.dumps(jsonfile.sealed(content) if resealed else content))


def passing(content: Content) -> Content:
    """Return the first outcome that passed."""
    return next(o for o in content["outcomes"] if o["status"] == "PASS")


def failing(content: Content) -> Content:
    """Return the first outcome that failed."""
    return next(o for o in content["outcomes"] if o["status"] == "FAIL")


def test_the_schema_is_a_schema() -> None:
    """And describes every field of an outcome, and no other."""
    schema = jsonfile.schema()
    Draft202012Validator.check_schema(schema)
    assert set(Outcome.__dataclass_fields__) == set(schema["$defs"]["outcome"]["properties"])


def test_what_was_written_verifies() -> None:
    """And says what it is a report of."""
    verdict = verify.verify(written())
    assert [] == list(verdict.wrong)
    assert "" == verdict.stale
    assert verdict.about.startswith("empty_rows_nan on CPU (")
    assert verdict.about.endswith(f"a part of suite {SUITE_VERSION}: does not conform")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: failing(c).update(status="PASS"),
        lambda c: passing(c).update(utilisation=0.001),
        lambda c: c["machine"].update(gpu="NVIDIA H100"),
        lambda c: c.update(package_hash="0" * 64),
        lambda c: c["outcomes"].pop(),
        lambda c: c.update(made="2020-01-01 00:00 UTC"),
    ],
    ids=["status", "number", "machine", "sources", "dropped", "date"],
)
def test_an_edit_by_hand_does_not_verify(change: Callable[[Content], Any]) -> None:
    """Whatever was changed, the digest is of something else."""
    said = "its digest is not that of its content: it was edited after it was written"
    assert said in edited(change, resealed=False).wrong


def test_another_order_of_keys_verifies() -> None:
    """Tools may rewrite a file without changing what it says."""
    text = json.dumps(json.loads(written()), sort_keys=True, indent=4)
    assert [] == list(verify.verify(text).wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(passed=True), "passed does not follow from the outcomes"),
        (lambda c: c["counts"].update(PASS=99), "counts does not follow"),
        (lambda c: c["levels"]["1"].update(float32="claimed"), "levels does not follow"),
        (lambda c: failing(c).update(status="PASS"), "counts does not follow"),
        (lambda c: c.update(partial=False), "levels does not follow"),
        (lambda c: c["statistics"][0].update(nearest=0.5), "it says [0][nearest] 0.5, and "),
        (lambda c: c.update(statistics=[]), "statistics does not follow"),
        (lambda c: c["outcomes"].append(passing(c)), "has more than one outcome"),
    ],
    ids=["passed", "counts", "level", "status", "whole", "statistic", "no-statistics", "twice"],
)  # fmt: skip
def test_what_does_not_follow_from_the_outcomes_does_not_verify(
    change: Callable[[Content], Any], said: str
) -> None:
    """A digest can be made again; the rest must still agree."""
    assert said in "\n".join(edited(change).wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("machine"), "$: 'machine' is a required property"),
        (lambda c: c.update(colour="green"), "Additional properties are not allowed"),
        (lambda c: passing(c).update(status="FINE"), "'FINE' is not one of"),
        (lambda c: passing(c).update(utilisation="small"), "'small' is not of type 'number'"),
        (lambda c: passing(c).update(bias=2), "2 is greater than the maximum of 1"),
        (lambda c: c.update(schema=1), "its format is 1 and must be 2; judge again"),
        (lambda c: c.update(package_hash="abc"), "$.package_hash: 'abc' does not match"),
    ],
    ids=["missing", "unknown", "status", "type", "range", "format", "hash"],
)
def test_what_departs_from_the_schema_does_not_verify(
    change: Callable[[Content], Any], said: str
) -> None:
    """The place and the matter are named."""
    assert said in "\n".join(edited(change).wrong)


def test_a_level_newer_than_the_report_is_not_asked_of_it() -> None:
    """A report need not say what nobody knew."""
    assert [] == list(edited(lambda c: c["levels"].pop("5")).wrong)


def test_many_departures_are_counted() -> None:
    """Ten are shown."""

    def change(content: Content) -> None:
        for o in content["outcomes"][:12]:
            o["level"] = "high"

    wrong = edited(change).wrong
    assert 11 == len(wrong)
    assert "and 2 more departures from the schema" == wrong[-1]


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{", "{}"])
def test_what_is_no_report_does_not_verify(text: str) -> None:
    """Nor does it raise."""
    (wrong,) = verify.verify(text).wrong
    assert "it is not JSON" in wrong or "its format is None and must be 2" in wrong


def test_changed_sources_are_stale() -> None:
    """The report itself may well verify."""
    verdict = edited(lambda c: c.update(package_hash="0" * 64))
    assert [] == list(verdict.wrong)
    assert "the sources of attnref_conformance have changed since" == verdict.stale


def test_sources_that_are_not_here_cannot_be_compared() -> None:
    """That is no fault of the report."""
    verdict = edited(lambda c: c.update(package="of_somebody_else"))
    assert "" == verdict.stale
    assert verdict.unknown.startswith("of_somebody_else is not installed here")


def test_cases_that_were_not_run_are_named() -> None:
    """They are those that the suite has and the report has not."""
    known = {o["id"] for o in json.loads(written())["outcomes"]}
    every = {trial.id for trial in Selection().trials()}
    assert every - known == set(verify.verify(written()).not_run)


def test_a_case_that_was_left_out_was_not_run() -> None:
    """Though the report names it."""

    def change(content: Content) -> None:
        passing(content).update(status="NOT RUN")

    left_out = passing(json.loads(written()))["id"]
    assert left_out not in verify.verify(written()).not_run
    assert left_out in edited(change).not_run


def test_the_command_verifies_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not verify fails it, and each is told about."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(written(), encoding="utf-8")
    bad.write_text(written().replace('"FAIL"', '"PASS"'), encoding="utf-8")
    assert 0 == cli.main(["verify-report", str(good)])
    assert f"{good}: verifies\n" in capsys.readouterr().out
    assert 1 == cli.main(["verify-report", str(good), str(bad)])
    said = capsys.readouterr().out
    assert f"{bad}: does not verify\n" in said
    assert "its digest is not that of its content" in said
    assert f"cases of suite {SUITE_VERSION} NOT RUN:\n" in said


def test_a_stale_report_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says of which package the sources have changed."""
    stale = tmp_path / "stale.json"
    stale.write_text(
        json.dumps(jsonfile.sealed(json.loads(written()) | {"package_hash": "0" * 64}))
    )
    assert 1 == cli.main(["verify-report", str(stale)])
    said = capsys.readouterr().out
    assert f"{stale}: STALE\n" in said
    assert "STALE: the sources of attnref_conformance have changed since" in said


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "binary"])
def test_a_file_that_cannot_be_read_returns_two(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a mistake of the command, and not of a report."""
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    assert 2 == cli.main(["verify-report", str(path)])
    assert "cannot be read" in capsys.readouterr().err
