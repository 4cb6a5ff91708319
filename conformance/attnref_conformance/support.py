"""The README's table of what each backend supports, written from reports and never typed.

`python -m attnref_conformance.support conformance/reports README.md` writes it;
`nox -s evidence` verifies every report, and fails on one whose backend's sources have changed.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnref_conformance.case import DTYPES
from attnref_conformance.report import LEVELS, verify
from attnref_conformance.report.page import Page
from attnref_conformance.report.verify import freshness, not_run
from attnref_conformance.status import Status

BEGIN, END = "<!-- support: begin -->", "<!-- support: end -->"
"""What stands before and after the table in a page."""


def read(folder: Path) -> list[dict[str, Any]]:
    """Read every report of a folder, by backend and device.

    A backend may have several: one of its kernels interpreted on a CPU, one of every GPU.
    """
    found = [json.loads(path.read_text("utf-8")) for path in folder.rglob("*.json")]
    return sorted(found, key=lambda report: (report["backend"], Page(report).device))


def state(report: dict[str, Any]) -> str:
    """Say whether a report is STALE, and how many cases of today's suite it has NOT RUN.

    The backend itself need not run here, nor even be importable: its sources are enough.
    """
    stale, unknown = freshness(report)
    missing = len(not_run(report))
    said = ["**STALE**"] if stale or unknown else []
    said += [f"{missing} {'case' if missing == 1 else 'cases'} NOT RUN"] if missing else []
    return ", ".join(said)


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return the table in Markdown: backends by levels, and the dtypes of each claim."""
    covers = [f"L{n} {text}" for n, text in LEVELS.items()]
    lines = [
        "| backend | " + " | ".join(covers) + " | judged on |",
        "|---" * (len(LEVELS) + 2) + "|",
    ]
    for report in reports:
        claims = [_claim(report["levels"].get(str(n), {})) for n in LEVELS]
        device = f"{Page(report).device}, suite {report['suite']}"
        judged = ", ".join(filter(None, [device, state(report)]))
        lines.append(f"| `{report['backend']}` | " + " | ".join([*claims, judged]) + " |")
    return "\n".join(lines)


def _claim(level: dict[str, str]) -> str:
    """Say in which dtypes a level is claimed, or why in none; it may be newer than the report."""
    if not level:
        return Status.NOT_RUN
    claimed = [dtype for dtype, state in level.items() if state == "claimed"]
    if len(claimed) == len(DTYPES):
        return "all dtypes"
    return ", ".join(claimed) or max(level.values(), key=list(level.values()).count)


def put(page: str, text: str) -> str:
    """Return a page with the table replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def settled(table: str) -> str:
    """Leave out what changes with every source and every case: STALE and NOT RUN."""
    return re.sub(r", (\*\*STALE\*\*|\d+ cases? NOT RUN)", "", table)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table into a page, or with `--check` only look.

    Returns:
        0, or 1 if `--check` finds a report that does not verify or is stale, or another table.
    """
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.support")
    parser.add_argument("reports", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.check and _verified(arguments.reports):
        return 1
    page = arguments.page.read_text("utf-8")
    current = put(page, table(read(arguments.reports)))
    if not arguments.check:
        arguments.page.write_text(current, encoding="utf-8")
        return 0
    if settled(current) == settled(page):
        return 0
    print(f"the table in {arguments.page} is not that of the reports: nox -s reports")  # noqa: T201
    return 1


def _verified(folder: Path) -> int:
    """Verify every report, as `attnref verify-report` does."""
    return verify.main(argparse.Namespace(files=sorted(folder.rglob("*.json"))))


if __name__ == "__main__":
    raise SystemExit(main())
