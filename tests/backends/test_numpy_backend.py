"""What is particular to the NumPy backend; its meaning is judged by conformance."""

import threading
import tracemalloc
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import threadpoolctl
from attnref_numpy import attention as numpy_attention
from attnref_numpy import backend, blocks, gradients, lattice, mild, scores, short, threads
from attnref_numpy.sequences import call_of

import attnref
from attnref import normalize
from attnref.problem import AttentionProblem, Problem, Result, SoftmaxProblem


def random(*shape: int) -> np.ndarray:
    """Return reproducible normal numbers."""
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def attention(Sq: int, Sk: int, **options: Any) -> AttentionProblem:
    """Describe a float32 call with a group of two heads and one broadcast bias."""
    q, k = random(1, 2, Sq, 16), random(1, 1, Sk, 16)
    q, k = q.astype(np.float32), k.astype(np.float32)
    return normalize.attention(q, k, k + 1, with_lse=True, **options)


def both_ways(problem: Problem) -> list[np.ndarray]:
    """Run forward and backward and return every array that comes out."""
    result = backend.forward(problem)
    given = backend.backward(problem, result, result.out, result.lse)
    return [x for x in (*result, *given) if x is not None]


def peak(run: Callable[[], object]) -> int:
    """Return the bytes that a call held at most."""
    tracemalloc.start()
    run()
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block hold a few scores, so that small problems have many."""
    modules: tuple[ModuleType, ...] = (numpy_attention, lattice)
    for module in modules:
        monkeypatch.setattr(module, "ELEMENTS", 40)
    for module in (blocks, numpy_attention, gradients):
        monkeypatch.setattr(module, "ROWS", 6)
    for module in (mild, gradients):
        monkeypatch.setattr(module, "KEYS", 4)
    monkeypatch.setattr(short, "MOST", 0)


@pytest.fixture
def seen_shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Collect the shapes of all scores that the forward pass forms."""
    shapes: list[tuple[int, ...]] = []

    def noted(s: np.ndarray, *args: Any) -> scores.Scores:
        shapes.append(s.shape)
        return original(s, *args)

    def noted_tile(p: np.ndarray, *args: Any) -> None:
        shapes.append(p.shape)
        hide(p, *args)

    original, hide = scores.scored, mild._hide
    monkeypatch.setattr(short, "MOST", 0)
    monkeypatch.setattr(scores, "scored", noted)
    monkeypatch.setattr(mild, "_hide", noted_tile)
    return shapes


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"bias": random(2, 1, 1)}])
def test_memory_is_linear_in_the_tokens(options: dict[str, Any]) -> None:
    """Twice the tokens hold about twice the memory, forward and backward."""
    short, long = attention(2048, 2048, **options), attention(4096, 4096, **options)
    before, after = peak(lambda: both_ways(short)), peak(lambda: both_ways(long))
    assert after < 2.5 * before
    assert after < 4096 * 4096 * 4


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True, "q_offset": "end"},
    "window": {"window": (4, 1), "q_offset": -3},
    "mask": {"mask": random(23, 31) > 1},
    "bias by row": {"bias": random(2, 23, 1)},
    "bias by key": {"bias": random(1, 31), "softcap": 2.0},
    "sinks": {"sinks": random(2), "window": (0, 0), "q_offset": 20},
    "wild": {"scale": 40.0, "causal": True, "q_offset": "end"},
    "wild sinks": {"sinks": 100 * random(2), "mask": random(23, 31) > 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_blocks_change_nothing(options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Blocks far smaller than the problem give the result of one block."""
    problem = attention(23, 31, **options)
    expected = both_ways(problem)
    request.getfixturevalue("small_blocks")
    for one, many in zip(expected, both_ways(problem), strict=True):
        np.testing.assert_allclose(many, one, rtol=2e-5, atol=2e-5)


def test_chunks_of_windows_change_nothing(request: pytest.FixtureRequest) -> None:
    """Windows and heads worked on one at a time give the result of one chunk."""
    problem = normalize.window_attention_qkv(
        random(2, 7, 10, 3, 2, 4),
        window=(3, 4),
        shift=(1, 2),
        bias=random(2, 12, 12),
        scale=random(2),
        with_lse=True,
    )
    expected = both_ways(problem)
    request.getfixturevalue("small_blocks")
    for one, many in zip(expected, both_ways(problem), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-12, atol=1e-12)


def test_one_row_always_fits(small_blocks: None) -> None:
    """A row with more keys than a block holds is a block of its own."""
    problem = attention(3, 100)
    expected = attnref.attention(problem.q, problem.k, problem.v, backend="reference")
    np.testing.assert_allclose(backend.forward(problem).out, expected, rtol=1e-5)


def test_keys_out_of_the_window_are_skipped(seen_shapes: list[tuple[int, ...]]) -> None:
    """Behind a window the scores that are formed grow with it, not with the keys."""
    backend.forward(attention(1024, 1024, window=(16, 0)))
    expected = 1024 * 2 * (blocks.ROWS + 16)
    assert expected >= sum(map(np.prod, seen_shapes))


def test_rows_past_every_key_score_nothing(seen_shapes: list[tuple[int, ...]]) -> None:
    """Where nobody sees anything, no score is formed."""
    result = backend.forward(attention(64, 64, window=(3, 0), q_offset=10**12))
    assert sum(map(np.prod, seen_shapes)) == 0
    assert np.all(result.lse == -np.inf)


def test_keys_that_a_mask_hides_from_all_are_skipped(
    seen_shapes: list[tuple[int, ...]],
) -> None:
    """The span shrinks to what the mask shows."""
    mask = np.zeros((1, 1, 1, 64), bool)
    mask[..., 20:24] = True
    backend.forward(attention(8, 64, mask=mask))
    assert seen_shapes == [(2, 8, 4)]


def test_a_broadcast_bias_has_no_dense_gradient() -> None:
    """The gradient of a bias per head is summed block by block."""
    problem = attention(2048, 2048, bias=random(2, 1, 1))
    result = backend.forward(problem)
    held = peak(lambda: backend.backward(problem, result, result.out))
    assert held < 2048 * 2048 * 4


def test_tiles_are_pure(small_blocks: None) -> None:
    """A tile's gradients do not depend on which tiles ran before it."""
    problem = attention(9, 9, causal=True)
    head = next(_heads(problem))
    out, lse = backend.forward(problem)
    given = gradients.Given(out[0], np.asarray(lse)[0], out[0], None)
    k, v = gradients.ended(head.k, 1), gradients.ended(head.values.v, 1)
    rooms = gradients.Rooms.of(head)
    cut = [
        (gradients.Strip.of(head, strip, given.at(slice(None), strip.rows), mild=True), tile)
        for strip in blocks.strips(head, gradients.ROWS)
        for tile in strip.tiles(gradients.KEYS)
    ]
    assert len(cut) > 4

    def one(strip: gradients.Strip, tile: blocks.Block) -> np.ndarray:
        at = tile.keys
        return gradients.weigh_tile(head, tile, strip, k[at], v[at], rooms).dA.copy()

    forwards = [one(*at) for at in cut]
    backwards = [one(*at) for at in reversed(cut)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(a, b)


def _heads(problem: AttentionProblem) -> Any:
    from attnref_numpy.sequences import call_of  # only here

    call = call_of(problem)
    return (call.head(*at) for at in call.heads())


class FutureProblem(AttentionProblem):
    """A call with an option that this package has never heard of."""

    def _features(self) -> set[str]:
        return {"telepathy"}


class FutureOperation(SoftmaxProblem):
    """An operation that this package has never heard of."""

    operation: ClassVar[str] = "softmin"


def test_an_unknown_feature_is_refused() -> None:
    """What a later specification adds is a reason, and not ignored."""
    q = random(1, 1, 2, 2)
    problem = FutureProblem(q=q, k=q, v=q, scale=1.0)
    expected = ["telepathy is not implemented"]
    assert expected == [str(reason) for reason in backend.unsupported(problem)]
    with pytest.raises(attnref.UnsupportedError, match="telepathy"):
        backend.forward(problem)
    with pytest.raises(attnref.UnsupportedError, match="telepathy"):
        backend.backward(problem, Result(q, q[..., 0]), q)


def test_an_unknown_operation_is_refused() -> None:
    """So is an operation."""
    problem = FutureOperation(x=random(3), axis=0)
    expected = ["softmin is not implemented"]
    assert expected == [str(reason) for reason in backend.unsupported(problem)]


def test_a_float64_bias_beyond_float32_stays_finite() -> None:
    """A finite bias never hides a key, however far below float32's range it lies."""
    problem = attention(2, 5, bias=np.full((1, 5), np.finfo(np.float64).min))
    expected = problem.v.mean(axis=2)
    np.testing.assert_allclose(backend.forward(problem).out[:, 0, 0], expected[:, 0])


def test_arrays_pass_through_the_judge_untouched() -> None:
    """The backend's arrays are NumPy's."""
    x = random(2)
    assert x is backend.from_numpy(x)
    assert x is backend.to_numpy(x)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Spread every call over two threads, and collect who worked."""
    names: list[str] = []
    attend = numpy_attention.attend

    def noted(*args: Any) -> None:
        names.append(threading.current_thread().name)
        attend(*args)

    monkeypatch.setattr(short, "MOST", 0)
    monkeypatch.setattr(numpy_attention, "attend", noted)
    monkeypatch.setattr(threads, "WORTH", 0)
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    return names


def two_heads() -> AttentionProblem:
    """Describe a call whose scores overflow here and there."""
    q, k = (random(1, heads, 64, 16).astype(np.float32) for heads in (4, 2))
    bias = (random(4, 64, 64).clip(-3, 3) * 1e38).astype(np.float32)
    return normalize.attention(q, k, k + 1, bias=bias, with_lse=True)


def test_heads_are_spread_over_threads(two_threads: list[str]) -> None:
    """Each writes its own rows, without a warning, and BLAS has its threads back."""
    problem = two_heads()
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = backend.forward(problem)
    assert all(name.startswith("attnref-numpy") for name in two_threads)
    assert len(two_threads) == 8  # each head in four parts, so that no core waits for long
    assert before == [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    p = problem
    want = attnref.attention(p.q, p.k, p.v, bias=p.bias, backend="reference")
    np.testing.assert_allclose(got.out, want, rtol=1e-5, atol=1e-6)


def test_what_a_thread_raises_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error does not stay behind in a thread."""
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        threads.spread(lambda n: 1 // n, [1, 0], threads.WORTH)


def test_without_threadpoolctl_heads_follow_one_another(
    two_threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLAS then keeps its threads, and two kinds of them would get into each other's way."""
    monkeypatch.setattr(threads, "find_spec", lambda _: None)
    threads._pools.cache_clear()
    backend.forward(two_heads())
    threads._pools.cache_clear()
    assert two_threads == [threading.current_thread().name] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"mask": np.eye(9, dtype=bool)[::-1]},
        {"causal": True},
        {"window": (0, 0)},
        {"mask": np.arange(9) == 4},
        {"window": (0, 2), "mask": np.tile(np.arange(9) < 2, (9, 1))},
    ],
    ids=["a-mask", "causal", "a-window", "one-key", "both"],
)
def test_a_row_that_sees_one_key_has_its_value(options: dict[str, Any]) -> None:
    """To the bit, though nothing makes its weight a one before the product (A6)."""
    q, k, v = (random(1, 2, 9, 16).astype(np.float32) * n for n in (1, 1.7, 0.9))
    out = attnref.attention(q, k, v, backend=backend, **options)
    exact = attnref.attention(*map(np.float64, (q, k, v)), backend="reference", **options)
    ones = np.isin(exact, v)
    assert ones.any()
    np.testing.assert_array_equal(out[ones], exact[ones].astype(np.float32))


def many_windows(scale: float = 0.25) -> Problem:
    """Describe maps whose windows come in several chunks, the last ones at an edge."""
    qkv, bias = random(2, 7, 9, 3, 2, 8), random(2, 9, 9)
    return normalize.window_attention_qkv(
        qkv.astype(np.float32),
        window=3,
        shift=1,
        bias=bias.astype(np.float32),
        scale=np.full(2, scale, np.float32),
        with_lse=True,
    )


def test_windows_give_the_same_bits_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks do not depend on threads, and what they share is added up in their order."""
    monkeypatch.setattr(lattice, "ELEMENTS", 500)
    assert len(lattice.chunks(many_windows())) > 4
    alone = both_ways(many_windows())
    monkeypatch.setattr(threads, "WORTH", 0)
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    for x, y in zip(alone, both_ways(many_windows()), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("own", [True, False], ids=["a-bias-each", "one-bias"])
def test_gradients_are_the_same_bits_on_any_number_of_threads(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads that share a bias or sinks add to them one after another."""
    q, k = (random(2, heads, 20, 8).astype(np.float32) for heads in (4, 2))
    bias = random(*((2, 4) if own else (1, 1)), 20, 20).astype(np.float32)
    sinks = None if own else random(4).astype(np.float32)
    problem = normalize.attention(q, k, k, bias=bias, sinks=sinks, with_lse=True)
    alone = both_ways(problem)
    monkeypatch.setattr(threads, "WORTH", 1)
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    for x, y in zip(alone, both_ways(problem), strict=True):
        np.testing.assert_array_equal(x, y)


def test_one_head_in_parts_gives_the_same_bits_on_any_number_of_threads(
    small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into how many parts it is cut depends on the problem, and parts are added in their order."""
    q, k = (random(1, heads, 50, 8).astype(np.float32) for heads in (2, 1))
    problem = normalize.attention(q, k, k, causal=True, with_lse=True)
    whole = both_ways(problem)
    monkeypatch.setattr(gradients, "WORTH", 100)
    alone = both_ways(problem)
    monkeypatch.setattr(threads, "WORTH", 1)
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    for x, y, z in zip(alone, both_ways(problem), whole, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, z, rtol=1e-4, atol=1e-5)


def test_windows_of_mild_and_of_wild_scores_agree_with_the_specification() -> None:
    """Mild ones need no maximum; wild ones, and values that are not finite, take the long way."""
    for scale, limit in ((0.25, 2e-6), (30.0, 2e-4)):
        problem = many_windows(scale)
        got = backend.forward(problem)
        want = attnref.window_attention_qkv_with_lse(
            problem.qkv, window=3, shift=1, bias=problem.bias, scale=problem.scale,
            backend="reference",
        )  # fmt: skip
        np.testing.assert_allclose(got.out, want.out, rtol=2e-5, atol=limit)
        np.testing.assert_allclose(got.lse, want.lse, rtol=2e-5, atol=limit)
    problem = many_windows()
    problem.v[0, 0, 0] = np.inf
    out = backend.forward(problem).out
    assert np.isnan(out[0, 0, 0]).all()
    assert np.isfinite(out[1]).all()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_short_sequences_at_once_are_short_sequences(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacked or one by one, with any option, in several stacks."""
    q, k = (random(3, heads, n, 8).astype(np.float32) for heads, n in ((2, 23), (1, 31)))
    problem = normalize.attention(q, k, k + 1, with_lse=True, **options)
    monkeypatch.setattr(short, "ELEMENTS", 2 * 2 * 23 * 31)
    assert short.is_short(call_of(problem))
    together = backend.forward(problem)
    monkeypatch.setattr(short, "MOST", 0)
    for x, y in zip(together, backend.forward(problem), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


def floats(*shape: int, value: float = 1.0) -> np.ndarray:
    return np.full(shape, value, np.float32)


def column(*numbers: float) -> np.ndarray:
    return np.float32(numbers)[None, None, :, None]


AT_THE_END: dict[str, tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, Any]]] = {
    "products-of-tiny-numbers": (
        (floats(1, 1, 2, 1, value=1e-23), column(1, 0.5), column(1, 0.5)),
        {"scale": 1e25},
    ),
    "large-values": (
        (floats(1, 1, 2, 1, value=27), floats(1, 1, 3, 1), floats(1, 1, 3, 1, value=1e30)),
        {"scale": 1.0},
    ),
    "small-values": (
        (floats(1, 1, 2, 1, value=-27), floats(1, 1, 3, 1), column(1e-30, 2e-30, 3.3e-30)),
        {"scale": 1.0},
    ),
    "a-large-scale": (
        (floats(1, 1, 2, 1, value=1e-38), floats(1, 1, 3, 1), floats(1, 1, 3, 1)),
        {"scale": 3e38},
    ),
}  # fmt: skip


@pytest.mark.parametrize("most", [0, 2**14], ids=["one-by-one", "at-once"])
@pytest.mark.parametrize(("given", "options"), AT_THE_END.values(), ids=AT_THE_END)
def test_numbers_at_the_end_of_the_range_take_the_long_way(
    given: tuple[np.ndarray, ...],
    options: dict[str, Any],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where powers or their products might leave the range, a maximum is taken off."""
    monkeypatch.setattr(short, "MOST", most)
    given = tuple(np.float32(np.repeat(x, 2, axis=1)) for x in given)
    got = attnref.attention_with_lse(*given, backend="numpy", **options)
    want = attnref.attention_with_lse(*given, backend="reference", **options)
    np.testing.assert_allclose(got.out, want.out, rtol=1e-5)
    np.testing.assert_allclose(got.lse, want.lse, rtol=1e-5)


def test_empty_axes_are_no_errors() -> None:
    """No head, no key, no column: results are empty, or zeros (A4)."""
    for B, Hq, Hkv, Sq, Sk, D in ((1, 0, 2, 200, 200, 4), (1, 2, 2, 300, 0, 4), (2, 1, 1, 3, 3, 0)):
        q, k = floats(B, Hq, Sq, D), floats(B, Hkv, Sk, D)
        assert attnref.attention(q, k, k, scale=1.0, backend="numpy").shape == q.shape
    for D, Dv in ((0, 3), (3, 0), (0, 0)):
        q, v = floats(1, 5, 2, D), floats(1, 5, 2, Dv)
        out = attnref.window_attention(q, q, v, scale=1.0, window=3, backend="numpy")
        assert out.shape == v.shape


def test_maps_with_their_heads_first_are_read_where_they_lie() -> None:
    """Tokens that do not follow one another are picked by their coordinates."""
    x = random(2, 6, 9, 3, 8)
    y = np.ascontiguousarray(x.transpose(0, 3, 1, 2, 4)).transpose(0, 2, 3, 1, 4)
    options: dict[str, Any] = {"window": 4, "shift": 1, "backend": "numpy"}
    want = attnref.window_attention(x, x, x, **options)
    got = attnref.window_attention(y, y, y, **options)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert got.strides == y.strides


class Pool:
    """A BLAS of two threads, and what threadpoolctl does to it."""

    def __init__(self) -> None:
        self.threads, self.before = 2, 0

    def limit(self, *, limits: int, user_api: str) -> "Pool":
        assert user_api == "blas"
        self.before, self.threads = self.threads, limits
        return self

    def restore_original_limits(self) -> None:
        self.threads = self.before


def test_calls_at_once_give_blas_its_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to come limits it, and the last to go restores it."""
    pool = Pool()
    monkeypatch.setattr(threads, "WORTH", 0)
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    monkeypatch.setattr(threads, "_pools", lambda: pool)
    inside, leave = threading.Event(), threading.Event()

    def first(_: int) -> None:
        inside.set()
        leave.wait()

    caller = threading.Thread(target=threads.spread, args=(first, [0, 1], 1))
    caller.start()
    inside.wait()
    with threads._one_thread_of_blas:
        leave.set()
        caller.join()
        assert pool.threads == 1
    assert pool.threads == 2


def test_after_a_fork_threads_are_started_anew() -> None:
    """A child has none of its parent's."""
    held = threads._executor(2), threads._one_thread_of_blas
    threads._after_fork()
    assert threads._executor(2) is not held[0]
    assert threads._one_thread_of_blas is not held[1]


def test_an_interpreter_that_ends_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts no thread any more."""

    class Ended:
        def submit(self, *_: Any) -> None:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(threads, "_executor", lambda _: Ended())
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    assert [2, 3] == threads.spread(lambda n: n + 1, [1, 2], threads.WORTH)
