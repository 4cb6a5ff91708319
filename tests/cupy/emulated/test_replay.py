"""A call of a form seen before is queued again, and calls of other forms are not taken for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cupy
import numpy as np
import pytest
from attnref_cupy import CupyBackend, compiling, launching
from attnref_cupy import replay as replayed
from numpy.lib.stride_tricks import as_strided

from attnref import normalize
from attnref.problem import Result

backend = CupyBackend()

Problems = Callable[[int], Any]


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    """Forget all recipes, before and after."""
    replayed._recipes.clear()
    launching._ready.cache_clear()
    yield
    replayed._recipes.clear()
    launching._ready.cache_clear()


def draw(seed: int, *shape: int, dtype: str = "float16", offset: int = 0) -> Any:
    """Draw numbers on the device, some bytes after a multiple of sixteen."""
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    memory = np.zeros(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 16 + offset
    made = memory[start : start + x.nbytes].view(x.dtype).reshape(shape)
    made[...] = x
    return made.view(cupy.ndarray)


def dense(seed: int, dtype: str = "float16", offset: int = 0, S: int = 20, **options: Any) -> Any:
    """Describe dense attention."""
    q, k, v = (draw(seed + n, 1, 2, S, 8, dtype=dtype, offset=offset) for n in range(3))
    return replace(normalize.attention(q, k, v, **options), with_gradients=True)


def everything(seed: int) -> Any:
    """Describe dense attention with every array that it may have."""
    mask = cupy.asarray(np.random.default_rng(seed).random((20, 20)) < 0.8)
    more = {"bias": draw(seed + 4, 2, 20, 20), "sinks": draw(seed + 5, 2, dtype="float32")}
    lens = {f"{n}_lens": cupy.asarray(np.array([12 + seed % 8], "i4")) for n in ("q", "kv")}
    offset = cupy.asarray(np.array([seed % 3]))
    return dense(seed, mask=mask, causal=True, q_offset=offset, **more, **lens)


def packed(seed: int) -> Any:
    """Describe packed attention."""
    q, k, v = (draw(seed + n, 20, 2, 8) for n in range(3))
    starts = cupy.asarray(np.array([0, 5 + seed % 7, 20], "i4"))
    return replace(normalize.attention_varlen(q, k, v, starts, starts), with_gradients=True)


def windowed(
    seed: int, shift: int = 2, columns: int = 16, apart: bool = False, **options: Any
) -> Any:
    """Describe window attention on a packed projection, whose thirds may lie far apart."""
    qkv, bias = draw(seed, 2, 8, 8, 3, 2, columns), draw(seed + 1, 2, 16, 16)
    if apart:  # and each as it lies otherwise
        qkv = draw(seed, 3, 2, 8, 8, 3, 2, columns)[..., 0, :, :].transpose(1, 2, 3, 0, 4, 5)
    problem = normalize.window_attention_qkv(qkv, window=4, shift=shift, bias=bias, **options)
    return replace(problem, with_gradients=True)


def scaled(seed: int) -> Any:
    """Describe window attention on three arrays, with scales and a mask."""
    q, k, v = (draw(seed + n, 2, 9, 10, 2, 16) for n in range(3))
    told = {"scale": abs(draw(seed + 3, 2, dtype="float32")), "bias": draw(seed + 4, 2, 16, 16)}
    told["key_mask"] = cupy.asarray(np.random.default_rng(seed).random((2, 9, 10)) < 0.7)
    return replace(normalize.window_attention(q, k, v, window=4, **told), with_gradients=True)


FORMS: dict[str, Problems] = {
    "dense": dense,
    "dense-everything": everything,
    "dense-float32": lambda n: dense(n, "float32"),
    "packed": packed,
    "windows": windowed,
    "windows-apart": lambda n: windowed(n, apart=True),
    "windows-scaled": scaled,
}


def passes(problem: Any) -> list[bytes]:
    """Run both passes and return their results."""
    made = backend.forward(problem)
    dout = draw(7, *made.out.shape, dtype=str(made.out.dtype))
    dlse = draw(8, *made.lse.shape, dtype="float32")
    gradients = backend.backward(problem, made, dout, dlse)
    return [x.get().tobytes() for x in (*made, *gradients) if x is not None]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_seen_before_gives_what_the_long_way_gives(form: str) -> None:
    """Its own arrays are read, to the bit as if nothing had been kept."""
    first, second = FORMS[form](0), FORMS[form](11)
    expected = passes(second)
    replayed._recipes.clear()
    before = passes(first)
    recipes = dict(replayed._recipes)
    assert None not in recipes.values()
    assert len(recipes) == 2
    assert passes(second) == expected
    assert passes(first) == before
    assert recipes == replayed._recipes


def unlaunched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Let kernels do nothing, and note what they are given."""
    seen: list[tuple[Any, ...]] = []

    def function(kernel: Any) -> Any:
        def launch(grid: Any, block: Any, given: Any, shared_mem: int) -> None:
            seen.append((str(kernel), grid, block, shared_mem, len(given)))

        return launch

    monkeypatch.setattr(compiling, "function", function)
    return seen


DIFFERENT: dict[str, Any] = {
    "first": lambda: dense(0),
    "dtype": lambda: dense(0, "float32"),
    "shape": lambda: dense(0, S=24),
    "scale": lambda: dense(0, scale=0.5),
    "softcap": lambda: dense(0, softcap=3.0),
    "causal": lambda: dense(0, causal=True),
    "window": lambda: dense(0, window=(3, 2)),
    "offset": lambda: dense(0, causal=True, q_offset=1),
    "offset-from-end": lambda: dense(0, causal=True, q_offset="end", S=28),
    "bias": lambda: dense(0, bias=draw(1, 20, 20)),
    "bias-dtype": lambda: dense(0, bias=draw(1, 20, 20, dtype="float32")),
    "bias-strides": lambda: dense(0, bias=draw(1, 20, 20).T),
    "bias-broadcast": lambda: dense(0, bias=draw(1, 1, 20)),
    "sinks": lambda: dense(0, sinks=draw(1, 2, dtype="float32")),
    "lengths": lambda: dense(0, kv_lens=cupy.asarray(np.array([4], "i4"))),
    "wider-lengths": lambda: dense(0, kv_lens=cupy.asarray(np.array([4], "i8"))),
    "query-lengths": lambda: dense(0, q_lens=cupy.asarray(np.array([4], "i4"))),
    "alignment": lambda: dense(0, "float32", offset=4),
    "without-gradients": lambda: replace(dense(0), with_gradients=False),
    "windows": lambda: windowed(0),
    "shift": lambda: windowed(0, shift=1),
    "wrap-bias": lambda: windowed(0, wrap_bias=-1.0),
    "windows-scale": lambda: windowed(0, scale=0.5),
    "windows-columns": lambda: windowed(0, columns=24),
    "three-arrays": lambda: replace(windowed(0), qkv=None),
    "projections-apart": lambda: windowed(0, apart=True),
}


def test_no_two_forms_are_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they differ in, each has a recipe of its own."""
    unlaunched(monkeypatch)
    for n, make in enumerate(DIFFERENT.values(), 1):
        backend.forward(make())
        assert len(replayed._recipes) == n
    for make in DIFFERENT.values():
        backend.forward(make())
    assert len(replayed._recipes) == len(DIFFERENT)


def test_a_backward_pass_depends_on_what_is_passed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strides of dout, and whether there is a dlse, are parts of its form."""
    seen = unlaunched(monkeypatch)
    problem = dense(0)
    out, lse = draw(3, 1, 2, 20, 8), draw(4, 1, 2, 20, dtype="float32")
    turned = draw(5, 1, 20, 2, 8).swapaxes(1, 2)
    for n, (dout, dlse) in enumerate([(out, None), (out, lse), (turned, None)], 1):
        backend.backward(problem, Result(out, lse), dout, dlse)
        first, count = seen[:], len(seen)
        backend.backward(problem, Result(out, lse), dout, dlse)
        assert seen[count:] == first
        assert len(replayed._recipes) == n
        seen.clear()


@pytest.mark.parametrize(
    "make",
    [
        lambda: dense(0, offset=2),
        lambda: dense(0, sinks=draw(1, 4, dtype="float32")[::2]),
        lambda: dense(0, S=0),
    ],
    ids=["unaligned", "strided-sinks", "empty"],
)  # fmt: skip
def test_what_has_to_be_copied_takes_the_long_way(make: Any) -> None:
    """Nothing is replayed whose kernels read copies, or whose arrays are nowhere."""
    problem = make()
    expected = backend.forward(problem).out.get()
    assert [None] == list(replayed._recipes.values())
    np.testing.assert_array_equal(backend.forward(problem).out.get(), expected)


def test_another_current_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the form was seen before."""
    unlaunched(monkeypatch)
    problem = dense(0)
    backend.forward(problem)
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 1)
    with pytest.raises(Exception, match="current device is cuda:1"):
        backend.forward(problem)


def test_recipes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is bounded."""
    unlaunched(monkeypatch)
    monkeypatch.setattr(replayed, "MOST", 3)
    for n in range(8):
        backend.forward(dense(0, scale=1.0 + n))
        assert len(replayed._recipes) <= 3


def test_a_broadcast_array_is_found_where_it_lies() -> None:
    """Strides of zero are parts of a form like others."""
    line = draw(1, 20)
    bias = as_strided(line, (20, 20), (0, 2)).view(cupy.ndarray)
    wide = line.reshape(1, 20)
    one, two = dense(0, bias=bias), dense(0, bias=wide)
    for _ in range(2):
        a, b = backend.forward(one).out.get(), backend.forward(two).out.get()
        np.testing.assert_array_equal(a, b)
