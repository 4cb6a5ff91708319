"""A run survives its file, which pytest-benchmark reads, and so do files from before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from attnref_conformance.bench import results
from attnref_conformance.bench.device import page as device_page
from attnref_conformance.bench.page import plots
from attnref_conformance.bench.results import Run, Timing

from . import made

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
HOST = {"attention": (1e-6, 2e-6, 3e-6)}


def full() -> Run:
    """Make a run with everything in it."""
    plain = made.run(rows=2)
    wrong = made.row("decode", "a wrong row", 0, wrong="wrong: an error of 3 times its limit")
    bytes_ = made.row("decode", "a row", 0, by_bytes=True, timings={"mine": Timing((1e-3,))})
    return Run(
        "mine", "laptop", plain.facts, plain.ceilings, (*plain.rows, wrong, bytes_), HOST, "now"
    )


def test_a_file_gives_back_its_run(tmp_path: Path) -> None:
    """Every sample, and what was not timed."""
    results.save(full(), tmp_path / "folder" / "a.json")
    assert full() == results.read(tmp_path / "folder" / "a.json")


def test_pytest_benchmark_reads_a_file(tmp_path: Path) -> None:
    """It is the interchange format."""
    results.save(full(), tmp_path / "a.json")
    words = ["-m", "pytest_benchmark", "compare", str(tmp_path / "a.json")]
    ran = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "row 0 | forward | mine" in ran.stdout
    assert "row 0 | forward | torch" in ran.stdout


def test_every_entry_carries_its_figures(tmp_path: Path) -> None:
    """Rate, ratios and memory, beside pytest-benchmark's own statistics."""
    (entry, *_) = results.document(full())["benchmarks"]
    row = full().rows[0]
    assert entry["stats"]["median"] == row.timings["mine"].median
    assert list(row.timings["mine"].samples) == entry["stats"]["data"]
    told = entry["extra_info"]
    assert told["TFLOP/s"] == pytest.approx(1e8 / row.timings["mine"].median / 1e12)
    assert told["of the best peer"] == row.ratio
    assert told["of the ceiling"] == pytest.approx(1e8 / row.timings["mine"].median / 1e11)
    assert told["peak bytes"] == 1000


@pytest.mark.parametrize("said", ['{"benchmarks": []}', "[]"])
def test_another_file_is_refused(said: str, tmp_path: Path) -> None:
    """With its name."""
    (tmp_path / "a.json").write_text(said)
    with pytest.raises(ValueError, match=r"a\.json holds no results of attnref bench"):
        results.read(tmp_path / "a.json")


def test_the_committed_results_are_read() -> None:
    """Medians, rates and ceilings are those of the file."""
    file = DOCS / "attention-h100.json"
    found, run = json.loads(file.read_text()), results.read(file)
    assert "triton" == run.backend
    assert found["copy GB/s"] * 1e9 == run.ceilings["copy"]
    rows = {row.key: row for row in run.rows}
    for table, old in found["tables"].items():
        for told in old:
            row = rows[table, told["workload"], "forward"]
            for who, figures in told["forward"].items():
                assert figures["ms"][1] / 1e3 == row.timings[who].median
                said = figures["GB/s" if row.by_bytes else "TFLOP/s"]
                # The file's rates are of medians before these were rounded.
                assert said == pytest.approx(row.told(who), rel=0.012)
    sweep = [row for row in run.rows if row.table == "sweep"]
    assert 2 * len(found["scale"]) == len(sweep)
    assert 32.2 * 2**20 == pytest.approx(sweep[1].timings["triton"].peak, rel=1e-6)


def test_the_committed_page_is_still_written(tmp_path: Path) -> None:
    """The same tables, to the letter."""
    page = tmp_path / "page.md"
    page.write_text((DOCS / "attention-h100.md").read_text())
    device_page.write(json.loads((DOCS / "attention-h100.json").read_text()), page)
    assert (DOCS / "attention-h100.md").read_text() == page.read_text()


def test_a_wrong_row_of_before_stays_wrong(tmp_path: Path) -> None:
    """It was not timed."""
    old = json.loads((DOCS / "attention-h100.json").read_text())
    row = old["tables"]["decode"][0]
    del row["forward"]
    row |= {"wrong": True, "error": 1.0, "limit": 0.5}
    (tmp_path / "a.json").write_text(json.dumps({"tables": {"decode": [row]}}))
    (found,) = results.read(tmp_path / "a.json").rows
    assert ("error 1.0e+00 of 5.0e-01", {}) == (found.wrong, found.timings)


def test_new_files_fill_a_page_too(tmp_path: Path) -> None:
    """Between the same marks."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{device_page.BEGIN}\n{device_page.END}\nafter\n")
    device_page.write(results.document(full()), page)
    assert "### Dense, forward\n\n| workload | mine, TFLOP/s |" in page.read_text()


def test_few_samples_have_ends_for_quartiles() -> None:
    """Three are what files from before have."""
    assert (1.0, 2.0, 3.0) == Timing((1.0, 2.0, 3.0)).quartiles
    assert (1.25, 2.5, 3.75) == Timing((1.0, 2.0, 3.0, 4.0)).quartiles


def test_the_committed_figure_is_of_the_committed_results() -> None:
    """Nothing is drawn by hand."""
    run = results.read(DOCS / "attention-h100.json")
    drawn = (DOCS / "attention-h100-roofline.svg").read_text("utf-8")
    assert drawn == plots.alone(plots.roofline(run))
