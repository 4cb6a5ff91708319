"""`attnref bench` runs rows, compares files and writes pages, and says what it cannot do."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attnref_conformance.bench import command, cpu, machine, overhead, results, slowed, workloads
from attnref_conformance.bench.workloads import Workload

from attnref import registry

from . import made

SMALL = Workload(1, 2, 2, 32, 32, 8, dtype="float32")
TABLES = {"dense": [SMALL], "sweep": [SMALL._replace(queries=n, keys=n) for n in (16, 32)]}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run small tables, without pins and with small ceilings."""
    monkeypatch.setitem(workloads.SIZES, "laptop", TABLES)
    for pin in machine.PINS:
        monkeypatch.delenv(pin, raising=False)
    full = cpu.Processor.ceilings
    monkeypatch.setattr(cpu.Processor, "ceilings", lambda self: full(self, 2**12, 16))
    monkeypatch.setattr(overhead, "BATCH", 2)


def bench(line: str) -> int:
    """Run the command; rows are measured in this process."""
    words = ["--processes", "1", *line.split()]
    return command.main(command.parser().parse_args(words))


def test_a_run_prints_rows_and_leaves_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With progress and ratios, and which BLAS it was."""
    chosen = f"--repeats 5 --table dense --table sweep --json {tmp_path}/a.json --page {tmp_path}"
    assert 0 == bench(f"reference {chosen} --peer naive --pass forward")
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("blas: ")
    assert out[1].endswith("pinned: nothing")
    assert out[3].startswith("[1/3] dense | B 1, H 2, S 32, D 8, full, float32 | forward | ")
    assert f"wrote {tmp_path}/bench-reference.html" in out
    run = results.read(tmp_path / "a.json")
    assert ["dense", "sweep", "sweep"] == [row.table for row in run.rows]
    assert run.facts["package_hash"]
    assert run.made


def test_the_host_is_a_table_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call costs above the backend, `explain`, and importing."""
    monkeypatch.setattr(overhead, "imports", lambda: {"import attnref, beyond numpy": (0.1,)})
    assert 0 == bench(f"numpy --table host --json {tmp_path}/a.json")
    host = results.read(tmp_path / "a.json").host
    named = {"attention", "the backend alone", "explain", "describe", "dispatch"}
    assert {*named, "import attnref, beyond numpy"} == host.keys()
    assert "host | dispatch | " in capsys.readouterr().out


def test_rows_are_listed_and_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Any part of it, in any case."""
    assert 0 == bench("numpy --list --table sweep")
    assert 2 == len(capsys.readouterr().out.splitlines())
    arguments = command.parser().parse_args(["numpy", "--list", "--row", "s 16,"])
    assert 0 == command.main(arguments)
    assert "sweep: B 1, H 2, S 16, D 8, full, float32\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nope", "no backend is called 'nope'; installed: "),
        ("nope:backend", "nope:backend cannot be loaded: No module named 'nope'"),
        ("json:nope", "json:nope cannot be loaded: module 'json' has no attribute 'nope'"),
        ("json:loads", "json:loads is not a backend: it lacks members of"),
        ("numpy a.json", "`attnref bench numpy` takes no file: a.json"),
        ("numpy --row nothing --table dense", "no row of dense is like 'nothing'"),
        ("compare a.json", "compare takes two files and was given 1"),
        ("page", "page takes one file and was given 0"),
        ("page nope.json", "No such file or directory: 'nope.json'"),
    ],
    ids=["unknown", "no module", "no attribute", "no backend", "a file", "no row", "one file",
         "no page", "no such file"],
)  # fmt: skip
def test_what_is_not_understood_is_said(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with the status of misuse."""
    assert command.USAGE == bench(line)
    assert said in capsys.readouterr().err


def test_a_backend_that_is_not_usable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own reasons."""
    unusable = SimpleNamespace(available=lambda: ["no GPU"])
    monkeypatch.setattr(command.registry, "load", lambda _: unusable)
    assert command.USAGE == bench("numpy")
    assert "numpy is not usable here: no GPU\n" == capsys.readouterr().err


def test_any_object_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """As `module:object`."""
    assert 0 == bench("attnref_numpy:backend --list --table dense")
    assert "dense: B 1, H 2, S 32, D 8, full, float32\n" == capsys.readouterr().out


def test_files_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slowdown is the status, too."""
    for name, run in {"a": made.run(0), "b": made.run(1), "c": made.run(2, slower=1.2)}.items():
        results.save(run, tmp_path / f"{name}.json")
    assert 0 == bench(f"compare {tmp_path}/a.json {tmp_path}/b.json")
    assert command.WRONG == bench(f"compare {tmp_path}/a.json {tmp_path}/c.json")
    assert capsys.readouterr().out.endswith("12 slower, 0 faster, 0 same, 0 unclear\n")


def test_a_page_is_written_of_a_file(tmp_path: Path) -> None:
    """Beside it, and called after it."""
    results.save(made.run(0), tmp_path / "a.json")
    assert 0 == bench(f"page {tmp_path}/a.json")
    assert (tmp_path / "a.html").exists()


def test_a_wrong_row_is_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is printed as what it is."""
    backend = registry.load("numpy")

    class Wrong(slowed.Slower):
        def forward(self, problem: Any) -> Any:
            result = super().forward(problem)
            return result._replace(out=-result.out)

    monkeypatch.setattr(command.registry, "load", lambda _: Wrong(backend))
    assert command.WRONG == bench("numpy --table dense")
    assert "| forward | WRONG, not timed: wrong: an error of " in capsys.readouterr().out


def test_pins_are_lifted_in_a_fresh_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose status is returned; the rest of the environment stays."""
    given: dict[str, Any] = {}

    def run(words: list[str], **more: Any) -> Any:
        given.update(more, words=words)
        return subprocess.CompletedProcess(words, 7)

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setattr(command.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["attnref", "bench", "numpy"])
    assert 7 == bench("numpy --table dense")
    expected = [sys.executable, "-m", "attnref_conformance.bench", "bench", "numpy"]
    assert expected == given["words"]
    assert "OPENBLAS_CORETYPE" not in given["env"]
    assert "PATH" in given["env"]
    assert "pins BLAS (OPENBLAS_CORETYPE=Haswell)" in capsys.readouterr().out


def test_pins_may_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the run says so."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    chosen = "--table dense --keep-pins --repeats 5 --peer nobody"
    assert 0 == bench(f"numpy {chosen}")
    assert "pinned: OPENBLAS_CORETYPE=Haswell" in capsys.readouterr().out


def test_the_module_takes_the_words_of_the_command() -> None:
    """With and without `bench`; that is how a fresh process is started."""
    module = ("-m", "attnref_conformance.bench")
    for line in (["bench", "numpy"], ["numpy"]):
        ran = subprocess.run(
            [sys.executable, *module, *line, "--list", "--table", "decode"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ran.stdout.startswith("decode: ")


def test_a_gpu_is_used_where_the_backend_computes_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's never does."""
    import torch

    numpy, in_torch = registry.load("numpy"), registry.load("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ["cpu", "cuda"] == [command._device(b) for b in (numpy, in_torch)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cpu" == command._device(in_torch)


def test_importing_takes_some_time() -> None:
    """Measured in fresh processes."""
    found = overhead.imports(1)
    assert {"import attnref, beyond numpy", "import numpy"} == found.keys()
    assert all(len(t) == 1 and t[0] > 0 for t in found.values())


@pytest.mark.parametrize("pin", ["", "Haswell"], ids=["free", "pinned"])
def test_pins_are_known(pin: str) -> None:
    """An empty variable pins nothing."""
    environ = {"OPENBLAS_CORETYPE": pin, "HOME": "/"}
    assert ({"OPENBLAS_CORETYPE": pin} if pin else {}) == machine.pinned(environ)
    assert {"HOME": "/"} == machine.unpinned(environ)


def test_blas_is_named_with_its_kernel_and_threads() -> None:
    """Or the package is, that would know."""
    assert machine.blas().split(", ")[-1].split()[-1] in ("thread", "threads")


def test_without_threadpoolctl_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "unknown: pip install threadpoolctl" == machine.blas()


def test_memory_is_read_where_the_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And elsewhere what Python allocated is all there is."""
    assert machine.free_memory(tmp_path / "nowhere") is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 2 kB\n")
    assert 2048 == machine.free_memory(tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CLEAR", tmp_path / "no" / "folder")
    found = machine.peak(lambda: bytearray(3_000_000))
    assert found is not None
    assert 3_000_000 <= found < 3_100_000
    assert "" == machine._processor(tmp_path / "nowhere")


def test_a_peak_is_beyond_what_was_held_before() -> None:
    """Within what allocators round to."""
    found = machine.peak(lambda: bytearray(50_000_000))
    assert found is not None
    assert 50_000_000 <= found < 60_000_000


def test_the_json_is_written_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cut short leaves what it has."""
    from attnref_conformance.bench import processes

    whole, seen = processes.rows, []

    def cut(*given: Any) -> Any:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(1)
        return whole(*given)

    monkeypatch.setattr(processes, "rows", cut)
    with pytest.raises(KeyboardInterrupt):
        bench(f"numpy --repeats 5 --peer nobody --json {tmp_path}/a.json")
    assert 2 == len(json.loads((tmp_path / "a.json").read_text())["attnref"]["rows"])
