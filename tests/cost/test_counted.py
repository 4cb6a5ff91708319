"""The cost model against what torch counts and keeps when it really computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from attnref.cost import (
    Attention,
    Convolution,
    Linear,
    Norm,
    Pointwise,
    Step,
    Together,
    WindowAttention,
    depthwise_separable,
    mlp,
)
from attnref.problem import Sizes


def counted(run: Callable[[], Any]) -> int:
    """Let torch count the operations of a run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def kept(run: Callable[[], Any], *but: torch.Tensor) -> int:
    """Measure the memory that a forward pass keeps for the backward pass, each storage once."""
    found: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        result = run()
    for x in but:
        found.pop(x.untyped_storage().data_ptr(), None)
    assert result is not None
    return sum(found.values())


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend as it is written down, with query heads next to their key head."""
    B, Hq, Sq, D = q.shape
    q = q.reshape(B, k.shape[1], -1, D)  # heads of a group share their keys: one product
    weights = torch.softmax(q @ k.mT * D**-0.5, dim=-1)
    return (weights @ v).reshape(B, Hq, Sq, -1)


SIZES = {
    "plain": Sizes(2, 4, 4, 32, 32, 16, 16),
    "grouped heads": Sizes(2, 4, 2, 32, 32, 16, 16),
    "Dv is not D": Sizes(2, 4, 2, 32, 48, 16, 24),
    "decode": Sizes(3, 8, 2, 1, 64, 16, 16),
}
every_size = pytest.mark.parametrize("s", SIZES.values(), ids=SIZES)


def arrays(s: Sizes) -> list[torch.Tensor]:
    """Draw q, k and v."""
    torch.manual_seed(0)
    shapes = ((s.B, s.Hq, s.Sq, s.D), (s.B, s.Hkv, s.Sk, s.D), (s.B, s.Hkv, s.Sk, s.Dv))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@every_size
def test_the_textbook_forward_makes_what_torch_counts(s: Sizes) -> None:
    """Two products of all pairs."""
    x = arrays(s)
    expected = counted(lambda: naive(*x))
    assert expected == Attention(sizes=s).forward().untiled.operations


@every_size
def test_the_textbook_backward_makes_what_torch_counts(s: Sizes) -> None:
    """Four products: the weights were kept."""
    out = naive(*arrays(s))
    expected = counted(lambda: out.sum().backward())
    assert expected == Attention(sizes=s).backward().untiled.operations


@every_size
def test_tiles_make_what_torch_counts_for_fused_kernels(s: Sizes) -> None:
    """Two products forward and five backward; torch's formulas know no causality."""
    q, k, v = (x.shape for x in arrays(s))
    call, out = Attention(sizes=s), (*q[:-1], s.Dv)
    assert sdpa_flop_count(q, k, v) == call.forward().tiled.operations
    assert sdpa_backward_flop_count(out, q, k, v) == call.backward().tiled.operations


@every_size
def test_the_textbook_keeps_what_torch_keeps(s: Sizes) -> None:
    """q, k, v and the weights."""
    x = arrays(s)
    assert kept(lambda: naive(*x)) == Attention(sizes=s).forward().untiled.kept


def test_tiles_keep_what_a_fused_kernel_keeps() -> None:
    """q, k, v, the output and its log-sum-exp."""
    s = SIZES["plain"]
    x = arrays(s)
    expected = kept(lambda: functional.scaled_dot_product_attention(*x, is_causal=True))
    assert expected == Attention(sizes=s, window=(None, 0)).forward().tiled.kept


@pytest.mark.parametrize("window", [(4, 4), (7, 7)], ids=str)
def test_windows_make_what_torch_counts(window: tuple[int, int]) -> None:
    """The map is padded and every window is computed whole, shifted or not."""
    G, H, D = (9, 14), 3, 8
    tokens = torch.randn(2, *G, H, D, requires_grad=True)

    def run() -> torch.Tensor:
        far = [-(-g // w) * w - g for g, w in zip(G, window, strict=True)]
        x = functional.pad(tokens, (0, 0, 0, 0, 0, far[1], 0, far[0]))
        rows, columns = (n // w for n, w in zip(x.shape[1:3], window, strict=True))
        x = x.reshape(2, rows, window[0], columns, window[1], H, D).permute(0, 1, 3, 5, 2, 4, 6)
        x = x.reshape(-1, H, window[0] * window[1], D)
        return naive(x, x, x)

    call = WindowAttention(B=2, G=G, H=H, D=D, Dv=D, window=window, shift=(3, 2))
    assert counted(run) == call.forward().untiled.operations
    out = run().sum()
    assert counted(out.backward) == call.backward().untiled.operations


def pass_through(module: torch.nn.Module, *shape: int) -> tuple[int, int, int, int]:
    """Return parameters, operations forward and backward, and bytes kept beside parameters."""
    x = torch.randn(shape, requires_grad=True)
    parameters = list(module.parameters())
    memory = kept(lambda: module(x), *parameters)
    made: list[torch.Tensor] = []
    forward = counted(lambda: made.append(module(x)))
    backward = counted(lambda: made[0].sum().backward())
    return sum(p.numel() for p in parameters), forward, backward, memory


LAYERS: dict[str, tuple[torch.nn.Module, tuple[int, ...], Step]] = {
    "linear": (torch.nn.Linear(12, 20), (5, 7, 12), Linear(rows=35, inputs=12, outputs=20)),
    "linear without bias": (
        torch.nn.Linear(12, 20, bias=False),
        (35, 12),
        Linear(rows=35, inputs=12, outputs=20, bias=False),
    ),
    "patches": (
        torch.nn.Conv2d(3, 16, 4, stride=4),
        (2, 3, 18, 16),
        Convolution(B=2, G=(18, 16), inputs=3, outputs=16, kernel=(4, 4), stride=(4, 4)),
    ),
    "3x3": (
        torch.nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False),
        (2, 6, 9, 14),
        Convolution(
            B=2, G=(9, 14), inputs=6, outputs=10, kernel=(3, 3), stride=(2, 2), padding=(1, 1),
            bias=False,
        ),
    ),
    "text": (
        torch.nn.Conv1d(6, 10, 5),
        (2, 6, 12),
        Convolution(B=2, G=(12,), inputs=6, outputs=10, kernel=(5,)),
    ),
    "mlp": (
        torch.nn.Sequential(torch.nn.Linear(12, 48), torch.nn.GELU(), torch.nn.Linear(48, 12)),
        (35, 12),
        mlp(35, 12, 48),
    ),
    "gelu": (torch.nn.GELU(), (35, 12), Pointwise(numbers=35 * 12)),
}  # fmt: skip


@pytest.mark.parametrize(("module", "shape", "step"), LAYERS.values(), ids=LAYERS)
def test_layers_cost_what_torch_counts(
    module: torch.nn.Module, shape: tuple[int, ...], step: Step
) -> None:
    """Parameters, operations both ways, and what is kept."""
    cost = step.forward()
    assert step.parameters == cost.parameters == step.backward().parameters
    actual = (
        cost.parameters, cost.tiled.operations, step.backward().tiled.operations, cost.tiled.kept
    )  # fmt: skip
    assert pass_through(module, *shape) == actual
    assert cost.tiled == cost.untiled


def test_depthwise_separable_convolutions_cost_what_torch_counts() -> None:
    """One kernel for each channel, then one weight for each pair of channels."""
    whole = Convolution(B=2, G=(9, 14), inputs=6, outputs=10, kernel=(3, 3), padding=(1, 1))
    module = torch.nn.Sequential(
        torch.nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.nn.Conv2d(6, 10, 1)
    )
    parameters, forward, _, memory = pass_through(module, 2, 6, 9, 14)
    cost = depthwise_separable(whole).forward()
    assert (parameters, forward, memory) == (
        cost.parameters, cost.tiled.operations, cost.tiled.kept
    )  # fmt: skip


def test_norms_cost_what_torch_counts() -> None:
    """No product; the input is kept, and two numbers a row that are not counted here."""
    parameters, forward, backward, memory = pass_through(torch.nn.LayerNorm(12), 35, 12)
    step = Norm(rows=35, columns=12)
    assert memory == step.forward().tiled.kept + 35 * 2 * 4
    assert parameters == step.parameters
    assert forward == backward == step.forward().tiled.operations == 0
    assert 12 == Norm(rows=35, columns=12, shift=False).parameters


def test_a_residual_keeps_nothing() -> None:
    """An addition needs neither operand again."""
    x = torch.randn(10, requires_grad=True)
    step = Pointwise(numbers=10, operands=2, kept=0)
    assert kept(lambda: x + x) == step.forward().tiled.kept
    assert step.backward().tiled.bytes == step.forward().tiled.bytes == 120


def test_steps_add_up() -> None:
    """As often as they happen."""
    one, other = Linear(rows=3, inputs=4, outputs=5), Norm(rows=3, columns=4)
    both = Together(((2, one), (3, other)))
    assert 2 * 25 + 3 * 8 == both.parameters
    for way in ("forward", "backward"):
        first, second = (getattr(x, way)() for x in (one, other))
        expected = first + first + second + second + second
        assert expected == getattr(both, way)()
