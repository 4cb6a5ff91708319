"""Run tables and write them as JSON: `python -m attnref_conformance.bench.device BACKEND`."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import triton

from attnref import registry
from attnref_conformance.bench.device import costs
from attnref_conformance.bench.device.measure import measure
from attnref_conformance.bench.device.timing import timed
from attnref_conformance.bench.device.workloads import TABLES
from attnref_conformance.report.evidence import package_hash


def main() -> None:
    """Measure what was asked for, printing every row as it comes."""
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.bench.device")
    parser.add_argument("backend")
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
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
        for workload in TABLES[table]:
            rows.append(measure(workload, said.backend, said.peers))
            print(summary(rows[-1]), flush=True)  # noqa: T201
            save(found, said.json)
            torch.cuda.empty_cache()
    if said.costs:
        found["scale"], found["host"] = costs.scale(said.backend), costs.host(said.backend)
        print(json.dumps([found["scale"], found["host"]]))  # noqa: T201
        save(found, said.json)


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
        words.append(passes + " " + " ".join(f"{n} {r['TFLOP/s']:.0f}" for n, r in rates.items()))
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
