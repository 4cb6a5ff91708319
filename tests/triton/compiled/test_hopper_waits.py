"""Who waits for whom in the Hopper path forward: the kernel's own code, on threads of the host.

Numbers, barriers and rooms are real; tiles are not, and what is done with them is nothing.
"""

import random
import threading
from collections import Counter
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
from attnref_triton.hopper import forward, launch_forward, schedule, tma
from attnref_triton.tables import DENSE, DENSE_ENTRIES, DENSE_TABLED, Form

PATIENCE = 10.0
"""Seconds that a wait may take."""


class Tile:
    """What stands for every tile, and for whatever comes of one."""

    def __getattr__(self, name: str) -> "Tile":
        return self

    def __call__(self, *_: Any, **__: Any) -> "Tile":
        return self


def _itself(self: Tile, *_: Any) -> Tile:
    return self


WORDS = """add radd sub rsub mul rmul truediv rtruediv floordiv and neg getitem
eq ne lt le gt ge"""
for word in WORDS.split():
    setattr(Tile, f"__{word}__", _itself)
TILE = Tile()


class Number(int):
    """A number that was read."""

    def to(self, _: Any) -> "Number":
        return self


class Pointer:
    """Where a number lies."""

    def __init__(self, memory: list[int], at: int = 0) -> None:
        self.memory, self.at = memory, at

    def __add__(self, n: int) -> "Pointer":
        return Pointer(self.memory, self.at + n)

    def __sub__(self, n: int) -> "Pointer":
        return self + -n


class Halted(Exception):
    """A wait that does not end."""


class Barrier:
    """Changes its phase once all have arrived, and all bytes."""

    changed = threading.Condition()

    def __init__(self, count: int) -> None:
        self.count, self.arrived, self.bytes, self.phases = count, 0, 0, 0

    def change(self, arrived: int, size: int) -> None:
        with self.changed:
            self.arrived += arrived
            self.bytes += size
            assert self.arrived <= self.count
            if self.arrived == self.count and self.bytes == 0:
                self.arrived, self.phases = 0, self.phases + 1
                self.changed.notify_all()

    def wait(self, phase: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.phases & 1 != phase, PATIENCE):
                raise Halted


class Mail:
    """A number in shared memory."""

    value = -1

    def store(self, value: int) -> None:
        self.value = value

    def load(self, _: Any) -> int:
        return self.value


class Ring(list[Any]):
    """Rooms or barriers."""

    dtype = None

    def index(self, n: int) -> Any:
        return self[n]


def ring(n: int, count: int) -> Ring:
    return Ring(Barrier(count) for _ in range(n))


def described(size: int) -> Any:
    return SimpleNamespace(block_type=SimpleNamespace(nbytes=size))


def kernel(pid: threading.local, written: Counter[tuple[int, ...]]) -> dict[str, Any]:
    """Return the kernel's functions, which run on the host."""
    lock = threading.Lock()

    def atomic_add(at: Pointer, n: int, sem: str) -> int:
        with lock:
            old = at.memory[at.at]
            at.memory[at.at] += n
        return old

    class Language(Tile):
        program_id = staticmethod(lambda _: pid.value)
        load = staticmethod(lambda p, **_: Number(p.memory[p.at]) if type(p) is Pointer else TILE)
        full = staticmethod(lambda shape, x, *_: x if shape == [1] else TILE)
        max = staticmethod(lambda x, _: x)
        static_range = range

    language = Language()
    language.atomic_add = atomic_add  # type: ignore[assignment]  # stands in for the device's
    for name, choose in {"maximum": max, "minimum": min}.items():
        setattr(language, name, lambda x, y, f=choose: TILE if is_tile(x, y) else f(x, y))

    def copied(what: Any, _: Any, barrier: Barrier, room: Any) -> None:
        barrier.change(0, -what.block_type.nbytes)

    def put(_: Any, __: Any, ___: Any, b: int, h: int, r0: int, after: int, DV: int) -> None:
        written[b, h, r0] += r0 < after

    space: dict[str, Any] = {}
    for name, x in vars(forward).items():
        code = getattr(x, "fn", None)
        if code is not None:
            space[name] = FunctionType(code.__code__, space, name, code.__defaults__)
        elif isinstance(value := getattr(x, "value", None), int | float):
            space[name] = value
    space |= {
        "range": range,
        "gl": language,
        "mbarrier": SimpleNamespace(
            wait=lambda b, phase, pred=True: b.wait(phase) if pred else None,
            arrive=lambda b: b.change(1, 0),
            expect=lambda b, size: b.change(1, size),
        ),
        "tma": SimpleNamespace(
            store_wait=lambda _: None,
            async_copy_global_to_shared=copied,
            async_copy_shared_to_global=lambda _, at, __: written.update([tuple(at[:3])]),
        ),
        "put": put,
        "fence_async_shared": lambda: None,
        "warpgroup_mma": TILE,
        "warpgroup_mma_wait": TILE,
    }
    return space


def is_tile(*xs: Any) -> bool:
    return any(isinstance(x, Tile) for x in xs)


def attend(
    form: Form, turns: list[int], table: list[int], programs: int, **told: Any
) -> Counter[tuple[int, ...]]:
    """Run all programs at once; return what was written how often."""
    pid, written, failed = threading.local(), Counter[tuple[int, ...]](), []
    space = kernel(pid, written)
    memory, rows = Pointer(turns), Pointer(table)
    n, stages, (D, DV) = form.consumers, form.stages, form.columns
    parts = tma.parts_of(D)
    threads = []

    def run(program: int, name: str, *words: Any) -> None:
        pid.value = program
        try:
            space[name](*words)
        except BaseException as error:  # noqa: BLE001  # the caller fails with it
            failed.append((program, name, error))

    for program in range(programs):
        mail = Mail(), ring(1, 1), ring(1, n)
        rings = (ring(n, 1), ring(n, 1), ring(stages, 1), ring(stages, n))
        rings += (ring(stages, 1), ring(stages, n))
        rooms = [TILE] * 4
        arrays = [described(size) for size in (1024, 2048, 512, 256)]
        cut = n, form.keys, stages, D
        words = (*arrays, (1, 1), memory, rows, *rooms, *mail, *rings, *cut, parts)
        words += (told["entries"], told["tabled"])
        threads.append(threading.Thread(target=run, args=(program, "produce", *words)))
        for me in range(n):
            words = (TILE, TILE, (1, 1, 1, 1), TILE, None, memory, rows, 1.0, None, None)
            words += (Room(), *[TILE] * 4, *mail, *rings, *cut, DV, parts, True, form.overlap)
            words += (form.direct, told["entries"], True, told["packed"], told["tabled"])
            words += (False, me)
            threads.append(threading.Thread(target=run, args=(program, "consume", *words)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failed
    return written


class Room(Tile):
    """Of queries, whose type is asked for."""


FORMS = {
    **{f"{columns}": (form, False, "no") for columns, form in DENSE.items()},
    **{f"{columns}, entries": (form, True, "no") for columns, form in DENSE_ENTRIES.items()},
    **{f"{columns}, bias": (form, True, "bias") for columns, form in DENSE_TABLED.items()},
}


@pytest.mark.parametrize(("form", "entries", "tabled"), FORMS.values(), ids=FORMS)
def test_every_wait_ends_and_every_tile_is_written_once(
    form: Form, entries: bool, tabled: str
) -> None:
    """With tiles that nobody sees, and consumers that see none or few of a tile's keys."""
    draw = random.Random(0)
    for _ in range(6):
        Sq, Sk, B, H, programs = draw.randint(1, 900), draw.randint(1, 2000), 2, 2, 3
        first, last = (draw.choice([None, draw.randint(-Sq, Sk)]) for _ in range(2))
        table = schedule.table_of((Sq, Sk, first, last, H), form)
        tiles = len(table)
        if entries:
            rows = []
            for _ in range(B):
                queries, keys = draw.randint(0, Sq), draw.randint(0, Sk)
                own = schedule.table_of((queries, max(keys, 1), first, last, H), form)
                empty = [[0] * len(table[0])] * (tiles - len(own))
                for n, row in enumerate(own + empty):
                    rows.append([n * 64 * form.consumers, *row[1:9], Sq])
                    rows[-1] += row[schedule.HEAD :]
            visits = [row[2] for row in table]
            turns = schedule.turns_of(visits, B, H, 1, 1, 2, tiles).tolist()
            turns += [-1, 0, 0, 0] * programs
            numbers = [0] * launch_forward.COUNTER + [x for row in rows for x in row]
        else:
            turns = schedule.turns_of([row[2] for row in table], B, H, 1, programs, 2).tolist()
            numbers = [x for row in table for x in row]
        written = attend(
            form, turns, numbers, programs, entries=entries, packed=False, tabled=tabled
        )
        M = 64 * form.consumers
        starts = range(0, tiles * M, 64)
        expected = {(b, h, r): 1 for b in range(B) for h in range(H) for r in starts}
        if form.direct:
            expected = {at: n for at, n in expected.items() if at[2] < Sq}
        assert expected == +written
