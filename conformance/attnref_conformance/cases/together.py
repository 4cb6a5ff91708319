"""Options together: every pair of what a call can ask for occurs in some case.

The cases of the other tables ask for one thing at a time, and show plainly which clause
broke. These ask for many, because kernels choose their path by combinations: causal with a
bias, one query with lengths, strided keys under a window. Each table below is a set of
factors; a covering array takes care that every pair of their levels meets at least once.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from attnref_conformance.case import Call, Case, View, cast, cut, permute
from attnref_conformance.cases.build import Draw, Rng

Levels = Mapping[str, Sequence[Any]]
Row = dict[str, Any]


def covering(levels: Levels) -> list[Row]:
    """Choose rows in which every pair of levels of two factors occurs.

    Greedy: each row begins with a pair that is still missing, and every further factor
    takes the level that meets most missing pairs.
    """
    names = list(levels)
    missing = {
        ((a, x), (b, y))
        for a, b in combinations(names, 2)
        for x in range(len(levels[a]))
        for y in range(len(levels[b]))
    }
    rows = []
    while missing:
        row: dict[str, int] = dict(min(missing))
        for name in names:
            if name in row:
                continue
            gains = [
                sum(_pair(names, (name, x), other) in missing for other in row.items())
                for x in range(len(levels[name]))
            ]
            row[name] = gains.index(max(gains))
        missing -= {_pair(names, p, q) for p, q in combinations(row.items(), 2)}
        rows.append({name: levels[name][row[name]] for name in names})
    return rows


def _pair(names: list[str], p: tuple[str, int], q: tuple[str, int]) -> Any:
    return (p, q) if names.index(p[0]) < names.index(q[0]) else (q, p)


def _strided(x: np.ndarray) -> tuple[np.ndarray, View]:
    """Return an array of twice the length of which every second entry is wanted."""
    wide = np.repeat(x, 2, axis=-1)
    wide[..., 1::2] = True if x.dtype == bool else 7
    return wide, cut(..., slice(None, None, 2))


def _laid_out(
    x: np.ndarray, layout: str, heads: int, tokens: int
) -> tuple[np.ndarray, View | None]:
    """Return an array to start from, and the view that makes it `x`."""
    if layout == "dense":
        return x, None
    if layout == "strided":
        return _strided(x)
    axes = list(range(x.ndim))
    axes[heads], axes[tokens] = axes[tokens], axes[heads]
    return np.ascontiguousarray(x.transpose(axes)), permute(*axes)


def _place(
    made: Mapping[str, np.ndarray], layouts: Mapping[str, Any], heads: int, tokens: int
) -> tuple[dict[str, np.ndarray], dict[str, View]]:
    inputs: dict[str, np.ndarray] = {}
    views: dict[str, View] = {}
    for name, x in made.items():
        layout = layouts.get(name, "dense")
        inputs[name], view = _laid_out(x, layout if x.ndim else "dense", heads, tokens)
        if view is not None:
            views[name] = view
    return inputs, views


def _named(clause: str, number: int, row: Row) -> str:
    """Name a case by its number and by the options that it combines."""
    words = [
        str(value) if name in ("seen", "layout") else name
        for name, value in row.items()
        if name in _SPOKEN and value not in (None, False, "all", "dense")
    ]
    return (
        "-".join([clause, "together", f"{number:02}", *words]).replace(" ", "-").replace("_", "-")
    )


_SPOKEN = ("seen", "mask", "bias", "softcap", "sinks", "kv_lens", "q_lens", "key_mask", "layout")

# ---- attention ---------------------------------------------------------------------

_ATTENTION: Levels = {
    "sizes": [(37, 37), (1, 45), (70, 29), (260, 260), (5, 300)],
    "seen": ["all", "causal", "window", "left window", "future"],
    "offset": [None, "start", "end", 3, "array"],
    "heads": [(4, 2), (3, 3), (8, 2), (5, 1)],
    "head": [(24, 20), (64, 64), (128, 128), (80, 72)],
    "mask": [None, "B 1 Sq Sk", "Hq 1 Sk", "1 Hq Sq 1"],
    "bias": [None, "Hq Sq Sk", "B 1 1 Sk", "Sq Sk"],
    "layout": ["dense", "tokens first", "strided", "keys strided"],
    "B": [2, 1, 3],
    "dout": ["like q", "dense", "stretched"],
    "softcap": [None, 1.7],
    "sinks": [False, True],
    "kv_lens": [False, True],
    "q_lens": [False, True],
    "companions": ["dense", "strided"],
    "dlse": [False, True],
    "mixed": [False, True],
}

_SEEN: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": (9, 4)},
    "left window": {"window": (13, None), "causal": True},
    "future": {"window": (None, 6)},
}


def _attention(number: int, row: Row) -> Case:  # noqa: C901  # one branch per option
    (Sq, Sk), (Hq, Hkv), (D, Dv) = row["sizes"], row["heads"], row["head"]
    B, options = row["B"], dict(_SEEN[row["seen"]])
    clear = Sq == Sk and not (row["kv_lens"] or row["q_lens"])
    offset = row["offset"] if row["offset"] is not None or clear else "end"
    if offset is not None and offset != "array":
        options["q_offset"] = offset
    if row["softcap"]:
        options["softcap"] = row["softcap"]

    def build(rng: Rng, dtype: str) -> Call:
        draw = Draw(
            rng, dtype, {"B": B, "Hq": Hq, "Hkv": Hkv, "Sq": Sq, "Sk": Sk, "D": D, "Dv": Dv}
        )
        beside = "float32" if row["mixed"] else dtype
        made = {
            n: draw.normal(f"B {h} {s} {d}")
            for n, h, s, d in (
                ("q", "Hq", "Sq", "D"),
                ("k", "Hkv", "Sk", "D"),
                ("v", "Hkv", "Sk", "Dv"),
            )
        }
        if row["mask"]:
            made["mask"] = draw.mask(row["mask"], 0.8)
        if row["bias"]:
            made["bias"] = draw.normal(row["bias"], beside)
        if row["sinks"]:
            made["sinks"] = draw.normal("Hq", beside)
        if row["kv_lens"]:
            made["kv_lens"] = rng.integers(0, Sk + 1, B).astype(np.int32)
        if row["q_lens"]:
            made["q_lens"] = rng.integers(0, Sq + 1, B).astype(np.int64)
        if offset == "array":
            made["q_offset"] = rng.integers(-3, max(Sk - Sq, 0) + 4, B).astype(np.int32)
        layout = row["layout"]
        main = {n: "strided" if layout == "keys strided" and n != "q" else layout for n in "qkv"}
        if layout == "keys strided":
            main["q"] = "dense"
        layouts = {n: main.get(n, row["companions"]) for n in made}
        return Call("attention", *_split(options, *_place(made, layouts, 1, 2)))

    return Case(_named("C1", number, row), build, dlse=row["dlse"], dout=row["dout"], quick=False)


def _split(
    options: dict[str, Any], inputs: dict[str, np.ndarray], views: dict[str, View]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, View]]:
    return inputs, options, views


# ---- packed sequences --------------------------------------------------------------

_PACKED: Levels = {
    "lengths": [
        ([3, 17, 40, 1], [3, 17, 40, 1]),
        ([7, 0, 2], [33, 5, 0]),
        ([170, 9], [170, 200]),
        ([1] * 12, [4, 19, 1, 7, 30, 2, 2, 11, 5, 3, 8, 6]),
    ],
    "seen": ["all", "causal", "window", "left window", "future"],
    "offset": ["end", "start", 2, "array"],
    "heads": [(4, 2), (3, 3), (8, 2), (5, 1)],
    "head": [(24, 20), (64, 64), (128, 128)],
    "layout": ["dense", "tokens first", "strided"],
    "dout": ["like q", "dense", "stretched"],
    "integers": [("int32", "int32"), ("int64", "int32")],
    "softcap": [None, 1.7],
    "sinks": [False, True],
    "hints": [False, True],
    "rest": [0, 5],
    "dlse": [False, True],
}


def _packed(number: int, row: Row) -> Case:
    queries, keys = row["lengths"]
    (Hq, Hkv), (D, Dv), options = row["heads"], row["head"], dict(_SEEN[row["seen"]])
    if row["offset"] != "array":
        options["q_offset"] = row["offset"]
    if row["softcap"]:
        options["softcap"] = row["softcap"]
    if row["hints"]:
        options |= {"max_q": max(queries) + 3, "max_k": max(keys) + 60}

    def build(rng: Rng, dtype: str) -> Call:
        cu = [
            np.cumsum([0, *n]).astype(t)
            for n, t in zip((queries, keys), row["integers"], strict=True)
        ]
        made = {}
        for name, at, H, size in (("q", 0, Hq, D), ("k", 1, Hkv, D), ("v", 1, Hkv, Dv)):
            x = rng.normal(size=(int(cu[at][-1]) + row["rest"], H, size))
            x[int(cu[at][-1]) :] = np.nan
            made[name] = cast(x, dtype)
        inputs, views = _place(made, dict.fromkeys("qkv", row["layout"]), 1, 0)
        inputs |= {"cu_q": cu[0], "cu_k": cu[1]}
        if row["sinks"]:
            inputs["sinks"] = cast(rng.normal(size=Hq), dtype)
        if row["offset"] == "array":
            inputs["q_offset"] = rng.integers(-3, 9, len(queries))
        return Call("attention_varlen", inputs, options, views, poison=row["rest"] > 0)

    return Case(_named("F1", number, row), build, dlse=row["dlse"], dout=row["dout"], quick=False)


# ---- windows -----------------------------------------------------------------------

_WINDOWS: Levels = {
    "map": [
        ((8, 8), (4, 4), (2, 1)),
        ((9, 14), (7, 7), (3, 3)),
        ((21,), (5,), (2,)),
        ((3, 5, 6), (2, 3, 4), (1, 2, 1)),
        ((14, 7), (7, 7), (3, 3)),
    ],
    "wrap": [None, -100.0, -0.1, 2.3],
    "scale": [None, "float32", "own", -0.4],
    "size": [(16, 16), (32, 32), (64, 40)],
    "layout": ["dense", "heads first", "strided", "packed"],
    "bias": [None, "own", "float32"],
    "dout": ["like q", "dense", "stretched"],
    "H": [3, 1, 4],
    "B": [2, 1],
    "shifted": [True, False],
    "key_mask": [False, True],
    "dlse": [False, True],
}


def _windows(number: int, row: Row) -> Case:
    (G, window, shift), (D, Dv), H, B = row["map"], row["size"], row["H"], row["B"]
    packed = row["layout"] == "packed"
    options: dict[str, Any] = {"window": window, "shift": shift if row["shifted"] else 0}
    if row["wrap"] is not None:
        options["wrap_bias"] = row["wrap"]
    if isinstance(row["scale"], float):
        options["scale"] = row["scale"]
    N, last = prod(window), len(G) + 1

    def build(rng: Rng, dtype: str) -> Call:
        views: dict[str, View] = {}
        if packed:
            inputs = {"qkv": cast(rng.normal(size=(B, *G, 3, H, D)), dtype)}
        else:
            made = {
                n: cast(rng.normal(size=(B, *G, H, d)), dtype)
                for n, d in (("q", D), ("k", D), ("v", Dv))
            }
            layout = "swapped" if row["layout"] == "heads first" else row["layout"]
            inputs, views = _place(made, dict.fromkeys("qkv", layout), last, last - 1)
        if row["bias"]:
            x = rng.normal(size=(H, N, N))
            inputs["bias"] = cast(x, dtype if row["bias"] == "own" else row["bias"])
        if row["key_mask"]:
            inputs["key_mask"] = rng.random((B, *G)) < 0.7
            inputs["key_mask"][0, ..., : window[-1]] = False
        if isinstance(row["scale"], str):
            scales = rng.uniform(-0.5, 1.5, size=(H,))
            inputs["scale"] = cast(scales, dtype if row["scale"] == "own" else row["scale"])
        function = "window_attention_qkv" if packed else "window_attention"
        return Call(function, inputs, options, views)

    return Case(_named("G2", number, row), build, dlse=row["dlse"], dout=row["dout"], quick=False)


CASES = (
    *(_attention(n, row) for n, row in enumerate(covering(_ATTENTION))),
    *(_packed(n, row) for n, row in enumerate(covering(_PACKED))),
    *(_windows(n, row) for n, row in enumerate(covering(_WINDOWS))),
)
"""Numbered in the order of the covering arrays; a new factor makes a new suite."""
