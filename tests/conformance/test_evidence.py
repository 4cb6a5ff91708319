"""Evidence: whose sources, which machine."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from attnref_conformance.report import evidence


def test_sources_are_hashed_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend for a GPU has a hash where there is none."""
    package = tmp_path / "cannot_be_imported"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no GPU')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert evidence.hash_of("cannot_be_imported") is not None
    assert "cannot_be_imported" not in sys.modules


def test_a_package_that_is_not_here_has_no_hash() -> None:
    """It is told apart from one that is empty."""
    assert evidence.hash_of("of_somebody_else") is None


def test_a_broken_finder_means_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever somebody's import hook raises."""

    def raises(_: str) -> None:
        raise ValueError

    monkeypatch.setattr(evidence, "find_spec", raises)
    assert evidence.hash_of("of_somebody_else") is None


def test_a_gpu_that_torch_sees_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, capability, runtime and driver."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_capability=lambda: (9, 0),
        get_device_name=lambda: "NVIDIA H100",
    )
    version = SimpleNamespace(cuda="12.8", hip=None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=version))
    monkeypatch.setattr(evidence, "driver", lambda: "570.1")
    found = evidence.machine()
    assert ("NVIDIA H100", "9.0", "12.8", "570.1") == tuple(
        found[n] for n in ("gpu", "capability", "cuda", "driver")
    )


def test_a_gpu_that_cupy_sees_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch sees none."""
    runtime = SimpleNamespace(
        getDeviceProperties=lambda _: {"name": b"NVIDIA H200", "major": 9, "minor": 0},
        runtimeGetVersion=lambda: 12080,
    )
    cuda = SimpleNamespace(is_available=lambda: True, runtime=runtime)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(evidence, "driver", lambda: "?")
    found = evidence.machine()
    assert ("NVIDIA H200", "9.0", "12080") == tuple(found[n] for n in ("gpu", "capability", "cuda"))


def test_the_driver_is_read_from_the_system(tmp_path: Path) -> None:
    """No process is started for it."""
    told = tmp_path / "version"
    told.write_text("NVRM version: NVIDIA UNIX Open Kernel Module  570.124.06  Release\n")
    assert "570.124.06" == evidence.driver(told)


@pytest.mark.parametrize(("said", "version"), [("571.2\n", "571.2"), ("no devices\n", "?")])
def test_the_driver_is_asked_for_where_the_system_says_nothing(
    said: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question mark stands for an answer that is none."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{said.strip()}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert version == evidence.driver(tmp_path / "nothing")


def test_a_machine_without_a_driver_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file nor command."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "?" == evidence.driver(tmp_path / "nothing")
