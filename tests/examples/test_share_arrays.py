"""The example of arrays that cross: what it says of memory is so."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import attnref
from attnref import arrays


@pytest.fixture
def script() -> ModuleType:
    """The example, which is no module of a package."""
    path = Path(__file__).parents[2] / "examples" / "share_arrays.py"
    spec = importlib.util.spec_from_file_location("share_arrays", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_what_is_shared(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Torch's tensors and NumPy's arrays are the same memory, both ways."""
    script.main()
    first, *rest = capsys.readouterr().out.splitlines()
    assert "torch on cpu, float32, backend numpy: queries shared, result shared" == first
    reasons = attnref.registry.load("cupy").available()
    assert [f"cupy cannot run here: {reason}" for reason in reasons] == rest


def test_a_copy_is_told_from_shared_memory(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where crossing copies, it says so."""
    cross = arrays.cross
    monkeypatch.setattr(arrays, "cross", lambda x, target: cross(x, target).copy())
    q, k, v = map(torch.from_numpy, script.drawn())
    assert (False, True) == script.shared("numpy", "torch", q, k, v)
