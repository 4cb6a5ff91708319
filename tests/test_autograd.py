"""torch's tape on any backend: gradcheck, and what the tape must not do (E1, D2)."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

import attnref

R = {"backend": "reference"}


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw a float64 tensor that requires grad."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


CU = torch.tensor([0, 1, 3])
KEY_MASK = torch.tensor([[True, True, False, True, True]])


def attend(q: Any, k: Any, v: Any, bias: Any, sinks: Any) -> Any:
    """Attend with every option that has a gradient."""
    return attnref.attention_with_lse(
        q, k, v, bias=bias, sinks=sinks, causal=True, q_offset="end", softcap=2.0, **R
    )


def packed(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    """Attend inside two sequences."""
    return attnref.attention_varlen_with_lse(q, k, v, CU, CU, sinks=sinks, causal=True, **R)


def mapped(q: Any, k: Any, v: Any, bias: Any, scale: Any) -> Any:
    """Attend inside shifted windows of a text."""
    return attnref.window_attention_with_lse(
        q,
        k,
        v,
        window=2,
        shift=1,
        bias=bias,
        scale=scale,
        key_mask=KEY_MASK,
        wrap_bias=-1.0,
        **R,
    )


def projected(qkv: Any, bias: Any, scale: Any) -> Any:
    """Attend inside windows of a packed projection."""
    return attnref.window_attention_qkv_with_lse(qkv, window=2, bias=bias, scale=scale, **R)


CHECKS: dict[str, tuple[Callable[..., Any], list[torch.Tensor]]] = {
    "attention": (
        attend,
        [leaf(1, 2, 2, 3), leaf(1, 1, 3, 3), leaf(1, 1, 3, 2), leaf(2, 1, 3), leaf(2)],
    ),
    "attention_varlen": (
        packed,
        [leaf(3, 2, 2), leaf(3, 1, 2, seed=1), leaf(3, 1, 2, seed=2), leaf(2)],
    ),
    "window_attention": (
        mapped,
        [
            leaf(1, 5, 2, 2),
            leaf(1, 5, 2, 2, seed=1),
            leaf(1, 5, 2, 1),
            leaf(2, 2, 2),
            leaf(2),
        ],
    ),
    "window_attention_qkv": (projected, [leaf(1, 4, 3, 2, 2), leaf(2, 2, 2), leaf(2)]),
    "merge": (
        lambda *x: attnref.merge(*x, **R),
        [leaf(3, 2), leaf(3), leaf(3, 2, seed=1), leaf(3, seed=1)],
    ),
    "softmax": (lambda x: attnref.softmax(x, axis=0, tile=2, **R), [leaf(3, 2)]),
    "relative_position_bias": (
        lambda t: attnref.relative_position_bias(t, window=(2, 2), **R),
        [leaf(9, 2)],
    ),
}


@pytest.mark.parametrize(("function", "inputs"), CHECKS.values(), ids=CHECKS)
def test_gradients_pass_torchs_check(
    function: Callable[..., Any], inputs: list[torch.Tensor]
) -> None:
    """Every input, through out and lse, matches numerical slopes (E1)."""
    assert gradcheck(function, inputs)


@pytest.mark.parametrize("which", ["out", "lse"])
def test_one_result_may_go_unused(which: str) -> None:
    """What goes through out alone, or lse alone, adds up to both (D2)."""
    q, k = leaf(1, 1, 2, 3), leaf(1, 1, 2, 3, seed=1)

    def slope(loss: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        rows = attnref.attention_with_lse(q, k, k, **R)
        return torch.autograd.grad(loss(rows), q)[0]

    both = slope(lambda rows: rows.out.sum() + rows.lse.sum())
    other = {"out": "lse", "lse": "out"}[which]
    alone = slope(lambda rows: getattr(rows, which).sum())
    rest = slope(lambda rows: getattr(rows, other).sum())
    torch.testing.assert_close(both, alone + rest)


def test_attention_without_lse_is_differentiable() -> None:
    """The array alone carries the tape."""
    q, k = leaf(1, 1, 2, 3), leaf(1, 1, 2, 3, seed=1)
    assert gradcheck(lambda q, k: attnref.attention(q, k, k, **R), (q, k))


def test_without_gradients_there_is_no_tape() -> None:
    """No input requires grad, or gradients are off: the result has no history."""
    q = leaf(1, 1, 2, 3)
    with torch.no_grad():
        assert attnref.attention(q, q, q, **R).grad_fn is None
    x = q.detach()
    assert not attnref.attention(x, x, x, **R).requires_grad


@pytest.mark.parametrize("n", range(5), ids=["q", "k", "v", "bias", "sinks"])
def test_one_input_may_require_grad_alone(n: int) -> None:
    """It alone receives what it receives among all (E1)."""
    function, inputs = CHECKS["attention"]
    everything = torch.autograd.grad(function(*inputs).out.sum(), inputs)
    some = [x.detach() for x in inputs]
    some[n].requires_grad_()
    out, lse = function(*some)
    out.sum().backward()
    torch.testing.assert_close(everything[n], some[n].grad)
    assert all(x.grad is None for m, x in enumerate(some) if m != n)
    assert lse.requires_grad


def test_a_number_for_a_scale_has_no_gradient() -> None:
    """Only an array scale is on the tape (G6)."""
    qkv = leaf(1, 4, 3, 1, 2)
    assert gradcheck(lambda x: projected(x, None, 0.5), (qkv,))


def test_gradients_keep_their_inputs_dtype() -> None:
    """Half precision in, half precision back, also for a bias of another dtype (B3)."""
    q = leaf(1, 1, 2, 3).detach().half().requires_grad_()
    bias = torch.zeros(2, 2, requires_grad=True)
    attnref.attention(q, q, q, bias=bias, **R).sum().backward()
    assert (torch.float16, torch.float32) == (q.grad.dtype, bias.grad.dtype)


def test_a_second_derivative_raises() -> None:
    """Double backward is not defined and says so, for a penalty on the gradient too."""
    q = leaf(1, 1, 2, 3)
    out = attnref.attention(q, q, q, **R)
    for loss in (out.sum(), out.square().sum()):
        (dq,) = torch.autograd.grad(loss, q, create_graph=True)
        with pytest.raises(RuntimeError, match="attnref defines no second derivatives"):
            (q.sum() + dq.square().sum()).backward()


@pytest.mark.parametrize("name", ["q", "mask", "out", "qkv"])
def test_a_change_in_place_is_noticed(name: str) -> None:
    """What backward needs may not be changed in between, views of it neither."""
    q, mask = leaf(1, 1, 2, 3), torch.ones(2, 2, dtype=torch.bool)
    qkv = leaf(1, 4, 3, 1, 2)
    x, y = q * 1, qkv * 1
    out = attnref.attention(x, x, x, mask=mask, **R)
    rolled = attnref.window_attention_qkv(y, window=2, **R)
    loss = (rolled if name == "qkv" else out).sum()
    with torch.no_grad():
        {"q": x, "mask": mask, "out": out, "qkv": y}[name].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_tape_lets_go_of_its_tensors() -> None:
    """After backward, a living result keeps no input alive."""
    q = leaf(1, 1, 2, 3)
    k = q * 1
    out = attnref.attention(q, k, k, **R)
    alive = weakref.ref(k)
    out.sum().backward()
    del k
    gc.collect()
    assert alive() is None
    assert out.grad_fn is not None


def test_a_gradient_that_never_arrives_is_none() -> None:
    """If what follows passes nothing back, neither does attention."""

    class Stop(torch.autograd.Function):
        """Pass nothing back."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            """Pass the tensor on."""
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dx: torch.Tensor) -> None:
            """Pass nothing back."""

    q = leaf(1, 1, 2, 3)
    Stop.apply(attnref.attention(q, q, q, **R)).sum().backward()
    assert q.grad is None


def test_a_trace_sees_the_gradients() -> None:
    """Backward runs on the backend that ran forward, and is recorded (H4)."""
    q = leaf(1, 1, 2, 3)
    with attnref.trace() as ran:
        attnref.attention(q, q, q, **R).sum().backward()
    assert [
        "attention forward on reference",
        "attention backward on reference",
    ] == [str(r) for r in ran]


def test_empty_rows_train_without_nan() -> None:
    """A row that sees nothing passes zeros through autograd (C5)."""
    q = leaf(1, 1, 2, 3)
    mask = torch.tensor([[False, False], [True, True]])
    out, lse = attnref.attention_with_lse(q, q, q, mask=mask, **R)
    (out.sum() + lse[0, 0, 1]).backward()
    assert torch.isfinite(q.grad).all()
