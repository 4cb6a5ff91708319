"""Any valid problem, as Hypothesis draws it.

What a problem asks for is drawn choice by choice, the plainest first, so that a failure
shrinks to one key, no options and whole numbers. What its arrays hold is drawn from a seed
under a recipe: drawing them number by number takes longer than judging them.

Magnitudes keep clear of what the bounds leave out: no score, sum or gradient overflows, and
none is so small that all of its digits are lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from attnref_conformance.case import Call, Case, Part, View, cast, cut, permute, stretch
from attnref_conformance.trial import Trial

Rng = np.random.Generator
Drawing = Callable[[st.SearchStrategy[Any]], Any]

_BATCH = (1, 2, 3)
_HEADS = ((1, 1), (2, 2), (2, 1), (3, 1), (6, 2), (5, 5), (8, 1))
_TOKENS = (1, 2, 3, 5, 15, 16, 17, 33, 40, 65, 70)
_KEYS = (1, 2, 3, 5, 15, 16, 17, 33, 64, 65, 129, 150)
_SIZES = (1, 2, 3, 8, 13, 16, 20, 33, 64)
_SCALES = (1.0, 0.3, -0.7, 0.0)
_OFFSETS = (0, 1, -1, 5, -20, 100)
_BOUNDS = (None, 0, 1, 3, 20, 1000)


def _chosen(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_RECIPES: Mapping[str, Callable[[Rng, tuple[int, ...]], np.ndarray]] = {
    "whole": lambda rng, shape: rng.integers(-2, 3, shape).astype(np.float64),
    "normal": lambda rng, shape: rng.normal(size=shape),
    "equal": lambda _, shape: np.ones(shape),
    "positive": lambda rng, shape: 3 + rng.normal(size=shape),
    "small": lambda rng, shape: 1e-2 * rng.normal(size=shape),
    "large": lambda rng, shape: 6 * rng.normal(size=shape),
    "mixed": lambda rng, shape: 10.0 ** rng.uniform(-2, 0.8, shape) * rng.choice([-1, 1], shape),
    "rising": lambda rng, shape: _along(shape) + 0.1 * rng.normal(size=shape),
    "falling": lambda rng, shape: -_along(shape) + 0.1 * rng.normal(size=shape),
    "one": lambda rng, shape: (
        np.where(rng.random((*shape[:-1], 1)) < 0.1, 8.0, 0.1) * np.ones(shape)
    ),
}
"""What an array may hold, the plainest first."""


def _along(shape: tuple[int, ...]) -> np.ndarray:
    """Let the rows of an array grow, so that a later key has the larger score."""
    if len(shape) < 2:
        return np.broadcast_to(np.linspace(0, 4, shape[0]) if shape else 4.0, shape)
    return np.broadcast_to(np.linspace(0, 4, shape[-2])[:, None], shape)


@dataclass
class _Arrays:
    """The arrays of one problem while it is drawn.

    Attributes:
        draw: Draws from a strategy.
        dtype: The dtype of the main arrays.
        rng: Fills the arrays.
        values: The arrays by name, as the function will see them.
    """

    draw: Drawing
    dtype: str
    rng: Rng
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, *shape: int, dtype: str = "") -> None:
        """Draw an array by one of the recipes."""
        recipe = _RECIPES[self.draw(st.sampled_from(list(_RECIPES)))]
        self.values[name] = cast(recipe(self.rng, shape), dtype or self.dtype)

    def beside(self) -> str:
        """Draw the dtype of an array that need not have that of the main ones."""
        return self.draw(_chosen(self.dtype, "float32", "bfloat16", "float64"))

    def maybe(self) -> bool:
        """Draw whether an option is used."""
        return self.draw(st.integers(0, 3)) == 3

    def emptied(self, **sizes: int) -> tuple[int, ...]:
        """Draw whether one of some sizes is zero (A4); rarely, for nothing is left to judge."""
        empty = self.draw(st.sampled_from([""] * 20 + list(sizes)))
        return tuple(0 if name == empty else n for name, n in sizes.items())

    def mask(self, name: str, *shape: int) -> None:
        """Draw who is visible: most, some, nobody."""
        share = self.draw(_chosen(0.9, 0.5, 0.1, 1.0, 0.0))
        self.values[name] = np.asarray(self.rng.random(shape) < share)

    def lengths(self, name: str, B: int, most: int) -> None:
        """Draw the lengths of a padded batch."""
        integer = self.draw(_chosen("int32", "int64"))
        self.values[name] = self.rng.integers(0, most + 1, B).astype(integer)

    def placed(self) -> tuple[dict[str, np.ndarray], dict[str, View]]:
        """Draw how every array lies in memory."""
        inputs: dict[str, np.ndarray] = {}
        views: dict[str, View] = {}
        for name, x in self.values.items():
            layout = "dense" if name in _HOST else self.draw(st.sampled_from(list(_LAYOUTS)))
            inputs[name], view = _LAYOUTS[layout](x)
            if view is not None:
                views[name] = view
        return inputs, views


_HOST = ("cu_q", "cu_k")
"""Arrays that the judge itself reads beneath their views."""


def _strided(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    if not x.ndim:
        return x, None
    wide = np.repeat(x, 2, axis=-1)
    wide[..., 1::2] = True if x.dtype == bool else 7
    return wide, cut(..., slice(None, None, 2))


def _offset(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    if not x.ndim:
        return x, None
    return np.concatenate([x[..., :1], x], axis=-1), cut(..., slice(x[..., :1].shape[-1], None))


def _reversed(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    return (np.ascontiguousarray(x[::-1]), cut(slice(None, None, -1))) if x.ndim else (x, None)


def _swapped(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    if x.ndim < 3:
        return x, None
    axes = list(range(x.ndim))
    axes[-2], axes[-3] = axes[-3], axes[-2]
    return np.ascontiguousarray(x.transpose(axes)), permute(*axes)


def _stretched(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    """Make all entries along the first axis one; integers and offsets may not all be so."""
    if not x.ndim or x.shape[0] < 2 or x.dtype.kind == "i":
        return x, None
    return np.ascontiguousarray(x[:1]), stretch(*x.shape)


_LAYOUTS: Mapping[str, Callable[[np.ndarray], tuple[np.ndarray, View | None]]] = {
    "dense": lambda x: (x, None),
    "plain": lambda x: (x, None),  # most arrays are
    "swapped": _swapped,
    "strided": _strided,
    "offset": _offset,
    "reversed": _reversed,
    "stretched": _stretched,
}


def _alignment(a: _Arrays, options: dict[str, Any], n: int, *, clear: bool) -> None:
    """Draw causality, a window, and where the first query stands."""
    if a.maybe():
        options["causal"] = True
    if a.maybe():
        options["window"] = (a.draw(_chosen(*_BOUNDS)), a.draw(_chosen(*_BOUNDS)))
    if not (options.keys() & {"causal", "window"}):
        return
    kind = a.draw(_chosen(*([None] if clear else []), "start", "end", "number", "array"))
    if kind == "array":
        integer = a.draw(_chosen("int32", "int64"))
        a.values["q_offset"] = a.rng.choice(_OFFSETS, n).astype(integer)
    elif kind is not None:
        options["q_offset"] = a.draw(_chosen(*_OFFSETS)) if kind == "number" else kind


def _shaping(a: _Arrays, options: dict[str, Any], heads: int, D: int) -> None:
    """Draw what shapes the scores: scale, cap and sinks."""
    if D == 0 or a.maybe():
        options["scale"] = a.draw(_chosen(*_SCALES))
    if a.maybe():
        options["softcap"] = a.draw(_chosen(1.0, 0.5, 5.0, 30.0))
    if a.maybe():
        a.add("sinks", heads, dtype=a.beside())
        if a.maybe():
            a.values["sinks"][:1] = -np.inf


def _broadcast(a: _Arrays, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Draw a shape that broadcasts to another."""
    whole = a.draw(st.tuples(*[st.booleans()] * len(shape)))
    said = tuple(n if kept else 1 for n, kept in zip(shape, whole, strict=True))
    return said[a.draw(_chosen(0, 1, 2, 3, 4)) :]


def _attention(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    """Draw the arrays and options of `attention`, and whether NaN lies past its lengths."""
    B, (Hq, Hkv) = a.draw(_chosen(*_BATCH)), a.draw(_chosen(*_HEADS))
    Sq, Sk = a.draw(_chosen(*_TOKENS)), a.draw(_chosen(*_KEYS))
    D, Dv = a.draw(_chosen(*_SIZES)), a.draw(_chosen(*_SIZES))
    B, Hq, Sq, Sk, D, Dv = a.emptied(B=B, Hq=Hq, Sq=Sq, Sk=Sk, D=D, Dv=Dv)
    Hkv = Hkv if Hq else 0
    for name, shape in {"q": (Hq, Sq, D), "k": (Hkv, Sk, D), "v": (Hkv, Sk, Dv)}.items():
        a.add(name, B, *shape)
    options: dict[str, Any] = {}
    _shaping(a, options, Hq, D)
    if spoiled and a.maybe():
        _spoil(a, a.draw(_chosen("q", "k", "v")))
        return options, False
    if a.maybe():
        a.mask("mask", *_broadcast(a, (B, Hq, Sq, Sk)))
    if a.maybe():
        a.add("bias", *_broadcast(a, (B, Hq, Sq, Sk)), dtype=a.beside())
        if a.maybe() and a.values["bias"].ndim:
            a.values["bias"][..., ::3] = -np.inf
    for name, most in (("q_lens", Sq), ("kv_lens", Sk)):
        if a.maybe():
            a.lengths(name, B, most)
    lens = a.values.keys() & {"q_lens", "kv_lens"}
    _alignment(a, options, B, clear=Sq == Sk and not lens)
    poison = bool(lens) and a.draw(st.booleans())
    if poison:
        _poison(a, {"q": "q_lens", "k": "kv_lens", "v": "kv_lens"})
    return options, poison and "q_lens" in a.values


def _spoil(a: _Arrays, name: str) -> None:
    """Put a number that is none where everybody sees it (C6)."""
    x = a.values[name]
    if x.size:
        x.flat[a.rng.integers(x.size)] = a.draw(_chosen(np.nan, np.inf))


def _poison(a: _Arrays, lengths: Mapping[str, str]) -> None:
    """Put NaN past the lengths: nobody may look there (C4)."""
    for name, lens in lengths.items():
        for b, n in enumerate(a.values.get(lens, ())):
            a.values[name][b, :, n:] = np.nan


def _attention_varlen(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    """Draw sequences end to end; tokens of nobody hold NaN."""
    del spoiled
    tokens = _chosen(*_TOKENS, 0)
    lengths = st.lists(st.tuples(tokens, tokens), max_size=4)
    pairs = np.array(a.draw(lengths), dtype=np.int64).reshape(-1, 2)
    (Hq, Hkv), rest = a.draw(_chosen(*_HEADS)), a.draw(_chosen(0, 0, 3))
    D, Dv = a.emptied(D=a.draw(_chosen(*_SIZES)), Dv=a.draw(_chosen(*_SIZES)))
    for n, name in enumerate(("cu_q", "cu_k")):
        ends = np.concatenate([[0], np.cumsum(pairs[:, n])])
        a.values[name] = ends.astype(a.draw(_chosen("int32", "int64")))
    Tq, Tk = (int(a.values[name][-1]) for name in ("cu_q", "cu_k"))
    a.add("q", Tq + rest, Hq, D)
    a.add("k", Tk + rest, Hkv, D)
    a.add("v", Tk + rest, Hkv, Dv)
    for name, last in (("q", Tq), ("k", Tk), ("v", Tk)):
        a.values[name][last:] = np.nan
    options: dict[str, Any] = {}
    _shaping(a, options, Hq, D)
    _alignment(a, options, len(pairs), clear=False)
    if a.maybe():
        options |= {"max_q": int(pairs[:, 0].max(initial=0)), "max_k": 100 + int(Tk)}
    return options, rest > 0


_AXES = {1: (1, 2, 3, 5, 14, 30), 2: (1, 2, 3, 4, 7, 9), 3: (1, 2, 3, 5)}
_EXTENTS = {1: (1, 2, 3, 5, 8, 16), 2: (1, 2, 3, 4, 5), 3: (1, 2, 3)}


def _window(a: _Arrays, *, packed: bool) -> tuple[dict[str, Any], bool]:
    """Draw a map of one to three axes, and the options of windows."""
    axes = a.draw(_chosen(1, 2, 3))
    G = tuple(a.draw(_chosen(*_AXES[axes])) for _ in range(axes))
    window = tuple(a.draw(_chosen(*_EXTENTS[axes])) for _ in range(axes))
    shift = tuple(a.draw(st.integers(0, w - 1)) for w in window)
    H, N = a.draw(_chosen(1, 2, 3)), prod(window)
    D, Dv = a.draw(_chosen(1, 2, 8, 13, 16)), a.draw(_chosen(1, 2, 8, 13))
    B, Dv = a.emptied(B=a.draw(_chosen(1, 2)), Dv=Dv)
    if packed:
        a.add("qkv", B, *G, 3, H, D)
    else:
        for name, size in (("q", D), ("k", D), ("v", Dv)):
            a.add(name, B, *G, H, size)
    options: dict[str, Any] = {"window": window, "shift": shift}
    if len(set(window)) == 1 and a.draw(st.booleans()):
        options["window"] = window[0]
    if a.maybe():
        a.add("bias", H, N, N, dtype=a.beside())
    if a.maybe():
        a.mask("key_mask", B, *G)
    if a.maybe():
        options["wrap_bias"] = a.draw(_chosen(-100.0, -0.1, 2.3, 0.0))
    kind = a.draw(_chosen("default", "number", "per head"))
    if kind == "number":
        options["scale"] = a.draw(_chosen(*_SCALES))
    elif kind == "per head":
        a.add("scale", H, dtype=a.beside())
    return options, False


def _window_attention(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    del spoiled
    return _window(a, packed=False)


def _window_attention_qkv(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    del spoiled
    return _window(a, packed=True)


def _softmax(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    """Draw scores of one to four axes; slices may be minus infinity, or spoiled."""
    shape = a.draw(st.lists(_chosen(1, 2, 3, 17, 40), min_size=1, max_size=4))
    first, last = shape[0], a.draw(_chosen(1, 2, 3, 33, 70, 200)) if len(shape) < 3 else shape[-1]
    shape[0], shape[-1] = a.emptied(first=first, last=last)
    a.add("x", *shape)
    a.values["x"] = cast(a.draw(_chosen(1, 30, 1000)) * a.values["x"].astype(float), a.dtype)
    if a.maybe():
        a.values["x"][a.rng.random(shape) < a.draw(_chosen(0.3, 1.0))] = -np.inf
    if spoiled and a.maybe():
        _spoil(a, "x")
    options: dict[str, Any] = {"axis": a.draw(st.integers(-len(shape), len(shape) - 1))}
    if a.maybe():
        options["tile"] = a.draw(_chosen(1, 2, 16, 1000))
    return options, False


def _merge(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    """Draw two finished parts; where one saw nothing it is zero."""
    del spoiled
    shape = a.draw(st.lists(_chosen(1, 2, 3, 17), max_size=3))
    wide = "float64" if a.dtype == "float64" else "float32"
    *shape, Dv = a.emptied(**dict(zip("xyz", shape, strict=False)), Dv=a.draw(_chosen(*_SIZES)))
    far = a.draw(_chosen(1.0, 30.0, 1000.0))
    for part in "ab":
        lse = far * a.rng.normal(size=shape)
        lse = np.where(a.rng.random(shape) < a.draw(_chosen(0.0, 0.3, 1.0)), -np.inf, lse)
        a.add(f"out_{part}", *shape, Dv)
        a.values[f"out_{part}"][lse == -np.inf] = 0
        a.values[f"lse_{part}"] = cast(lse, wide)
    return {}, False


def _relative_position_bias(a: _Arrays, *, spoiled: bool) -> tuple[dict[str, Any], bool]:
    del spoiled
    axes = a.draw(_chosen(1, 2, 3))
    window = tuple(a.draw(_chosen(*_EXTENTS[axes])) for _ in range(axes))
    a.add("table", prod(2 * w - 1 for w in window), a.draw(_chosen(1, 2, 3)))
    return {"window": window}, False


FUNCTIONS: Mapping[str, tuple[Callable[..., tuple[dict[str, Any], bool]], Sequence[Part]]] = {
    "attention": (_attention, (Part.OUT, Part.LSE, Part.GRADIENTS)),
    "attention_varlen": (_attention_varlen, (Part.OUT, Part.LSE, Part.GRADIENTS)),
    "window_attention": (_window_attention, (Part.OUT, Part.LSE, Part.GRADIENTS)),
    "window_attention_qkv": (_window_attention_qkv, (Part.OUT, Part.LSE, Part.GRADIENTS)),
    "softmax": (_softmax, (Part.OUT, Part.GRADIENTS)),
    "merge": (_merge, (Part.LSE, Part.GRADIENTS)),
    "relative_position_bias": (_relative_position_bias, (Part.OUT, Part.GRADIENTS)),
}
"""How each public function is drawn, and what of it is judged."""


@st.composite
def trials(draw: Drawing, function: str, dtype: str) -> Trial:
    """Draw any valid call of a public function, and what of it is judged.

    Args:
        draw: Given by Hypothesis.
        function: The public name without suffixes, e.g. `"attention"`.
        dtype: The dtype of the main arrays.
    """
    build, parts = FUNCTIONS[function]
    part = draw(st.sampled_from(parts))
    arrays = _Arrays(draw, dtype, np.random.default_rng(draw(st.integers(0, 2**16))))
    # Gradients with non-finite inputs in range are unspecified (C6).
    options, poison = build(arrays, spoiled=part is not Part.GRADIENTS)
    inputs, views = arrays.placed()
    call = Call(function, inputs, options, views, poison)
    case = Case(f"drawn-{function}", lambda _rng, _dtype: call)
    if part is Part.GRADIENTS:
        dout = draw(_chosen("like q", "dense", "stretched"))
        case = replace(case, dlse=draw(st.booleans()) or function == "merge", dout=dout)
    return Trial(case, part, dtype)
