"""Every entry of the tables compiles for Ampere, Hopper and Blackwell, within their limits."""

from typing import Any

import pytest
import torch
from attnref_triton import attention, merging, plan, softmax
from attnref_triton.attention import Made, backward_launches, forward_launches
from attnref_triton.call import Call, call_of
from attnref_triton.launch import Launch, over_rows
from attnref_triton.plan import Plan, plan_of
from attnref_triton.tables import Chip

from attnref import normalize

from .compiling import resources

CHIPS = {80: Chip(8, 108, 166912), 90: Chip(9, 132, 232448), 100: Chip(10, 148, 232448)}
"""A100, H100 and B200, by the capability that kernels are compiled for."""

SPILLS = 48
"""Bytes that a backward kernel may spill: a dozen numbers of a row, outside of its loop."""

OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "causal": {"causal": True},
    "window": {"window": (512, 64)},
    "capped": {"softcap": 30.0},
    "sinks": {"sinks": torch.empty(4)},
    "biased": {"bias": torch.empty(2, 4, 2048, 2048, dtype=torch.bfloat16)},
    "masked": {"mask": torch.empty(2, 1, 2048, 2048, dtype=torch.bool)},
    "lengths": {
        "q_lens": torch.full((2,), 2048, dtype=torch.int32),
        "kv_lens": torch.full((2,), 2048, dtype=torch.int32),
        "causal": True,
        "q_offset": "end",
    },
}


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch, capability: int) -> None:
    """Let the tables answer for a chip that is not there."""
    for module in (attention, plan):
        monkeypatch.setattr(module, "chip_of", lambda _: CHIPS[capability])


def call(D: int, dtype: torch.dtype, heads: int = 4, **options: Any) -> Call:
    # Meta tensors have no pointers; these are never written, and the system hands out no page.
    q = torch.empty(2, 4, 2048, D, dtype=dtype)
    k = torch.empty(2, heads, 2048, D, dtype=dtype)
    return call_of(normalize.attention(q, k, k, **options))


def launches(c: Call, cut: Plan) -> list[Launch]:
    lse = torch.empty(2, 4, 2048)
    buffers = {"out": torch.empty_like(c.q), "lse": lse}
    for name, x in list(buffers.items()):
        buffers[f"part_{name}"] = torch.empty(max(cut.parts, 1), *x.shape)
    dbias = None if c.bias is None else torch.empty_like(c.bias)
    made = Made(
        torch.empty_like(c.q), torch.empty_like(c.k), torch.empty_like(c.v), dbias, None, lse
    )
    forward = forward_launches(c, cut, buffers)
    return [*forward, *backward_launches(c, c.q, lse, c.q, None, made)]


@pytest.mark.parametrize("capability", CHIPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["half", "single"])
@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_every_entry_compiles_and_fits(
    D: int, dtype: torch.dtype, capability: int, causal: bool, record_property: Any
) -> None:
    """No forward kernel spills a register, and no kernel asks for more memory than there is."""
    c = call(D, dtype, causal=causal)
    for launch in launches(c, plan_of(c)):
        used = resources(launch, capability)
        name = launch.kernel.__name__
        record_property(f"{launch}", f"{used}")
        print(f"{capability} {dtype} D{D} {launch}: {used}")
        assert used.shared <= CHIPS[capability].shared, (name, used)
        if D <= 128 and dtype != torch.float32:
            assert used.spilled <= (0 if name == "forward_kernel" else SPILLS), (name, used)


@pytest.mark.parametrize("capability", [90])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_compiles(options: dict[str, Any], capability: int) -> None:
    """On the capability that kernels are tuned for, at the most usual head size."""
    c = call(128, torch.bfloat16, heads=2, **options)
    for launch in launches(c, plan_of(c)):
        assert resources(launch, capability).shared <= CHIPS[capability].shared


@pytest.mark.parametrize("capability", CHIPS)
@pytest.mark.parametrize("D", [64, 128, 256])
def test_decoding_compiles_and_fits(D: int, capability: int) -> None:
    """Few rows, keys in parts, and the kernel that merges them."""
    q = torch.empty(2, 32, 1, D, dtype=torch.bfloat16)
    k = torch.empty(2, 8, 4096, D, dtype=torch.bfloat16)
    c = call_of(normalize.attention(q, k, k))
    cut = plan_of(c)
    assert (cut.pack, cut.parts > 1) == (4, True)
    buffers = {"out": torch.empty_like(q), "lse": torch.empty(2, 32, 1)}
    for name, x in list(buffers.items()):
        buffers[f"part_{name}"] = torch.empty(cut.parts, *x.shape)
    for launch in forward_launches(c, cut, buffers):
        used = resources(launch, capability)
        assert used.shared <= CHIPS[capability].shared
        assert used.spilled == 0


@pytest.mark.parametrize("capability", CHIPS)
def test_softmax_and_merge_compile(capability: int) -> None:
    """The two operations that are no attention."""
    x, lse = torch.empty(64, 1000), torch.empty(64)
    rows = {"a": x, "b": x, "lse_a": lse, "lse_b": lse, "out": x, "lse": lse}
    gradients = {"dout": x, "dlse": lse, "da": x, "db": x, "dlse_a": lse, "dlse_b": lse}
    for launch in (
        over_rows(softmax.softmax_kernel, x, {"x": x, "y": x}, softmax.ELEMENTS),
        over_rows(softmax.softmax_gradient_kernel, x, {"y": x, "dy": x, "dx": x}, softmax.ELEMENTS),
        over_rows(merging.merge_kernel, x, rows, merging.ELEMENTS),
        over_rows(merging.merge_gradient_kernel, x, {**rows, **gradients}, merging.ELEMENTS),
    ):
        assert resources(launch, capability).spilled == 0
