"""The README's table of what each backend supports, written from reports and never typed.

`python -m attnref_conformance.support conformance/reports README.md` writes it;
`nox -s evidence` runs every report's backend through the same check and fails on a stale one.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnref import registry
from attnref.errors import AttnrefError
from attnref_conformance.case import DTYPES
from attnref_conformance.report import LEVELS, package_hash

BEGIN, END = "<!-- support: begin -->", "<!-- support: end -->"
"""What stands before and after the table in a page."""


def read(folder: Path) -> list[dict[str, Any]]:
    """Read every report of a folder, by name."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("*.json"))]


def stale(report: dict[str, Any]) -> bool:
    """Tell whether a report is of other sources than those installed."""
    try:
        backend = registry.load(report["backend"])
    except AttnrefError:
        return True
    return bool(package_hash(backend) != report["package_hash"])


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return the table in Markdown: backends by levels, and the dtypes of each claim."""
    covers = [f"L{n} {text}" for n, text in LEVELS.items()]
    lines = [
        "| backend | " + " | ".join(covers) + " | judged on |",
        "|---" * (len(LEVELS) + 2) + "|",
    ]
    for report in reports:
        levels = report["levels"].values()
        claims = [_claim({d: level[d] for d in DTYPES}) for level in levels]
        machine = report["machine"]
        device = machine.get("gpu", f"CPU ({machine['processor']})")
        judged = f"{device}, suite {report['suite']}" + (", **STALE**" if stale(report) else "")
        lines.append(f"| `{report['backend']}` | " + " | ".join([*claims, judged]) + " |")
    return "\n".join(lines)


def _claim(level: dict[str, str]) -> str:
    claimed = [dtype for dtype, state in level.items() if state == "claimed"]
    if len(claimed) == len(DTYPES):
        return "all dtypes"
    return ", ".join(claimed) or max(level.values(), key=list(level.values()).count)


def put(page: str, text: str) -> str:
    """Return a page with the table replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table into a page, or with `--check` only look.

    Returns:
        0, or 1 if `--check` finds another table or a stale report.
    """
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.support")
    parser.add_argument("reports", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    reports = read(arguments.reports)
    page = arguments.page.read_text("utf-8")
    current = put(page, table(reports))
    if not arguments.check:
        arguments.page.write_text(current, encoding="utf-8")
        return 0
    outdated = [report["backend"] for report in reports if stale(report)]
    print("stale:", ", ".join(outdated) or "none")  # noqa: T201
    return 1 if outdated or current != page else 0


if __name__ == "__main__":
    raise SystemExit(main())
