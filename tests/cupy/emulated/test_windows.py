"""Window attention's kernels, on a CPU, mean what the reference means; and how walks are cut."""

from dataclasses import replace
from math import ceil, prod
from typing import Any

import cupy
import numpy as np
import pytest
from attnref_cupy import CupyBackend, windows
from attnref_cupy.machine import Chip
from attnref_cupy.windows import WALKS, runs_of, windows_of

import attnref
from attnref import normalize
from attnref.problem import Result, WindowProblem

backend = CupyBackend()

CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "G1-packed": ((7, 7), {"window": 4, "packed": True}),
    "G2-text": ((11,), {"window": 5, "shift": 2}),
    "G2-image": ((9, 8), {"window": 4, "shift": (3, 1)}),
    "G2-video": ((3, 5, 4), {"window": (2, 3, 2), "shift": (1, 2, 0)}),
    "G3-finite-wrap-bias": ((8, 8), {"window": 4, "shift": 2, "wrap_bias": -0.75}),
    "G4-one-window": ((3, 3), {"window": 4, "shift": 2}),
    "G5-padding-in-two-windows": ((9, 10), {"window": 4, "shift": 3}),
    "G6-seven-by-seven": ((14, 7), {"window": 7, "shift": 3, "packed": True}),
    "G6-key-mask": ((8, 8), {"window": 4, "shift": 2, "key_mask": True}),
    "G6-scale-per-head": ((8, 8), {"window": 4, "shift": 2, "scales": True}),
}


def problem_of(name: str, D: int, dtype: str) -> tuple[WindowProblem, dict[str, Any]]:
    """Draw a problem on the stand-in's arrays, and the same arrays in float64."""
    G, told = CASES[name]
    rng = np.random.default_rng(0)
    B, H, axes = 2, 2, len(G)
    options = {n: x for n, x in told.items() if n not in ("packed", "key_mask", "scales")}
    N = prod(np.broadcast_to(options["window"], axes).tolist())
    tables: dict[str, Any] = {"bias": rng.normal(size=(H, N, N)).astype(dtype)}
    if "key_mask" in told:
        tables["key_mask"] = rng.random((B, *G)) < 0.5
    if "scales" in told:
        tables["scale"] = rng.uniform(0.1, 1.0, H).astype("f8" if dtype == "float64" else "f4")
    qkv = rng.normal(size=(B, *G, 3, H, D)).astype(dtype)
    arrays = [qkv] if "packed" in told else [qkv[..., n, :, :].copy() for n in range(3)]
    describe = normalize.window_attention_qkv if "packed" in told else normalize.window_attention
    here = {n: cupy.asarray(x) for n, x in tables.items()}
    problem = describe(*map(cupy.asarray, arrays), **here, **options)
    views = {n: qkv[..., at, :, :].astype("float64") for at, n in enumerate("qkv")}
    wide = {n: x if x.dtype == bool else x.astype("float64") for n, x in tables.items()}
    return replace(problem, with_gradients=True), {**views, "options": {**options, **wide}}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("D", "dtype", "fused"), [(16, "float16", True), (9, "float16", True), (8, "float64", False)]
)
def test_results_are_the_reference_s(name: str, D: int, dtype: str, fused: bool) -> None:
    """Forward and backward, by kernels and by products, and the same bits a second time."""
    problem, x = problem_of(name, D, dtype)
    assert (windows_of(problem) is not None) is fused
    q, k, v, options = x["q"], x["k"], x["v"], x["options"]
    expected = attnref.window_attention_with_lse(q, k, v, **options, backend="reference")
    rng = np.random.default_rng(1)
    dout, dlse = rng.normal(size=q.shape).astype(dtype), rng.normal(size=expected.lse.shape)
    wanted = attnref.window_attention_backward(
        dout.astype("float64"), q, k, v, *expected, dlse=dlse, **options, backend="reference"
    )
    within = {"rtol": 4e-3, "atol": 2e-2} if fused else {"rtol": 1e-9, "atol": 1e-9}
    kind = "float32" if fused else dtype

    def run() -> list[np.ndarray]:
        made = backend.forward(problem)
        given = Result(
            cupy.asarray(expected.out.astype(dtype)), cupy.asarray(expected.lse.astype(kind))
        )
        g = backend.backward(problem, given, cupy.asarray(dout), cupy.asarray(dlse.astype(kind)))
        packed = getattr(g, "dqkv", None)
        parts = [g.dq, g.dk, g.dv] if packed is None else [packed[..., n, :, :] for n in range(3)]
        sums = [s for s in (g.dbias, g.dscale) if s is not None]
        return [np.asarray(y.get()) for y in (made.out, made.lse, *parts, *sums)]

    sums = [wanted.dbias, *([wanted.dscale] if "scale" in options else [])]
    judged = [expected.out, expected.lse, wanted.dq, wanted.dk, wanted.dv, *sums]
    actual = run()
    for want, got in zip(judged, actual, strict=True):
        np.testing.assert_allclose(got.astype("float64"), want, **within)
    assert [y.tobytes() for y in run()] == [y.tobytes() for y in actual]


@pytest.mark.parametrize("extent", range(1, 12))
def test_runs_hold_every_window_once(extent: int) -> None:
    """Runs are adjacent, and those of the last two windows stand alone where padding is shifted."""
    for window in range(1, 6):
        for shift in range(window if window < extent else 1):
            held = [
                w for first, n in runs_of(extent, window, shift) for w in range(first, first + n)
            ]
            assert held == list(range(-(-extent // window)))


def test_windows_wait_for_fewer_others_where_memory_is_short() -> None:
    """Stages are given up until a block fits, and a chip that is too small has no fused kernel."""
    problem, _ = problem_of("G6-seven-by-seven", 128, "float16")
    call = windows_of(problem)
    assert call is not None
    walks = [
        windows.Windows(problem=problem, q=call.q, k=call.k, v=call.v, chip=Chip((8, 6), 84, n))
        .walk("window_forward")
        for n in (232448, 101376, 16384)
    ]  # fmt: skip
    assert [walk and walk.stages for walk in walks] == [2, 1, None]


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize(("G", "heads"), [(56, 3), (28, 6), (14, 12), (7, 24), (3, 1)])
def test_blocks_fill_their_rounds(G: int, heads: int, name: str, shift: int) -> None:
    """As many blocks as run at once, or nearly so, once or several times; none has too much."""
    qkv = cupy.empty((128, 1, 1, 3, heads, 32), np.float16)
    qkv = np.lib.stride_tricks.as_strided(qkv, (128, G, G, *qkv.shape[3:])).view(cupy.ndarray)
    problem = normalize.window_attention_qkv(qkv, window=7, shift=shift if G > 7 else 0)
    parts = {"q": problem.q, "k": problem.k, "v": problem.v}
    call = windows.Windows(problem=problem, **parts, chip=Chip((9, 0), 132, 232448))
    walk = call.walk(name)
    assert walk is not None
    chunk, count = call.grid(walk)
    assert chunk <= windows.CHUNK
    assert count * chunk >= sum(call.boxes)
    rounds = count * heads / (132 * walk.blocks)
    assert rounds <= 1 or rounds > 0.85 * ceil(rounds)


@pytest.mark.parametrize("window", [(5,), (3, 2), (2, 3, 2)])
def test_a_table_s_bias_and_gradient_are_the_reference_s(window: tuple[int, ...]) -> None:
    """Rows are found by displacement, and summed over all pairs of it (G6)."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(prod(2 * w - 1 for w in window), 3))
    problem = normalize.relative_position_bias(cupy.asarray(table), window=window)
    expected = attnref.relative_position_bias(table, window=window, backend="reference")
    dbias = rng.normal(size=expected.shape)
    wanted = attnref.relative_position_bias_backward(
        dbias, table, window=window, backend="reference"
    )
    made = backend.forward(problem)
    np.testing.assert_array_equal(made.out.get(), expected)
    gradients = backend.backward(problem, made, cupy.asarray(dbias))
    np.testing.assert_allclose(gradients.dtable.get(), wanted, rtol=1e-12)
