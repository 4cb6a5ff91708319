"""Gradients of attention, by the blocks of the forward pass.

Nothing was stored: a block forms its weights again from the log-sum-exp. What blocks
have in common, keys, values, bias and sinks, is added up in the compute dtype and
rounded once (E3).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnref.problem import AttentionGradients, AttentionProblem, Result, VarlenProblem

from .blocks import ELEMENTS, Block, blocks, stacked
from .precision import compute_dtype, finite, ready, rounded, zeros
from .rows import Finished, Known, known, weigh
from .scores import head_scores
from .sequences import Call, Head, Place, call_of, four_axes, heads_first, part, taken
from .threads import spread


class Given(NamedTuple):
    """What arrives beside the inputs: of the call, of a head, or of a block."""

    out: Float[np.ndarray, "*rows Dv"]
    lse: Float[np.ndarray, "*rows"]
    dout: Float[np.ndarray, "*rows Dv"]
    dlse: Float[np.ndarray, "*rows"] | None

    def at(self, *index: int | slice) -> "Given":
        """Take the same part of everything."""
        out, lse, dout = self.out[index], self.lse[index], self.dout[index]
        return Given(out, lse, dout, None if self.dlse is None else self.dlse[index])


class Inputs(NamedTuple):
    """One gradient per input, or a part of them; `None` where there was no input."""

    q: Float[np.ndarray, "*rows D"]
    k: Float[np.ndarray, "*keys D"]
    v: Float[np.ndarray, "*keys Dv"]
    bias: Float[np.ndarray, "..."] | None
    sinks: Float[np.ndarray, " heads"] | None


def backward(
    problem: AttentionProblem | VarlenProblem,
    result: Result,
    dout: np.ndarray,
    dlse: np.ndarray | None,
) -> AttentionGradients:
    """Pass gradients back; what lies outside every sequence stays zero."""
    call = call_of(problem)
    given = Given(
        heads_first(problem, result.out),
        heads_first(problem, np.asarray(result.lse)),
        heads_first(problem, dout),
        None if dlse is None else heads_first(problem, dlse),
    )
    dq, dk, dv = (zeros(x) for x in (problem.q, problem.k, problem.v))
    q, k, v = (heads_first(problem, x) for x in (dq, dk, dv))
    dtype = compute_dtype(call.q)
    bias = None if isinstance(problem, VarlenProblem) else problem.bias
    dbias = None if bias is None else zeros(bias, dtype=dtype)
    dsinks = None if call.sinks is None else zeros(call.sinks, dtype=dtype)
    into = Inputs(q, k, v, four_axes(dbias), dsinks)

    def work(unit: tuple[Place, int, slice]) -> None:
        place, _, group = unit
        rows = given.at(place.b, group, place.rows)
        pass_back(call.head(*unit), rows, _of_head(into, *unit))

    # What heads add to together is added to by one after another.
    spread(work, call.heads(), 0 if _is_shared(into, call) else call.scores)
    dbias, dsinks = rounded(dbias, bias), rounded(dsinks, call.sinks)
    return AttentionGradients(dq, dk, dv, dbias, dsinks)


def _is_shared(into: Inputs, call: Call) -> bool:
    """Tell whether several heads add to the same numbers of a bias or of sinks."""
    shared_bias = into.bias is not None and into.bias.shape[:2] != call.q.shape[:2]
    return shared_bias or (into.sinks is not None and len(call.places) > 1)


def _of_head(into: Inputs, place: Place, h: int, group: slice) -> Inputs:
    """View the gradients of one head; those of bias and sinks may be shared."""
    b, bias, sinks = place.b, into.bias, into.sinks
    return Inputs(
        into.q[b, group, place.rows],
        into.k[b, h, place.keys],
        into.v[b, h, place.keys],
        None if bias is None else taken(bias, place, group),
        None if sinks is None else sinks[group],
    )


def pass_back(head: Head, given: Given, into: Inputs) -> None:
    """Pass gradients back through one head, into views of its gradients.

    Rows and keys are written, bias and sinks are added to, which heads may share.
    """
    dk, dv = np.zeros_like(head.k), np.zeros_like(head.values.v)
    k = finite(head.k)
    for block in blocks(head, ELEMENTS):
        g = block_gradients(head, k, block, given.at(slice(None), block.rows))
        into.q[:, block.rows] = g.q
        dk[block.keys] += g.k
        dv[block.keys] += g.v
        _add(into, block, g)
    into.k[...], into.v[...] = dk, dv


def block_gradients(head: Head, k: Float[np.ndarray, "Sk D"], block: Block, given: Given) -> Inputs:
    """Return what one block says; it depends on nothing outside its arguments.

    The bias's entry has the block's full shape. `k` is the head's without what is not
    finite: neither there nor in the cap would a zero weight keep NaN out of dq.
    """
    rows = _known(head, block, given)
    scores = head_scores(head, block, rows.q, head.scale)
    s, t = scores.s, scores.t
    P, dS = weigh(stacked(s), head.values.v[block.keys], rows)
    dA = dS * head.scale
    if t is not None:
        dA *= 1 - np.square(stacked(finite(t)))
    dq = (dA @ k[block.keys]).reshape(*s.shape[:2], k.shape[-1])
    dk, dv = dA.mT @ rows.q, P.mT @ rows.dout
    return Inputs(dq, dk, dv, dS.reshape(s.shape), _dsinks(head, block, rows))


def _known(head: Head, block: Block, given: Given) -> Known:
    """Stack the rows of the group."""
    finished = Finished(stacked(given.out), stacked(given.lse))
    dlse = None if given.dlse is None else stacked(given.dlse)
    q, dout = (ready(stacked(x), head.dtype) for x in (head.q[:, block.rows], given.dout))
    return known(q, finished, dout, dlse, head.dtype)


def _dsinks(head: Head, block: Block, rows: Known) -> np.ndarray | None:
    """Sum what a block's rows say to the sinks of their heads (D4)."""
    if head.sinks is None:
        return None
    group, n = head.q.shape[0], block.rows.stop - block.rows.start
    lse, passed = (x.reshape(group, n) for x in (rows.lse, -rows.taken))
    weight = np.exp(head.sinks[:, None] - lse)
    return np.where(weight > 0, weight * passed, 0).sum(axis=1)


def _add(into: Inputs, block: Block, g: Inputs) -> None:
    """Add what a block says to bias and sinks, summed where they were broadcast."""
    if into.bias is not None and g.bias is not None:
        place = part(into.bias, slice(None), block.rows, block.keys)
        narrow = tuple(a for a, n in enumerate(place.shape) if n == 1)
        place += g.bias.sum(axis=narrow, keepdims=True) if narrow else g.bias
    if into.sinks is not None and g.sinks is not None:
        into.sinks[...] += g.sinks
