"""The Hopper path without a Hopper: what it compiles to, who does what, and what is refused."""

import random
import re
import sys
from typing import Any

import pytest
import torch
from attnref_triton import TritonBackend, chips
from attnref_triton.call import call_of
from attnref_triton.hopper import calls, launch_forward, schedule
from attnref_triton.launch import Launch
from attnref_triton.tables import DENSE, DENSE_TABLED, FEW, Chip, Form

import attnref
from attnref import normalize

from . import compiling

CHIP = Chip(capability=9, processors=132, shared=232448)

SPILLS = {
    ((64, 64), False): 0,
    ((64, 64), True): 0,
    ((128, 128), False): 24,
    ((128, 128), True): 80,
    ((192, 128), False): 0,
    ((192, 128), True): 0,
    ((192, 256), False): 16,
    ((192, 256), True): 16,
    ((256, 256), False): 0,
    ((256, 256), True): 0,
}
"""Bytes that a thread may spill, by columns and by whether there is a bound on the left."""

MORE = 80
"""Bytes that it may spill beyond that for a soft cap, or where the device tells the lengths."""

LENGTHS = torch.ones(2, dtype=torch.int32)


OPTIONS: dict[str, dict[str, Any]] = {
    "right": {},
    "float16": {"dtype": torch.float16},
    "left": {"window": (1024, 0)},
    "float16, left": {"dtype": torch.float16, "window": (1024, 0)},
    "capped": {"softcap": 30.0},
    "sinks": {"sinks": torch.empty(4)},
    "capped, left, sinks": {"softcap": 30.0, "window": (1024, 0), "sinks": torch.empty(4)},
    "lengths": {"q_lens": LENGTHS, "kv_lens": LENGTHS},
    "lengths, left": {"q_lens": LENGTHS, "kv_lens": LENGTHS, "window": (9, 0), "q_offset": "end"},
    "packed": {"cu": torch.tensor([0, 2048])},
}

BIAS = {"bias": torch.empty(1, 2048, 2048, dtype=torch.bfloat16)}
MASK = {"mask": torch.empty(4, 2048, 2048, dtype=torch.bool)}
TABLES: dict[str, dict[str, Any]] = {
    "bias": BIAS,
    "mask": MASK,
    "bias, capped, left": {**BIAS, "softcap": 30.0, "window": (1024, 0)},
    "mask, capped, left": {**MASK, "softcap": 30.0, "window": (1024, 0)},
}

KEYED: dict[str, dict[str, Any]] = {
    "bias of keys": {"bias": torch.empty(2, 1, 1, 2048)},
    "mask of keys, capped, left": {
        "mask": torch.empty(2, 1, 1, 2048, dtype=torch.bool), "softcap": 30.0, "window": (9, 0)
    },
}  # fmt: skip


FEWER = ("right", "lengths, left", "packed")
"""The options that the less usual columns are compiled with."""

CASES = {
    f"{columns}, {name}": (columns, OPTIONS[name])
    for columns in DENSE
    for name in (OPTIONS if columns in ((64, 64), (128, 128)) else FEWER)
}
CASES |= {
    f"{columns}, {name}": (columns, TABLES[name]) for columns in DENSE_TABLED for name in TABLES
}
CASES |= {
    f"{columns}, {name}": (columns, KEYED[name])
    for columns in ((64, 64), (128, 128), (256, 256))
    for name in KEYED
}


def launch(columns: tuple[int, int], form: Form | None = None, **options: Any) -> Launch:
    given, (D, DV) = dict(options), columns
    dtype, cu = given.pop("dtype", torch.bfloat16), given.pop("cu", None)
    if cu is None:
        q, k, v = (torch.empty(2, h, 2048, d, dtype=dtype) for h, d in ((4, D), (2, D), (2, DV)))
        problem = normalize.attention(q, k, v, **given)
        out, lse = v.new_empty(2, 4, 2048, DV), torch.empty(2, 4, 2048)
    else:
        q, k, v = (torch.empty(2048, h, d, dtype=dtype) for h, d in ((4, D), (2, D), (2, DV)))
        problem = normalize.attention_varlen(q, k, v, cu, cu, **given)
        out, lse = v.new_empty(2048, 4, DV), torch.empty(4, 2048)
    *_, attend = launch_forward.launches_of(call_of(problem), {"out": out, "lse": lse}, CHIP, form)
    return attend


def loops(instructions: list[str]) -> list[list[str]]:
    """Return the innermost loops with matrix products in them, the shortest first."""
    labels = {line.rstrip(":"): at for at, line in enumerate(instructions) if line.endswith(":")}
    spans = []
    for at, line in enumerate(instructions):
        target = re.search(r"BRA.*?`\((\.L_x_\d+)\)", line)
        begin = labels.get(target.group(1), at) if target else at
        if begin < at and any("HGMMA" in x for x in instructions[begin:at]):
            spans.append((begin, at))
    inner = [
        (a, z)
        for a, z in spans
        if not any(a <= b and y <= z and (a, z) != (b, y) for b, y in spans)
    ]
    return sorted((instructions[a:z] for a, z in inner), key=len)


FACTOR = re.compile(r"HGMMA\.\S+ R\d+, R(\d+), gdesc")
"""A product whose left factor is in registers, and the first of its four."""

WRITES = re.compile(r"(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*) R(\d+)\b")
"""An instruction, and the first register that it names."""

READERS = ("ST", "RED", "HGMMA", "BAR", "SYNCS")
"""Instructions that do not write the first register they name, or write sums there."""


def written_under_way(instructions: list[str]) -> list[str]:
    """Return what writes to the left factor of a product that has not been waited for.

    In the order of the text, which waits in between branch out of and come back to.
    """
    found = []
    for at, line in enumerate(instructions):
        product = FACTOR.search(line)
        if not product:
            continue
        factor = set(range(int(product.group(1)), int(product.group(1)) + 4))
        for later in instructions[at + 1 :]:
            if "WARPGROUP.DEPBAR.LE gsb0, 0x0" in later or later.startswith(("BRA", "EXIT")):
                break
            operation = WRITES.match(later)
            if operation and not operation.group(1).startswith(READERS):
                kind, first = operation.group(1), int(operation.group(2))
                width = 4 if ".128" in kind else 2 if ".64" in kind or ".WIDE" in kind else 1
                if factor & set(range(first, first + width)):
                    found.append(f"{line} <- {later}")
    return found


def test_a_write_under_way_is_found() -> None:
    """What the search is for, and what it must let pass."""
    product = "HGMMA.64x128x16.F32.BF16 R88, R152, gdesc[UR16].tnspB, R88 ;"
    wait = "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;"
    late = "F2FP.BF16.F32.PACK_AB R153, R1, R2 ;"
    assert [] == written_under_way([product, wait, late])
    assert [] == written_under_way([product, "STS [R153], R152 ;", "MUFU.EX2 R156, R155 ;", wait])
    assert 1 == len(written_under_way([product, "@P0 BRA `(.L_x_1) ;", f"@!P1 {late}", wait]))
    assert 1 == len(written_under_way([product, "LDS.128 R150, [R3] ;", wait]))


@pytest.mark.parametrize(("columns", "options"), CASES.values(), ids=CASES)
def test_nothing_is_serialised_and_no_whole_tile_spills(
    columns: tuple[int, int], options: dict[str, Any]
) -> None:
    """Every form of the table: no wait that the source does not have, and no memory in the loop.

    What a form does spill, it spills outside of the loop over whole tiles; with 128 columns and
    a soft cap, that loop reads up to six numbers, and beside a mask it writes up to four.
    """
    ready = launch(columns, **options)
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    used = compiling.resources(ready, 90)
    print(columns, list(options), used)
    more = MORE * bool(options.keys() & {"softcap", "kv_lens", "cu", "bias", "mask"})
    written = 4 if options.keys() >= {"softcap", "mask"} else 0
    assert used.spilled <= SPILLS[columns, "window" in options] + more
    assert used.shared <= CHIP.shared
    instructions = compiling.instructions(compiled)
    assert any(map(FACTOR.search, instructions))
    assert [] == written_under_way(instructions)
    found = [loop for loop in loops(instructions) if any("MUFU.EX2" in line for line in loop)]
    consumers = ready.arguments["CONSUMERS"]
    assert len(found) >= 2 * consumers  # whole tiles and ragged ones
    for loop in found[:consumers]:
        assert len([line for line in loop if "STL" in line]) <= written
        assert len([line for line in loop if "LDL" in line]) <= (6 if more else 0)


def test_an_overlapping_form_takes_powers_while_a_product_runs() -> None:
    """Between the issue of the weights' product and the wait for it."""
    ready = launch((128, 128), Form((128, 128), 2, 128, 2, True, 168))
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    assert 0 == compiling.resources(ready, 90).spilled
    instructions = compiling.instructions(compiled)
    assert any(map(FACTOR.search, instructions))
    assert [] == written_under_way(instructions)
    loop = loops(instructions)[0]
    last = max(at for at, line in enumerate(loop) if "HGMMA" in line)
    waits = [at for at, line in enumerate(loop) if "WARPGROUP.DEPBAR" in line and at > last]
    between = [line for line in loop[last : waits[-1]] if "MUFU.EX2" in line]
    assert len(between) >= 64


def test_every_pair_is_visited_and_whole_tiles_hide_nothing() -> None:
    """The table of a head against brute force."""
    draw = random.Random(0)
    for _ in range(150):
        Sq, Sk = draw.randint(1, 700), draw.randint(1, 700)
        first = draw.choice([None, draw.randint(-Sq, Sk)])
        last = draw.choice([None, draw.randint(-Sq, Sk)])
        form = draw.choice([DENSE[128, 128], DENSE[256, 256]])
        rows = torch.arange(Sq)[:, None]
        keys = torch.arange(Sk)[None, :]
        low = -Sq if first is None else first
        high = Sk if last is None else last
        seen = (keys >= rows + low) & (keys <= rows + high)
        if first is None:
            seen = keys <= rows + high
        step = draw.choice([1, 16])
        for row in schedule.table_of((Sq, Sk, first, last, 1), form, step):
            i0, key0, visits, left, right, end_key, *_ = row[: schedule.HEAD]
            assert visits == 0 or key0 % step == 0
            for me in range(form.consumers):
                begin, a, z, end = row[schedule.HEAD + 4 * me :][:4]
                assert 0 <= begin <= a <= z <= end <= visits
                mine = range(i0 + 64 * me, min(i0 + 64 * me + 64, Sq))
                for i in mine:
                    own = seen[i].nonzero().flatten()
                    if len(own):
                        assert key0 + begin * form.keys <= own[0]
                        assert own[-1] < key0 + end * form.keys
                    assert seen[i, key0 + a * form.keys : key0 + z * form.keys].all()
                    assert key0 + z * form.keys <= Sk or a == z
                    at = torch.arange(key0, Sk)
                    told = (at - key0 <= min(right + i - i0, end_key)) & (
                        True if first is None else at - key0 >= left + i - i0
                    )
                    assert torch.equal(told, seen[i, key0:])


@pytest.mark.parametrize("tiles", [1, 3, 40])
def test_every_tile_has_one_turn(tiles: int) -> None:
    visits = [random.Random(n).randint(0, 9) for n in range(tiles)]
    turns = schedule.turns_of(visits, 3, 4, 2, 7, 5).tolist()
    found = []
    for begin in turns[:7]:
        at = begin
        while turns[at] >= 0:
            tile, b, h, g = turns[at : at + schedule.TURN]
            assert h // 2 == g
            found.append((tile, b, h))
            at += schedule.TURN
    assert sorted(found) == [(t, b, h) for t in range(tiles) for b in range(3) for h in range(4)]


def test_turns_that_are_taken_by_whoever_is_free_end_for_everyone() -> None:
    """One list, whose rows of a table are an entry's own, and as many ends as programs."""
    shape = (700, 900, None, 0, 4)
    turns, _ = schedule.plan_of(shape, DENSE[64, 64], 1, 3, 2, 7, 4, True, 0, "cpu")
    assert 1 == turns[0]
    *items, _ = turns[1 : 1 + 4 * (4 * 3 * 4 + 1)].view(-1, 4).tolist()
    expected = [(b * 4 + t, b, h, h // 2) for b in range(3) for t in range(4) for h in range(4)]
    assert expected == sorted(map(tuple, items), key=lambda x: (x[0], x[2]))
    assert (turns[-4 * 8 :].view(-1, 4)[:, 0] == -1).all()
    turns, _ = schedule.plan_of(shape, DENSE[64, 64], 1, 1, 2, 7, 4, True, 9, "cpu")
    *items, _ = turns[1 : 1 + 4 * (9 * 4 + 1)].view(-1, 4).tolist()
    assert [(t, 0, h, h // 2) for h in range(4) for t in range(9)] == sorted(
        map(tuple, items), key=lambda x: (x[2], x[0])
    )


def test_the_device_tells_lengths_offsets_and_sequences() -> None:
    """The table is then written first, and room for it is a buffer of the call."""
    lengths = torch.ones(1, dtype=torch.int64)
    for changes in (
        {"q_lens": lengths},
        {"kv_lens": lengths},
        {"q_offset": lengths, "causal": True},
    ):
        call = call_of(problem(**changes))
        buffers = {"out": torch.empty_like(call.q), "lse": torch.empty(1, 2, 256)}
        writes, attends = launch_forward.launches_of(call, buffers, CHIP)
        assert writes.arguments["table"] is attends.arguments["table"] is buffers["table"]
        assert attends.arguments["ENTRIES"]
        assert ("kv_lens" in changes) == attends.arguments["CLEAN"]


def problem(**changes: Any) -> Any:
    q = torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16)
    given = {"q": q, "k": q, "v": q, **changes}
    return normalize.attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"softcap": 51.0}, "a softcap of 51.0 is above 50.0"),
        ({"mask": torch.ones(256, 258).bool()[:, :256]}, "rows of the mask do not begin"),
        ({"mask": torch.ones(256, 1).bool()}, "columns of the mask are not adjacent"),
        ({"bias": torch.ones(256, 256)}, "the bias is torch.float32"),
        ({"mask": torch.ones(256, 256).bool(), "bias": torch.ones(256, 256)}, "room for one"),
        ({"q": torch.zeros(1, 2, 8, 64, dtype=torch.bfloat16)}, f"{FEW} rows or fewer"),
        ({"k": torch.zeros(1, 2, 1, 64).bfloat16().expand(1, 2, 256, 64)}, "no stride of 0"),
        ({"scale": 0.0}, "does not keep the order"),
        ({"v": torch.zeros(1, 2, 256, 264, dtype=torch.bfloat16)}, "Dv = 264"),
        ({n: torch.zeros(1, 2, 256, 64) for n in "qkv"}, "float32 is no half precision"),
    ],
    ids=[
        "cap",
        "line",
        "column",
        "bias",
        "both",
        "few",
        "broadcast",
        "scale",
        "columns",
        "float32",
    ],
)
def test_what_the_path_does_not_take_is_told(changes: dict[str, Any], said: str) -> None:
    assert [] == calls.reasons(problem(), CHIP)
    found = calls.reasons(problem(**changes), CHIP)
    assert any(said in str(reason) for reason in found)


def test_what_is_the_same_for_all_queries_may_lie_anyhow() -> None:
    """Nothing of it is copied in tiles: any dtype, any columns of a head, no sixteen bytes."""
    for changes in (
        {"mask": torch.ones(1, 257).bool()[:, 1:]},
        {"mask": torch.ones(1, 1, 1, 256).bool().expand(1, 2, 256, 256), "window": (9, 0)},
        {"bias": torch.ones(256), "softcap": 50.0},
        {n: torch.zeros(1, 2, 256, 256).half() for n in "qkv"} | {"bias": torch.ones(2, 1, 256)},
    ):
        assert [] == calls.reasons(problem(**changes), CHIP)


def test_another_chip_or_another_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (reason,) = calls.reasons(problem(), CHIP._replace(capability=10))
    assert "capability 10" in str(reason)

    def lacking(name: str) -> None:
        raise AttributeError(f"{name} has no warp_specialize")

    calls.missing.cache_clear()
    monkeypatch.setattr(calls, "import_module", lacking)
    (reason,) = calls.reasons(problem(), CHIP)
    assert "no warp_specialize" in str(reason)
    calls.missing.cache_clear()


def test_a_release_of_triton_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gluon is experimental, and what compiles may still mean another thing."""
    monkeypatch.setattr(calls, "KNOWN", ("3.5",))
    calls.missing.cache_clear()
    (reason,) = calls.reasons(problem(), CHIP)
    calls.missing.cache_clear()
    assert "is known to run with 3.5" in str(reason)


@pytest.mark.parametrize(
    ("capability", "backend", "said"),
    [
        (
            9,
            TritonBackend(),
            "Hopper path: rows of the mask do not begin at sixteen bytes; the portable kernel runs",
        ),
        (9, TritonBackend(hopper=False), None),
        (8, TritonBackend(), None),
    ],
    ids=["hopper", "switched off", "ampere"],
)
def test_an_explanation_says_why_the_portable_kernel_runs(
    monkeypatch: pytest.MonkeyPatch, capability: int, backend: TritonBackend, said: str | None
) -> None:
    monkeypatch.setattr(chips, "chip_of", lambda _: CHIP._replace(capability=capability))
    monkeypatch.setattr(TritonBackend, "available", lambda _: [])
    monkeypatch.setattr(sys.modules[TritonBackend.__module__], "_about_device", lambda _: [])
    q = torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16)
    mask = torch.ones(256, 258, dtype=torch.bool)[:, :256]
    told = attnref.explain(attnref.attention, q, q, q, mask=mask, backend=backend)
    assert "triton" == told.runs
    assert [said] * (said is not None) == [str(r) for r in told.remarks.get("triton", ())]
    told = attnref.explain(attnref.attention, q, q, q, backend=backend)
    taken = ["Hopper path: runs"] * (said is not None)
    assert taken == [str(r) for r in told.remarks.get("triton", ())]
    assert () == told.remarks.get("reference", ())
    assert [] == backend.remarks(normalize.softmax(q))


def test_no_schedule_is_copied_into_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "capturing", lambda: True)
    (reason,) = calls.reasons(problem(), CHIP)
    assert "a graph is being captured" in str(reason)
