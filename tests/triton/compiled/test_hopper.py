"""The Hopper path without a Hopper: what it compiles to, who does what, and what is refused."""

import random
import re
from typing import Any

import pytest
import torch
from attnref_triton import hopper
from attnref_triton.call import call_of
from attnref_triton.launch import Launch
from attnref_triton.tables import DENSE, FEW, Chip, Form

from attnref import normalize

from . import compiling

CHIP = Chip(capability=9, processors=132, shared=232448)

SPILLS = {(64, False): 0, (64, True): 0, (128, False): 24, (128, True): 80}
"""Bytes that a thread may spill, by columns and by whether there is a bound on the left."""


def launch(D: int, form: Form | None = None, **options: Any) -> Launch:
    q = torch.empty(1, 4, 2048, D, dtype=options.pop("dtype", torch.bfloat16))
    k = q[:, :2]
    call = call_of(normalize.attention(q, k, k, **options))
    return hopper.launch_of(call, torch.empty_like(q), torch.empty(1, 4, 2048), CHIP, form)


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


@pytest.mark.parametrize(
    ("D", "options"),
    [
        (64, {}),
        (128, {}),
        (64, {"window": (1024, 0)}),
        (128, {"window": (1024, 0)}),
        (128, {"dtype": torch.float16}),
    ],
    ids=["64", "128", "64 window", "128 window", "128 float16"],
)
def test_nothing_is_serialised_and_no_whole_tile_spills(D: int, options: dict[str, Any]) -> None:
    ready = launch(D, **options)
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    used = compiling.resources(ready, 90)
    print(D, options, used)
    assert used.spilled <= SPILLS[D, "window" in options]
    assert used.shared <= CHIP.shared
    found = loops(compiling.instructions(compiled))
    consumers = DENSE[D].consumers
    assert len(found) >= 2 * consumers  # whole tiles and ragged ones
    for loop in found[:consumers]:
        assert [] == [line for line in loop if re.search(r"\b(LDL|STL)", line)]
        assert any("MUFU.EX2" in line for line in loop)


def test_an_overlapping_form_takes_powers_while_a_product_runs() -> None:
    """Between the issue of the weights' product and the wait for it."""
    ready = launch(128, Form(2, 128, 2, True, 168))
    compiled = compiling.compiled_for(ready, 90)
    assert [] == compiling.warnings_of(compiled)
    assert 0 == compiling.resources(ready, 90).spilled
    loop = loops(compiling.instructions(compiled))[0]
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
        form = draw.choice([Form(3, 128, 2, False, 128), Form(2, 64, 2, True, 168)])
        rows = torch.arange(Sq)[:, None]
        keys = torch.arange(Sk)[None, :]
        low = -Sq if first is None else first
        high = Sk if last is None else last
        seen = (keys >= rows + low) & (keys <= rows + high)
        if first is None:
            seen = keys <= rows + high
        for row in hopper.table_of((Sq, Sk, first, last, 1), form):
            i0, key0, visits, left, right, end_key, _, _ = row[: hopper.HEAD]
            for me in range(form.consumers):
                begin, a, z, end = row[hopper.HEAD + 4 * me :][:4]
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
    turns = hopper.turns_of(visits, 3, 4, 2, 7, 5).tolist()
    found = []
    for begin in turns[:7]:
        at = begin
        while turns[at] >= 0:
            tile, b, h, g = turns[at : at + hopper.TURN]
            assert h // 2 == g
            found.append((tile, b, h))
            at += hopper.TURN
    assert sorted(found) == [(t, b, h) for t in range(tiles) for b in range(3) for h in range(4)]


def problem(**changes: Any) -> Any:
    q = torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16)
    given = {"q": q, "k": q, "v": q, **changes}
    return normalize.attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"softcap": 30.0}, "there is a softcap"),
        ({"sinks": torch.zeros(2)}, "there is a sinks"),
        ({"mask": torch.ones(256, 256, dtype=torch.bool)}, "there is a mask"),
        ({"kv_lens": torch.tensor([3])}, "there is a kv_lens"),
        ({"q": torch.zeros(1, 2, 8, 64, dtype=torch.bfloat16)}, f"{FEW} rows or fewer"),
        ({"k": torch.zeros(1, 2, 1, 64).bfloat16().expand(1, 2, 256, 64)}, "no stride of 0"),
        ({"scale": 0.0}, "does not keep the order"),
        ({"v": torch.zeros(1, 2, 256, 32, dtype=torch.bfloat16)}, "Dv = 32"),
        ({n: torch.zeros(1, 2, 256, 64) for n in "qkv"}, "float32 is no half precision"),
    ],
    ids=["cap", "sinks", "mask", "lengths", "few", "broadcast", "scale", "columns", "float32"],
)
def test_what_the_path_does_not_take_is_told(changes: dict[str, Any], said: str) -> None:
    assert [] == hopper.reasons(problem(), CHIP)
    found = hopper.reasons(problem(**changes), CHIP)
    assert any(said in str(reason) for reason in found)


def test_another_chip_or_another_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (reason,) = hopper.reasons(problem(), CHIP._replace(capability=10))
    assert "capability 10" in str(reason)

    def lacking(name: str) -> None:
        raise AttributeError(f"{name} has no warp_specialize")

    hopper.missing.cache_clear()
    monkeypatch.setattr(hopper, "import_module", lacking)
    (reason,) = hopper.reasons(problem(), CHIP)
    assert "no warp_specialize" in str(reason)
    hopper.missing.cache_clear()


def test_no_schedule_is_copied_into_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "capturing", lambda: True)
    (reason,) = hopper.reasons(problem(), CHIP)
    assert "a graph is being captured" in str(reason)
