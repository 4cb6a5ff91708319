"""Attention over padded and packed sequences, block by block.

Blocks share nothing but what they read, and write disjoint rows: any of them may run
on any thread, in any order.
"""

import numpy as np
from jaxtyping import Float

from attnref.problem import AttentionProblem, Result, VarlenProblem

from .blocks import Block, blocks, stacked
from .precision import compute_dtype, ready, zeros
from .rows import Finished, finish
from .scores import head_scores
from .sequences import Head, call_of, heads_first


def forward(problem: AttentionProblem | VarlenProblem) -> Result:
    """Attend; rows that no sequence owns stay zero and minus infinity."""
    q, call = problem.q, call_of(problem)
    out = zeros(q, shape=(*q.shape[:-1], problem.v.shape[-1]))
    B, Hq, Sq, _ = call.q.shape
    lse = np.full((B, Hq, Sq), -np.inf, compute_dtype(q))
    rows = heads_first(problem, out)
    for place, h, group in call.heads():
        at = place.b, group, place.rows
        attend(call.head(place, h, group), rows[at], lse[at])
    packed = isinstance(problem, VarlenProblem)
    return Result(out, lse[0] if packed else lse)


def attend(
    head: Head,
    out: Float[np.ndarray, "group Sq Dv"],
    lse: Float[np.ndarray, "group Sq"],
) -> None:
    """Write the rows of one head."""
    for block in blocks(head):
        finished = attend_block(head, block)
        out[:, block.rows], lse[:, block.rows] = finished


def attend_block(head: Head, block: Block) -> Finished:
    """Attend in one block; it depends on nothing outside its arguments."""
    q = ready(stacked(head.q[:, block.rows]), head.dtype)
    s = head_scores(head, block, q).s
    group, n, _ = s.shape
    sink = None if head.sinks is None else np.repeat(head.sinks, n)
    out, lse = finish(stacked(s), head.values.at(block.keys), sink)
    return Finished(out.reshape(group, n, out.shape[-1]), lse.reshape(group, n))
