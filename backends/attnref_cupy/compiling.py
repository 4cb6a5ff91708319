"""Makes a kernel of a `.cu` file: NVRTC compiles it, with template arguments for constants.

A kernel is a template in a file beside this one, and an instance of it is named as C++
would: `forward<bf16, 128, 64>`. Nothing is pasted into a source. The files need no header
but one another, so that CuPy and NVRTC are all that must be installed.

On a machine with a GPU, `function` has CuPy compile it at first use; CuPy keeps the result
on disk. CuPy's key to that is the source it is given, and not what the source includes, so
the digest of all files is a constant among the options.

`compiled` does the same for a GPU that is not there, and says what the kernel needs.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
"""Where the sources are."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An instance of a template.

    Attributes:
        file: In this folder, e.g. `"forward.cu"`.
        expression: Its name in C++, e.g. `"forward<bf16, 128, 64>"`.
        chip: The only one that it is for, e.g. `"sm_90a"`; `None` if any will do.
    """

    file: str
    expression: str
    chip: str | None = None

    def __str__(self) -> str:
        """Name file and instance."""
        return f"{self.expression} of {self.file}"


def kernel(file: str, name: str, *constants: str | int | bool) -> Kernel:
    """Name an instance by its template's arguments.

    Example:
        >>> str(kernel("forward.cu", "forward", "bf16", 128, True))
        'forward<bf16, 128, true> of forward.cu'
    """
    said = [str(x).lower() if isinstance(x, bool) else str(x) for x in constants]
    return Kernel(file, f"{name}<{', '.join(said)}>" if said else name)


@cache
def sources() -> dict[str, str]:
    """Read every source, by name."""
    files = sorted(p for p in FOLDER.iterdir() if p.suffix in (".cu", ".cuh"))
    return {p.name: p.read_text(encoding="utf-8") for p in files}


@cache
def options() -> tuple[str, ...]:
    """Return the options of NVRTC, which are the same for every kernel and chip."""
    digest = sha256("".join(sources().values()).encode()).hexdigest()
    return ("-std=c++17", f"-I{FOLDER}", f"-DSOURCES=0x{digest[:15]}")


@cache
def function(kernel: Kernel) -> Any:
    """Compile a kernel for the current device, or find it where CuPy keeps it.

    Returns:
        CuPy's `RawKernel`, which is good for every device.
    """
    import cupy

    # CuPy names the chip as well, without the letter that Hopper's own instructions ask for;
    # NVRTC then takes the one with it.
    chip = () if kernel.chip is None else (f"-arch={kernel.chip}",)
    module = cupy.RawModule(
        code=sources()[kernel.file],
        options=(*options(), *chip),
        name_expressions=(kernel.expression,),
    )
    return module.get_function(kernel.expression)


class Needs(NamedTuple):
    """What a compiled kernel asks for.

    Attributes:
        registers: Of a thread.
        spilled: Bytes that a thread stores for want of registers.
        code: The machine code.
    """

    registers: int
    spilled: int
    code: bytes


def compiled(kernel: Kernel, chip: str) -> Needs:
    """Compile a kernel for a chip such as `"sm_90a"`; no GPU and no driver is needed.

    Raises:
        RuntimeError: NVRTC refuses it; the message is the compiler's.
    """
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(sources()[kernel.file], kernel.file, (), ())
    try:
        nvrtc.addNameExpression(program, kernel.expression)
        try:
            told = (*options(), f"-arch={chip}", "-ftz=true", "--ptxas-options=-v")
            nvrtc.compileProgram(program, told)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"{kernel}: {nvrtc.getProgramLog(program)}") from error
        log = nvrtc.getProgramLog(program)
        spilled = re.search(r"(\d+) bytes spill stores", log)
        registers = re.search(r"Used (\d+) registers", log)
        assert spilled is not None
        assert registers is not None
        return Needs(int(registers[1]), int(spilled[1]), nvrtc.getCUBIN(program))
    finally:
        nvrtc.destroyProgram(program)
