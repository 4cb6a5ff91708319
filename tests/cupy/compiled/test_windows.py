"""Kernels of windows compile for Ampere, Hopper and Blackwell, and hardly spill a register."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attnref_cupy import compiling
from attnref_cupy.compiling import Kernel, compiled, kernel
from attnref_cupy.position_bias import POSITION
from attnref_cupy.windows import WALKS, WIDTHS, WINDOW_CALL

CHIPS = ("sm_80", "sm_90a", "sm_100a")

FEW_BYTES = 48
"""Beside the thousand that a thread's registers hold."""

FLAGS = {"window_forward": (), "window_backward": (True, False)}
"""Without a mask, and with a bias that has a gradient: what Swin has."""


def instance(name: str, width: int, keys: int, *flags: bool) -> Kernel:
    walk = WALKS[name][width]
    constants = ("bf16", width, keys, walk.stages, walk.blocks, walk.turned, "bf16")
    return kernel(f"{name}.cu", name, *constants, False, *flags)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("width", WIDTHS)
def test_windows_of_seven_by_seven_compile(
    name: str, width: int, chip: str, record_property: Any
) -> None:
    """Heads of up to 64 spill a few bytes at most; wider ones some in the backward."""
    needs = compiled(instance(name, width, 56, *FLAGS[name]), chip)
    record_property("registers", needs.registers)
    record_property("spilled", needs.spilled)
    assert needs.registers <= 255
    assert needs.spilled <= (FEW_BYTES if width <= 64 or name == "window_forward" else 512)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    "told",
    [
        ("window_forward", "f16", 32, 64, 3, 4, False, "float", True),
        ("window_backward", "f16", 32, 64, 2, 2, True, "double", True, True, True),
        ("window_backward", "f16", 16, 8, 1, 3, True, "none", True, False, True),
    ],
)
def test_every_option_compiles(told: tuple[Any, ...], chip: str) -> None:
    """A mask, gradients of a bias and of scales, and the smallest windows."""
    assert compiled(kernel(f"{told[0]}.cu", *told), chip).spilled <= FEW_BYTES


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("window_backward.cu", "add_parts"),
        ("position_bias.cu", "position_bias"),
        ("position_bias.cu", "position_gradient"),
    ],
)
def test_what_stands_beside_them_compiles(file: str, name: str, chip: str) -> None:
    """Sums of parts, and a table's bias, spill nothing."""
    assert compiled(kernel(file, name), chip).spilled == 0


@pytest.mark.parametrize(
    ("file", "name", "of_python"),
    [("window.cuh", "WindowCall", WINDOW_CALL), ("position_bias.cu", "Position", POSITION)],
)
def test_structures_lie_alike(
    file: str, name: str, of_python: np.dtype[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides of a launch agree on every field's place: the compiler says so."""
    assert of_python.fields is not None
    places = "\n".join(
        f'static_assert(__INTADDR__(&((({name}*)0)->{field})) == {told[1]}, "{field}");'
        for field, told in of_python.fields.items()
    )
    source = (
        f'#include "{file}"\n{places}\n'
        f'static_assert(sizeof({name}) == {of_python.itemsize}, "size");\n'
        "__global__ void nothing() {}\n"
    )
    held = {**compiling.sources(), "places.cu": source}
    monkeypatch.setattr(compiling, "sources", lambda: held)
    assert compiled(Kernel("places.cu", "nothing"), CHIPS[0]).code
    assert (Path(compiling.FOLDER) / file).exists()
