"""Guards around inputs and NaN in free memory, and what is heard of a backend's printing."""

import ctypes
import os
import sys

import numpy as np
import pytest
from attnref_conformance.honest import Tiled
from attnref_conformance.memory import GUARD, Guarded, poison, same_bits
from attnref_conformance.overheard import overheard

BACKEND = Tiled()
F32 = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_an_array_lies_between_guards(dtype: str, shape: tuple[int, ...]) -> None:
    """Its values are those that were given, and what lies around them is spoiled."""
    x = np.ones(shape, dtype)
    native = Guarded(BACKEND).array("x", x)
    assert np.array_equal(x, native)
    assert native.flags.c_contiguous
    around = native.base if native.base.ndim == 1 else native.base.base
    assert x.size + 2 * GUARD == around.size
    spoiled = {"int32": 2**31 - 1, "bool": True}.get(dtype, np.nan)
    assert np.array_equal(np.full(GUARD, spoiled), around[:GUARD], equal_nan=dtype != "bool")


@pytest.mark.parametrize(
    ("at", "said"),
    [(GUARD - 1, "wrote outside x"), (GUARD + 6, "wrote outside x"), (GUARD, "modified x")],
)
def test_what_was_written_is_found(at: int, said: str) -> None:
    """On either side, and inside."""
    guarded = Guarded(BACKEND)
    native = guarded.array("x", F32)
    before = guarded.read("x", native)
    assert "" == guarded.change("x", before, guarded.read("x", native))
    guarded._around["x"][at] = 9
    assert said == guarded.change("x", before, guarded.read("x", native))


def test_a_library_without_views_gets_plain_arrays() -> None:
    """Its slices are copies, around which there is nothing."""

    class Opaque:
        """An array that shows nothing of its memory."""

        def __init__(self, x: np.ndarray) -> None:
            self.x = x

    class Backend(Tiled):
        """Makes such arrays."""

        def from_numpy(self, x: np.ndarray) -> Opaque:
            """Hide the array."""
            return Opaque(x)

        def to_numpy(self, x: Opaque) -> np.ndarray:
            """Show it."""
            return x.x

    guarded = Guarded(Backend())
    native = guarded.array("x", F32)
    assert np.array_equal(F32, native.x)
    before = guarded.read("x", native)
    native.x[0] = 7
    assert "modified x" == guarded.change("x", before, guarded.read("x", native))


def test_memory_that_was_freed_holds_nan() -> None:
    """An array of the same size that nobody fills shows it."""
    poison(BACKEND, [((3, 5), "float32")])
    assert np.isnan(np.empty((3, 5), np.float32)).any()


def test_bits_are_compared_and_not_values() -> None:
    """Zeros of two signs differ, NaNs of one kind do not."""
    assert same_bits(BACKEND, np.array([np.nan]), np.array([np.nan]))
    assert not same_bits(BACKEND, np.array([0.0]), np.array([-0.0]))
    assert not same_bits(BACKEND, np.zeros(2), np.zeros((1, 2)))
    assert same_bits(BACKEND, None, None)
    assert not same_bits(BACKEND, None, np.zeros(2))


def test_everything_that_is_printed_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    """By Python, by C and to the descriptors; and what is printed later is not."""
    with overheard() as printed:
        print("a", end="")
        print("b", end="", file=sys.stderr)
        os.write(1, b"c")
        os.write(2, b"d")
        ctypes.CDLL(None).printf(b"e")
    assert ["a", "b", "c", "d", "e"] == sorted(printed())
    os.write(1, b"after")
    assert ("after", "") == tuple(capfd.readouterr())


def test_nothing_of_an_earlier_block_is_heard() -> None:
    """Each has its own ears."""
    with overheard():
        os.write(1, b"much more than the next one")
    with overheard() as printed:
        os.write(1, b"little")
    assert "little" == printed()


def test_an_error_passes_and_the_terminal_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever happens inside."""
    with pytest.raises(LookupError), overheard():
        raise LookupError
    os.write(1, b"back")
    assert "back" == capfd.readouterr().out
