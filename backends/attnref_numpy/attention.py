"""Attention over padded and packed sequences, block by block.

Blocks share nothing but what they read, and write disjoint rows: any of them may run
on any thread, in any order.
"""

from itertools import islice, product

import numpy as np
from jaxtyping import Float

from attnref.problem import AttentionProblem, Result, VarlenProblem

from . import short
from .blocks import Block, blocks, room_for, stacked, strips
from .mild import ROWS, Rooms, attend_mildly, is_mild
from .precision import compute_dtype, ready, zeros
from .rows import LOG2E, Finished, finish
from .scores import head_scores, is_binary
from .sequences import Head, Place, call_of, heads_first
from .threads import shares, spread

ELEMENTS = 2**20
"""Scores in a block: products of four mebibytes of float32 are worth a call each."""


def forward(problem: AttentionProblem | VarlenProblem) -> Result:
    """Attend; rows that no sequence owns stay zero and minus infinity."""
    q, call = problem.q, call_of(problem)
    out = zeros(q, shape=(*q.shape[:-1], problem.v.shape[-1]))
    B, Hq, Sq, _ = call.q.shape
    lse = np.full((B, Hq, Sq), -np.inf, compute_dtype(q))
    rows = heads_first(problem, out)
    packed = isinstance(problem, VarlenProblem)

    units = list(call.heads())
    parts = shares(len(units))

    def work(at: tuple[tuple[Place, int, slice], int]) -> None:
        (place, h, group), n = at
        rows_of = place.b, group, place.rows
        attend(call.head(place, h, group), rows[rows_of], lse[rows_of], slice(n, None, parts))

    if short.is_short(call) and not packed:
        spread(lambda at: short.attend(call, at, rows, lse), short.entries(call), call.scores)
    else:
        spread(work, product(units, range(parts)), call.scores)
    return Result(out, lse[0] if packed else lse)


def attend(
    head: Head,
    out: Float[np.ndarray, "group Sq Dv"],
    lse: Float[np.ndarray, "group Sq"],
    share: slice = slice(None),
) -> None:
    """Write the rows of one head, or of every so manieth of its blocks."""
    if head.bounds[0] is None and is_mild(head):  # the few keys behind a window are one product
        rooms = Rooms.of(head)
        for block in islice(strips(head, ROWS), share.start, None, share.step):
            out[:, block.rows], lse[:, block.rows] = attend_mildly(head, block, rooms)
        return
    room = room_for(head, ELEMENTS)
    for block in islice(blocks(head, ELEMENTS), share.start, None, share.step):
        out[:, block.rows], lse[:, block.rows] = attend_block(head, block, room)


def attend_block(head: Head, block: Block, room: Float[np.ndarray, " room"]) -> Finished:
    """Attend in one block, whose scores are made in `room`.

    It depends on nothing outside its arguments.
    """
    q = ready(stacked(head.q[:, block.rows]), head.dtype)
    binary = is_binary(head.bias, head.softcap, head.scale)
    if binary:  # the scale is spent on the queries, and the base of the exponential with it
        q = q * head.dtype.type(head.scale * LOG2E)
    s = head_scores(head, block, q, None if binary else head.scale, room).s
    group, n, _ = s.shape
    sink = None if head.sinks is None else np.repeat(head.sinks, n)
    out, lse = finish(stacked(s), head.values.at(block.keys), sink, binary=binary)
    return Finished(out.reshape(group, n, out.shape[-1]), lse.reshape(group, n))
