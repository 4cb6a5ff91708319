"""The Hopper path backward, without a Hopper: what it compiles to, and what a program visits."""

import random
import re
from collections.abc import Sequence
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attnref_triton import TritonBackend
from attnref_triton.call import call_of
from attnref_triton.hopper import backward, calls, launch_backward
from attnref_triton.launch import Launch
from attnref_triton.tables import DENSE_BACKWARD

from attnref import normalize

from . import compiling
from .test_hopper import CHIP, FACTOR, WRITES, loops, problem

BANDS: dict[str, dict[str, Any]] = {
    "full": {},
    "right": {"window": (None, 0)},
    "left": {"window": (1024, 0)},
}

SPILLS = {
    64: {"full": 40, "right": 64, "left": 80},
    128: {"full": 0, "right": 40, "left": 48},
    256: {"full": 40, "right": 80, "left": 80},
}
"""Bytes that a thread may spill: numbers that do not change, and where pairs are hidden."""

READ = {64: 8, 128: 0, 256: 6}
"""What a step may read of them where nothing is hidden, in words."""


LENGTHS = torch.tensor([2000, 100])
LENS = {"q_lens": LENGTHS, "kv_lens": LENGTHS, "q_offset": "end"}
BIAS = torch.empty(2, 4, 2048, 2048, dtype=torch.bfloat16)
MASK = torch.empty(2048, 2048, dtype=torch.bool)

OPTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "lengths": (24, {"q_lens": LENGTHS, "kv_lens": LENGTHS, "q_offset": "end"}),
    "offsets": (16, {"q_offset": LENGTHS}),
    "capped": (64, {"softcap": 30.0}),
    "capped lengths": (72, {"softcap": 30.0, "q_lens": LENGTHS, "kv_lens": LENGTHS, "q_offset": 0}),
    "packed": (24, {}),
    "packed capped": (80, {"softcap": 30.0}),
}

TABLES: dict[str, dict[str, Any]] = {
    "bias": {"bias": BIAS},
    "bias, lengths": {"bias": BIAS, **LENS},
    "bias for each head": {"bias": BIAS[:1]},
    "bias of keys": {"bias": BIAS[..., :1, :]},
    "bias of keys, lengths": {"bias": BIAS[:, :1, :1], **LENS},
    "mask": {"mask": MASK},
    "mask, capped, lengths": {"mask": MASK, "softcap": 30.0, **LENS},
    "mask of keys, capped": {"mask": MASK[:1], "softcap": 30.0},
}
"""A bias or a mask beside other options."""
"""Options to the bytes that a thread may spill for them beside those of `SPILLS`."""


def launches(D: int, dtype: torch.dtype = torch.bfloat16, **options: Any) -> list[Launch]:
    q = torch.empty(2, 4, 2048, D, dtype=dtype)
    k = q[:, :2]
    call = call_of(normalize.attention(q, k, k, **options))
    rows = torch.empty(2, 4, 2048)
    dsinks, dscores = options.get("sinks"), launch_backward.scores_like(call, call.bias)
    given = (call, q, rows, q, rows, (q, k, k), dsinks, dscores)
    return list(launch_backward.launches_of(*given))


def packed_launches(D: int, dtype: torch.dtype = torch.bfloat16, **options: Any) -> list[Launch]:
    q = torch.empty(2048, 4, D, dtype=dtype)
    k, cu = q[:, :2], torch.tensor([0, 1000, 2048], dtype=torch.int32)
    call = call_of(normalize.attention_varlen(q, k, k, cu, cu, **options))
    rows = torch.empty(4, 2048)
    dsinks = options.get("sinks")
    return list(launch_backward.launches_of(call, q, rows, q, rows, (q, k, k), dsinks))


def written_under_way(loop: list[str]) -> list[str]:
    """Return what writes to a left factor before enough products were waited for."""
    found = []
    twice = loop + loop
    for at, line in enumerate(loop):
        product = FACTOR.search(line)
        if not product:
            continue
        factor = set(range(int(product.group(1)), int(product.group(1)) + 4))
        behind = 0  # products issued since this one
        closed = False
        for later in twice[at:]:
            if "HGMMA" in later and "gsb0" in later:
                behind += closed
                closed = True
            wait = re.search(r"DEPBAR.LE gsb0, 0x(\d)", later)
            if wait and closed and int(wait.group(1)) <= behind:
                break
            operation = WRITES.match(later)
            if operation and not operation.group(1).startswith(
                ("ST", "RED", "HGMMA", "BAR", "SYNCS")
            ):
                first = int(operation.group(2))
                width = 4 if ".128" in later else 2 if re.search(r"\.64|WIDE", later) else 1
                if factor & set(range(first, first + width)):
                    found.append(f"{line} <- {later}")
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("D", DENSE_BACKWARD)
def test_nothing_is_serialised_and_the_products_overlap(
    D: int, band: str, dtype: torch.dtype
) -> None:
    """Every form in use: the order of waits is the source's, and memory is for hidden pairs."""
    _, ready, _ = launches(D, dtype, **BANDS[band])
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    used = compiling.resources(ready, 90)
    print(D, band, used)
    assert used.spilled <= SPILLS[D][band]
    assert used.shared <= CHIP.shared
    found = loops(compiling.instructions(compiled))  # waits branch out of the loop, and back
    loop = next(x for x in found if {"MUFU.EX2", "UTMAREDG.2D.ADD"} <= set(" ".join(x).split()))
    assert [] == written_under_way(loop)
    if band == "full":
        assert [] == [x for x in loop if re.search(r"\bSTL", x)]
        assert sum("LDL" in x for x in loop) <= READ[D]
    exchanged = next(n for n, x in enumerate(loop) if "MEMBAR" in x)
    issued = next(n for n, x in enumerate(loop) if "HGMMA" in x and "gsb0" in x)
    first_wait = next(n for n, x in enumerate(loop) if "WARPGROUP.DEPBAR" in x)
    powers = [n for n, x in enumerate(loop) if "MUFU.EX2" in x]
    keys = ready.arguments["k"].block_shape[2]
    assert len(powers) == keys * ready.arguments["BLOCK_M"] // 256
    assert issued < min(powers)
    assert max(powers) < first_wait < exchanged
    # What other threads wrote is read after a fence and a barrier: dS, and the tile of dq.
    kinds = "FENCE|BAR.SYNC|HGMMA.*tnspA|UTMAREDG|UTMACMDFLUSH"
    order = [re.search(kinds, x).group()[:6] for x in loop if re.search(kinds, x)]  # type: ignore[union-attr]
    squeezed = [x for n, x in enumerate(order) if n == 0 or x != order[n - 1]]
    said = " ".join(squeezed)
    assert "FENCE BAR.SY HGMMA. FENCE BAR.SY UTMARE" in said
    if D > launch_backward.WIDE:  # the second half of dq, written where the first was read
        assert "BAR.SY FENCE BAR.SY UTMARE" in said.split("UTMARE", 1)[1]
    assert sum("BAR.SYNC" in x for x in loop) <= (6 if D > launch_backward.WIDE else 4)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("band", ["full", "left"])
@pytest.mark.parametrize("D", DENSE_BACKWARD)
def test_options_serialise_nothing_either(D: int, band: str, option: str) -> None:
    """Each option in each form: what is waited for, and what is kept in memory."""
    more, options = OPTIONS[option]
    options = {**BANDS[band], **options}
    if band == "full":
        options.pop("q_offset", None)
    _, ready, _ = (packed_launches if "packed" in option else launches)(D, **options)
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    used = compiling.resources(ready, 90)
    print(D, band, option, used)
    assert used.spilled <= SPILLS[D][band] + more
    assert used.shared <= CHIP.shared
    found = loops(compiling.instructions(compiled))
    loop = next(x for x in found if {"MUFU.EX2", "UTMAREDG.2D.ADD"} <= set(" ".join(x).split()))
    assert [] == written_under_way(loop)
    if band == "full":
        assert 1 >= sum("STL" in x for x in loop)
    pairs = ready.arguments["k"].block_shape[2] * ready.arguments["BLOCK_M"] // 256
    capped = "capped" in option
    assert sum("MUFU.EX2" in x for x in loop) == pairs * (1 + capped)
    assert sum("MUFU.RSQ" in x for x in loop) == pairs * capped
    assert sum("BAR.SYNC" in x for x in loop) <= (6 if D > launch_backward.WIDE else 4)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("D", [64, 128])
def test_a_bias_or_a_mask_serialises_nothing_either(D: int, table: str) -> None:
    """Tiles come by TMA and are read turned round; gradients leave from where `dS` is exchanged."""
    options = {**TABLES[table], **BANDS["left"]}
    _, ready, _ = launches(D, **options)
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    used = compiling.resources(ready, 90)
    print(D, table, used)
    assert used.spilled <= (0 if D == 64 else 96)
    assert used.shared <= CHIP.shared
    found = loops(compiling.instructions(compiled))
    loop = next(x for x in found if {"MUFU.EX2", "UTMAREDG.2D.ADD"} <= set(" ".join(x).split()))
    assert [] == written_under_way(loop)
    for_each_score = "bias" in options and options["bias"].shape == (2, 4, 2048, 2048)
    assert for_each_score == any("UTMASTG" in x for x in loop)
    assert sum("BAR.SYNC" in x for x in loop) <= 4 + for_each_score


def test_other_sizes_take_the_kernel_of_the_next_width() -> None:
    """Columns that an array lacks are TMA's to fill in, so that there is nothing to compile."""
    sizes = ((96, 96, 128, 128), (40, 64, 64, 64), (72, 24, 128, 128), (192, 128, 256, 128))
    for D, Dv, width, width_v in (*sizes, (24, 200, 128, 256)):
        q, v = torch.empty(1, 2, 256, D), torch.empty(1, 2, 256, Dv)
        q, v = q.bfloat16(), v.bfloat16()
        problem = normalize.attention(q, q, v)
        assert [] == calls.reasons_backward(problem, CHIP)
        rows = torch.empty(1, 2, 256)
        given = call_of(problem), v, rows, v, None, (q, q, v)
        _, ready, _ = launch_backward.launches_of(*given)
        told = ready.arguments
        assert told["BLOCK_D"] == told["q"].block_shape[-1] == told["dk"].block_shape[-1] == width
        assert told["v"].block_shape[-1] == told["dv"].block_shape[-1] == width_v
        assert (D, Dv) == (told["dk"].shape[-1], told["dv"].shape[-1])
        assert 0 == compiling.resources(ready, 90).spilled or width == 64


@pytest.mark.parametrize("D", DENSE_BACKWARD)
def test_what_comes_before_and_after_spills_nothing(D: int) -> None:
    sinks = torch.empty(4)
    before, _, after, sunk = packed_launches(D, sinks=sinks)
    lengths = launches(D, q_lens=LENGTHS)[0]
    for ready in (*launches(D)[::2], lengths, before, after, sunk):
        assert 0 == compiling.resources(ready, 90).spilled


def test_delta_lies_as_it_was_made_and_not_as_lse_does() -> None:
    """What a backward pass is given may have gaps; what it allocates has none."""
    q, sinks = torch.empty(2, 4, 256, 64, dtype=torch.bfloat16), torch.empty(4)
    call = call_of(normalize.attention(q, q, q, sinks=sinks))
    lse = torch.empty(2, 4, 512)[..., ::2]
    before, *_ = launch_backward.launches_of(call, q, lse, q, None, (q, q, q), sinks)
    given, _, made = before.arguments["row_strides"]
    assert given == (2048, 512, 2, 1)
    assert made == (1024, 256, 1, 1) == (*before.arguments["delta"].stride(), 1)


ARRAYS = SimpleNamespace(
    maximum=np.maximum,
    minimum=np.minimum,
    where=np.where,
    arange=lambda a, z, _: np.arange(a, z),
    expand_dims=np.expand_dims,
    SliceLayout=lambda *_: None,
    load=lambda x: x.array[x.at],
    int32=np.int64,
)
"""Of Gluon what index arithmetic takes, on NumPy."""


class Number(int):
    """An integer that has a type."""

    def to(self, _: Any) -> int:
        return int(self)


class Pointer:
    """Into an array of the device."""

    def __init__(self, array: Sequence[int], at: int = 0) -> None:
        self.array, self.at = list(map(Number, array)), at

    def __add__(self, n: Any) -> "Pointer":
        return Pointer(self.array, self.at + int(n))


def on_the_host(name: str) -> Any:
    """Return a function of the kernel that runs on NumPy."""
    function = getattr(backward, name).fn
    return FunctionType(function.__code__, {"gl": ARRAYS}, name)


def test_each_seen_pair_is_visited_once_and_only_whole_tiles_go_unmasked() -> None:
    """The kernel's own index arithmetic against brute force."""
    visited, following = on_the_host("visited"), on_the_host("following")
    is_ragged, hide = on_the_host("is_ragged"), on_the_host("hide")
    draw = random.Random(0)
    for _ in range(200):
        Sq, Sk, M = draw.randint(1, 500), draw.randint(1, 500), draw.choice([64, 128])
        N = draw.choice([launch_backward.KEYS, launch_backward.WIDE_KEYS])
        first = draw.choice([None, draw.randint(-Sq, Sk)])
        last = draw.choice([None, draw.randint(-Sq, Sk)])
        group = draw.choice([1, 3])
        band = first or 0, last or 0
        sides = first is not None, last is not None
        i, j = np.arange(Sq)[:, None], np.arange(Sk)[None, :]
        seen = np.ones((Sq, Sk), bool)
        if first is not None:
            seen &= j >= i + first
        if last is not None:
            seen &= j <= i + last
        found = np.zeros((group, Sq, Sk), int)
        for tile in range(-(-Sk // N)):
            j0 = tile * N
            low, count = visited(j0, *band, Sq, Sk, M, N, *sides)
            at, member = 0, 0
            for _ in range(count * group):
                i0 = low + at * M
                assert 0 <= i0 < -(-Sq // M) * M
                s = np.zeros((N, M)).view(Scores)
                if is_ragged(i0, j0, *band, Sk, M, N, *sides):
                    s = hide(s, i0, j0, *band, Sk, *sides, -np.inf)
                shown = np.asarray(s == 0).T
                assert not shown[:, Sk - j0 :].any()
                found[member, i0 : i0 + M, j0 : j0 + N] += shown[: Sq - i0, : Sk - j0]
                at, member = following(at, member, count)
        assert (found == seen).all()


class Scores(np.ndarray):
    """A tile that has a layout."""

    type = SimpleNamespace(layout=None)


def test_each_tile_of_keys_has_one_program() -> None:
    tile_of = on_the_host("tile_of")
    for tiles, heads, together in ((1, 1, 1), (5, 6, 4), (3, 7, 100), (4, 4, 1)):
        found = [tile_of(n, tiles, heads, together) for n in range(tiles * heads)]
        assert sorted(found) == [(h, t) for h in range(heads) for t in range(tiles)]


def test_each_tile_of_packed_sequences_has_one_program() -> None:
    """Tiles of keys, and the rows of `dq` that a sequence has, which nobody else adds to."""
    sequence_of, bounds_of = on_the_host("sequence_of"), on_the_host("bounds_of")
    draw = random.Random(0)
    for _ in range(100):
        lens = [draw.choice([0, 1, 127, 128, 129, draw.randint(0, 600)]) for _ in range(5)]
        n, starts = len(lens), [0, *np.cumsum(lens).tolist()]
        T = starts[-1] + draw.choice([0, 1, 300])
        N = launch_backward.KEYS
        tiles = T // N + n + 1
        located = [sequence_of(tile, Pointer(starts), n, N) for tile in range(tiles)]
        found = [(int(b), int(t)) for b, t in located]
        assert len(set(found)) == tiles
        for b, length in enumerate([*lens, T - starts[-1]]):
            assert {t for x, t in found if x == b} >= set(range(-(-length // N)))
            assert bounds_of(b, Pointer(starts), n, T) == (starts[b], length if b < n else 0)
            base = starts[b] // N + b
            assert found.index((b, 0)) == base


def test_offsets_that_the_device_gets_wrong_stay_in_the_array() -> None:
    """Only the sequence that they belong to has wrong numbers (A7)."""
    bounds_of = on_the_host("bounds_of")
    for starts in ([0, -5, 2000], [0, 900, 300], [7, 3, 1]):
        for b in range(3):
            start, length = bounds_of(b, Pointer(starts), 2, 1000)
            assert 0 <= start <= start + length <= 1000


def test_what_the_path_takes_backward() -> None:
    q = torch.empty(2, 2, 256, 64, dtype=torch.bfloat16)
    lens = torch.tensor([3, 200])
    taken: list[dict[str, Any]] = [
        {"softcap": 30.0}, {"sinks": torch.empty(2)}, {"q_lens": lens}, {"kv_lens": lens},
        {"causal": True, "q_offset": lens}, {"softcap": 30.0, "scale": -1.0},
        {"bias": torch.empty(256, 256).bfloat16()}, {"bias": torch.empty(2, 2, 1, 256)},
        {"mask": torch.empty(256, 256).bool(), "softcap": 3.0}, {"mask": torch.empty(256).bool()},
    ]  # fmt: skip
    for options in taken:
        assert [] == calls.reasons_backward(normalize.attention(q, q, q, **options), CHIP)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("the bias is torch.float32", {"bias": torch.empty(256, 256)}),
        ("a softcap beside a bias", {"bias": torch.empty(256), "softcap": 3.0}),
        ("one row in memory, and its gradient many", {"bias": torch.empty(256).expand(256, 256)}),
        ("a softcap of 300.0 is above 50.0", {"softcap": 300.0}),
        ("a softcap of 1e-05 is below 0.001", {"softcap": 1e-5}),
    ]
    for said, options in refused:
        (why,) = calls.reasons_backward(normalize.attention(q, q, q, **options), CHIP)
        assert said in str(why)
    for D in (16, 32):
        x = q[..., :1].expand(2, 2, 256, D).contiguous()
        (why,) = calls.reasons_backward(normalize.attention(x, x, x), CHIP)
        assert "is not from 33 to 256" in str(why)


def test_wide_heads_take_no_table_backward() -> None:
    q, mask = torch.empty(1, 1, 256, 136, dtype=torch.bfloat16), torch.empty(256).bool()
    (why,) = calls.reasons_backward(normalize.attention(q, q, q, mask=mask), CHIP)
    assert "there is a mask beside 136 columns" in str(why)


@pytest.mark.parametrize(("D", "least"), [(64, 512), (72, 128), (256, 128)])
def test_what_packed_sequences_take_the_path_backward(D: int, least: int) -> None:
    q = torch.empty(1024, 2, D, dtype=torch.bfloat16)

    def against(n: int) -> list[str]:
        cu = torch.linspace(0, 1024, n + 1).int()
        problem = normalize.attention_varlen(q, q, q, cu, cu)
        return list(map(str, calls.reasons_backward(problem, CHIP)))

    assert [] == against(1024 // least)
    (short,) = against(1024 // least + 1)
    assert f"fewer than {least} tokens on average" in short


def test_a_graph_that_is_captured_takes_the_path_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "capturing", lambda: True)
    assert [] == calls.reasons_backward(problem(), CHIP)


def test_where_bits_must_repeat_the_portable_kernels_run() -> None:
    assert [] == calls.reasons_backward(problem(), CHIP)
    torch.use_deterministic_algorithms(True)
    try:
        (reason,) = calls.reasons_backward(problem(), CHIP)
        remarks = list(map(str, calls.remarks(problem(), CHIP)))
        assert TritonBackend().deterministic
    finally:
        torch.use_deterministic_algorithms(False)
    assert "dq is added up in no fixed order" in str(reason)
    assert "Hopper path: runs" == remarks[0]
    assert "the portable kernels run" in remarks[1]
    assert TritonBackend(hopper=False).deterministic
