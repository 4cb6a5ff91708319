"""`attnref conform`: exit statuses, and what the page says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attnref_conformance.report.verify import verify
from attnref_conformance.suite import Selection

from attnref import cli

UNUSABLE = '''
from attnref.errors import Reason
from attnref_conformance.honest import Tiled

class Absent(Tiled):
    """Needs a machine that is not there."""

    def available(self):
        return [Reason("gpu", "no GPU was found")]

    def unsupported(self, problem):
        return self.available()

class Loose(Tiled):
    """Names a profile that there is not."""

absent, loose = Absent("absent"), Loose("loose")
loose.profile = "fast-and-loose"
'''


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from."""
    (tmp_path / "elsewhere.py").write_text(UNUSABLE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    return tmp_path


def test_a_backend_that_conforms_returns_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The page names the suite, the profile and the verdict."""
    words = ["conform", "reference", "--clause", "C5", "--dtype", "float32"]
    assert 0 == cli.main(words)
    said = capsys.readouterr().out
    assert said.startswith("reference judged by suite ")
    assert "profile ieee" in said
    assert "reference conforms in this part of the suite: " in said


def test_a_backend_that_does_not_conform_returns_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first failure is shown with the smallest that shows it."""
    words = ["conform", "attnref_conformance.faulty:empty_rows_nan", "--quick"]
    assert 1 == cli.main([*words, "--clause", "C5"])
    said = capsys.readouterr().out
    assert "  C5-" in said
    assert "of out must not be non-finite" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["refrence"], "no backend is called 'refrence'. Did you mean 'reference'?"),
        (
            ["no_such:backend"],
            "'no_such:backend' cannot be loaded: ModuleNotFoundError",
        ),
        (
            ["attnref.cli:main"],
            "'attnref.cli:main' is not a backend; see attnref.backend",
        ),
        (
            ["reference", "--clause", "Z9"],
            "no case judges clause 'Z9'; there are A1, A2",
        ),
        (
            ["reference", "--clause", "c5"],
            "no case judges clause 'c5'; there are A1, A2",
        ),
        (
            ["elsewhere:loose"],
            "loose names the unknown profile 'fast-and-loose'; there are ieee,",
        ),
    ],
    ids=["unknown-name", "no-module", "no-backend", "clause", "lower-case", "profile"],
)
@pytest.mark.usefixtures("elsewhere")
def test_a_command_that_is_not_understood_returns_two(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is judged, and the sentence says what there is."""
    assert 2 == cli.main(["conform", *words])
    assert said in " ".join(capsys.readouterr().out.split())


def test_an_unknown_dtype_returns_two(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser names the choices."""
    with pytest.raises(SystemExit) as status:
        cli.main(["conform", "reference", "--dtype", "float8"])
    assert 2 == status.value.code
    assert "bfloat16" in capsys.readouterr().err


@pytest.mark.usefixtures("elsewhere")
def test_an_unusable_backend_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is declined, which is a vacuous run and no pass."""
    assert 1 == cli.main(["conform", "elsewhere:absent", "--clause", "C5"])
    said = capsys.readouterr().out
    assert "  cannot run here: no GPU was found\n" in said
    assert "cases: no GPU was found" in said
    assert "no case was executed" in said


def test_a_report_is_written_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page says where."""
    words = ["conform", "reference", "--clause", "D2", "--dtype", "float64"]
    assert 0 == cli.main([*words, "--report", str(tmp_path / "out")])
    path = tmp_path / "out" / "reference.json"
    assert "reference" == json.loads(path.read_text(encoding="utf-8"))["backend"]
    assert f"wrote {path.with_suffix('.html')}" in "".join(capsys.readouterr().out.split("\n"))


def test_a_run_without_trials_is_vacuous(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty selection is no pass."""
    monkeypatch.setattr(Selection, "trials", lambda _: [])
    assert 1 == cli.main(["conform", "reference", "--quick", "-n", "0"])
    assert "no case was executed" in capsys.readouterr().out


IMPORTS = '''
from attnref_conformance.honest import Tiled

class Importing(Tiled):
    """Imports a module when it runs."""

    def forward(self, problem):
        import wanted
        return super().forward(problem)

importing = Importing("importing")
'''


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(("forbidden", "status"), [("wanted", 1), ("unwanted", 0)])
def test_a_forbidden_module_cannot_be_imported(
    tmp_path: Path, workers: str, forbidden: str, status: int
) -> None:
    """Not in the process that judges, and not in those that it starts; the report names it."""
    (tmp_path / "imports.py").write_text(IMPORTS, encoding="utf-8")
    (tmp_path / "wanted.py").write_text("", encoding="utf-8")
    words = ["imports:importing", "--clause", "D1", "--dtype", "float32", "-n", workers]
    program = "import sys; from attnref.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "conform", *words, "--forbid", forbidden]
    ran = subprocess.run(
        [*command, "--report", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status == ran.returncode, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "importing.json").read_text("utf-8"))
    assert [forbidden] == report["forbidden"]
    assert [] == verify((tmp_path / "importing.json").read_text("utf-8")).wrong
    crashed = "import of wanted halted" in json.dumps(report["outcomes"])
    assert (status == 1) == crashed
    assert f"| not importable | `{forbidden}` |" in (tmp_path / "importing.md").read_text("utf-8")


def test_what_is_imported_already_cannot_be_forbidden(capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been used, and nothing would be proved."""
    assert 2 == cli.main(["conform", "reference", "--quick", "-n", "0", "--forbid", "numpy"])
    assert "numpy cannot be forbidden: it is imported already" in capsys.readouterr().out
