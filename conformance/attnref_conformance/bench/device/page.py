"""Measured tables as Markdown, between marks in a page whose prose is written by hand.

`python -m attnref_conformance.bench.device.page RESULTS.json PAGE.md`. Files from before
there was one suite keep the tables that were written of them; others get the suite's.
"""

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def write(found: dict[str, Any], page: Path) -> None:
    """Replace the tables of a page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    tables = markdown(found) if "tables" in found else _of_suite(found)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}")


def _of_suite(found: dict[str, Any]) -> str:
    from attnref_conformance.bench import results
    from attnref_conformance.bench.page import markdown, tables

    written = map(markdown.table, tables.all_of(results.parse(found)))
    return "\n".join(written).replace("## ", "### ")


def markdown(found: dict[str, Any]) -> str:
    """Write every table, a ratio to each peer in each row."""
    parts = []
    for name, rows in found["tables"].items():
        for passes in ("forward", "backward"):
            timed = [row for row in rows if passes in row]
            if timed:
                parts.append(f"### {name.capitalize()}, {passes}\n\n{_table(timed, passes)}")
    if "scale" in found:
        parts.append(f"### Length\n\n{_plain(found['scale'])}")
    if "host" in found:
        calls = [{"call": name, "microseconds": t} for name, t in found["host"].items()]
        parts.append(f"### Host time of a call\n\n{_plain(calls)}")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]], passes: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row[passes]))
    ours, peers = names[0], names[1:]
    head = ["workload", *names, *(f"{ours} / {peer}" for peer in peers)]
    if passes == "forward":
        head.append("GB/s")
    lines = [head, ["---"] * len(head)]
    for row in rows:
        rate = {name: found["TFLOP/s"] for name, found in row[passes].items()}
        cells = [row["workload"], *(f"{rate[n]:.0f}" if n in rate else "-" for n in names)]
        cells += [f"{rate[ours] / rate[p]:.2f}" if p in rate else "-" for p in peers]
        if passes == "forward":
            cells.append(f"{row[passes][ours]['GB/s']}")
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[n]) for n in head] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    results, into = (Path(argument) for argument in sys.argv[1:])
    write(json.loads(results.read_text()), into)
