"""`pytest --pyargs attnref_conformance`, as somebody else runs it: from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DECLINES = '''
from attnref.errors import Reason
from attnref.problem import Result
from attnref_conformance.honest import Tiled

class NoCap(Tiled):
    """Declines soft caps."""

    def unsupported(self, problem):
        if "softcap" in problem.features:
            return [Reason("softcap", "has no soft cap")]
        return super().unsupported(problem)

class Rough(Tiled):
    """Is less careful than it could be."""

    def attended(self, p):
        out, lse = super().attended(p)
        return Result((out * (1 + 40 * 2.0**-24)).astype(out.dtype), lse)

class Even(Tiled):
    """Runs multiples of 16 only."""

    def unsupported(self, problem):
        if problem.operation == "attention" and problem.q.shape[2] % 16:
            return [Reason("size", "queries must be a multiple of 16")]
        return super().unsupported(problem)

no_cap, rough, even = NoCap("no_cap"), Rough("rough"), Even("even")
'''

DIES = '''
import os, time
from attnref_conformance.honest import Tiled

class Dies(Tiled):
    """Ends its process where there are 17 keys."""

    def attended(self, p):
        if p.k.shape[2] == 17:
            os._exit(3)
        return super().attended(p)

backend = Dies("dies")
'''

SKIPS = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.skip(reason="no time"))
"""


def suite(
    folder: Path, *words: str, backend: str = "reference"
) -> subprocess.CompletedProcess[str]:
    """Run the suite from an otherwise empty folder."""
    (folder / "mine.py").write_text(DECLINES, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    named = [f"--attnref-backend={backend}"] if backend else []
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "attnref_conformance",
         "-p", "no:cacheprovider", "-p", "no:benchmark", *named, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


QUICK = ("--attnref-quick", "--attnref-clause", "C5")


def test_a_backend_that_conforms_passes(tmp_path: Path) -> None:
    """From anywhere, without the repository."""
    ran = suite(tmp_path, *QUICK)
    assert 0 == ran.returncode, ran.stdout
    assert re.search(r"=+ \d+ passed in ", ran.stdout)


def test_the_backend_must_be_named(tmp_path: Path) -> None:
    """A clear usage error says how."""
    ran = suite(tmp_path, backend="")
    assert int(pytest.ExitCode.USAGE_ERROR) == ran.returncode
    assert "name the backend to judge: --attnref-backend NAME" in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "backend", "said"),
    [
        (
            ["--attnref-clause", "Z9"],
            "reference",
            "no case judges clause 'Z9'; there are A1",
        ),
        (["--attnref-clause", "C5"], "refrence", "no backend is called 'refrence'."),
    ],
    ids=["clause", "backend"],
)
def test_what_is_not_known_is_a_usage_error(
    words: list[str], backend: str, said: str, tmp_path: Path
) -> None:
    """Nothing is judged."""
    ran = suite(tmp_path, *words, backend=backend)
    assert int(pytest.ExitCode.USAGE_ERROR) == ran.returncode
    assert said in ran.stderr


def test_a_faulty_backend_fails_and_the_case_is_named(tmp_path: Path) -> None:
    """Status, case and finding, without the judge's own traceback."""
    ran = suite(tmp_path, *QUICK, backend="attnref_conformance.faulty:empty_rows_nan")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "FAIL C5-first-rows-see-nothing[float32]\n" in ran.stdout
    assert "of out must not be non-finite" in ran.stdout
    assert "trial.py" not in ran.stdout


def test_what_was_declined_is_shown_as_such(tmp_path: Path) -> None:
    """With the reasons, the most frequent first."""
    words = ("--attnref-quick", "--attnref-clause", "B1", "--attnref-clause", "B2")
    ran = suite(tmp_path, *words, backend="mine:no_cap")
    assert 0 == ran.returncode, ran.stdout
    assert re.search(r"=+ declined by the backend =+", ran.stdout)
    assert re.search(r"^ +\d+ cases: has no soft cap$", ran.stdout, re.MULTILINE)
    assert re.search(r"=+ \d+ passed, \d+ unsupported in ", ran.stdout)
    assert "uuu" in ran.stdout


def test_declining_everything_is_vacuous_and_fails(tmp_path: Path) -> None:
    """Passing what was not run is how suites lie."""
    ran = suite(tmp_path, "--attnref-quick", "--attnref-clause", "B2", backend="mine:no_cap")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "VACUOUS: no case was executed, everything was declined" in ran.stdout


def test_what_could_be_better_is_shown_as_such(tmp_path: Path) -> None:
    """A remark is no failure."""
    ran = suite(tmp_path, "--attnref-quick", "--attnref-clause", "B1", backend="mine:rough")
    assert 0 == ran.returncode, ran.stdout
    assert re.search(r"\d+ quality", ran.stdout)


def test_a_skip_inside_the_suite_is_a_failure(tmp_path: Path) -> None:
    """Nothing is passed over silently, whoever wishes it."""
    (tmp_path / "conftest.py").write_text(SKIPS, encoding="utf-8")
    ran = suite(tmp_path, *QUICK, "-p", "conftest")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "ERROR: skipped inside the suite" in ran.stdout
    assert not re.search(r"\d+ skipped", ran.stdout)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_backend_that_dies_is_a_failed_test(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """And pytest lives on, whoever runs it."""
    words = ("--attnref-quick", "--attnref-clause", "D1", "-k", "D1-1-keys or D1-15 or D1-17")
    (tmp_path / "dies.py").write_text(DIES, encoding="utf-8")
    ran = suite(tmp_path, *words, *workers, backend="dies:backend")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "CRASH D1-17-keys[float32]\nthe process died: exit status 3" in ran.stdout
    assert re.search(r"=+ \d+ failed, \d+ passed", ran.stdout)


def test_a_backend_that_hangs_is_a_failed_test(tmp_path: Path) -> None:
    """After the seconds that it was given."""
    words = ("--attnref-quick", "--attnref-clause", "D1", "-k", "D1-1-keys-lse or D1-17-keys-lse")
    (tmp_path / "dies.py").write_text(DIES.replace("os._exit(3)", "time.sleep(99)"), "utf-8")
    ran = suite(tmp_path, *words, "--attnref-timeout", "1", backend="dies:backend")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "hung: no answer within 1 s, in attended (dies.py:" in ran.stdout


def test_the_suite_runs_in_parallel(tmp_path: Path) -> None:
    """Trials have the same ids in every process."""
    ran = suite(tmp_path, *QUICK, "-n", "2")
    assert 0 == ran.returncode, ran.stdout
    assert re.search(r"=+ \d+ passed in ", ran.stdout)


def test_the_options_are_explained(tmp_path: Path) -> None:
    """Where pytest explains its own."""
    said = suite(tmp_path, "--help").stdout
    assert "judging a backend of attnref" in said
    assert "--attnref-clause=ID" in said


VACUOUS = """
from attnref_conformance import suite

whole = suite.Selection.trials


def some(selection):
    return [t for t in whole(selection) if t.id.startswith(("B2-", "D5-")) and "[float32]" in t.id]


suite.Selection.trials = some
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_what_is_claimed_and_never_exercised_fails(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    """Here the whole suite is two clauses, so that a test can run it."""
    (tmp_path / "sitecustomize.py").write_text(VACUOUS, encoding="utf-8")
    # Loaded so early, it comes before pytest can rewrite the assertions of plugins.
    early = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    ran = suite(tmp_path, *early, *workers, backend="mine:even")
    assert int(pytest.ExitCode.TESTS_FAILED) == ran.returncode
    assert "VACUOUS: H2-exercised-attention-" in ran.stdout
    assert "because queries must be a multiple of 16. Accept them, for example" in ran.stdout
