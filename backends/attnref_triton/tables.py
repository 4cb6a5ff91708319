"""Which tiles each kernel is cut into: measured once, kept here, never tuned at a first call.

Measured on an H100 (capability 9.0) in bfloat16 with 16384 tokens in all, see
`docs/benchmarks/`. For other capabilities the entries are those that the compiler spills
least in, and nothing was timed. Nowhere does a forward kernel of dense attention spill a
register; of the backward ones, only that over keys at D 256 spills more than a few dozen bytes.
Walks through windows were measured there too, for half precisions and heads of up to 128; with
heads of 32 the forward spills nothing, and the backward a few bytes; windows of more than 64
tokens with heads of 128 and more spill hundreds.
"""

from typing import NamedTuple

FEW = 64
"""Rows of a group, below which its query heads share a tile (decoding)."""

PART = 512
"""Keys that a part should have, where keys are cut into parts."""

LONG = 8192
"""Keys from which on larger tiles of queries pay in the backward pass."""

SHORT = 2048
"""Queries up to which the diagonal of a causal head is worth smaller tiles."""


SPARE = 2048
"""Bytes of shared memory for barriers and numbers of rows."""


class Tiles(NamedTuple):
    """How a kernel is cut and scheduled.

    Attributes:
        m: Queries in a tile.
        n: Keys in a tile.
        warps: Warps in a program.
        stages: Tiles in flight.
    """

    m: int
    n: int
    warps: int
    stages: int


class Chip(NamedTuple):
    """What a device offers.

    Attributes:
        capability: Major number.
        processors: Multiprocessors.
        shared: Bytes of shared memory that a program may have.
    """

    capability: int
    processors: int
    shared: int


class Need(NamedTuple):
    """What tiles are needed for.

    Attributes:
        width: The wider of the two head sizes, rounded up to a power of two.
        size: Bytes of a number.
        rows: Rows of a head, or of a group that shares tiles.
        keys: Keys.
        causal: Whether a tile of late queries has more to do than one of early queries.
        table: Bytes of a bias and a mask that belong to a score.
    """

    width: int
    size: int
    rows: int
    keys: int
    causal: bool
    table: int = 0


class Form(NamedTuple):
    """How the forward kernel for Hopper is cut.

    Attributes:
        columns: Of queries and keys, and of values; narrower heads are filled up.
        consumers: Groups of four warps that multiply, each with 64 queries.
        keys: Keys in a tile.
        stages: Tiles of keys in flight.
        overlap: Whether a consumer's exponentials run while its own last product does.
        registers: For each thread, before they are dealt out anew.
        direct: Whether results have no room of their own, and leave from registers.
    """

    columns: tuple[int, int]
    consumers: int
    keys: int
    stages: int
    overlap: bool
    registers: int
    direct: bool = False


DENSE = {
    form.columns: form
    for form in (
        Form((64, 64), 3, 128, 3, False, 128),
        Form((128, 128), 3, 128, 2, False, 128),
        Form((192, 128), 2, 128, 2, True, 168, direct=True),
        Form((192, 256), 2, 64, 3, True, 168, direct=True),
        Form((256, 256), 2, 64, 2, True, 168, direct=True),
    )
}
"""Columns to the form that serves them."""

DENSE_ENTRIES = {**DENSE, (128, 128): Form((128, 128), 2, 128, 2, True, 168)}
"""The same where only the device knows what each entry of a batch has, or keys have a bias.

With three groups, those loops would write to local memory.
"""

WASTE = 1.1
"""Rows of tiles of three groups, in those of two, beyond which two do: at 1024 tokens, 1.125."""

DENSE_TABLED = {
    form.columns: form
    for form in (
        Form((64, 64), 3, 128, 2, False, 128),
        Form((128, 128), 2, 128, 2, True, 168, direct=True),
        Form((192, 128), 2, 64, 3, True, 168, direct=True),
        Form((192, 256), 2, 64, 2, True, 168, direct=True),
        Form((256, 256), 2, 64, 2, True, 168, direct=True),
    )
}
"""The same with a bias or a mask, of which a tile for each consumer lies in the ring."""


class BackwardForm(NamedTuple):
    """How the backward kernel for Hopper is cut; its tiles have 128 keys.

    Attributes:
        queries: In a tile.
        stages: Tiles of queries in flight.
        registers: For each thread, before they are dealt out anew.
    """

    queries: int
    stages: int
    registers: int


DENSE_BACKWARD = {
    64: BackwardForm(128, 3, 168),
    128: BackwardForm(64, 3, 168),
    256: BackwardForm(64, 2, 168),
}
"""Columns of a head, rounded up to a power of two, to the form that serves them backward."""

CAPPED_BACKWARD = {**DENSE_BACKWARD, 64: BackwardForm(64, 3, 168)}
"""The same beneath a soft cap, or with a bias or mask of keys: more registers for each pair."""

TABLED_BACKWARD = {64: BackwardForm(64, 3, 168), 128: BackwardForm(64, 2, 168)}
"""The same with a bias or a mask, of which a tile lies in the ring with the queries."""

HOPPER = {
    "forward": {64: Tiles(128, 64, 4, 3), 128: Tiles(64, 64, 4, 3), 256: Tiles(128, 32, 8, 3)},
    "tabled": {64: Tiles(128, 64, 4, 3), 128: Tiles(128, 64, 8, 3), 256: Tiles(128, 32, 8, 2)},
    "few": {64: Tiles(16, 128, 4, 3), 128: Tiles(16, 128, 4, 3), 256: Tiles(16, 64, 4, 2)},
    "queries": {64: Tiles(64, 64, 4, 3), 128: Tiles(128, 64, 8, 3), 256: Tiles(128, 32, 8, 2)},
    "keys": {64: Tiles(64, 64, 4, 3), 128: Tiles(32, 64, 4, 4), 256: Tiles(32, 64, 8, 2)},
    "bias": {64: Tiles(64, 64, 4, 3), 128: Tiles(64, 128, 8, 2), 256: Tiles(64, 64, 8, 1)},
}
AMPERE = {
    "forward": {64: Tiles(128, 64, 4, 3), 128: Tiles(64, 64, 4, 3), 256: Tiles(64, 32, 8, 2)},
    "few": {64: Tiles(16, 64, 4, 3), 128: Tiles(16, 64, 4, 3), 256: Tiles(16, 32, 4, 2)},
    "queries": {64: Tiles(64, 32, 4, 2), 128: Tiles(64, 64, 8, 2), 256: Tiles(64, 32, 8, 2)},
    "keys": {64: Tiles(32, 64, 4, 2), 128: Tiles(32, 64, 8, 2), 256: Tiles(16, 64, 8, 2)},
    "bias": {64: Tiles(64, 64, 4, 1), 128: Tiles(64, 64, 8, 1), 256: Tiles(32, 32, 4, 1)},
}
BLACKWELL = {
    **HOPPER,
    "forward": {64: Tiles(128, 64, 4, 3), 128: Tiles(64, 64, 4, 2), 256: Tiles(128, 32, 8, 3)},
}
HALF = {8: AMPERE, 9: HOPPER, 10: BLACKWELL}
"""Capability to kernel to the widest head that an entry serves, in half precision.

`"tabled"` is the forward with a bias or mask, where that was found to want other tiles: what
is loaded for each score makes the loads of keys dear, of which large tiles do fewer.
"""

SINGLE = {
    "forward": {64: Tiles(64, 32, 4, 2), 128: Tiles(32, 32, 4, 2), 256: Tiles(32, 32, 8, 2)},
    "few": {64: Tiles(16, 32, 4, 2), 128: Tiles(16, 32, 4, 2), 256: Tiles(16, 32, 8, 2)},
    "queries": {64: Tiles(32, 32, 4, 1), 128: Tiles(32, 32, 8, 1), 256: Tiles(16, 32, 8, 1)},
    "keys": {64: Tiles(32, 32, 4, 1), 128: Tiles(32, 32, 8, 1), 256: Tiles(16, 32, 8, 1)},
    "bias": {64: Tiles(32, 32, 4, 1), 128: Tiles(32, 32, 4, 1), 256: Tiles(32, 32, 8, 1)},
}
"""The same for float32, which no matrix unit multiplies, on any capability."""


class Walk(NamedTuple):
    """How a kernel walks through windows.

    Attributes:
        block: Tokens in a tile, or queries, if its keys are all of the window.
        programs: For each multiprocessor, where they are few enough to run at once.
        windows: That a program takes where they are not.
        warps: Warps in a program.
        stages: Windows in flight.
        keys: Of a tile, if those are not as many as queries.
    """

    block: int
    programs: int
    windows: int
    warps: int
    stages: int
    keys: int = 0


WALKS = {
    2: {
        "window": {
            32: Walk(64, 4, 3, 4, 3),
            64: Walk(64, 4, 4, 4, 4),
            128: Walk(64, 4, 8, 4, 2),
            256: Walk(64, 2, 4, 8, 1),
        },
        "window_strips": {32: Walk(16, 8, 16, 2, 2), 64: Walk(32, 8, 8, 4, 2)},
        "window_pairs": {
            32: Walk(64, 4, 24, 4, 4),
            64: Walk(64, 2, 12, 4, 3),
            128: Walk(32, 4, 12, 4, 1),
            256: Walk(32, 2, 12, 8, 1),
        },
        "window_sides": {
            64: Walk(64, 8, 4, 4, 3),
            128: Walk(64, 8, 4, 4, 3),
            256: Walk(32, 2, 4, 8, 1),
        },
    },
    4: {
        "window": {
            32: Walk(32, 6, 4, 4, 1),
            64: Walk(32, 6, 4, 4, 2),
            128: Walk(16, 4, 4, 4, 1),
            256: Walk(16, 2, 4, 4, 1),
        },
        "window_pairs": {
            64: Walk(32, 4, 12, 4, 1),
            128: Walk(32, 4, 12, 8, 1),
            256: Walk(16, 2, 12, 4, 1),
        },
        "window_sides": {
            64: Walk(32, 4, 4, 8, 1),
            128: Walk(16, 4, 4, 8, 1),
            256: Walk(16, 2, 4, 4, 1),
        },
    },
}
"""Bytes of a number to kernel to the widest head that a walk serves."""

ONCE = 16
"""Windows of a program up to which all programs should run at once."""

STRIP = 256
"""Tokens of a window up to which a strip of pairs, some queries by all keys, fits registers."""

READ = {"window": 3, "window_pairs": 5, "window_sides": 5}
"""Arrays of which a kernel reads a tile from each window."""

HELD = {
    "forward": ("m", 1),
    "tabled": ("m", 1),
    "few": ("m", 1),
    "queries": ("m", 2),
    "keys": ("n", 2),
    "bias": ("m", 4),
}
"""What a kernel keeps in shared memory: which side of a tile, and of how many arrays."""


def tiles(kernel: str, need: Need, chip: Chip) -> Tiles:
    """Look up the tiles of a kernel, and cut them down to the shared memory of the chip.

    Args:
        kernel: A key of the tables.
        need: The call.
        chip: The device; newer ones than the tables know get the newest entries.
    """
    entries = HALF[min(max(chip.capability, 8), 10)] if need.size == 2 else SINGLE
    if kernel == "forward" and need.table and "tabled" in entries:
        kernel = "tabled"
    cut = next(entry for widest, entry in entries[kernel].items() if need.width <= widest)
    if kernel == "few":
        cut = cut._replace(m=16 if need.rows <= 16 else 32 if need.rows <= 32 else 64)
    elif kernel == "forward" and need.causal and need.rows <= SHORT:
        cut = cut._replace(m=min(cut.m, 64))
    elif kernel == "queries" and need.width <= 64 and not need.causal and need.keys >= LONG:
        cut = cut._replace(m=2 * cut.m)
    while bytes_of(kernel, cut, need) > chip.shared:
        cut = _smaller(kernel, cut)
    return cut


def walk(kernel: str, tokens: int, width: int, size: int, chip: Chip) -> Walk:
    """Look up a walk through windows of so many tokens, with heads of such a width."""
    entries = WALKS[size]
    strips = entries.get("window_strips", {})
    if kernel == "window" and 64 < tokens <= STRIP and width <= max(strips, default=0):
        cut = next(entry for widest, entry in strips.items() if width <= widest)
        block, keys = cut.block, 1 << (tokens - 1).bit_length()
        moving = block + 2 * keys
    else:
        cut = next(entry for widest, entry in entries[kernel].items() if width <= widest)
        block = keys = next(n for n in (16, 32, 64) if n >= min(tokens, cut.block))
        moving = READ[kernel] * block
    stages = max(1, min(cut.stages, (chip.shared - SPARE) // (moving * width * size) - 1))
    return cut._replace(block=block, keys=keys, stages=stages)


def bytes_of(kernel: str, cut: Tiles, need: Need) -> int:
    """Estimate the shared memory that a kernel asks for: what it holds, and what is in flight."""
    side, arrays = HELD[kernel]
    held, moving = (cut.m, cut.n) if side == "m" else (cut.n, cut.m)
    tokens = (arrays * held + 2 * cut.stages * moving) * need.width * need.size
    return tokens + cut.stages * cut.m * cut.n * need.table + SPARE


def _smaller(kernel: str, cut: Tiles) -> Tiles:
    """Give up a stage, then half of what moves, then half of what is held."""
    moving = "n" if HELD[kernel][0] == "m" else "m"
    held = HELD[kernel][0]
    if cut.stages > 1:
        return cut._replace(stages=cut.stages - 1)
    if getattr(cut, moving) > 16:
        return cut._replace(**{moving: getattr(cut, moving) // 2})
    assert getattr(cut, held) > 16, "sixteen rows of the widest head fit into any chip"
    return cut._replace(**{held: getattr(cut, held) // 2})
