r"""How far an honest computation may be from the exact result, element by element.

Nobody chooses these limits. Each is a first-order forward error bound of the tiled
computation, evaluated on the data of the very row it judges: unit roundoffs from the
arithmetic profile, the number of terms, the magnitudes that were summed, the spread of
the scores. Cancellation widens it, large logits widen it, and nothing else does. The
derivation, term by term, is in `docs/error-bounds.md`.

One constant is not worst case: sums of `n` terms are given $6 \sqrt{n}\, u$ instead of
$n\, u$ where that is less, after Higham and Mary's probabilistic analysis.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnref.spec import gradients, scores
from attnref_conformance.dense import Dense
from attnref_conformance.profiles import Arithmetic

HARDEST = 2.0
"""Beyond a perturbation of the exponent by this much no digit can be promised; capping it
there makes the limit stricter than theory."""

SMALLEST_TILE = 16
"""The smallest tile that a sum may have been cut into; more tiles mean more rescaling."""


@dataclass(frozen=True)
class Scores:
    """The scores of a dense problem and what they are made of."""

    similar: np.ndarray
    """`q . k`."""
    magnitude: np.ndarray
    """`|q| . |k|`: what the products of a score add up to before they cancel."""
    capped: np.ndarray
    """`c`."""
    s: np.ndarray
    """`s`, minus infinity where invisible."""


def scores_of(d: Dense) -> Scores:
    """Compute the scores of a dense problem."""
    similar = scores.similarity(d.q, d.k, 1.0)
    c = scores.soft_cap(d.scale * similar, d.softcap)
    s = c if d.bias is None else c + d.bias
    magnitude = scores.similarity(np.abs(d.q), np.abs(d.k), 1.0)
    return Scores(similar, magnitude, c, np.where(d.seen, s, -np.inf))


def sum_error(n: float | np.ndarray, u: float) -> np.ndarray:
    r"""Bound the relative error of a sum of `n` terms: $\min(n, 6 \sqrt n)\, u$."""
    return np.minimum(n, 6.0 * np.sqrt(n)) * u


def finite(x: np.ndarray) -> np.ndarray:
    """Replace what is not finite by zero: it is compared as a special value."""
    return np.where(np.isfinite(x), x, 0.0)


def score_error(d: Dense, x: Scores, u: Arithmetic) -> np.ndarray:
    """Bound the absolute error of a score: product, scale, cap, bias."""
    D = d.q.shape[-1]
    product = (sum_error(D + 2, u.acc) + 2 * u.product) * np.abs(d.scale) * x.magnitude
    rounding = 2 * u.acc * np.abs(d.scale * x.similar)
    if d.softcap is not None:
        rounding = rounding + 4 * u.acc * np.abs(x.capped)
    if d.bias is not None:
        added = np.abs(d.bias) if d.added is None else d.added
        rounding = rounding + u.acc * (np.abs(finite(x.capped + d.bias)) + finite(added))
    return np.where(d.seen, product + rounding, 0.0)


def relative(exponent_error: np.ndarray) -> np.ndarray:
    """Turn an absolute error of an exponent into a relative error of its exponential."""
    return np.expm1(np.minimum(exponent_error, HARDEST))


def exponential_error(x: np.ndarray, m: np.ndarray, u: Arithmetic) -> np.ndarray:
    """Bound what forming `exp(x - m)` adds to the error of its exponent, in any base."""
    return 2 * u.acc * (np.abs(x) + np.abs(m)) + 4 * u.acc


def _sink_share(d: Dense, m: np.ndarray, lse: np.ndarray, u: Arithmetic) -> np.ndarray:
    """Bound what the sink's own weight adds to the relative error of a row's sum."""
    if d.sink is None:
        return np.zeros_like(lse)
    weight = np.where(np.isfinite(d.sink), np.exp(finite(d.sink) - lse), 0.0)
    return weight * relative(exponential_error(finite(d.sink), m, u))


def forward_bounds(
    d: Dense, out64: np.ndarray, lse64: np.ndarray, u: Arithmetic
) -> tuple[np.ndarray, np.ndarray]:
    """Bound the absolute errors of `out` and `lse`, given their exact values."""
    x = scores_of(d)
    s = x.s
    live = np.isfinite(s)
    with_sink = s if d.sink is None else np.concatenate([s, d.sink[..., None]], axis=-1)
    m = finite(with_sink.max(axis=-1, initial=-np.inf))[..., None]
    n = live.sum(axis=-1, keepdims=True)
    lse = finite(lse64)[..., None]
    W = np.where(live, np.exp(np.where(live, s, 0.0) - lse), 0.0)
    exponent = score_error(d, x, u) + exponential_error(finite(s), m, u)
    e = np.where(live, relative(exponent + u.weight), 0.0)
    spread = np.where(live, np.abs(finite(s) - m), 0.0).max(axis=-1, initial=0.0, keepdims=True)
    tiles = -(-n // SMALLEST_TILE)
    sunk = _sink_share(d, m[..., 0], lse[..., 0], u)[..., None]
    shared = (
        (W * e).sum(axis=-1, keepdims=True)
        + sunk
        + 2 * sum_error(n, u.acc)
        + (2 * tiles + spread + 2) * u.acc
    )
    absolute = np.abs(finite(d.v))
    lost = (u.weight_underflow * (live @ absolute) + u.underflow * n) / np.exp(lse - m)
    out = (W * (e + 2 * u.product)) @ absolute + shared * (W @ absolute) + lost
    out += u.out * (np.abs(finite(out64)) + out) + np.where(n > 0, u.out_underflow, 0.0)
    # No weighted mean of the exponents' errors is larger than the largest of them.
    off = np.where(live, exponent, 0.0)
    rows = np.minimum((W * np.expm1(np.minimum(off, 80.0))).sum(axis=-1), off.max(-1, initial=0.0))
    rows += (sunk + sum_error(n, u.acc) + tiles * u.acc)[..., 0]
    rows += 4 * u.acc * (np.abs(m) + np.abs(lse) + 1)[..., 0] + u.lse * np.abs(lse[..., 0])
    return out, np.where(np.isfinite(lse64), rows, 0.0)


@dataclass(frozen=True)
class GradientBounds:
    """Bounds of the gradients before heads and broadcasts are summed, without rounding."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dS: np.ndarray
    dscale: np.ndarray
    dsinks: np.ndarray | None
    size: gradients.ScoreGradients
    """The magnitudes that the same sums add up, for the error of summing further."""


def backward_bounds(
    d: Dense,
    out: np.ndarray,
    lse64: np.ndarray,
    dout: np.ndarray,
    dlse: np.ndarray,
    u: Arithmetic,
    *,
    tokens: int,
) -> GradientBounds:
    """Bound the absolute errors of the gradients of one dense problem.

    `tokens` is the number of rows of one head in the whole call: a sink's gradient is a
    sum over them, of which this problem may hold a part.
    """
    x = scores_of(d)
    lse, Dv = finite(lse64), d.v.shape[-1]
    dlse = np.where(np.isfinite(lse64), dlse, 0.0)
    live = d.seen & np.isfinite(lse64)[..., None]
    s = finite(x.s)
    P = gradients.weights(x.s, lse64, d.seen)
    given = exponential_error(s, lse[..., None], u) + u.lse * np.abs(lse)[..., None]
    flushed = np.where(live & np.isfinite(x.s), u.underflow, 0.0)
    dP_ = P * relative(score_error(d, x, u) + given) + flushed
    # What dS subtracts, its magnitude, and its error.
    reach = np.abs(dout) @ np.abs(d.v).mT
    taken = (np.abs(dout) * np.abs(out)).sum(axis=-1)[..., None]
    r = dout @ d.v.mT - gradients.row_delta(dout, out)[..., None] + dlse[..., None]
    size_r = reach + taken + np.abs(dlse)[..., None]
    r_ = (sum_error(Dv + 2, u.acc) + 2 * u.product) * (reach + taken) + u.out * taken
    r_ = r_ + 2 * u.acc * size_r
    r_ = r_ + u.out_underflow * np.abs(dout).sum(axis=-1)[..., None]
    dS = np.where(live, P * r, 0.0)
    dS_ = dP_ * np.abs(r) + (P + dP_) * r_ + 2 * u.acc * np.abs(dS) + flushed
    dS_ = np.where(live, dS_, 0.0)
    t: Any = 1.0
    t_: Any = 0.0
    if d.softcap is not None:
        bent = np.abs(x.capped / d.softcap)
        t, t_ = 1.0 - bent**2, 2 * bent * score_error(d, x, u) / d.softcap + 8 * u.acc
    dA = dS * t
    dA_ = dS_ * t + (np.abs(dS) + dS_) * t_ + u.acc * np.abs(dA)
    tiny = np.where(live, u.weight_underflow, 0.0)
    stored = dA_ + (u.weight + 2 * u.product) * (np.abs(dA) + dA_) + tiny
    scale, Sq, Sk = np.abs(d.scale), d.q.shape[-2], d.k.shape[-2]
    product = np.where(live, u.underflow, 0.0)  # what is added up may be flushed, too
    scaled = product * np.maximum(scale, 1.0)
    size = gradients.ScoreGradients(
        dq=scale * np.abs(dA) @ np.abs(d.k),
        dk=(scale * np.abs(dA)).mT @ np.abs(d.q),
        dv=P.mT @ np.abs(dout),
        dS=np.abs(dS),
        dscale=np.abs(dA * x.similar),
    )
    return GradientBounds(
        dq=scale * stored @ np.abs(d.k)
        + sum_error(Sk + 2, u.acc) * size.dq
        + scaled.sum(axis=-1, keepdims=True),
        dk=(scale * stored).mT @ np.abs(d.q)
        + sum_error(Sq + 2, u.acc) * size.dk
        + scaled.sum(axis=-2)[..., None],
        dv=(dP_ + (u.weight + 2 * u.product) * (P + dP_) + tiny).mT @ np.abs(dout)
        + sum_error(Sq + 2, u.acc) * size.dv
        + product.sum(axis=-2)[..., None],
        dS=dS_,
        dscale=dA_ * np.abs(x.similar)
        + (np.abs(dA) + dA_) * (sum_error(d.q.shape[-1] + 2, u.acc) + 2 * u.product) * x.magnitude,
        dsinks=None if d.sink is None else _sink_bound(d.sink, out, lse64, dout, dlse, u, tokens),
        size=size,
    )


def _sink_bound(
    sink64: np.ndarray,
    out: np.ndarray,
    lse64: np.ndarray,
    dout: np.ndarray,
    dlse: np.ndarray,
    u: Arithmetic,
    tokens: int,
) -> np.ndarray:
    lse, sink = finite(lse64), finite(sink64)
    weight = np.where(np.isfinite(sink64), np.exp(sink - lse), 0.0)
    taken = (np.abs(dout) * np.abs(out)).sum(axis=-1)
    size = weight * (taken + np.abs(dlse))
    exponent = u.lse * np.abs(lse) + exponential_error(sink, lse, u)
    delta = (sum_error(out.shape[-1] + 2, u.acc) + u.out) * taken
    delta = delta + u.out_underflow * np.abs(dout).sum(axis=-1)
    e = relative(exponent)
    rows = size * e + weight * (1 + e) * delta + 2 * u.acc * size
    rows = rows + _flushed(weight, u) * (taken + np.abs(dlse))
    return np.asarray((rows + sum_error(tokens, u.acc) * size).sum(axis=(0, 2)))


def _flushed(weight: np.ndarray, u: Arithmetic) -> np.ndarray:
    """Bound what flushing a weight to zero costs; there is nothing to flush where it is none."""
    return np.where(weight > 0, u.underflow, 0.0)


def rounded(bound: np.ndarray, exact: np.ndarray, roundoff: float, underflow: float) -> np.ndarray:
    """Add the error of one rounding to an output dtype; exact zeros stay exact."""
    room = bound + roundoff * (np.abs(finite(exact)) + bound)
    return np.where(bound > 0, room + underflow, room)


def merge_bounds(
    parts: list[tuple[np.ndarray, np.ndarray]], whole: np.ndarray, out: np.ndarray, u: Arithmetic
) -> tuple[np.ndarray, np.ndarray]:
    """Bound the errors of a merge: two weights, two products, one division."""
    lse = finite(whole)
    size = sum(np.abs(finite(part)) for _, part in parts) + np.abs(lse)
    e = relative(2 * u.acc * size + 8 * u.acc)
    weighted, lost = np.zeros_like(out), np.zeros_like(out)
    for part_out, part_lse in parts:
        w = np.where(np.isfinite(part_lse), np.exp(finite(part_lse) - lse), 0.0)
        weighted = weighted + w[..., None] * np.abs(finite(part_out))
        lost = lost + _flushed(w, u)[..., None] * np.abs(finite(part_out))
    bound = weighted * (2 * e + 6 * u.acc)[..., None] + lost
    rows = e + 4 * u.acc * (size + 1) + u.lse * np.abs(lse)
    out_bound = rounded(bound, out, u.out, u.out_underflow)
    return out_bound, np.where(np.isfinite(whole), rows, 0.0)


def merge_gradient_bounds(
    dout: np.ndarray,
    dlse: np.ndarray,
    part: tuple[np.ndarray, np.ndarray],
    whole: tuple[np.ndarray, np.ndarray],
    u: Arithmetic,
) -> tuple[np.ndarray, np.ndarray]:
    """Bound the errors of what a merge passes to one of its parts, before rounding."""
    (out_a, lse_a), (out, lse) = part, whole
    w = np.where(np.isfinite(lse_a), np.exp(finite(lse_a) - finite(lse)), 0.0)
    e = relative(exponential_error(finite(lse_a), finite(lse), u))
    along = (np.abs(dout) * (np.abs(out_a) + np.abs(out))).sum(axis=-1)
    n = dout.shape[-1] + 4
    lost = _flushed(w, u)
    rows = (np.abs(dlse) + along) * (w * (e + sum_error(n, u.acc) + 4 * u.acc) + lost)
    values = np.abs(dout) * (w * (e + 2 * u.acc) + lost)[..., None]
    return values, rows


def softmax_bound(x: np.ndarray, y: np.ndarray, axis: int, u: Arithmetic) -> np.ndarray:
    """Bound the error of a weight."""
    m = finite(x.max(axis=axis, keepdims=True, initial=-np.inf))
    live = np.isfinite(x)
    distance = np.where(live, np.abs(finite(x) - m), 0.0)
    e = relative(exponential_error(finite(x), m, u) + u.acc * distance)
    y = finite(y)
    n = live.sum(axis=axis, keepdims=True)
    shared = (y * e).sum(axis=axis, keepdims=True) + 2 * sum_error(n, u.acc)
    shared = shared + (2 * (-(-n // SMALLEST_TILE)) + 2) * u.acc
    bound = np.where(live, y * (e + shared) + u.weight_underflow, 0.0)
    return rounded(bound, y, u.out, u.out_underflow)


def softmax_gradient_bound(dy: np.ndarray, y: np.ndarray, axis: int, u: Arithmetic) -> np.ndarray:
    """Bound the error of a softmax gradient, before rounding."""
    along = (np.abs(dy) * y).sum(axis=axis, keepdims=True)
    n = y.shape[axis] + 4
    share = y * (sum_error(n, u.acc) + 4 * u.acc) + _flushed(y, u)
    return np.asarray(share * (np.abs(dy) + along))
