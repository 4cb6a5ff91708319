"""Runs the kernels of `attnref_cupy` on a CPU: a C++ compiler takes them, instructions aside."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from attnref_cupy import compiling
from attnref_cupy.compiling import Kernel

HERE = Path(__file__).parent
ROOM = Path(os.environ.get("EMULATED", Path(tempfile.gettempdir()) / "attnref-emulated"))

COMMAND = ("g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-w", "-ffp-contract=off")


@cache
def library(kernel: Kernel) -> Any:
    """Compile a kernel, unless these very sources were compiled before."""
    ours = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("*.cuh")}
    sources = {**compiling.sources(), **ours}
    sources["this.cpp"] = (
        f'#include "{kernel.file}"\n'
        'extern "C" void run(int grid, int threads, int shared, void** arguments) {\n'
        f"    emulator::launch({kernel.expression}, grid, threads, shared, arguments);\n"
        "}\n"
    )
    digest = hashlib.sha256("".join(f"{n}{s}" for n, s in sources.items()).encode()).hexdigest()
    made = ROOM / f"{digest[:24]}.so"
    if not made.exists():
        ROOM.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, source in sources.items():
                (Path(folder) / name).write_text(source, encoding="utf-8")
            built = Path(folder) / "built.so"
            command = (*COMMAND, "-o", str(built), str(Path(folder) / "this.cpp"))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{kernel}: {done.stderr[:4000]}")
            moved = ROOM / f"{digest[:24]}.{os.getpid()}"
            shutil.copy(built, moved)
            moved.rename(made)
    return ctypes.CDLL(str(made))


class Function:
    """What `compiling.function` returns, emulated."""

    max_dynamic_shared_size_bytes = 0

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __call__(
        self, grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...], shared_mem: int
    ) -> None:
        kept = [value_of(x) for x in arguments]
        pointers = (ctypes.c_void_p * len(kept))(*(x.ctypes.data for x in kept))
        library(self.kernel).run(grid[0], block[0], shared_mem, pointers)


def value_of(x: Any) -> np.ndarray:
    """Return the bytes that are passed for an argument."""
    if isinstance(x, np.ndarray) and hasattr(x, "_of_device"):
        return np.array(x.ctypes.data, np.uint64)
    return np.array(x)
