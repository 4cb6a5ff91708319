"""The support table comes from reports, and says when one is of other code."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attnref_conformance import SUITE_VERSION, support
from attnref_conformance.case import DTYPES
from attnref_conformance.report import LEVELS, Report, jsonfile
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection

from attnref import registry

CPU = {"system": "Linux", "processor": "x86_64"}
PAGE = f"before\n{support.BEGIN}\nold\n{support.END}\nafter\n"


MADE = Report(
    registry.load("reference"),
    [
        Outcome(t.id, t.clause, 1, "attention", t.dtype, (), Status.PASS)
        for t in Selection().trials()
    ],
    partial=False,
).as_json()
LEVELS_CLAIMED = {str(n): dict.fromkeys(DTYPES, "claimed") for n in LEVELS}


def report(**changes: Any) -> dict[str, Any]:
    """Make a report of the reference that claims every level."""
    return MADE | {"machine": CPU, "levels": LEVELS_CLAIMED} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with one report in it."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "reference.json").write_text(json.dumps(MADE))
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path


def test_a_row_says_what_is_claimed_and_where() -> None:
    """A level in every dtype is said in two words, the device with its suite."""
    row = support.table([report()]).splitlines()[-1]

    claims = "all dtypes | " * len(LEVELS)
    assert f"| `reference` | {claims}CPU (x86_64), suite {SUITE_VERSION} |" == row


def test_a_level_in_some_dtypes_names_them() -> None:
    """What is claimed in part is listed, and what is not at all says why."""
    declined = {"float16": "declined", "bfloat16": "declined"}
    levels = LEVELS_CLAIMED | {
        "1": LEVELS_CLAIMED["1"] | declined,
        "4": dict.fromkeys(DTYPES, "declined"),
    }
    row = support.table([report(levels=levels)]).splitlines()[-1]

    assert ["float32, float64", "declined"] == [row.split(" | ")[1], row.split(" | ")[4]]


@pytest.mark.parametrize("change", [{"package_hash": "0" * 64}, {"package": "gone_package"}])
def test_other_sources_are_stale(change: dict[str, str]) -> None:
    """Evidence of other code, or of code that is not here, does not count."""
    assert "**STALE**" in support.table([report(**change)])


def test_a_backend_that_cannot_be_loaded_here_may_be_fresh() -> None:
    """Its sources are hashed without being imported, and it need not be registered."""
    assert "STALE" not in support.table([report(backend="of_another_machine")])


def test_cases_newer_than_the_report_are_not_run_and_not_stale() -> None:
    """They are counted; a level newer than the report is not run either."""
    made = report(outcomes=MADE["outcomes"][2:], levels={"1": LEVELS_CLAIMED["1"]})
    row = support.table([made]).splitlines()[-1]
    assert row.endswith(f"suite {SUITE_VERSION}, 2 cases NOT RUN |")
    assert ["all dtypes", "NOT RUN"] == row.split(" | ")[1:3]


def test_a_backend_may_have_a_report_per_device(folder: Path) -> None:
    """One of an interpreter on a CPU, one of a GPU: each has its row, in a fixed order."""
    gpu = report(machine=CPU | {"gpu": "NVIDIA H100"})
    (folder / "reports" / "a-gpu.json").write_text(json.dumps(gpu))
    rows = support.table(support.read(folder / "reports")).splitlines()[-2:]
    assert ["CPU", "NVI"] == [row.split(" | ")[-1][:3] for row in rows]


def test_the_table_is_written_into_the_page_and_then_found_current(folder: Path) -> None:
    """`--check` fails before the page is written, and passes after."""
    words = [str(folder / "reports"), str(folder / "page.md")]

    assert [1, 0, 0] == [support.main([*words, "--check"]), support.main(words),
                         support.main([*words, "--check"])]  # fmt: skip
    page = (folder / "page.md").read_text()
    assert (True, True, False) == ("before" in page, "after" in page, "old" in page)


def test_a_new_case_does_not_make_the_page_outdated(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report is told to know nothing of it, and stays current."""
    words = [str(folder / "reports"), str(folder / "page.md")]
    support.main(words)
    newer = [SimpleNamespace(id="C5-newer[float32]")]
    trials = Selection().trials()
    monkeypatch.setattr(Selection, "trials", lambda _: [*trials, *newer])
    assert 0 == support.main([*words, "--check"])
    assert "1 case of suite" in capsys.readouterr().out


def test_a_stale_report_fails_the_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though its table is written as the page has it."""
    stale = jsonfile.sealed(MADE | {"package_hash": "0" * 64})
    (folder / "reports" / "reference.json").write_text(json.dumps(stale))
    words = [str(folder / "reports"), str(folder / "page.md")]
    support.main(words)
    assert 1 == support.main([*words, "--check"])
    assert "STALE: the sources of attnref have changed since" in capsys.readouterr().out


def test_a_page_with_another_table_fails_the_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says what writes it."""
    words = [str(folder / "reports"), str(folder / "page.md")]
    assert 1 == support.main([*words, "--check"])
    assert "is not that of the reports: nox -s reports" in capsys.readouterr().out


def test_a_gpu_is_named() -> None:
    """The device of a report is the graphics processor if one was used."""
    assert "NVIDIA H100" in support.table([report(machine=CPU | {"gpu": "NVIDIA H100"})])
