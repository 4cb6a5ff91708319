"""The report: levels, verdict, JSON, and the hash of what was judged."""

import hashlib
import importlib
import io
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from attnref_conformance import SUITE_VERSION
from attnref_conformance.case import DTYPES
from attnref_conformance.faulty import HONEST
from attnref_conformance.honest import Tiled
from attnref_conformance.report import (
    LEVELS,
    Report,
    machine,
    package_hash,
    package_of,
    profile_sentence,
    versions,
)
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection, run
from rich.console import Console


def outcome(status: Status, level: int = 1, dtype: str = "float32", **about: Any) -> Outcome:
    """Make an outcome of case C5-case."""
    named = {"id": f"C5-case[{dtype}]", "clause": "C5", "operation": "attention",
             "features": ("mask",), **about}  # fmt: skip
    return Outcome(level=level, dtype=dtype, status=status, **named)


def report(*statuses: Status, partial: bool = False, **about: Any) -> Report:
    """Make a report of outcomes of one level and dtype."""
    return Report(Tiled("mine"), [outcome(s, **about) for s in statuses], partial)


def printed(report: Report) -> str:
    """Return the page."""
    console = Console(file=io.StringIO(), width=200)
    report.print(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statuses", "partial", "level"),
    [
        ([Status.PASS, Status.QUALITY], False, "claimed"),
        ([Status.PASS, Status.PASS], True, "not whole"),
        ([], False, "not whole"),
        ([Status.PASS, Status.UNSUPPORTED], False, "in part"),
        ([Status.UNSUPPORTED, Status.UNSUPPORTED], False, "declined"),
        ([Status.PASS, Status.FAIL], False, "failed"),
        ([Status.PASS, Status.CRASH], True, "failed"),
        ([Status.UNSUPPORTED, Status.ERROR], False, "failed"),
    ],
    ids=[
        "whole",
        "partial",
        "empty",
        "in-part",
        "declined",
        "failed",
        "crashed",
        "error",
    ],
)
def test_a_level_is_claimed_only_whole(statuses: list[Status], partial: bool, level: str) -> None:
    """And only by a full run; what stands in the way is said otherwise."""
    assert level == report(*statuses, partial=partial).level(1, "float32")


def test_levels_do_not_lend_to_each_other() -> None:
    """Neither another level nor another dtype counts."""
    made = Report(
        Tiled("mine"),
        [
            outcome(Status.PASS),
            outcome(Status.FAIL, 2),
            outcome(Status.UNSUPPORTED, 1, "float64"),
        ],
        partial=False,
    )
    assert ["claimed", "failed", "declined", "not whole"] == [
        made.level(1, "float32"),
        made.level(2, "float32"),
        made.level(1, "float64"),
        made.level(3, "float32"),
    ]


@pytest.mark.parametrize("status", Status)
def test_one_failure_fails_the_run(status: Status) -> None:
    """Only four statuses are none."""
    harmless = (Status.PASS, Status.QUALITY, Status.UNSUPPORTED, Status.NOT_RUN)
    assert (status not in harmless) == status.failure
    assert (status in harmless) == report(Status.PASS, status).passed


@pytest.mark.parametrize(
    "statuses",
    [[], [Status.UNSUPPORTED], [Status.NOT_RUN]],
    ids=["nothing-selected", "all-declined", "nothing-run"],
)
def test_a_run_that_executed_nothing_is_vacuous(statuses: list[Status]) -> None:
    """Passing what was not run is how suites lie."""
    made = report(*statuses)
    assert [Status.VACUOUS] == [o.status for o in made.failures]
    assert not made.passed
    assert "no case was executed" in printed(made)
    assert "mine does not conform" in printed(made)


def test_failures_are_not_called_vacuous() -> None:
    """What failed is reason enough."""
    assert [Status.CRASH] == [o.status for o in report(Status.CRASH).failures]


def test_the_page_says_what_was_found() -> None:
    """Clauses, coverage, levels, reasons, remarks, the first failure, the verdict."""
    made = Report(
        Tiled("mine"),
        [
            outcome(Status.PASS),
            outcome(Status.QUALITY, message="5.0 times the error"),
            outcome(
                Status.UNSUPPORTED,
                4,
                message="has no maps",
                reasons=("has no maps",),
                operation="window_attention",
            ),
            outcome(Status.FAIL, 2, id="C5-first[float32]", message="lse[0] is 1"),
            outcome(Status.FAIL, 2, id="C5-second[float32]", message="lse[0] is 2"),
        ],
        partial=False,
    )
    page = printed(made)
    for said in (
        "Per clause",
        "Coverage",
        "window_attention",
        "Levels",
        "L4",
        "1 case: has no maps",
        "C5-case[float32]: 5.0 times the error",
        "C5 FAIL: 2 cases, the plainest is",
        "C5-first[float32]",
        "lse[0] is 1",
        "mine does not conform: 2 FAIL, 1 PASS, 1 QUALITY, 1 UNSUPPORTED",
    ):
        assert said in page
    assert "C5-second" not in page


def test_a_part_of_the_suite_is_called_a_part() -> None:
    """Neither coverage nor levels are shown for it."""
    page = printed(report(Status.PASS, partial=True))
    assert "mine conforms in this part of the suite: 1 PASS" in page
    assert "Levels" not in page


def test_remarks_are_a_page_and_not_a_list() -> None:
    """Twenty are shown, the rest are counted."""
    page = printed(report(*[Status.QUALITY] * 23, message="5.0 times the error"))
    assert 20 == page.count("5.0 times the error")
    assert "and 3 more" in page


def test_the_json_report_holds_the_run(tmp_path: Path) -> None:
    """What is written is what was found, and can be read back."""
    backend = HONEST["honest_half_weights"]
    outcomes = list(run(backend, Selection(clauses=("C5",), dtypes=("float16",)).trials()))
    made = Report(backend, outcomes, partial=True)
    folder = tmp_path / "deep" / "folder"
    assert folder / "honest_half_weights.html" == made.write(folder)
    assert {f"honest_half_weights.{x}" for x in ("html", "json", "md", "xml")} == {
        path.name for path in folder.iterdir()
    }
    read = json.loads((folder / "honest_half_weights.json").read_text(encoding="utf-8"))
    assert {
        "schema": 2,
        "suite": SUITE_VERSION,
        "attnref": metadata.version("attnref"),
        "backend": "honest_half_weights",
        "profile": "half-weights",
        "package": "attnref_conformance",
        "package_hash": package_hash(backend),
        "machine": machine(),
        "versions": versions(),
        "partial": True,
        "passed": True,
        "counts": {"PASS": len(outcomes)},
        "levels": {str(n): dict.fromkeys(DTYPES, "not whole") for n in LEVELS},
    } == {
        name: x
        for name, x in read.items()
        if name not in ("outcomes", "made", "statistics", "digest")
    }
    assert [o.id for o in outcomes] == [o["id"] for o in read["outcomes"]]
    assert [float(f"{o.utilisation:.3g}") for o in outcomes] == [
        o.get("utilisation", 0.0) for o in read["outcomes"]
    ]


def test_the_versions_are_those_of_what_is_loaded() -> None:
    """Evidence names its libraries."""
    numpy = sys.modules["numpy"]
    assert numpy.__version__ == versions()["numpy"]
    assert ".".join(map(str, sys.version_info[:3])) == versions()["python"]


def test_a_profile_is_said_in_a_sentence() -> None:
    """A backend that names none is judged by the default."""
    assert profile_sentence(HONEST["honest_tf32"]).startswith("tf32: As half-weights")
    assert profile_sentence(object()).startswith("ieee: ")  # type: ignore[arg-type]


SOURCE = "from attnref_conformance.honest import Tiled\nclass Mine(Tiled):\n    pass\n"


def _packaged(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Tiled:
    root = folder / name
    (root / "kernels").mkdir(parents=True)
    (root / "__init__.py").write_text(SOURCE, encoding="utf-8")
    (root / "kernels" / "fast.cu").write_text("// fast", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name).Mine("mine")


def test_the_hash_changes_with_the_sources_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note leaves evidence fresh; a changed, added or renamed source does not."""
    backend = _packaged(tmp_path, "judged_package", monkeypatch)
    root = tmp_path / "judged_package"
    assert "judged_package" == package_of(backend)
    first = package_hash(backend)
    (root / "notes.txt").write_text("later", encoding="utf-8")
    (root / "__init__.py").touch()
    assert first == package_hash(backend)
    kernel = root / "kernels" / "fast.cu"
    kernel.write_text("// faster", encoding="utf-8")
    assert first != package_hash(backend)
    kernel.write_text("// fast", encoding="utf-8")
    assert first == package_hash(backend)
    (root / "more.py").touch()
    added = package_hash(backend)
    assert first != added
    (root / "more.py").rename(root / "other.py")
    assert added not in (first, package_hash(backend))


def test_a_single_module_is_hashed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours are somebody else's."""
    (tmp_path / "judged_module.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "neighbour.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = importlib.import_module("judged_module").Mine("mine")
    assert hashlib.sha256(b"judged_module.py\0" + SOURCE.encode() + b"\0").hexdigest() == (
        package_hash(backend)
    )
