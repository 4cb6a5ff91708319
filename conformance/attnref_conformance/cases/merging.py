"""Cases of clauses D3 and D5: merging parts, and softmax on its own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from attnref_conformance.case import Call, Case, Part, cast, permute
from attnref_conformance.cases.build import Rng

_SHAPE = (2, 3, 19)
_MERGED = (Part.LSE, Part.GRADIENTS)
_WEIGHTS = (Part.OUT, Part.GRADIENTS)


def _merge(
    name: str,
    lse: Callable[[Rng], tuple[Any, Any]],
    shape: tuple[int, ...] = _SHAPE,
    Dv: int = 11,
    views: dict[str, Any] | None = None,
    **judged: Any,
) -> Case:
    """Make a case of `merge`; a part whose lse is minus infinity has an `out` of zero."""

    def build(rng: Rng, dtype: str) -> Call:
        wide = "float64" if dtype == "float64" else "float32"
        inputs: dict[str, np.ndarray] = {}
        for part, values in zip("ab", lse(rng), strict=True):
            rows = np.broadcast_to(values, shape)
            out = rng.normal(size=(*shape, Dv))
            out[rows == -np.inf] = 0.0
            inputs[f"out_{part}"] = cast(out, dtype)
            inputs[f"lse_{part}"] = cast(rows, wide)
        if views is not None:  # the arrays begin the other way round, and the views turn them
            inputs = {n: np.ascontiguousarray(np.swapaxes(x, 0, 1)) for n, x in inputs.items()}
        return Call("merge", inputs, {}, views or {})

    return Case(name, build, parts=_MERGED, **judged)


def _some(rng: Rng) -> np.ndarray:
    return np.where(rng.random(_SHAPE) < 0.5, -np.inf, rng.normal(size=_SHAPE))


def _softmax(
    name: str,
    x: Callable[[Rng], np.ndarray],
    parts: tuple[Part, ...] = _WEIGHTS,
    views: dict[str, Any] | None = None,
    **options: Any,
) -> Case:
    def build(rng: Rng, dtype: str) -> Call:
        return Call("softmax", {"x": cast(x(rng), dtype)}, options, views or {})

    return Case(name, build, parts=parts)


def _with_special_slices(rng: Rng) -> np.ndarray:
    x = rng.normal(size=(7, 33))
    x[1], x[2, 5], x[3, 8] = -np.inf, np.nan, np.inf
    x[4, ::2] = -np.inf
    return x


CASES = (
    _merge("D3-two-parts", lambda r: (r.normal(size=_SHAPE), r.normal(size=_SHAPE))),
    _merge("D3-nothing-comes-first", lambda r: (-np.inf, r.normal(size=_SHAPE))),
    _merge("D3-nothing-comes-last", lambda r: (r.normal(size=_SHAPE), -np.inf)),
    _merge("D3-nothing-and-nothing", lambda _: (-np.inf, -np.inf)),
    _merge("D3-nothing-here-and-there", lambda r: (_some(r), _some(r))),
    _merge("D3-far-apart", lambda r: (300.0 + r.normal(size=_SHAPE), r.normal(size=_SHAPE))),
    _merge(
        "D3-far-below-zero", lambda r: (r.normal(size=_SHAPE) - 5e3, r.normal(size=_SHAPE) - 5e3)
    ),
    _merge(
        "D3-tokens-before-heads",
        lambda r: (r.normal(size=_SHAPE), r.normal(size=_SHAPE)),
        views={
            **dict.fromkeys(("out_a", "out_b"), permute(1, 0, 2, 3)),
            **dict.fromkeys(("lse_a", "lse_b"), permute(1, 0, 2)),
        },
    ),
    _softmax("D5-last-axis", lambda r: r.normal(size=(3, 5, 77))),
    _softmax("D5-first-axis", lambda r: r.normal(size=(77, 3, 5)), axis=0),
    _softmax("D5-middle-axis-by-tiles", lambda r: r.normal(size=(3, 77, 5)), axis=-2, tile=16),
    _softmax("D5-tile-of-one", lambda r: 3 * r.normal(size=(4, 19)), tile=1),
    _softmax("D5-tile-larger-than-the-axis", lambda r: r.normal(size=(4, 19)), tile=64),
    _softmax("D5-one-axis", lambda r: r.normal(size=41)),
    _softmax("D5-rising-scores", lambda _: np.linspace(-50, 50, 300)[None], tile=32),
    _softmax("D5-scores-of-plus-and-minus-50000", lambda r: 5e4 * r.uniform(-1, 1, (6, 40))),
    _softmax("D5-equal-scores", lambda _: np.zeros((2, 100))),
    _softmax("D5-special-slices", _with_special_slices, parts=(Part.OUT,), tile=8),
    _softmax("D5-axis-of-size-zero", lambda _: np.zeros((3, 0, 4)), axis=1),
    _softmax("D5-no-slices", lambda _: np.zeros((0, 5))),
    _softmax("D5-permuted", lambda r: r.normal(size=(4, 5, 23)), views={"x": permute(2, 0, 1)}),
    _softmax("D5-four-axes", lambda r: r.normal(size=(2, 3, 5, 41)), axis=2),
    _softmax("D5-long-axis", lambda r: r.normal(size=(2, 4000)), tile=128),
)
