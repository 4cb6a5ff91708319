"""A run survives its file, which pytest-benchmark reads."""

import subprocess
import sys
from pathlib import Path

import pytest
from attnref_conformance.bench import page, results
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


def test_few_samples_have_ends_for_quartiles() -> None:
    """Three or fewer are not interpolated."""
    assert (1.0, 2.0, 3.0) == Timing((1.0, 2.0, 3.0)).quartiles
    assert (1.25, 2.5, 3.75) == Timing((1.0, 2.0, 3.0, 4.0)).quartiles


COMMITTED = sorted(path.stem for path in DOCS.glob("*-h[12]00.md"))


@pytest.mark.parametrize("name", COMMITTED)
def test_what_is_committed_is_made_of_the_committed_results(name: str, tmp_path: Path) -> None:
    """No figure and no table is made by hand: a page adds words to them."""
    page.write(results.read(DOCS / f"{name}.json"), tmp_path, name)
    for drawn in tmp_path.glob("*.svg"):
        assert drawn.read_text("utf-8") == (DOCS / drawn.name).read_text("utf-8")
    committed = (DOCS / f"{name}.md").read_text("utf-8")
    written = (tmp_path / f"{name}.md").read_text("utf-8").split("\n\n")
    tables = [part.strip() for part in written if part.startswith("| ")]
    assert tables
    assert [] == [table for table in tables if table not in committed]
