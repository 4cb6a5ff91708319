"""The table that the device writes for the Hopper path, against brute force."""

import random
from typing import Any

import pytest
import torch
from attnref_triton.call import Call, call_of
from attnref_triton.hopper import launch_forward, schedule
from attnref_triton.plan import tiles_to_cover
from attnref_triton.tables import Form

from attnref import normalize

M, N = 192, 128
FORM = Form((128, 128), 3, N, 2, False, 128)


def table_of(call: Call, step: int = 1) -> list[list[int]]:
    """Run the kernel that writes a table."""
    tiles = tiles_to_cover(call, call.tokens[0], M)
    table, launch = launch_forward.table_launch(call, FORM, tiles, step)
    table.fill_(-77)
    launch.run()
    assert 0 == table[0]
    return table[launch_forward.COUNTER :].view(tiles * call.batch, -1).tolist()


def check(
    row: list[int], seen: torch.Tensor, first: tuple[int, int], tile: int, *, bounded: bool
) -> None:
    """Hold a row against what each of an entry's queries sees."""
    q0, k0 = first
    queries, keys = seen.shape
    start, key0, visits, left, right, end_key, heads, _, real, after = row[: schedule.HEAD]
    i0 = tile * M
    assert (start, heads, real) == (q0 + i0, 2, q0 + queries)
    assert after >= real
    key0 -= k0
    assert 0 <= key0 <= keys
    for me in range(3):
        begin, a, z, end = row[schedule.HEAD + 4 * me :][:4]
        assert 0 <= begin <= a <= z <= end <= visits
        mine = range(min(i0 + 64 * me, queries), min(i0 + 64 * me + 64, queries))
        if not mine:
            assert begin == end
        for i in mine:
            own = seen[i].nonzero().flatten()
            if len(own):
                assert key0 + begin * N <= own[0]
                assert own[-1] < key0 + end * N
            assert seen[i, key0 + a * N : key0 + z * N].all()
            assert key0 + z * N <= keys or a == z
            at = torch.arange(keys - key0)
            told = at <= min(right + i - i0, end_key)
            if bounded:
                told &= at >= left + i - i0
            assert torch.equal(told[begin * N : end * N], seen[i, key0:][begin * N : end * N])


def visible(
    queries: int, keys: int, window: tuple[int | None, int | None], offset: int | str
) -> torch.Tensor:
    place = torch.arange(queries)[:, None] + (keys - queries if offset == "end" else int(offset))
    j = torch.arange(keys)[None]
    left, right = window
    seen = torch.ones(queries, keys, dtype=torch.bool)
    seen &= left is None or j >= place - left
    seen &= right is None or j <= place + right
    return seen


def drawn(draw: random.Random) -> dict[str, Any]:
    bounds = [None, 0, draw.randint(0, 500)]
    return {"window": (draw.choice(bounds), draw.choice(bounds))}


@pytest.mark.parametrize("seed", range(12))
def test_padded_batches(seed: int) -> None:
    draw = random.Random(seed)
    B, Sq, Sk = 4, draw.randint(1, 500), draw.randint(1, 700)
    q, k = torch.zeros(B, 2, Sq, 64).half(), torch.zeros(B, 2, Sk, 64).half()
    q_lens = [draw.randint(0, Sq) for _ in range(B)]
    kv_lens = [draw.choice([0, Sk, draw.randint(0, Sk)]) for _ in range(B)]
    offset = draw.choice(["end", "start", "array"])
    offsets = [draw.randint(-Sq, Sk) for _ in range(B)]
    given = drawn(draw)
    problem = normalize.attention(
        q, k, k, q_lens=torch.tensor(q_lens), kv_lens=torch.tensor(kv_lens, dtype=torch.int32),
        q_offset=torch.tensor(offsets) if offset == "array" else offset, **given,
    )  # fmt: skip
    call, step = call_of(problem), draw.choice([1, 16])
    rows = table_of(call, step)
    assert all(row[1] % step == 0 for row in rows if row[2])
    tiles = -(-Sq // M)
    for b in range(B):
        place = offsets[b] if offset == "array" else 0 if offset == "start" else "end"
        seen = visible(q_lens[b], kv_lens[b], given["window"], place)
        for tile, row in enumerate(rows[b * tiles : (b + 1) * tiles]):
            check(row, seen, (0, 0), tile, bounded=call.band["LEFT"])
            assert (Sq, Sq) == (row[7], row[9])


@pytest.mark.parametrize("seed", range(12))
def test_packed_sequences(seed: int) -> None:
    """Each row has one tile, and rows past the last sequence are written, too."""
    draw = random.Random(seed)
    n = draw.randint(1, 6)
    lengths = [[draw.choice([0, draw.randint(0, 500)]) for _ in range(n)] for _ in range(2)]
    starts = [[sum(some[:b]) for b in range(n + 1)] for some in lengths]
    total = starts[0][-1] + draw.choice([0, 300])
    q = torch.zeros(max(total, 1), 2, 64).half()
    k = torch.zeros(max(starts[1][-1], 1) + draw.choice([0, 9]), 2, 64).half()
    given = drawn(draw)
    offset = draw.choice(["end", 3])
    cu_q, cu_k = map(torch.tensor, starts)
    problem = normalize.attention_varlen(q, k, k, cu_q, cu_k, q_offset=offset, **given)
    call = call_of(problem)
    rows = table_of(call)
    written = torch.zeros(len(q), dtype=torch.int32)
    for row in rows:
        start, after = row[0], row[9]
        if start >= after:
            assert row[2] == 0
            continue
        written[start : min(after, start + M)] += 1
        b = max((b for b in range(n + 1) if starts[0][b] <= start), default=0)
        if b == n:
            assert row[2] == 0
            continue
        while lengths[0][b] == 0:
            b -= 1
        seen = visible(lengths[0][b], lengths[1][b], given["window"], offset)
        tile, rest = divmod(start - starts[0][b], M)
        assert rest == 0
        check(row, seen, (starts[0][b], starts[1][b]), tile, bounded=call.band["LEFT"])
        assert after == starts[0][b + 1]
    assert (written == 1).all()
