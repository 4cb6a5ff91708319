"""Importing attnref is cheap and clean: who is loaded, and who is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def after(code: str, cwd: Path) -> list[str]:
    """Return the modules that a fresh interpreter has loaded after running the code."""
    ending = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(  # our own interpreter and code
        [sys.executable, "-W", "error", "-c", f"{code}\n{ending}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Import attnref in a fresh interpreter."""
    return set(after("import attnref", tmp_path_factory.mktemp("elsewhere")))


@pytest.mark.parametrize(
    "library",
    ["torch", "jax", "cupy", "triton", "ml_dtypes", "rich", "pytest", "hypothesis"],
)
def test_the_core_loads_numpy_and_jaxtyping_only(library: str, loaded: set[str]) -> None:
    """`import attnref` loads no library that a call may not need."""
    assert "numpy" in loaded
    assert library not in loaded


@pytest.mark.parametrize("library", ["torch", "ml_dtypes"])
def test_a_call_on_numpy_arrays_loads_nothing_more(library: str, tmp_path: Path) -> None:
    """The reference on float64 needs NumPy alone."""
    call = "import numpy as np, attnref; q = np.zeros((1, 1, 2, 3)); "
    call += 'attnref.attention(q, q, q, backend="reference")'
    assert library not in after(call, tmp_path)


def test_integrations_load_no_other_library(tmp_path: Path) -> None:
    """A model that is there has loaded its library; without one there is nothing to load."""
    libraries = {"torch", "timm", "torchvision", "transformers"}
    assert not libraries & set(after("import attnref.integrations", tmp_path))


def test_no_backend_is_loaded_before_it_is_considered(loaded: set[str]) -> None:
    """Plugins are found by entry point, and loaded later (H1)."""
    assert not {"attnref_numpy", "attnref_torch", "attnref.autograd"} & loaded


def test_the_specification_imports_nothing_of_attnref(tmp_path: Path) -> None:
    """With attnref's own package emptied, the specification still loads."""
    code = """
import importlib, importlib.util, pkgutil, sys, types
where = importlib.util.find_spec("attnref").submodule_search_locations
sys.modules["attnref"] = package = types.ModuleType("attnref")
package.__path__ = list(where)
import attnref.spec
for found in pkgutil.iter_modules(attnref.spec.__path__, "attnref.spec."):
    importlib.import_module(found.name)
"""
    ours = {m for m in after(code, tmp_path) if m.startswith("attnref")}
    chapters = {
        "attention",
        "gradients",
        "packed",
        "scores",
        "softmax",
        "visibility",
        "windows",
    }
    assert {"attnref", "attnref.spec", *(f"attnref.spec.{c}" for c in chapters)} == ours


@pytest.mark.parametrize("container", ["backends", "conformance"])
def test_the_containers_are_no_packages(container: str, tmp_path: Path) -> None:
    """Away from the repository there is no module `backends` or `conformance`.

    An editable installation puts the repository's root on the path, where a folder of
    this name is a namespace without a single module of its own.
    """
    code = f"""
from importlib.util import find_spec
spec = find_spec({container!r})
assert spec is None or spec.origin is None, spec
"""
    assert f"{container}" not in after(code, tmp_path)
