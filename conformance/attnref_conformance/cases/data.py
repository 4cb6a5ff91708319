"""Cases of clause D1: data and sizes on which a tiled softmax goes wrong."""

from typing import Any

import numpy as np

from attnref_conformance.case import cast
from attnref_conformance.cases.build import Draw, Option, attention

_ONE = {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 5, "D": 8, "Dv": 6}
_SIZES = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 257, 521)


def _logits(shape: Option) -> dict[str, Any]:
    """Make queries and keys whose score is a given function of the key alone."""

    def q(d: Draw) -> np.ndarray:
        x = np.zeros(d.shape("B Hq Sq D"))
        x[..., 0] = 1.0
        x[..., 1:3] = 0.1 * d.rng.normal(size=(*x.shape[:-1], 2))
        return cast(x, d.dtype)

    def k(d: Draw) -> np.ndarray:
        x = np.zeros(d.shape("B Hkv Sk D"))
        x[..., 0] = shape(d)
        x[..., 1:3] = d.rng.normal(size=(*x.shape[:-1], 2))
        return cast(x, d.dtype)

    return {"q": q, "k": k}


def _line(first: float, last: float) -> Option:
    return lambda d: np.linspace(first, last, d.sizes["Sk"])


def _spike(at: int, height: float) -> Option:
    return lambda d: np.where(np.arange(d.sizes["Sk"]) == at, height, 0.0)


def _sizes_of_rows(d: Draw) -> np.ndarray:
    """Draw queries of which each is ten times larger than the one before."""
    x = d.rng.normal(size=d.shape("B Hq Sq D"))
    return cast(x * 10.0 ** np.arange(-2, d.sizes["Sq"] - 2)[:, None], d.dtype)


def _seen(first: int, last: int) -> dict[str, Option]:
    return {
        "mask": lambda d: (np.arange(d.sizes["Sk"]) >= first) & (np.arange(d.sizes["Sk"]) < last)
    }


_LONG = {**_ONE, "Sk": 203}
_UNSCALED = {"scale": 1.0}

CASES = (
    *(attention(f"D1-{n}-keys", {**_ONE, "Sk": n}, quick=n in (1, 17, 65, 129)) for n in _SIZES),
    *(
        attention(f"D1-{n}-queries", {**_ONE, "Sq": n, "Sk": 21}, quick=n in (1, 65))
        for n in (1, 2, 15, 17, 63, 65, 129)
    ),
    attention("D1-thousands-of-keys", {**_ONE, "Sk": 4099, "Sq": 3}, quick=False),
    attention("D1-head-size-of-128", {"D": 128, "Dv": 128, "Sq": 70}, quick=False),
    attention("D1-rising-maxima", _LONG, **_logits(_line(-20, 20)), options=_UNSCALED),
    attention("D1-falling-maxima", _LONG, **_logits(_line(20, -20)), options=_UNSCALED),
    attention(
        "D1-maximum-in-the-last-tile", _LONG, **_logits(_spike(202, 12.0)), options=_UNSCALED
    ),
    attention(
        "D1-all-scores-far-below-zero", _LONG, **_logits(_line(-300, -290)), options=_UNSCALED
    ),
    attention("D1-all-scores-far-above-zero", _LONG, **_logits(_line(290, 300)), options=_UNSCALED),
    attention(
        "D1-scores-of-plus-and-minus-50000", _LONG, **_logits(_line(-5e4, 5e4)), options=_UNSCALED
    ),
    attention("D1-one-weight-takes-all", _LONG, **_logits(_spike(77, 200.0)), options=_UNSCALED),
    attention("D1-equal-scores", _LONG, q=lambda d: cast(np.zeros(d.shape("B Hq Sq D")), d.dtype)),
    attention(
        "D1-causal-negative-tail",
        {**_ONE, "Sq": 100, "Sk": 100},
        **_logits(_line(-30, -10)),
        options={"scale": 1.0, "causal": True},
    ),
    attention("D1-first-tiles-see-nothing", _LONG, given=_seen(131, 203)),
    attention("D1-last-tiles-see-nothing", _LONG, given=_seen(0, 70)),
    attention("D1-rows-of-very-different-size", _LONG, q=_sizes_of_rows),
    attention("D1-values-a-thousand-times-larger", v=lambda d: d.normal("B Hkv Sk Dv", times=1e3)),
    attention("D2-lse-of-small-scores", {**_LONG, "Sk": 3}),
    attention("D2-lse-of-ordinary-scores"),
    attention("D2-lse-of-large-scores", _LONG, **_logits(_line(900, 1000)), options=_UNSCALED),
    attention(
        "D2-lse-of-many-equal-scores",
        {**_ONE, "Sk": 1500},
        q=lambda d: cast(np.zeros(d.shape("B Hq Sq D")), d.dtype),
        quick=False,
    ),
)
