"""The kernels, run by Triton's interpreter on small problems; TRITON_INTERPRET=1 is required."""

from threading import Event, Thread
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from attnref_triton import TritonBackend, backend, chips, operations
from attnref_triton.attention import forward
from attnref_triton.backend import interpreted
from attnref_triton.call import call_of
from attnref_triton.hopper import calls
from attnref_triton.plan import plan_of
from attnref_triton.tiles import locate

import attnref
from attnref import normalize

B, HQ, HKV, SQ, SK, D, DV = 2, 4, 2, 37, 70, 17, 13
"""Off every tile, and columns that are no multiple of eight."""


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs() -> tuple[torch.Tensor, ...]:
    return (
        tensor(B, HQ, SQ, D, seed=1),
        tensor(B, HKV, SK, D, seed=2),
        tensor(B, HKV, SK, DV, seed=3),
    )


def exact(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal-from-the-start": {"causal": True, "q_offset": "start"},
    "causal-from-the-end": {"causal": True, "q_offset": "end"},
    "window": {"window": (20, 5), "q_offset": "end"},
    "offset-per-entry": {"window": (9, 3), "q_offset": torch.tensor([-5, 40])},
    "soft-cap": {"softcap": 2.0},
    "dense-bias": {"bias": tensor(B, HQ, SQ, SK)},
    "bias-of-heads": {"bias": tensor(HQ, SQ, SK), "causal": True, "q_offset": "start"},
    "bias-of-keys": {"bias": tensor(B, 1, 1, SK)},
    "bias-of-queries": {"bias": tensor(HQ, SQ, 1)},
    "one-bias": {"bias": tensor(1, 1)},
    "mask": {"mask": tensor(B, 1, SQ, SK) > 0},
    "sinks": {"sinks": tensor(HQ), "window": (3, 0), "q_offset": "start"},
    "lengths": {
        "q_lens": torch.tensor([SQ, 20]),
        "kv_lens": torch.tensor([0, 51]),
        "causal": True,
        "q_offset": "end",
        "sinks": tensor(HQ),
    },
    "cap-and-bias": {"softcap": 1.5, "bias": tensor(HQ, SQ, SK)},
    "strided-companions": {
        "q_lens": torch.tensor([SQ, 0, 20, 0])[::2],
        "kv_lens": torch.tensor([60, 0, 51, 0])[::2],
        "q_offset": torch.tensor([3, 0, 9, 0])[::2],
        "causal": True,
        "sinks": tensor(2 * HQ)[::2],
    },
    "negative-scale": {"scale": -0.3},
    "no-scale": {"scale": 0.0},
}


def test_the_interpreter_is_on() -> None:
    """Without it these tests would need a GPU."""
    assert interpreted()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_forward_and_backward_agree_with_the_specification(options: dict[str, Any]) -> None:
    """Every option, in float32 against float64."""
    q, k, v = inputs()
    out, lse = attnref.attention_with_lse(q, k, v, backend="triton", **options)
    widened = {n: exact(x) for n, x in options.items()}
    given = [exact(x) for x in (q, k, v)]
    expected = attnref.attention_with_lse(*given, backend="reference", **widened)
    torch.testing.assert_close(expected.out, out.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected.lse, lse.double(), atol=1e-5, rtol=1e-5)

    dout, dlse = tensor(*out.shape, seed=8), tensor(*lse.shape, seed=9)
    gradients = attnref.attention_backward(
        dout, q, k, v, out, lse, dlse=dlse, backend="triton", **options
    )
    wanted = attnref.attention_backward(
        exact(dout), *given, *expected, dlse=exact(dlse), backend="reference", **widened
    )
    for want, got in zip(wanted, gradients, strict=True):
        assert (want is None) == (got is None)
        if want is not None:
            torch.testing.assert_close(want, got.double(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "q_offset": "end"}], ids=["full", "causal"]
)
def test_a_soft_cap_of_half_precision_keeps_its_digits(options: dict[str, Any]) -> None:
    """There it has a short way of its own, up to a cap of 256; a wider one takes the long way."""
    q, k, v = (x.half() for x in inputs())
    for softcap in (1.5, 50.0, 3000.0):
        got = attnref.attention_with_lse(q, k, v, softcap=softcap, backend="triton", **options)
        given = [exact(x) for x in (q, k, v)]
        want = attnref.attention_with_lse(*given, softcap=softcap, backend="reference", **options)
        torch.testing.assert_close(want.out, got.out.double(), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(want.lse, got.lse.double(), atol=5e-5, rtol=1e-5)
        dout = tensor(*got.out.shape, seed=8).half()
        gradients = attnref.attention_backward(
            dout, q, k, v, *got, softcap=softcap, backend="triton", **options
        )
        wanted = attnref.attention_backward(
            exact(dout), *given, *want, softcap=softcap, backend="reference", **options
        )
        for x, y in zip(wanted[:3], gradients[:3], strict=True):
            torch.testing.assert_close(x, y.double(), atol=1e-2, rtol=1e-2)


@triton.jit
def locating(tiles, starts, n, extent, count):
    pid = tl.program_id(0)
    _, _, tile, _, _, _ = locate(pid, count, 1, starts, None, n, extent, 16)
    tl.store(tiles + pid, tile)


@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")
def test_prefix_sums_from_elsewhere_lead_to_no_tile_before_the_first() -> None:
    """What only the device knows is not checked (A7), and nothing is written before an array."""
    tiles = torch.full((9,), -1, dtype=torch.int32)
    locating[(9,)](tiles, torch.tensor([90, 91, 3, 45]), 3, 100, 9)
    assert (tiles >= 0).all()


def test_packed_sequences_agree_with_the_specification() -> None:
    """Empty sequences, and tokens past the last offset on both sides."""
    cu_q, cu_k = torch.tensor([0, 5, 5, 40]), torch.tensor([0, 20, 33, 64])
    q, k, v = tensor(45, HQ, 16), tensor(70, HKV, 16, seed=1), tensor(70, HKV, 24, seed=2)
    options = {"causal": True, "q_offset": "end", "sinks": tensor(HQ)}
    got = attnref.attention_varlen_with_lse(q, k, v, cu_q, cu_k, backend="triton", **options)
    widened = {n: exact(x) for n, x in options.items()}
    given = [exact(x) for x in (q, k, v)]
    want = attnref.attention_varlen_with_lse(*given, cu_q, cu_k, backend="reference", **widened)
    torch.testing.assert_close(want.out, got.out.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(want.lse, got.lse.double(), atol=1e-5, rtol=1e-5)


def test_few_queries_have_their_keys_cut_into_parts() -> None:
    """Decoding: the parts are merged, and the sink is counted once."""
    q, k = tensor(1, HQ, 1, 16), tensor(1, HKV, 1100, 16, seed=1)
    options = {"kv_lens": torch.tensor([900]), "sinks": tensor(HQ)}
    assert plan_of(call_of(normalize.attention(q, k, k, **options))).parts > 1
    got = attnref.attention_with_lse(q, k, k, backend="triton", **options)
    widened = {n: exact(x) for n, x in options.items()}
    want = attnref.attention_with_lse(*map(exact, (q, k, k)), backend="reference", **widened)
    torch.testing.assert_close(want.out, got.out.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(want.lse, got.lse.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_softmax_and_merge_agree_with_the_specification(dtype: torch.dtype) -> None:
    """Along an inner axis, and with a part that saw nothing."""
    x = tensor(3, 50, 7).to(dtype)
    x[0, :, 0] = -torch.inf
    got = attnref.softmax(x, axis=1, backend="triton")
    want = attnref.softmax(x.double(), axis=1, backend="reference")
    torch.testing.assert_close(want, got.double(), atol=1e-3, rtol=1e-3)
    a, b = tensor(2, 5, 8).to(dtype), tensor(2, 5, 8, seed=1).to(dtype)
    lse_a, lse_b = tensor(2, 5, seed=2), tensor(2, 5, seed=3)
    lse_a[0, 0], a[0, 0] = -torch.inf, 0
    merged = attnref.merge(a, lse_a, b, lse_b, backend="triton")
    torch.testing.assert_close(b[0, 0], merged.out[0, 0])
    assert merged.lse[0, 0] == lse_b[0, 0]


def test_bfloat16_is_refused_with_the_reason() -> None:
    """The interpreter's product of bfloat16 is wrong, so nothing is computed with it."""
    q = torch.zeros(1, 1, 4, 16, dtype=torch.bfloat16)
    with pytest.raises(attnref.UnsupportedError, match="interpreter multiplies bfloat16 wrongly"):
        attnref.attention(q, q, q, backend="triton")


def test_a_wide_head_is_refused_with_the_limit() -> None:
    """Its tiles would not fit."""
    q = torch.zeros(1, 1, 4, 300)
    with pytest.raises(attnref.UnsupportedError, match="D = 300 exceeds 256"):
        attnref.attention(q, q, q, backend="triton")


def test_tf32_is_a_profile_that_code_asks_for() -> None:
    """A backend object of its own, judged by another profile."""
    assert (backend.profile, TritonBackend("tf32").profile) == ("half-weights", "tf32")
    with pytest.raises(ValueError, match="precision is 'ieee' or 'tf32', not 'fast'"):
        TritonBackend("fast")


def test_a_failed_launch_names_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing half-written is returned."""
    q = tensor(1, 1, 4, 16)
    problem = normalize.attention(q, q, q)

    class Broken:
        __name__ = "broken_kernel"

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            raise OSError("no memory")

    monkeypatch.setattr("attnref_triton.attention.forward_kernel", Broken())
    with pytest.raises(RuntimeError, match=r"broken_kernel\(.*BLOCK_M=16.*could not be launched"):
        forward(problem, "ieee")


def test_the_interpreter_serves_one_thread_at_a_time() -> None:
    """Filters of warnings belong to the process: a second thread would restore the first's."""
    inside, leave, done = Event(), Event(), Event()

    def hold() -> None:
        with operations._silent_interpreter():
            inside.set()
            leave.wait()

    def call() -> None:
        attnref.softmax(tensor(3, 5), backend="triton")
        done.set()

    holder, caller = Thread(target=hold), Thread(target=call)
    holder.start()
    inside.wait()
    caller.start()
    waited = not done.wait(0.2)
    leave.set()
    holder.join()
    caller.join()
    assert (waited, done.is_set()) == (True, True)


def test_the_interpreter_does_not_take_the_hopper_path() -> None:
    """What it does not run is told, and the portable kernel answers."""
    q = torch.randn(1, 2, 130, 64, dtype=torch.float16)
    (reason,) = calls.reasons(normalize.attention(q, q, q), chips.PAPER)
    assert "does not run Gluon" in str(reason)
    out = attnref.attention(q, q, q, backend="triton")
    assert torch.allclose(out, torch.nn.functional.scaled_dot_product_attention(q, q, q), atol=2e-3)
