"""Window attention, run by Triton's interpreter on small maps; TRITON_INTERPRET=1 is required."""

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from attnref_triton import backend
from attnref_triton.windows import runs_of

import attnref
from attnref import normalize
from attnref.spec import windows as spec

H, D, DV = 2, 16, 8


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


CALLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "a-line": ((20,), {"window": 8, "shift": 3}),
    "an-image": ((8, 12), {"window": 4, "shift": 0}),
    "shifted": ((8, 12), {"window": 4, "shift": (2, 1), "bias": tensor(H, 16, 16)}),
    "padded": ((7, 9), {"window": (4, 3), "shift": (3, 1), "bias": tensor(H, 12, 12)}),
    "penalised": ((7, 9), {"window": 4, "shift": 3, "wrap_bias": -2.0}),
    "a-video": ((3, 5, 6), {"window": (2, 3, 4), "shift": (1, 2, 3), "bias": tensor(H, 24, 24)}),
    "small-on-one-axis": ((3, 9), {"window": 4, "shift": 2}),
    "masked": ((7, 9), {"window": 4, "shift": 1, "key_mask": tensor(2, 7, 9) > 0.3}),
    "scales": ((6, 6), {"window": 3, "shift": 1, "scale": torch.tensor([0.5, -1.5])}),
    "large": (
        (10, 13),
        {
            "window": (9, 10),
            "shift": (0, 4),
            "bias": tensor(H, 90, 90),
            "scale": torch.tensor([0.2, 0.9]),
            "key_mask": tensor(2, 10, 13) > -1,
        },
    ),
    "single-tokens": ((3, 3), {"window": 1}),
}


@pytest.mark.parametrize(("G", "options"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
def test_forward_and_backward_agree_with_the_specification(
    G: tuple[int, ...], options: dict[str, Any], packed: bool
) -> None:
    """Every option, in float32 against float64; values are narrower unless they are packed."""
    q, k = tensor(2, *G, H, D, seed=1), tensor(2, *G, H, D, seed=2)
    v = tensor(2, *G, H, D if packed else DV, seed=3)
    given, widened = [exact(x) for x in (q, k, v)], {n: exact(x) for n, x in options.items()}
    out, lse = attnref.window_attention_with_lse(q, k, v, backend="triton", **options)
    want = attnref.window_attention_with_lse(*given, backend="reference", **widened)
    torch.testing.assert_close(want.out, out.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(want.lse, lse.double(), atol=1e-5, rtol=1e-5)

    dout, dlse = tensor(*out.shape, seed=8), tensor(*lse.shape, seed=9)
    asked = {"dlse": dlse, "backend": "triton", **options}
    wanted = attnref.window_attention_backward(
        exact(dout), *given, *want, dlse=exact(dlse), backend="reference", **widened
    )
    if packed:
        qkv = torch.stack((q, k, v), dim=-3)
        got = attnref.window_attention_qkv_backward(dout, qkv, out, lse, **asked)
        gradients = (*got.dqkv.unbind(-3), got.dbias, got.dscale)
    else:
        gradients = attnref.window_attention_backward(dout, q, k, v, out, lse, **asked)[:5]
    for x, y in zip(wanted[:5], gradients, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y.double(), atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("window", [(5,), (3, 4), (2, 3, 2)], ids=["1-D", "2-D", "3-D"])
def test_the_bias_of_positions_comes_from_its_table(window: tuple[int, ...]) -> None:
    """Looked up, and its gradient added up, as the specification does."""
    table = tensor(prod(2 * w - 1 for w in window), 3)
    bias = attnref.relative_position_bias(table, window=window, backend="triton")
    want = spec.relative_position_bias(table.double().numpy(), window)
    np.testing.assert_array_equal(want, bias.double().numpy())
    dbias = tensor(*bias.shape, seed=4)
    got = attnref.relative_position_bias_backward(dbias, table, window=window, backend="triton")
    wanted = spec.relative_position_bias_backward(dbias.double().numpy(), window)
    np.testing.assert_allclose(wanted, got.double().numpy(), atol=1e-5)


@pytest.mark.parametrize("extent", range(1, 12))
@pytest.mark.parametrize("window", range(1, 6))
def test_windows_of_a_run_hide_the_same_pairs(extent: int, window: int) -> None:
    """And the runs hold every window once, in order."""
    for shift in range(window if window < extent else 1):
        runs = runs_of(extent, window, shift)
        n = -(-extent // window)
        held = [w for first, count in runs for w in range(first, first + count)]
        assert list(range(n)) == held
        real = spec.partition(np.ones((1, extent), bool), (window,), (shift,))
        across = spec.wrapped((extent,), (window,), (shift,))
        for first, count in runs:
            assert (real[first : first + count] == real[first]).all()
            assert (across[first : first + count] == across[first]).all()


def test_what_tiles_do_not_hold_is_declined() -> None:
    """With the number that was asked for and the one that is possible."""
    wide = tensor(1, 4, 4, 1, 264)
    long = tensor(1, 200, 1, 8)
    declined = {
        "D = 264 exceeds 256": normalize.window_attention(wide, wide, wide, window=2),
        "a window of 20000 tokens exceeds 16384": normalize.window_attention(
            long, long, long, window=20000
        ),
    }
    for reason, problem in declined.items():
        assert reason in [str(r) for r in backend.unsupported(problem)]


def test_companions_may_lie_anywhere() -> None:
    """Scales with a stride, a permuted bias whose gradient follows it, NaN at a wrapped pair."""
    q = tensor(1, 6, H, 8)
    scale = torch.tensor([0.3, 9.0, -1.2, 9.0])[::2]
    bias = tensor(4, 4, H).permute(2, 0, 1)
    options = {"window": 4, "shift": 1, "scale": scale, "bias": bias}
    out, lse = attnref.window_attention_with_lse(q, q, q, backend="triton", **options)
    widened = {n: exact(x) for n, x in options.items()}
    want = attnref.window_attention_with_lse(*[exact(q)] * 3, backend="reference", **widened)
    torch.testing.assert_close(want.out, out.double(), atol=1e-5, rtol=1e-5)
    g = attnref.window_attention_backward(out, q, q, q, out, lse, backend="triton", **options)
    assert g.dbias.stride() == bias.stride()


def test_what_a_wrapped_pair_is_told_is_not_heard() -> None:
    """Minus infinity hides by selection (B4), and finite numbers stay finite."""
    q = tensor(1, 8, 1, 8)
    options = {"window": 4, "shift": 2, "backend": "triton"}
    bias = torch.zeros(1, 4, 4)
    bias[0, 0, 3] = float("nan")  # heard in the first window, a wrapped pair in the last
    out = attnref.window_attention(q, q, q, bias=bias, **options)
    assert [2] == out.isnan().any(-1).flatten().nonzero().flatten().tolist()
    far = attnref.window_attention_with_lse(q, q, q, wrap_bias=1e39, **options)
    assert far.out.isfinite().all()
