"""Dense attention's kernels, on a CPU, mean what the reference means, forward and backward."""

from dataclasses import replace
from typing import Any

import cupy
import numpy as np
import pytest
from attnref_cupy import CupyBackend, replay
from attnref_cupy import call as calls
from attnref_cupy.machine import HOPPER, Chip

import attnref
from attnref import normalize
from attnref.problem import Result

backend = CupyBackend()

HEADS = (4, 2)
ENTRIES = 2

CASES: dict[str, dict[str, Any]] = {
    "A2-grouped-heads": {},
    "B2-softcap": {"softcap": 1.5},
    "B3-bias": {"bias": (1, 4, 1, 75)},
    "B5-sinks": {"sinks": (4,)},
    "C1-mask": {"mask": (2, 1, 140, 75)},
    "C2-window-and-mask": {"window": (20, 5), "q_offset": "end", "mask": (2, 4, 140, 75)},
    "C3-causal-from-the-end": {"causal": True, "q_offset": "end"},
    "C3-causal-from-an-array": {"causal": True, "q_offset": np.array([-3, 40])},
    "C4-lengths": {"q_lens": np.array([139, 0]), "kv_lens": np.array([0, 70])},
    "everything": {
        "causal": True, "q_offset": "end", "softcap": 1.5, "mask": (1, 4, 140, 1),
        "sinks": (4,), "q_lens": np.array([100, 140]), "kv_lens": np.array([75, 33]),
    },
}  # fmt: skip


def drawn(rng: np.random.Generator, name: str, told: Any) -> Any:
    """Draw an option that is told as a shape."""
    if name not in ("bias", "mask", "sinks"):
        return told
    x = rng.normal(size=told)
    return x < 0.5 if name == "mask" else x.astype("f4")


def judge(operation: str, given: list[Any], options: dict[str, Any]) -> None:
    """Compare out, lse and gradients to the reference, and have the same bits a second time."""
    rng = np.random.default_rng(1)

    def wide(x: Any) -> Any:
        return x.astype("f8") if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    def here(x: Any) -> Any:
        return cupy.asarray(x) if isinstance(x, np.ndarray) else x

    exact, told = [wide(x) for x in given], {n: wide(x) for n, x in options.items()}
    with_lse = getattr(attnref, f"{operation}_with_lse")
    expected = with_lse(*exact, **told, backend="reference")
    dout, dlse = rng.normal(size=expected.out.shape), rng.normal(size=expected.lse.shape)
    dout, dlse = dout.astype("f2"), dlse.astype("f4")
    q, k, v, *starts = exact
    backwards = getattr(attnref, f"{operation}_backward")
    wanted = backwards(
        wide(dout), q, k, v, *expected, *starts, dlse=wide(dlse), **told, backend="reference"
    )
    arrays = {n: here(x) for n, x in options.items()}
    problem = replace(
        getattr(normalize, operation)(*map(here, given), **arrays), with_gradients=True
    )
    lent = Result(here(expected.out.astype("f2")), here(expected.lse.astype("f4")))

    def run() -> list[np.ndarray]:
        made = backend.forward(problem)
        g = backend.backward(problem, lent, here(dout), here(dlse))
        return [
            np.asarray(x.get())
            for x in (made.out, made.lse, g.dq, g.dk, g.dv, getattr(g, "dbias", None), g.dsinks)
            if x is not None
        ]

    wants = [*expected, wanted.dq, wanted.dk, wanted.dv]
    wants += [wanted.dbias] if "bias" in options else []
    wants += [wanted.dsinks] if "sinks" in options else []
    actual = run()
    for want, got in zip(wants, actual, strict=True):
        np.testing.assert_allclose(got.astype("f8"), want, rtol=4e-3, atol=3e-2)
    assert [x.tobytes() for x in run()] == [x.tobytes() for x in actual]


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody writes is NaN."""
    empty = cupy.empty

    def poisoned(shape: Any, dtype: Any = float) -> Any:
        made = empty(shape, dtype)
        made[...] = np.nan
        return made

    monkeypatch.setattr(cupy, "empty", poisoned)


@pytest.fixture(params=[HOPPER, (8, 0)], ids=["warpgroups", "warps"])
def chip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply as Hopper does, and as all chips do."""
    monkeypatch.setattr(calls, "chip_of", lambda _: Chip(request.param, 4, 232448))
    replay._recipes.clear()


@pytest.mark.usefixtures("chip")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("D", "Dv"), [(64, 64), (20, 27), (128, 96)])
def test_dense_results_are_the_reference_s(name: str, D: int, Dv: int) -> None:
    """Every option, for heads that fill tiles and for heads that do not."""
    rng = np.random.default_rng(0)
    (Hq, Hkv), Sq, Sk = HEADS, 140, 75
    shapes = [(ENTRIES, Hq, Sq, D), (ENTRIES, Hkv, Sk, D), (ENTRIES, Hkv, Sk, Dv)]
    given = [rng.normal(size=shape).astype("f2") for shape in shapes]
    judge("attention", given, {n: drawn(rng, n, x) for n, x in CASES[name].items()})


@pytest.mark.usefixtures("chip")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "q_offset": "end"},
        {"window": (9, 3), "q_offset": "start", "softcap": 1.5},
    ],
)
@pytest.mark.parametrize("D", [64, 128])
def test_packed_results_are_the_reference_s(D: int, options: dict[str, Any]) -> None:
    """Sequences of all lengths, none included, and tokens that belong to nobody."""
    rng = np.random.default_rng(0)
    (Hq, Hkv), starts = HEADS, np.array([0, 70, 70, 71, 140], np.int32)
    shapes = [(145, Hq, D), (145, Hkv, D), (145, Hkv, D)]
    given = [rng.normal(size=shape).astype("f2") for shape in shapes]
    judge("attention_varlen", [*given, starts, starts], options)


def test_strides_are_taken_as_they_are() -> None:
    """Heads beside columns, as projections make them, and rows that are not aligned."""
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(ENTRIES, 33, 3, 4, 32)).astype("f2")
    judge("attention", [qkv[:, :, n].transpose(0, 2, 1, 3) for n in range(3)], {"causal": True})
    judge("attention", [qkv[:, :, n, :, 1:30].transpose(0, 2, 1, 3) for n in range(3)], {})
