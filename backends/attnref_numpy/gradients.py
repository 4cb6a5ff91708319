"""Gradients of attention, strip by strip of rows, and tile by tile of their keys.

Nothing was stored: a tile forms its weights again from the log-sum-exp. What strips
have in common, keys, values, bias and sinks, is added up in the compute dtype and
rounded once (E3).
"""

from collections.abc import Iterator
from functools import reduce
from itertools import islice, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnref.problem import AttentionGradients, AttentionProblem, Result, VarlenProblem

from .blocks import Block, stacked, strips
from .mild import is_mild
from .precision import compute_dtype, finite, ready, rounded, zeros
from .rows import LOG2E, Finished, Known, known
from .scores import bias_of, scored
from .sequences import Call, Head, Place, call_of, four_axes, heads_first, part, taken
from .threads import spread

ROWS, KEYS = 512, 512
"""Queries of a strip, and keys of a tile."""

UNITS, WORTH = 8, 2**22
"""Into so many units of work a call is cut, if each has so many scores."""


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


class Sums(NamedTuple):
    """What rows add to the keys and values of a head, in the compute dtype."""

    k: Float[np.ndarray, "Sk D"]
    v: Float[np.ndarray, "Sk Dv"]


class Into(NamedTuple):
    """Gradients that the rows of a head write or add to; `None` where there was no input."""

    q: Float[np.ndarray, "group Sq D"]
    bias: Float[np.ndarray, "#group #Sq #Sk"] | None
    sinks: Float[np.ndarray, " group"] | None


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
    bias_into = four_axes(dbias)
    units = list(call.heads())
    shared = _is_shared(bias_into, call)
    parts = 1 if shared or dsinks is not None else _parts(call, len(units))

    def work(at: tuple[tuple[Place, int, slice], int]) -> Sums:
        (place, h, group), n = at
        rows = given.at(place.b, group, place.rows)
        into = Into(
            q[place.b, group, place.rows],
            None if bias_into is None else taken(bias_into, place, group),
            None if dsinks is None else dsinks[group],
        )
        return pass_back(call.head(place, h, group), rows, into, slice(n, None, parts))

    # What heads add to together is added to by one after another.
    scores = 0 if shared else call.scores
    found: Iterator[Sums] = iter(spread(work, product(units, range(parts)), scores))
    for place, h, _ in units:
        sums = list(islice(found, parts))
        k[place.b, h, place.keys] = reduce(np.add, (s.k for s in sums))
        v[place.b, h, place.keys] = reduce(np.add, (s.v for s in sums))
    dbias, dsinks = rounded(dbias, bias), rounded(dsinks, call.sinks)
    return AttentionGradients(dq, dk, dv, dbias, dsinks)


def _parts(call: Call, heads: int) -> int:
    """Tell into how many parts to cut each head; sums, in their order, depend on no threads."""
    heads = max(heads, 1)
    return max(1, min(UNITS // heads, call.scores // heads // WORTH))


def _is_shared(dbias: np.ndarray | None, call: Call) -> bool:
    """Tell whether several heads add to the same numbers of a bias or of sinks."""
    shared_bias = dbias is not None and dbias.shape[:2] != call.q.shape[:2]
    return shared_bias or (call.sinks is not None and len(call.places) > 1)


class Strip(NamedTuple):
    """Some rows of a head, as the tiles of their keys want them.

    What is taken off a row's products is their last column, for keys and values that end with
    a one: that spares two passes over a tile.

    Attributes:
        rows: What is known of them.
        q: Their queries. Mild ones are multiplied by the scale and log2 e, and followed by
            `-lse` of that base; others by zero, because large scores would lose digits.
        dout: `dout`, followed by `-taken`.
        mild: Whether no score is large, and weights are powers of two.
    """

    rows: Known
    q: Float[np.ndarray, "rows D+1"]
    dout: Float[np.ndarray, "rows Dv+1"]
    mild: bool

    @classmethod
    def of(cls, head: Head, block: Block, given: Given, *, mild: bool) -> "Strip":
        """Stack the rows of the group; `given` is the block's."""
        dlse = None if given.dlse is None else stacked(given.dlse)
        q, dout = (ready(stacked(x), head.dtype) for x in (head.q[:, block.rows], given.dout))
        finished = Finished(stacked(given.out), stacked(given.lse))
        rows = known(q, finished, dout, dlse, head.dtype)
        dout = ended(rows.dout, -rows.taken)
        if not mild:
            return cls(rows, ended(rows.q, 0), dout, mild=False)
        number = head.dtype.type
        q = ended(rows.q * number(head.scale * LOG2E), -number(LOG2E) * rows.lse)
        return cls(rows, q, dout, mild=True)


def ended(
    x: Float[np.ndarray, "n columns"], last: float | Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n columns+1"]:
    """Return a matrix with one column more."""
    longer = np.empty((len(x), x.shape[1] + 1), x.dtype)
    longer[:, :-1], longer[:, -1] = x, last
    return longer


class Rooms(NamedTuple):
    """Memory that one tile after another uses; keys lie apart, a key's rows together."""

    P: Float[np.ndarray, " tile"]
    dS: Float[np.ndarray, " tile"]

    @classmethod
    def of(cls, head: Head) -> "Rooms":
        """Allocate what the tiles of a head fit into."""
        size = max(ROWS, len(head.q)) * min(KEYS, len(head.k))
        return cls(np.empty(size, head.dtype), np.empty(size, head.dtype))


class Weighed(NamedTuple):
    """The weights of a tile, formed again, and the gradients of its scores and products."""

    P: Float[np.ndarray, "rows keys"]
    dS: Float[np.ndarray, "rows keys"]
    dA: Float[np.ndarray, "rows keys"]


def pass_back(head: Head, given: Given, into: Into, share: slice = slice(None)) -> Sums:
    """Pass gradients back through one head, or through part of its strips.

    Keys are used without what is not finite: a zero weight would not keep NaN out of dq.
    """
    sums = Sums(np.zeros_like(head.k), np.zeros_like(head.values.v))
    k, rooms, mild = finite(head.k), Rooms.of(head), is_mild(head)
    keys, values = ended(head.k, 1), ended(head.values.v, 1)
    for block in islice(strips(head, ROWS), share.start, None, share.step):
        strip = Strip.of(head, block, given.at(slice(None), block.rows), mild=mild)
        dq = np.zeros_like(strip.rows.q)
        for tile in block.tiles(KEYS):
            P, dS, dA = weigh_tile(head, tile, strip, keys[tile.keys], values[tile.keys], rooms)
            dq += dA @ k[tile.keys]
            sums.k[tile.keys] += dA.T @ strip.q[:, :-1]
            sums.v[tile.keys] += P.T @ strip.rows.dout
            if into.bias is not None:
                _add(
                    part(into.bias, slice(None), tile.rows, tile.keys),
                    dS.reshape(len(head.q), -1, dS.shape[1]),
                )
        if mild:
            dq *= head.dtype.type(head.scale)
        into.q[:, block.rows] = dq.reshape(into.q[:, block.rows].shape)
        if into.sinks is not None and head.sinks is not None:
            into.sinks[...] += _dsinks(head.sinks, strip.rows)
    if mild:  # the queries were multiplied by log2 e
        sums.k[...] /= head.dtype.type(LOG2E)
    return sums


def weigh_tile(
    head: Head,
    tile: Block,
    strip: Strip,
    k: Float[np.ndarray, "keys D+1"],
    v: Float[np.ndarray, "keys Dv+1"],
    rooms: Rooms,
) -> Weighed:
    """Form the weights of a tile again, and pass gradients to its scores (E1).

    It depends on nothing outside its arguments. Invisible positions have weight zero and meet
    only finite numbers, so the product selects them away. Two of the three products over
    weights and gradients want a key's rows together, so they lie like that.
    """
    P, dS = (room[: len(k) * len(strip.q)].reshape(len(k), len(strip.q)).T for room in rooms)
    np.matmul(k, strip.q.T, out=P.T)
    bias = bias_of(head, tile)
    scale = None if strip.mild else head.scale
    scores = scored(P.reshape(len(head.q), -1, len(k)), scale, head.softcap, bias, tile.visible)
    P = stacked(scores.s)
    if strip.mild:
        np.exp2(P, out=P)
    else:
        P -= strip.rows.lse[:, None]
        np.exp(P, out=P)
    np.matmul(v, strip.dout.T, out=dS.T)
    dS *= P
    if strip.mild:
        return Weighed(P, dS, dS)
    dA = dS * head.scale
    if scores.t is not None:
        dA *= 1 - np.square(stacked(finite(scores.t)))
    return Weighed(P, dS, dA)


def _add(
    into: Float[np.ndarray, "#group #rows #keys"], dS: Float[np.ndarray, "group rows keys"]
) -> None:
    """Add what a tile says to its part of the bias, summed where that was broadcast."""
    narrow = tuple(a for a, n in enumerate(into.shape) if n == 1)
    into += dS.sum(axis=narrow, keepdims=True) if narrow else dS


def _dsinks(sinks: Float[np.ndarray, " group"], rows: Known) -> Float[np.ndarray, " group"]:
    """Sum what rows say to the sinks of their heads (D4)."""
    lse, passed = (x.reshape(len(sinks), -1) for x in (rows.lse, -rows.taken))
    weight = np.exp(sinks[:, None] - lse)
    return np.where(weight > 0, weight * passed, 0).sum(axis=1)
