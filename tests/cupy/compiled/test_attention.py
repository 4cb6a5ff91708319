"""Kernels of attention, softmax and merging compile for GPUs that are not here."""

from typing import Any

import numpy as np
import pytest
from attnref_cupy import compiling
from attnref_cupy.compiling import Kernel, compiled, kernel
from attnref_cupy.plan import GROUPED, GROUPED_OPTIONED, OPTIONED, TILINGS, Tiling
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
FORWARD += [(96, True, "none", False, 0), (128, False, "float", True, 128)]
"""Columns, the constants of options, and the most bytes that a thread may spill."""


def forward_constants(tiling: Tiling) -> tuple[int | bool, ...]:
    """List the constants of a tiling that a forward pass has."""
    return (tiling.own, tiling.warps, tiling.tile, tiling.held, tiling.blocks, tiling.groups)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("told", FORWARD, ids=str)
def test_forward_compiles(told: tuple[Any, ...], chip: str) -> None:
    """Without options, heads of up to 128 spill little; on Blackwell, a few bytes more."""
    columns, *options, bytes_spilled = told
    constants = forward_constants(tiling_for("forward", columns, plain=options[0]))
    needs = compiled(kernel("forward.cu", "forward", "bf16", columns, *constants, *options), chip)
    assert needs.spilled <= max(bytes_spilled, 32 if chip == "sm_100a" else 16)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    "options",
    [(False, False, "none"), (True, True, "none"), (False, False, "bf16"), (True, True, "float")],
    ids=["plain", "capped-masked", "biased", "everything"],
)
@pytest.mark.parametrize("columns", [32, 64, 96, 128])
@pytest.mark.parametrize("walk", ["queries", "keys"])
def test_backward_compiles(
    walk: str, columns: int, options: tuple[bool, bool, str], chip: str
) -> None:
    """Both walks spill nothing; with every option, or on Blackwell, some bytes."""
    constants = ("bf16", columns, *tiling_for(walk, columns), *options)
    needs = compiled(kernel("backward.cu", f"backward_{walk}", *constants), chip)
    few = 32 if chip == "sm_100a" else 0
    assert needs.spilled <= (320 if options != (False, False, "none") else few)


@pytest.mark.parametrize("columns", [64, 128])
@pytest.mark.parametrize("walk", ["forward", "queries", "keys"])
def test_products_of_warpgroups_compile(walk: str, columns: int) -> None:
    """They are Hopper's alone, and spill next to nothing without options."""
    for tables, capped, masked, bias in (
        (GROUPED, False, False, "none"),
        (GROUPED_OPTIONED, True, False, "none"),
        (GROUPED_OPTIONED, False, False, "bf16"),
        (GROUPED_OPTIONED, True, True, "float"),
    ):
        tiling = next(tiling for most, tiling in tables[walk].items() if most >= columns)
        if walk == "forward":
            plain = not capped and bias == "none"
            told = (*forward_constants(tiling), plain, bias, masked)
            instance = kernel("forward.cu", "forward", "bf16", columns, *told)
        else:
            told = (*tiling, capped, masked, bias)
            instance = kernel("backward.cu", f"backward_{walk}", "bf16", columns, *told)
        needs = compiled(instance, "sm_90a")
        assert needs.spilled <= (32 if tables is GROUPED else 320)


def tiling_for(walk: str, columns: int, *, plain: bool = True) -> Tiling:
    """Look up how heads of so many columns are cut."""
    tables = TILINGS if plain else OPTIONED
    return next(tiling for most, tiling in tables[walk].items() if most >= columns)


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
