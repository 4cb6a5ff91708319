"""Whole rows: from scores to results, and from their gradients to the scores'.

The leading axes are free: a stack of query heads here, windows and heads there.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from .precision import Dtype, finite, widened

LOG2E = math.log2(math.e)
"""Powers of two of scores times this are exponentials."""

MILD = 40.0
"""Binary scores up to here need no maximum taken off: their powers are ordinary numbers."""


class Values(NamedTuple):
    """Values with zeros where they are not finite, and where that is.

    Attributes:
        v: The values.
        spoiled: Where `v` was not finite; `None` if nowhere, the usual case.
    """

    v: Float[np.ndarray, "*b Sk Dv"]
    spoiled: Bool[np.ndarray, "*b Sk Dv"] | None

    @classmethod
    def of(cls, v: Float[np.ndarray, "*b Sk Dv"]) -> "Values":
        """Set the values apart that no product may touch."""
        clean = finite(v)
        return cls(clean, None if clean is v else ~np.isfinite(v))

    def at(self, keys: slice) -> "Values":
        """Take the values of some keys."""
        spoiled = None if self.spoiled is None else self.spoiled[keys]
        return Values(self.v[keys], spoiled)


class Finished(NamedTuple):
    """Finished rows."""

    out: Float[np.ndarray, "*rows Dv"]
    lse: Float[np.ndarray, "*rows"]


def finish(
    s: Float[np.ndarray, "*rows Sk"],
    values: Values,
    sink: Float[np.ndarray, "*rows"] | None = None,
    *,
    binary: bool = False,
) -> Finished:
    """Weigh the values of every row by its scores, which are overwritten.

    Scores are natural, or `binary`: times log2 e, for a power of two, which costs half of
    an exponential.

    Emptiness is an empty sum, so that the maximum may be a NaN that must be heard
    (C5, C6). A sink takes its share of the sum and gives nothing (D4).
    """
    power, unit = (np.exp2, LOG2E) if binary else (np.exp, 1.0)
    sink = None if sink is None else sink * s.dtype.type(unit)
    m = s.max(axis=-1, initial=-np.inf)
    m = m if sink is None else np.maximum(m, sink)
    shift = np.where(m == -np.inf, 0, m)
    seen = None if values.spoiled is None else s != -np.inf
    s -= shift[..., None]
    p = power(s, out=s)
    share = 0 if sink is None else power(sink - shift)
    l = np.einsum("...j->...", p) + share  # the letter of the equation
    nothing = l == 0
    l[nothing] = 1
    out = p @ values.v
    out /= l[..., None]
    if values.spoiled is not None and seen is not None:
        _spoil(out, seen, values.spoiled)
    return Finished(out, np.where(nothing, -np.inf, shift / s.dtype.type(unit) + np.log(l)))


def _spoil(
    out: Float[np.ndarray, "*rows Dv"],
    seen: Bool[np.ndarray, "*rows Sk"],
    spoiled: Bool[np.ndarray, "*b Sk Dv"],
) -> None:
    """Make the rows NaN that see a value that is not finite, and no other (C6)."""
    heard = seen.astype(np.float32) @ spoiled.astype(np.float32)
    out[heard > 0] = np.nan


class Known(NamedTuple):
    """What is known of rows when their gradient arrives; zeros in empty rows.

    Attributes:
        q: Queries.
        dout: The gradient of their results.
        lse: Plus infinity in empty rows, so that they weigh nothing.
        taken: What normalisation takes back, less `dlse`.
    """

    q: Float[np.ndarray, "*rows D"]
    dout: Float[np.ndarray, "*rows Dv"]
    lse: Float[np.ndarray, "*rows"]
    taken: Float[np.ndarray, "*rows"]


def known(
    q: Float[np.ndarray, "*rows D"],
    given: Finished,
    dout: Float[np.ndarray, "*rows Dv"],
    dlse: Float[np.ndarray, "*rows"] | None,
    dtype: Dtype,
) -> Known:
    """Collect what the gradient of rows needs.

    A row that saw nothing passes nothing back, whatever stands in it (C5): it is
    emptied here, so that no product has to know.
    """
    q, dout, lse = (widened(x, dtype) for x in (q, dout, given.lse))
    taken = (dout * widened(given.out, dtype)).sum(axis=-1)
    if dlse is not None:
        taken -= widened(dlse, dtype)
    empty = lse == -np.inf
    if empty.any():
        q, dout = (np.where(empty[..., None], 0, x) for x in (q, dout))
        taken = np.where(empty, 0, taken)
        lse = np.where(empty, np.inf, lse)
    return Known(q, dout, lse, taken)


class Weighed(NamedTuple):
    """The weights `P` of rows, formed again, and the gradient `dS` of their scores."""

    P: Float[np.ndarray, "*rows Sk"]
    dS: Float[np.ndarray, "*rows Sk"]


def weigh(
    s: Float[np.ndarray, "*rows Sk"], v: Float[np.ndarray, "*b Sk Dv"], rows: Known
) -> Weighed:
    """Form the weights again in place of the scores, and pass gradients to them (E1).

    Invisible positions have weight zero and meet only finite numbers, so the product
    selects them away.
    """
    s -= rows.lse[..., None]
    P = np.exp(s, out=s)
    dS = rows.dout @ v.mT
    dS -= rows.taken[..., None]
    dS *= P
    return Weighed(P, dS)
