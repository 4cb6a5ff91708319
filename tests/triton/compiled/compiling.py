"""Compiles a launch for a GPU that is not there, and asks what it needs."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton.backends.nvidia
from attnref_triton.launch import Launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend  # noqa: A004
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import create_function_from_signature

assert "TRITON_INTERPRET" not in os.environ, "the interpreter compiles nothing"

DUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


DISASSEMBLER = DUMP.with_name("nvdisasm")
ASSEMBLER = DUMP.with_name("ptxas")


class Resources(NamedTuple):
    """What a compiled kernel asks of a multiprocessor."""

    registers: int
    spilled: int
    shared: int


def resources(launch: Launch, capability: int) -> Resources:
    """Compile a launch for a capability such as 90, and ask what it needs."""
    compiled = compiled_for(launch, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(DUMP), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = dict(re.findall(r"(REG|STACK):(\d+)", said))
    return Resources(int(used["REG"]), int(used["STACK"]), compiled.metadata.shared)


def compiled_for(launch: Launch, capability: int) -> Any:
    """Compile a launch for a capability such as 90."""
    target = GPUTarget("cuda", capability, 32)
    backend, kernel = make_backend(target), launch.kernel
    options = launch.options
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, rest = bind(**launch.arguments, **options)
    packed = kernel._pack_args(backend, options, bound, specialization, rest)
    settings, signature, constants, attributes = packed
    kind = GluonASTSource if kernel.is_gluon() else ASTSource
    source = kind(kernel, signature, constants, attributes)
    return compile(source, target=target, options=settings.__dict__)


def warnings_of(compiled: Any) -> list[str]:
    """Assemble what was compiled once more, and return what the assembler remarks upon."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "kernel.ptx")
        text.write_text(compiled.asm["ptx"])
        command = [ASSEMBLER, "--gpu-name=sm_90a", text, "-o", Path(folder, "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.strip()]


def instructions(compiled: Any) -> list[str]:
    """Disassemble what was compiled: one instruction or label a line."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(DISASSEMBLER), "-c", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (re.sub(r"/\*.*?\*/", "", line).strip() for line in said.splitlines())
    return [line for line in lines if line and not line.startswith("//")]
