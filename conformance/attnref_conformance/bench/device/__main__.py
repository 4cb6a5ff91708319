"""Run tables and write them as JSON: `python -m attnref_conformance.bench.device BACKEND`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from attnref import registry
from attnref_conformance.bench.device import costs, maps, measure, workloads
from attnref_conformance.bench.device.timing import timed
from attnref_conformance.report.evidence import package_hash

TABLES = [*workloads.TABLES, *maps.TABLES]


def main() -> None:
    """Measure what was asked for, printing every row as it comes."""
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.bench.device")
    parser.add_argument("backend")
    parser.add_argument("--tables", nargs="*", default=TABLES, choices=TABLES)
    parser.add_argument("--peers", nargs="*", default=["cudnn", "flash2", "flex"])
    parser.add_argument("--costs", action="store_true", help="memory by length, and host time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    said = parser.parse_args()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "package_hash": package_hash(registry.load(said.backend)),
        "copy GB/s": round(copy_rate()),
        "tables": {},
    }
    for table in said.tables:
        rows = found["tables"][table] = []
        for row in _rows(table, said.backend, said.peers, found["copy GB/s"]):
            rows.append(row)
            print(summary(rows[-1]), flush=True)  # noqa: T201
            save(found, said.json)
            torch.cuda.empty_cache()
    if said.costs:
        found["scale"], found["host"] = costs.scale(said.backend), costs.host(said.backend)
        print(json.dumps([found["scale"], found["host"]]))  # noqa: T201
        save(found, said.json)


def _rows(table: str, backend: str, peers: Sequence[str], copy: float) -> Iterator[dict[str, Any]]:
    """Measure the rows of a table, one by one."""
    if table in maps.TABLES:
        for row in maps.TABLES[table]:
            yield maps.measure(row, backend, copy)
    else:
        for workload in workloads.TABLES[table]:
            yield measure.measure(workload, backend, peers)


def save(found: dict[str, Any], to: Path | None) -> None:
    """Write what is there so far, so that a run that is cut short leaves its rows."""
    if to is not None:
        to.write_text(json.dumps(found, indent=1) + "\n")


def summary(row: dict[str, Any]) -> str:
    """Say a row in a line."""
    words = [row["workload"], f"error {row['error']:.1e} of {row['limit']:.1e}"]
    if row.get("wrong"):
        return " | ".join([*words, "WRONG, not timed"])
    for passes in ("forward", "backward"):
        rates = row.get(passes, {})
        told = (
            f"{n} {r['ms'][1]} ms, {r['of copy']:.0%}"
            if "of copy" in r
            else f"{n} {r['TFLOP/s']:.0f}"
            for n, r in rates.items()
        )
        words.append(passes + " " + " ".join(told))
    if "forward" in row:
        words.append(f"{next(iter(row['forward'].values()))['GB/s']} GB/s")
    return " | ".join([*words, str(row["absent"] or "")])


def copy_rate() -> float:
    """Measure the rate of a large copy, read and written, in GB/s."""
    x = torch.empty(2**30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    _, median, _ = timed({"copy": lambda _: y.copy_(x)})["copy"]
    return 4 * x.numel() / median / 1e6


if __name__ == "__main__":
    main()
