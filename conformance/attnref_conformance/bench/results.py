"""A run as data, and as pytest-benchmark's JSON.

A file is what `pytest-benchmark compare` reads: an entry for every pass of every row and
everyone who ran it, with every sample. What that format has no place for stands beside it
under `attnref`: ceilings, who was absent and why, and rows that were wrong and not timed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Timing:
    """What one contender took for one pass of a row.

    Attributes:
        samples: Seconds of every turn, process after process.
        peak: Bytes of memory at most, beyond what was held before; `None` if nobody knows.
        used: The largest error over its limit, before timing and after.
    """

    samples: tuple[float, ...]
    peak: int | None = None
    used: float = 0.0

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Seconds: the first, the median, the third."""
        if len(self.samples) < 4:
            return min(self.samples), self.median, max(self.samples)
        low, _, high = quantiles(self.samples, n=4)
        return low, self.median, high


@dataclass(frozen=True)
class Row:
    """One pass of a workload.

    Attributes:
        table: Which table it is of.
        name: The workload's.
        passes: `"forward"` or `"backward"`.
        operations: Useful operations.
        bytes: What has to move at least.
        length: What a sweep is drawn against.
        clock: How it was timed.
        timings: Who took how long; the backend comes first.
        absent: Who did not run, and why.
        wrong: What was wrong with the backend's result; it was not timed.
        by_bytes: Whether its figure is GB/s.
        processes: How many turns each process took; empty if they were those of one.
    """

    table: str
    name: str
    passes: str
    operations: int
    bytes: int
    length: int
    clock: str = ""
    timings: Mapping[str, Timing] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""
    by_bytes: bool = False
    processes: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other rows of a run."""
        return self.table, self.name, self.passes

    def parts(self, who: str) -> list[tuple[float, ...]]:
        """Return the seconds of every turn, for each process."""
        samples, found = self.timings[who].samples, []
        for turns in self.processes or (len(samples),):
            found.append(samples[:turns])
            samples = samples[turns:]
        return found

    def rate(self, who: str) -> float:
        """Return operations, or bytes, in a second."""
        return (self.bytes if self.by_bytes else self.operations) / self.timings[who].median

    @property
    def unit(self) -> str:
        """What a rate is told in."""
        return "GB/s" if self.by_bytes else "TFLOP/s"

    def told(self, who: str) -> float:
        """Return the rate in the row's unit."""
        return self.rate(who) / (1e9 if self.by_bytes else 1e12)

    @property
    def best_peer(self) -> str | None:
        """Who beside the backend was fastest."""
        peers = list(self.timings)[1:]
        return min(peers, key=lambda n: self.timings[n].median) if peers else None

    @property
    def ratio(self) -> float | None:
        """The rate over that of the best peer."""
        if self.best_peer is None:
            return None
        ours = next(iter(self.timings.values()))
        return self.timings[self.best_peer].median / ours.median


@dataclass(frozen=True)
class Run:
    """Everything that was measured in one run.

    Attributes:
        backend: Whose.
        size: Of the tables.
        facts: Device, versions, BLAS.
        ceilings: `"copy"` in bytes per second and `"product"` in operations per second.
        rows: In the order in which they were measured.
        host: What was called, and its seconds on the host.
        made: When, in ISO format.
    """

    backend: str
    size: str
    facts: Mapping[str, str]
    ceilings: Mapping[str, float]
    rows: tuple[Row, ...] = ()
    host: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    made: str = ""

    def of_ceiling(self, row: Row) -> float | None:
        """Return the backend's rate over what the measured ceilings allow a row.

        Rows by bytes are held to the copy, others to the matrix product.
        """
        ceiling = self.ceilings.get("copy" if row.by_bytes else "product")
        if ceiling is None or not row.timings:
            return None
        return row.rate(next(iter(row.timings))) / ceiling


# ---- pytest-benchmark's JSON ---------------------------------------------------------


def save(run: Run, to: Path) -> None:
    """Write a run."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(document(run), indent=1) + "\n", "utf-8")


def read(path: Path) -> Run:
    """Read a run.

    Raises:
        ValueError: The file holds none.
    """
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict) or "attnref" not in found:
        raise ValueError(f"{path} holds no results of attnref bench")
    return _run(found)


def document(run: Run) -> dict[str, Any]:
    """Return a run as pytest-benchmark's JSON."""
    said = {k: v for k, v in asdict(run).items() if k not in ("rows", "host")}
    said["rows"] = [{k: v for k, v in asdict(row).items() if k != "timings"} for row in run.rows]
    return {
        "machine_info": dict(run.facts),
        "commit_info": {},
        "benchmarks": [*_entries(run)],
        "datetime": run.made or datetime.now(UTC).isoformat(),
        "version": _harness(),
        "attnref": {"version": VERSION, **said},
    }


def _harness() -> str:
    from pytest_benchmark import __version__

    return str(__version__)


def _entries(run: Run) -> Iterator[dict[str, Any]]:
    for row in run.rows:
        for who, timing in row.timings.items():
            told = {
                "contender": who,
                row.unit: row.told(who),
                "of the best peer": row.ratio if who == run.backend else None,
                "of the ceiling": run.of_ceiling(row) if who == run.backend else None,
                "peak bytes": timing.peak,
                "error over limit": timing.used,
                "medians of processes": [median(part) for part in row.parts(who)],
            }
            yield _entry(row.key, who, timing.samples, told)
    for name, samples in run.host.items():
        yield _entry(("host", name, "call"), run.backend, samples, {"contender": run.backend})


def _entry(
    key: tuple[str, str, str], who: str, samples: tuple[float, ...], told: dict[str, Any]
) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    stats = Stats()
    for sample in samples:
        stats.update(sample)
    table, name, passes = key
    return {
        "group": table,
        "name": f"{name} | {passes} | {who}",
        "fullname": f"{table} | {name} | {passes} | {who}",
        "params": {"row": name, "pass": passes, "contender": who},
        "param": f"{name} | {passes} | {who}",
        "extra_info": told,
        "options": {"disable_gc": False, "timer": "in turns", "warmup": True},
        "stats": {**stats.as_dict(), "data": list(samples), "iterations": 1},
    }


def _run(found: dict[str, Any]) -> Run:
    said = {k: v for k, v in found["attnref"].items() if k not in ("version", "rows")}
    timings: dict[tuple[str, str, str], dict[str, Timing]] = {}
    host = {}
    for entry in found["benchmarks"]:
        samples, given = tuple(entry["stats"]["data"]), entry["params"]
        key, told = (entry["group"], given["row"], given["pass"]), entry["extra_info"]
        if key[0] == "host":
            host[key[1]] = samples
        else:
            timing = Timing(samples, told["peak bytes"], told["error over limit"])
            timings.setdefault(key, {})[told["contender"]] = timing
    rows = tuple(_row(row, timings) for row in found["attnref"]["rows"])
    return Run(**{**said, "rows": rows, "host": host})


def _row(said: dict[str, Any], timings: Mapping[tuple[str, str, str], Mapping[str, Timing]]) -> Row:
    key = said["table"], said["name"], said["passes"]
    turns = tuple(said.get("processes", ()))
    return Row(**{**said, "processes": turns, "timings": timings.get(key, {})})
