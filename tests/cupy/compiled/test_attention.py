"""Kernels of attention, softmax and merging compile for GPUs that are not here."""

from typing import Any

import numpy as np
import pytest
from attnref_cupy import compiling
from attnref_cupy.compiling import Kernel, compiled, kernel
from attnref_cupy.plan import TILINGS, Tiling
from attnref_cupy.structures import ARGUMENTS

CHIPS = ("sm_80", "sm_90a", "sm_100a")

SAMPLE: list[tuple[tuple[Any, ...], int]] = [
    (("wide_forward.cu", "wide_forward", "float", "float", "float", 64), 0),
    (("wide_forward.cu", "wide_forward", "double", "double", "double", 256), 128),
    (("wide_backward.cu", "wide_queries", "bf16", "float", "float", 128), 0),
    (("wide_backward.cu", "wide_keys", "bf16", "float", "float", 128), 0),
    (("wide_backward.cu", "wide_keys", "double", "double", "double", 256), 4096),
    (("rows.cu", "delta", "bf16", "float", "float"), 0),
    (("rows.cu", "sink_gradient", "float", "float"), 0),
    (("softmax.cu", "softmax", "bf16", "float", 256), 0),
    (("softmax.cu", "softmax_gradient", "double", "double", 256), 0),
    (("merging.cu", "merge", "bf16", "float"), 0),
    (("merging.cu", "merge_gradient", "double", "double"), 0),
]
"""An instance, and the most bytes that a thread may spill."""


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("told", "bytes_spilled"), SAMPLE, ids=lambda x: str(x)[:48])
def test_a_sample_compiles(told: tuple[Any, ...], bytes_spilled: int, chip: str) -> None:
    """Hardly anything is spilled; the widest heads in float64 spill much, and say so."""
    needs = compiled(kernel(*told), chip)
    assert needs.registers <= 255
    assert needs.spilled <= bytes_spilled


FORWARD = [
    (64, True, "none", False, 0),
    (128, True, "none", False, 0),
    (256, True, "none", False, 64),
]
FORWARD += [(96, True, "none", False, 0), (128, False, "float", True, 64)]
"""Columns, the constants of options, and the most bytes that a thread may spill."""


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("told", FORWARD, ids=str)
def test_forward_compiles(told: tuple[Any, ...], chip: str) -> None:
    """Without options, heads of up to 128 spill nothing; on Blackwell, a few bytes."""
    columns, *options, bytes_spilled = told
    tiling = tiling_for("forward", columns)
    constants = (tiling.own, tiling.warps, tiling.tile, tiling.held, tiling.blocks)
    needs = compiled(kernel("forward.cu", "forward", "bf16", columns, *constants, *options), chip)
    assert needs.spilled <= max(bytes_spilled, 32 if chip == "sm_100a" else 0)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("options", [(False, False), (True, True)], ids=["plain", "capped-masked"])
@pytest.mark.parametrize("columns", [32, 64, 96, 128])
@pytest.mark.parametrize("walk", ["queries", "keys"])
def test_backward_compiles(walk: str, columns: int, options: tuple[bool, bool], chip: str) -> None:
    """Both walks spill nothing; with every option, or on Blackwell, a few bytes."""
    constants = ("bf16", columns, *tiling_for(walk, columns), *options)
    needs = compiled(kernel("backward.cu", f"backward_{walk}", *constants), chip)
    few = 32 if chip == "sm_100a" else 0
    assert needs.spilled <= (64 if any(options) else few)


def tiling_for(walk: str, columns: int) -> Tiling:
    """Look up how heads of so many columns are cut."""
    return next(tiling for most, tiling in TILINGS[walk].items() if most >= columns)


def test_a_refusal_has_the_compilers_words() -> None:
    """What does not compile says which instance, and why."""
    with pytest.raises(RuntimeError, match=r"no_such_kernel of rows\.cu.*"):
        compiled(Kernel("rows.cu", "no_such_kernel"), CHIPS[0])


def places(dtype: np.dtype[Any], prefix: str = "") -> list[tuple[str, int]]:
    """List a structure's fields, those of its parts included, and where they lie."""
    assert dtype.fields is not None
    found: list[tuple[str, int]] = []
    for name, (of, at, *_) in dtype.fields.items():
        found.append((prefix + name, at))
        if of.fields is not None:
            found += [(n, at + inner) for n, inner in places(of, f"{prefix}{name}.")]
    return found


def test_arguments_lie_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and C++ agree on every field's place, those of nested structures included."""
    said = "\n".join(
        f'static_assert(__INTADDR__(&(((Arguments*)0)->{name})) == {at}, "{name}");'
        for name, at in places(ARGUMENTS)
    )
    source = (
        f'#include "problem.cuh"\n{said}\n'
        f'static_assert(sizeof(Arguments) == {ARGUMENTS.itemsize}, "size");\n'
        "__global__ void nothing() {}\n"
    )
    held = {**compiling.sources(), "places.cu": source}
    monkeypatch.setattr(compiling, "sources", lambda: held)
    assert compiled(Kernel("places.cu", "nothing"), CHIPS[0]).code
