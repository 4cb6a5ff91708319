"""How a call is cut: into which tiles, and its keys into how many parts."""

from typing import NamedTuple

import triton

from attnref_triton import tables
from attnref_triton.call import Call
from attnref_triton.chips import chip_of
from attnref_triton.tables import Tiles

NARROWEST = 32
"""Columns that the narrowest heads are padded to, on chip."""


class Plan(NamedTuple):
    """How a forward pass is cut.

    Attributes:
        tiles: Its tiles.
        pack: Query heads that share the rows of a tile.
        parts: Parts that the keys are cut into.
    """

    tiles: Tiles
    pack: int
    parts: int


def plan_of(call: Call) -> Plan:
    """Choose tiles, and cut the keys where tiles of queries alone would leave the chip idle."""
    (Hq, _), (Sq, Sk) = call.heads, call.tokens
    few = not call.packed and Sq * call.group <= tables.FEW
    pack = call.group if few else 1
    cut = tiles_of("few" if few else "forward", call)
    programs = tiles_to_cover(call, Sq * pack, cut.m) * (Hq // pack) * call.batch
    keys = Sk // max(call.entries, 1) if call.packed else Sk
    processors = chip_of(call.q.device).processors
    parts = 1
    if 2 * programs <= processors and keys >= 2 * tables.PART:
        parts = min(2 * processors // max(programs, 1), keys // tables.PART)
    return Plan(cut, pack, parts)


def tiles_of(kernel: str, call: Call) -> Tiles:
    """Look up the tiles of a kernel for a call."""
    need = tables.Need(
        width=block(call),
        size=call.q.element_size(),
        rows=call.tokens[0] * (call.group if kernel == "few" else 1),
        keys=call.tokens[1],
        causal=bool(call.band["RIGHT"]),
        table=sum(x.element_size() for x in (call.bias, call.mask) if x is not None),
    )
    return tables.tiles(kernel, need, chip_of(call.q.device))


def tiles_to_cover(call: Call, tokens: int, length: int) -> int:
    """Count the tiles of one head: of an entry, or of all packed sequences, see `tiles.locate`."""
    return tokens // length + call.entries + 1 if call.packed else triton.cdiv(tokens, length)


def block(call: Call) -> int:
    """Return the power of two that matrix products take for the columns of a head.

    It is one for keys and values, and never less than `NARROWEST`: a kernel for every
    small size would be compiled for sizes that nobody uses.
    """
    return max(NARROWEST, triton.next_power_of_2(max(call.sizes)))
