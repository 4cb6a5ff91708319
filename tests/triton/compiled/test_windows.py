"""Every walk through windows compiles for Ampere, Hopper and Blackwell, within their limits."""

from typing import Any

import pytest
import torch
from attnref_triton import windows
from attnref_triton.launch import Launch
from attnref_triton.position_bias import add_up, look_up
from attnref_triton.windows import Made, backward_launches, forward_launch, windows_of

from attnref import normalize

from .compiling import resources
from .test_configurations import CHIPS

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shifted": {"shift": 3},
    "penalised": {"shift": 3, "wrap_bias": -100.0},
    "masked": {"key_mask": torch.empty(4, 56, 56, dtype=torch.bool)},
    "scales": {"scale": torch.empty(3)},
}

FEW_BYTES = 32
"""Beside the thousand that a thread's registers hold."""


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch, capability: int) -> None:
    """Let the tables answer for a chip that is not there."""
    monkeypatch.setattr(windows, "chip_of", lambda _: CHIPS[capability])


def launches(
    G: tuple[int, ...], D: int, dtype: torch.dtype, *, window: int, **options: Any
) -> list[Launch]:
    N = window ** len(G)
    qkv = torch.empty(4, *G, 3, 3, D, dtype=dtype)
    bias = torch.empty(3, N, N, dtype=dtype)
    c = windows_of(normalize.window_attention_qkv(qkv, window=window, bias=bias, **options), "ieee")
    out, lse = torch.empty(c.q.shape, dtype=dtype), torch.empty(c.q.shape[:-1])
    scales = torch.empty(8, 3, 1) if c.problem.scale_per_head else None
    made = Made(*torch.empty_like(qkv).unbind(-3), torch.empty(8, 3, N, N), scales)
    return [forward_launch(c, out, lse), *backward_launches(c, out, lse, out, lse, made)]


@pytest.mark.parametrize("capability", CHIPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["half", "single"])
@pytest.mark.parametrize(
    ("D", "window"), [(32, 7), (32, 12), (64, 7), (64, 12), (128, 7), (256, 7)]
)
def test_every_walk_compiles_and_fits(
    D: int, dtype: torch.dtype, capability: int, window: int, record_property: Any
) -> None:
    """The forward pass of heads of 32, which all Swin models have, spills nothing on any chip.

    In float32, whose numbers take twice the registers, it may spill a few bytes.
    """
    for launch in launches((56, 56), D, dtype, window=window, shift=window // 2):
        used = resources(launch, capability)
        name = launch.kernel.__name__
        record_property(f"{launch}", f"{used}")
        print(f"{capability} {dtype} D{D} {launch}: {used}")
        assert used.shared <= CHIPS[capability].shared, (name, used)
        if D == 32 and window == 7 and name == "window_kernel":
            assert used.spilled <= (0 if dtype == torch.bfloat16 else FEW_BYTES), (name, used)


@pytest.mark.parametrize("capability", [90])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_compiles(options: dict[str, Any], capability: int) -> None:
    """On the capability that kernels are tuned for, at the most usual head size."""
    for launch in launches((56, 56), 32, torch.bfloat16, window=7, **options):
        assert resources(launch, capability).shared <= CHIPS[capability].shared


@pytest.mark.parametrize("capability", [90])
@pytest.mark.parametrize("G", [(60,), (12, 12, 12)], ids=["1-D", "3-D"])
def test_lines_and_videos_compile(G: tuple[int, ...], capability: int) -> None:
    """Maps of one and of three axes, padded behind their shift."""
    for launch in launches(G, 32, torch.bfloat16, window=7, shift=5):
        assert resources(launch, capability).shared <= CHIPS[capability].shared


@pytest.mark.parametrize("capability", CHIPS)
def test_the_bias_of_positions_compiles(capability: int) -> None:
    """Looking up a table, and its gradient."""
    table, bias = torch.empty(169, 3), torch.empty(3, 49, 49)
    problem = normalize.relative_position_bias(table, window=(7, 7))
    for launch in (look_up(problem, bias), add_up(problem, bias, table)):
        assert resources(launch, capability).spilled == 0
