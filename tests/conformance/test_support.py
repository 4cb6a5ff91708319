"""The support table comes from reports, and says when one is of other code."""

import json
from pathlib import Path
from typing import Any

import pytest
from attnref_conformance import support
from attnref_conformance.case import DTYPES
from attnref_conformance.report import LEVELS, package_hash

from attnref import registry

PAGE = f"before\n{support.BEGIN}\nold\n{support.END}\nafter\n"


def report(**changes: Any) -> dict[str, Any]:
    """Make a report of the reference that claims every level."""
    levels = {str(n): dict.fromkeys(DTYPES, "claimed") for n in LEVELS}
    made = {
        "backend": "reference",
        "package_hash": package_hash(registry.load("reference")),
        "suite": "2026.11",
        "machine": {"processor": "x86_64"},
        "levels": levels,
    }
    return made | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with one report in it."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "reference.json").write_text(json.dumps(report()))
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path


def test_a_row_says_what_is_claimed_and_where() -> None:
    """A level in every dtype is said in two words, the device with its suite."""
    row = support.table([report()]).splitlines()[-1]

    assert "| `reference` | " + "all dtypes | " * 5 + "CPU (x86_64), suite 2026.11 |" == row


def test_a_level_in_some_dtypes_names_them() -> None:
    """What is claimed in part is listed, and what is not at all says why."""
    levels = report()["levels"]
    levels["1"] |= {"float16": "declined", "bfloat16": "declined"}
    levels["4"] = dict.fromkeys(DTYPES, "declined")
    row = support.table([report(levels=levels)]).splitlines()[-1]

    assert ["float32, float64", "declined"] == [row.split(" | ")[1], row.split(" | ")[4]]


@pytest.mark.parametrize("change", [{"package_hash": "0"}, {"backend": "gone"}])
def test_other_sources_are_stale(change: dict[str, str]) -> None:
    """Evidence of other code, or of code that is not here, does not count."""
    assert "**STALE**" in support.table([report(**change)])


def test_the_table_is_written_into_the_page_and_then_found_current(folder: Path) -> None:
    """`--check` fails before the page is written, and passes after."""
    words = [str(folder / "reports"), str(folder / "page.md")]

    assert [1, 0, 0] == [support.main([*words, "--check"]), support.main(words),
                         support.main([*words, "--check"])]  # fmt: skip
    page = (folder / "page.md").read_text()
    assert (True, True, False) == ("before" in page, "after" in page, "old" in page)


def test_a_gpu_is_named() -> None:
    """The device of a report is the graphics processor if one was used."""
    machine = {"processor": "x86_64", "gpu": "NVIDIA H100"}

    assert "NVIDIA H100" in support.table([report(machine=machine)])
