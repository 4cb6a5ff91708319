"""`attnref bench NAME`, `attnref bench compare A.json B.json`, `attnref bench page FILE.json`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attnref import registry
from attnref.backend import Backend, is_backend
from attnref_conformance.bench import compare, results
from attnref_conformance.bench.method import FEWEST, REPEATS
from attnref_conformance.bench.workloads import SIZES, AnyWorkload

if TYPE_CHECKING:
    from attnref_conformance.bench.processes import Process

USAGE = 2
"""The exit status of a command that was not understood."""

WRONG = 1
"""Something is wrong, or slower than before."""

PROCESSES = 10
"""Fresh processes for each row: enough for a hundred rows to be told apart."""

HOST = "host"
"""The table of what calls cost the host; it has no workloads."""

TABLES = [*dict.fromkeys(table for tables in SIZES.values() for table in tables), HOST]

Say = Callable[[str], None]


class CannotBench(Exception):  # noqa: N818  # a sentence of the domain, as CannotStart is
    """What was asked for cannot be done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "backend",
        metavar="NAME",
        help="a registered name, or module:object; or `compare`, with two files, or `page`, with one",
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--size", choices=[*SIZES], help="by default `datacentre` on a GPU")
    parser.add_argument("--table", action="append", choices=TABLES, help="only this; repeatable")
    parser.add_argument("--row", metavar="TEXT", help="only rows whose name has this in it")
    parser.add_argument("--peer", action="append", metavar="NAME", help="only this peer")
    parser.add_argument("--pass", dest="passes", choices=["forward", "backward"])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default where it runs")
    parser.add_argument("--processes", type=int, default=PROCESSES, metavar="N",
                        help=f"fresh processes that measure each row (default: {PROCESSES}); "
                             "1 is quick, and not for comparing")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N",
                        help=f"turns of them all, at least {FEWEST} of each (default: {REPEATS})")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S",
                        help="for a pass of a row; fewer turns where more, "
                             "and then fewer processes (default: 60)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="pytest-benchmark's JSON")
    parser.add_argument("--page", type=Path, metavar="DIR", help="a page as HTML and Markdown")
    parser.add_argument("--list", action="store_true", help="name the rows, and run nothing")
    parser.add_argument("--keep-pins", action="store_true",
                        help="measure with the BLAS kernel that the environment chose")  # fmt: skip


def main(said: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    try:
        if said.backend == "compare":
            return _compare(said)
        if said.backend == "page":
            return _page(said)
        return _bench(said)
    except (CannotBench, OSError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return USAGE


def _compare(said: argparse.Namespace) -> int:
    if len(said.files) != 2:
        raise CannotBench(f"compare takes two files and was given {len(said.files)}")
    found = compare.compare(*map(results.read, said.files))
    print(compare.table(found))  # noqa: T201
    return WRONG if found.slower else 0


def _page(said: argparse.Namespace) -> int:
    if len(said.files) != 1:
        raise CannotBench(f"page takes one file and was given {len(said.files)}")
    (file,) = said.files
    _write(results.read(file), said.page or file.parent, file.stem)
    return 0


def _write(run: results.Run, folder: Path, name: str = "") -> None:
    from attnref_conformance.bench import page

    for path in page.write(run, folder, name):
        print(f"wrote {path}")  # noqa: T201


def _bench(said: argparse.Namespace) -> int:
    from attnref_conformance.bench import machine

    if said.files:
        raise CannotBench(f"`attnref bench {said.backend}` takes no file: {said.files[0]}")
    backend = named(said.backend)
    device = said.device or _device(backend)
    size = said.size or ("datacentre" if device == "cuda" else "laptop")
    chosen = [*_chosen(said, size)]
    if not chosen and (said.row is not None or HOST not in (said.table or TABLES)):
        raise CannotBench(f"no row of {', '.join(said.table or TABLES)} is like {said.row!r}")
    if said.list:
        print("\n".join(f"{table}: {w.name}" for table, w in chosen))  # noqa: T201
        return 0
    if machine.pinned() and not said.keep_pins:
        return _again(machine.pinned(), machine.unpinned())
    run = _Session(said, backend, device, size).run(chosen)
    if said.page is not None:
        _write(run, said.page)
    return WRONG if any(row.wrong for row in run.rows) else 0


def _again(pins: dict[str, str], environ: dict[str, str]) -> int:
    """Run in a fresh process without the pins: BLAS has read them here already."""
    named = ", ".join(f"{name}={value}" for name, value in pins.items())
    print(f"the environment pins BLAS ({named}); measuring in a process without", flush=True)  # noqa: T201
    words = [sys.executable, "-m", "attnref_conformance.bench", *sys.argv[1:]]
    return subprocess.run(words, check=False, env=environ).returncode  # noqa: S603


def named(name: str) -> Backend:
    """Load a backend by name or as `module:object`.

    Raises:
        CannotBench: There is none, or it is not usable here.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (AttributeError, ImportError) as error:
            raise CannotBench(f"{name} cannot be loaded: {error}") from error
        if not is_backend(found):
            raise CannotBench(
                f"{name} is not a backend: it lacks members of attnref.backend.Backend"
            )
        return found
    if name not in registry.names():
        raise CannotBench(
            f"no backend is called {name!r}; installed: {', '.join(registry.names())}"
        )
    backend = registry.load(name)
    if reasons := backend.available():
        raise CannotBench(f"{name} is not usable here: {'; '.join(map(str, reasons))}")
    return backend


def _device(backend: Backend) -> str:
    """Return where a backend is timed: on a GPU if it computes there and there is one."""
    if backend.library not in ("torch", "cupy"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _chosen(said: argparse.Namespace, size: str) -> Iterator[tuple[str, AnyWorkload]]:
    for table, rows in SIZES[size].items():
        if table in (said.table or TABLES):
            for w in rows:
                if said.row is None or said.row.lower() in w.name.lower():
                    yield table, w


class _Session:
    """One run: what was asked for, where, and what there is so far."""

    def __init__(self, said: argparse.Namespace, backend: Backend, device: str, size: str) -> None:
        from attnref_conformance.bench import machine
        from attnref_conformance.bench.measure import Plan

        passes = ("forward", "backward") if said.passes is None else (said.passes,)
        self.said, self.backend, self.machine = said, backend, machine_of(device)
        self.device, self.processes = device, max(1, said.processes)
        turns = -(-said.repeats // self.processes)
        turns = turns if self.processes == 1 else max(turns, FEWEST)
        self.plan = Plan(said.peer, turns, said.seconds / self.processes, passes)
        self.parts: dict[tuple[str, str, str], list[results.Row]] = {}
        self.spent: dict[tuple[str, AnyWorkload], float] = {}
        facts = {**machine.facts(backend), **self._device_facts()}
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self.found = results.Run(backend.name, size, facts, {}, made=made)

    def _device_facts(self) -> dict[str, str]:
        return self.machine.facts() if hasattr(self.machine, "facts") else {}

    def run(self, chosen: Sequence[tuple[str, AnyWorkload]]) -> results.Run:
        """Measure everything, and say and save each row as it comes."""
        from attnref_conformance.bench.page import told

        facts = self.found.facts
        _say(f"{self.backend.name} on {facts.get('device') or facts.get('processor', 'cpu')}")
        _say(f"blas: {facts['blas']}; pinned: {facts['pinned']}")
        self._add(ceilings=self.machine.ceilings())
        _say("; ".join(f"{name} {value}" for name, value in told.ceilings(self.found)))
        self.machine.release()
        # Every process runs all rows: those of one row lie as far apart in time as they can,
        # so that a machine's slow minute is no row's alone.
        for n in range(self.processes if chosen else 0):
            with self._process() as process:
                self._round(process, chosen, n)
        if HOST in (self.said.table or TABLES) and self.said.row is None:
            self._host()
        return self.found

    def _process(self) -> "Process":
        from attnref_conformance.bench.processes import Fresh, Here, Place

        if self.processes == 1:
            return Here(Place(self.backend, self.machine))
        return Fresh(self.said.backend, self.device)

    def _round(self, process: "Process", chosen: Sequence[tuple[str, AnyWorkload]], n: int) -> None:
        from attnref_conformance.bench import processes
        from attnref_conformance.bench.page import told

        plan = replace(self.plan, peaks=n == 0)
        which = "" if self.processes == 1 else f"process {n + 1}/{self.processes}, "
        for m, (table, w) in enumerate(chosen, 1):
            if not self._further(table, w):
                continue
            start = perf_counter()
            rows = process.run(processes.rows, table, w, plan)
            self.spent[table, w] = self.spent.get((table, w), 0.0) + perf_counter() - start
            for row in rows:
                self.parts.setdefault(row.key, []).append(row)
                whole = {key: processes.together(parts) for key, parts in self.parts.items()}
                self._add(rows=tuple(whole.values()))
                line = told.line(self.found, whole[row.key])
                _say(f"[{which}{m}/{len(chosen)}] {table} | {line}")

    def _further(self, table: str, w: AnyWorkload) -> bool:
        """Tell whether a workload is measured in a further process: it ran, and there is time."""
        passes = [self.parts[key] for key in self.parts if key[:2] == (table, w.name)]
        ran = all(part.timings for parts in passes for part in parts)
        return ran and self.spent.get((table, w), 0.0) <= self.said.seconds * max(1, len(passes))

    def _host(self) -> None:
        from attnref_conformance.bench import overhead
        from attnref_conformance.bench.page import tables

        host = {**self.machine.overhead(self.backend), **overhead.imports()}
        self._add(host=host)
        table = tables.host(self.found)
        _say("\n".join("host | " + " | ".join(row) for row in (table.rows if table else ())))

    def _add(self, **more: Any) -> None:
        """Keep what came, in the file too: a run that is cut short leaves its rows."""
        self.found = replace(self.found, **more)
        if self.said.json is not None:
            results.save(self.found, self.said.json)


def machine_of(device: str) -> Any:
    """Return what rows are run on: `"cuda"`, or else the processor."""
    if device == "cuda":
        from attnref_conformance.bench.gpu import Gpu

        return Gpu()
    from attnref_conformance.bench.cpu import Processor

    return Processor()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def parser() -> argparse.ArgumentParser:
    """Return the command's own parser, for `python -m attnref_conformance.bench`."""
    made = argparse.ArgumentParser(prog=f"{os.path.basename(sys.argv[0])} bench")  # noqa: PTH119
    add_arguments(made)
    return made
