"""Results written before there was one suite: medians and quartiles, without samples."""

from collections.abc import Iterator
from typing import Any

from attnref_conformance.bench.results import Row, Run, Timing
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload, Workload


def run(found: dict[str, Any]) -> Run:
    """Read such a file; what it did not measure stays unknown.

    Args:
        found: The file's content.

    Returns:
        The run, with three samples for each timing: the quartiles that the file has.
    """
    rows = tuple(
        made
        for table, rows in found["tables"].items()
        for row in rows
        for made in _rows(table, row)
    )
    names = ("device", "torch", "cudnn", "triton", "package_hash")
    facts = {name: str(found[name]) for name in names if name in found}
    host = {name: (t * 1e-6,) for name, t in found.get("host", {}).items()}
    backend = next((next(iter(row.timings)) for row in rows if row.timings), "")
    ceilings = {"copy": found["copy GB/s"] * 1e9} if "copy GB/s" in found else {}
    return Run(backend, "datacentre", facts, ceilings, (*rows, *_scale(found, backend)), host)


def _rows(table: str, row: dict[str, Any]) -> Iterator[Row]:
    call, by_bytes = row["call"], table in ("windows", "decode")
    w: AnyWorkload = MapWorkload(**call) if "stage" in call else Workload(**call)
    for passes in ("forward", "backward"):
        wrong = f"error {row['error']:.1e} of {row['limit']:.1e}" if row.get("wrong") else ""
        if passes not in row and not (wrong and passes == "forward"):
            continue
        timings = {
            name: Timing(tuple(t / 1e3 for t in told["ms"]), used=row["error"] / row["limit"])
            for name, told in row.get(passes, {}).items()
        }
        work = w.work(passes)
        yield Row(
            table, row["workload"], passes, work.operations, moved(w, passes), w.length,
            "CUDA events", timings, row["absent"], wrong, by_bytes,
        )  # fmt: skip


def moved(w: AnyWorkload, passes: str) -> int:
    """Return the bytes that a rate in GB/s counts."""
    return w.moved(passes) if isinstance(w, MapWorkload) else w.work(passes).bytes


def _scale(found: dict[str, Any], backend: str) -> Iterator[Row]:
    """Turn picoseconds for each pair into a sweep."""
    for told in found.get("scale", ()):
        S = told["S"]
        w = Workload(1, 8, 8, S, S, 128, causal=True)
        pairs = 8 * S * S / 2
        for passes in ("forward", "backward"):
            took = told[f"{passes} ps per pair"] * pairs * 1e-12
            # That peak was of both passes together.
            peak = round(told["MiB"] * 2**20) if passes == "backward" else None
            work = w.work(passes)
            timings = {backend: Timing((took,), peak)}
            yield Row(
                "sweep", w.name, passes, work.operations, work.bytes, S, "single call", timings
            )
