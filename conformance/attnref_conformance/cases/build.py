"""How a row of a case table becomes a call."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attnref_conformance.case import Call, Case, View, cast

Rng = np.random.Generator

SIZES = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 37, "Sk": 37, "D": 24, "Dv": 20}
"""What a case has unless it says otherwise: nothing divides a tile, and no two sizes that
could be confused are equal, except queries and keys, where most constraints need it."""


class Draw:
    """Draws the arrays of one attention call by name."""

    def __init__(self, rng: Rng, dtype: str, sizes: Mapping[str, int]) -> None:
        self.rng, self.dtype, self.sizes = rng, dtype, sizes

    def shape(self, letters: str) -> tuple[int, ...]:
        """Turn letters and digits into a shape: `"B Hq 1 Sk"`."""
        return tuple(int(a) if a.isdigit() else self.sizes[a] for a in letters.split())

    def normal(self, letters: str, dtype: str | None = None, times: float = 1.0) -> np.ndarray:
        """Draw standard normal numbers."""
        return cast(times * self.rng.normal(size=self.shape(letters)), dtype or self.dtype)

    def mask(self, letters: str, share: float = 0.6) -> np.ndarray:
        """Draw a mask of which a share is True."""
        return np.asarray(self.rng.random(self.shape(letters)) < share)


Option = Callable[[Draw], Any]


def attention(
    name: str,
    sizes: Mapping[str, int] | None = None,
    *,
    q: Option = lambda d: d.normal("B Hq Sq D"),
    k: Option = lambda d: d.normal("B Hkv Sk D"),
    v: Option = lambda d: d.normal("B Hkv Sk Dv"),
    given: Mapping[str, Option] | None = None,
    options: Mapping[str, Any] | None = None,
    views: Mapping[str, View] | None = None,
    poison: bool = False,
    **judged: Any,
) -> Case:
    """Make a case of `attention`.

    Args:
        name: The case's id.
        sizes: Sizes that differ from `SIZES`; `Sk` follows `Sq` unless given.
        q: Draws the queries, before views.
        k: Draws the keys, before views.
        v: Draws the values, before views.
        given: Draws the optional arrays.
        options: The other arguments.
        views: Array name to a view.
        poison: As in `Call`.
        **judged: Fields of `Case`.
    """
    sizes = dict(sizes or {})
    if "Sq" in sizes and "Sk" not in sizes:
        sizes["Sk"] = sizes["Sq"]
    if "D" in sizes and "Dv" not in sizes:
        sizes["Dv"] = max(sizes["D"] - 4, 1)

    def build(rng: Rng, dtype: str) -> Call:
        draw = Draw(rng, dtype, {**SIZES, **sizes})
        arrays = {"q": q(draw), "k": k(draw), "v": v(draw)}
        arrays |= {n: option(draw) for n, option in (given or {}).items()}
        return Call("attention", arrays, dict(options or {}), dict(views or {}), poison)

    return Case(name, build, **judged)


def lens(*values: int) -> Option:
    """Give lengths, as the 32-bit integers that most callers hold."""
    return lambda _: np.array(values, np.int32)
