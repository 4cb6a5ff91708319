"""Compiles a launch for a GPU that is not there, and asks what it needs."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton.backends.nvidia
from attnref_triton.launch import Launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend  # noqa: A004
from triton.runtime.jit import create_function_from_signature

assert "TRITON_INTERPRET" not in os.environ, "the interpreter compiles nothing"

DUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


class Resources(NamedTuple):
    """What a compiled kernel asks of a multiprocessor."""

    registers: int
    spilled: int
    shared: int


def resources(launch: Launch, capability: int) -> Resources:
    """Compile a launch for a capability such as 90."""
    target = GPUTarget("cuda", capability, 32)
    backend, kernel = make_backend(target), launch.kernel
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, rest = bind(**launch.arguments, **options)
    packed = kernel._pack_args(backend, options, bound, specialization, rest)
    settings, signature, constants, attributes = packed
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = compile(source, target=target, options=settings.__dict__)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(DUMP), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = dict(re.findall(r"(REG|STACK):(\d+)", said))
    return Resources(int(used["REG"]), int(used["STACK"]), compiled.metadata.shared)
