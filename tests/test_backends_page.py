"""The page that leads to a backend does, step by step.

`python tests/test_backends_page.py FOLDER` leaves the project of the page there, to be built.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from attnref.reference import UNDERSTOOD

PAGE = (Path(__file__).parents[1] / "backends" / "README.md").read_text("utf-8")
ATTNREF = Path(sys.executable).with_name("attnref")

RUN_HERE = {"attnref conform small:backend --quick"}
RUN_BY_NOX = {
    'pip install ".[conformance]"',
    "pip install .",
    "attnref backends",
    "attnref conform small --quick",
}
"""What needs an environment of its own: `nox -s third_party`."""


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def paste(folder: Path) -> None:
    """Write the backend, what tries it, and what packages it."""
    small, attempt = blocks("python")
    (project,) = blocks("toml")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("small.py", small), ("attempt.py", attempt), ("pyproject.toml", project)):
        (folder / name).write_text(text, "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a newcomer pasted what the page shows."""
    paste(tmp_path)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_every_command_of_the_page_is_run() -> None:
    """A command that nobody runs would sooner or later be wrong."""
    commands = {line for block in blocks("shell") for line in block.splitlines()}

    assert RUN_HERE | RUN_BY_NOX == commands


def test_the_first_try_computes_and_then_refuses(folder: Path) -> None:
    """The pasted lines agree with the reference, and end in the error that is shown."""
    (error,) = blocks("text")
    ran = run(folder, sys.executable, "attempt.py")

    assert 1 == ran.returncode
    assert ran.stderr.endswith(error)


@pytest.mark.parametrize("command", sorted(RUN_HERE))
def test_the_pasted_backend_conforms(folder: Path, command: str) -> None:
    """The judge ends with the sentence that the page promises."""
    promised = re.search(r"ends with `(.*?)`", PAGE)
    _, *words = command.split()
    ran = run(folder, str(ATTNREF), *words)

    assert 0 == ran.returncode
    assert promised is not None
    assert ran.stdout.splitlines()[-1].startswith(promised[1])


def test_the_entry_point_of_the_page_is_found(folder: Path) -> None:
    """The name on the left is the one that callers write."""
    (group,) = tomllib.loads(blocks("toml")[0])["project"]["entry-points"].items()
    points = "".join(f"{name} = {place}\n" for name, place in group[1].items())
    information = folder / "attnref_small-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: attnref-small\n", "utf-8")
    (information / "entry_points.txt").write_text(f"[{group[0]}]\n{points}", "utf-8")
    listed = run(folder, sys.executable, "-c", "import attnref; print(attnref.backends())")

    assert "small" in listed.stdout


def test_the_features_of_the_page_are_all_there_are() -> None:
    """An author who lists every word of the table understands the specification."""
    rows = re.findall(r"^\| `([a-z_]+)` \| ((?:`[^`]+`(?:, )?)*) ?\|$", PAGE, re.MULTILINE)
    listed = {name: {*re.findall(r"`([^`]+)`", words), "gradients"} for name, words in rows}

    assert {name: set(words) for name, words in UNDERSTOOD.items()} == listed


if __name__ == "__main__":
    paste(Path(sys.argv[1]))
