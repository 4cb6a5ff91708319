"""What the Hopper path backward promises without a Hopper: its order, its bits, its numbers."""

import itertools
import re

import pytest
import torch
from attnref_triton import TritonBackend
from attnref_triton.call import call_of
from attnref_triton.hopper import launch_backward
from attnref_triton.launch import Launch
from attnref_triton.tables import DENSE_BACKWARD

from attnref import normalize

from . import compiling
from .test_hopper import loops


def launches(D: int, sizes: tuple[int, int, int, int], device: str = "cpu") -> list[Launch]:
    Hq, Hkv, Sq, Sk = sizes
    q = torch.empty(1, Hq, Sq, D, dtype=torch.bfloat16, device=device)
    k = torch.empty(1, Hkv, 1, D, dtype=torch.bfloat16, device=device).expand(1, Hkv, Sk, D)
    k = k if Sk > 2**20 else k.contiguous()
    rows = torch.empty(1, Hq, Sq, device=device)
    call = call_of(normalize.attention(q, k, k))
    return list(launch_backward.launches_of(call, q, rows, q, rows, (q, k, k)))


STEPS = re.compile(
    r"(?<![A-Z.])(STSM?|FENCE|BAR|HGMMA|WARPGROUP\.DEPBAR|DEPBAR|UTMAREDG|SYNCS\.ARRIVE)\b"
)
"""What orders accesses to shared memory; `DEPBAR` alone waits for TMA."""


@pytest.mark.parametrize("D", DENSE_BACKWARD)
def test_barriers_that_the_source_leaves_to_the_compiler_are_there(D: int) -> None:
    """What all warps wrote is fenced, and behind a barrier, before it is read.

    A room is signed free by one thread for eight warps, so a barrier comes straight before.
    """
    instructions = compiling.instructions(
        compiling.compiled_for(launches(D, (4, 2, 512, 512))[1], 90)
    )
    loop = next(loop for loop in loops(instructions) if any("MUFU.EX2" in x for x in loop))
    kinds = (m.group(1) for line in loop if (m := STEPS.search(line)))
    found = " ".join(kind for kind, _ in itertools.groupby(kinds))
    assert re.search(r"STSM? FENCE DEPBAR BAR (SYNCS\.ARRIVE BAR )?HGMMA", found), found
    assert re.search(r"STSM? FENCE (HGMMA )?BAR UTMAREDG", found), found
    assert re.search(r"BAR SYNCS\.ARRIVE", found), found
    assert not re.search(r"(HGMMA|WARPGROUP\.DEPBAR) SYNCS\.ARRIVE", found), found


def test_heads_taken_together_are_counted_in_32_bits() -> None:
    """Few queries and very many keys: as many heads would fit into the cache as there are not."""
    ready = launches(64, (1, 1, 65, 2**30), "meta")[1].arguments
    assert 2**30 // 128 == ready["tiles"]
    assert 1 == ready["together"]


@pytest.mark.parametrize(
    ("capability", "path", "switched", "promised"),
    [
        (9, True, False, False),
        (9, True, True, True),
        (9, False, False, True),
        (8, True, False, True),
    ],
    ids=["hopper", "switched", "portable", "ampere"],
)
def test_the_same_bits_are_promised_only_where_they_come(
    monkeypatch: pytest.MonkeyPatch, capability: int, path: bool, switched: bool, promised: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: switched)
    assert TritonBackend(hopper=path).deterministic is promised


def test_without_a_device_the_promise_stands() -> None:
    assert TritonBackend().deterministic
