"""The measured tables as Markdown, between marks in a page whose prose is written by hand.

`python -m attnref_conformance.bench.device.page RESULTS.json PAGE.md`.
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
    page.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n{END}{after}")


def markdown(found: dict[str, Any]) -> str:
    """Write every table, a ratio to each peer in each row."""
    parts = []
    for name, rows in found["tables"].items():
        for passes in ("forward", "backward"):
            timed = [row for row in rows if passes in row]
            if timed:
                by_bytes = "of copy" in next(iter(timed[0][passes].values()))
                table = _bound_by_memory(timed, passes) if by_bytes else _table(timed, passes)
                parts.append(f"### {name.capitalize()}, {passes}\n\n{table}")
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


def _bound_by_memory(rows: list[dict[str, Any]], passes: str) -> str:
    """Write milliseconds, the share of a copy's rate, and how many times faster than each peer."""
    ours, *peers = rows[0][passes]
    head = ["workload", *(f"{n}, ms" for n in (ours, *peers)), "of copy"]
    head += [f"{peer} / {ours}" for peer in peers]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        ms = {name: found["ms"][1] for name, found in row[passes].items()}
        cells = [row["workload"], *(f"{t:.3f}" for t in ms.values())]
        cells.append(f"{row[passes][ours]['of copy']:.0%}")
        lines.append([*cells, *(f"{ms[peer] / ms[ours]:.1f}" for peer in peers)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[n]) for n in head] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    results, into = (Path(argument) for argument in sys.argv[1:])
    write(json.loads(results.read_text()), into)
