"""The backend stands on what is promised to stay, and on nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import attnref_jax
import pytest

STABLE = {"attnref.backend", "attnref.problem", "attnref.errors", "attnref.spec.visibility"}
"""What `backends/README.md` of attnref keeps stable."""

MODULES = sorted(Path(attnref_jax.__file__).parent.glob("*.py"))


def imported(module: Path) -> Iterator[str]:
    """Name every module that a source file imports."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield str(node.module)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_only_what_is_stable_is_imported(module: Path) -> None:
    """Of attnref, a backend imports four modules."""
    theirs = {name for name in imported(module) if name.partition(".")[0] == "attnref"}

    assert set() == theirs - STABLE


def test_considering_the_backend_does_not_import_jax() -> None:
    """Listing backends stays cheap: JAX is loaded by whoever has JAX arrays."""
    said = "import sys, attnref_jax; attnref_jax.backend.available(); print('jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)

    assert "False" == ran.stdout.strip()


def test_the_backend_is_registered() -> None:
    """attnref finds the backend as it finds any other."""
    (point,) = entry_points(group="attnref.backends", name="jax")

    assert attnref_jax.backend is point.load()
