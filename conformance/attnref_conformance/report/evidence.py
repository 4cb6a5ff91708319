"""What makes a report evidence: whose code it was, on which machine, with which libraries."""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from attnref.backend import Backend

SOURCES = (".py", ".cu", ".cuh")
"""The files that a package's hash is of."""


def package_of(backend: Backend) -> str:
    """Return the import name of the package that a backend's class is from."""
    return type(backend).__module__.partition(".")[0]


def package_hash(backend: Backend) -> str:
    """Hash the sources of a backend's package: evidence goes stale when they change."""
    return hash_of(package_of(backend)) or ""


def hash_of(package: str) -> str | None:
    """Hash the sources of a package that may be unable to run here; nothing is imported.

    Returns:
        The hash, or `None` if there is no such package.
    """
    spec = _spec(package)
    if spec is None:
        return None
    digest = hashlib.sha256()
    origin = Path(spec)
    files = sorted(origin.parent.rglob("*")) if origin.name == "__init__.py" else [origin]
    for path in files:
        if path.suffix in SOURCES:
            digest.update(path.relative_to(origin.parent).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _spec(package: str) -> str | None:
    """Find the file that a top-level package or module begins with."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        return loaded.__file__
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def machine() -> dict[str, str]:
    """Describe the machine: processor, system, and GPU with its driver if a library sees one."""
    found = {"system": platform.system(), "processor": platform.machine()}
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found["gpu"] = torch.cuda.get_device_name()
        found["capability"] = f"{major}.{minor}"
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    elif cupy is not None and cupy.cuda.is_available():
        device = cupy.cuda.runtime.getDeviceProperties(0)
        found["gpu"] = device["name"].decode()
        found["capability"] = f"{device['major']}.{device['minor']}"
        found["cuda"] = str(cupy.cuda.runtime.runtimeGetVersion())
    if "gpu" in found:
        found["driver"] = driver()
    return found


def driver(told: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of the GPU's driver, or a question mark."""
    if told.exists():
        said = told.read_text("utf-8")
    elif command := shutil.which("nvidia-smi"):
        words = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(words, capture_output=True, text=True, check=False).stdout  # noqa: S603
    else:
        said = ""
    version = re.search(r"\d+\.\d+(\.\d+)?", said)
    return version[0] if version else "?"


def versions() -> dict[str, str]:
    """Return the versions of Python and of every array library that is loaded."""
    names = ("numpy", "torch", "triton", "cupy", "jax", "ml_dtypes")
    loaded = {
        n: str(getattr(sys.modules[n], "__version__", "?")) for n in names if sys.modules.get(n)
    }
    return {"python": platform.python_version(), **loaded}
