"""Cases of clause family C: who sees whom, and what nobody may look at."""

import numpy as np

from attnref_conformance.case import Part
from attnref_conformance.cases.build import Draw, Option, attention, lens

_FORWARD = (Part.OUT, Part.LSE)


def _rows_without_keys(first: int, last: int) -> Option:
    def mask(d: Draw) -> np.ndarray:
        seen = d.mask("B Hq Sq Sk")
        seen[:, :, first:last] = False
        return seen

    return mask


def _spoiled(letters: str, lengths: tuple[int, ...], axis: int) -> Option:
    """Draw normal numbers, with NaN, infinity and 1e3 past each length."""

    def array(d: Draw) -> np.ndarray:
        x = np.moveaxis(d.normal(letters), axis, 1)
        for b, n in enumerate(lengths):
            tail = x[b, n:]
            tail[...] = np.resize(np.array([np.nan, np.inf, 1e3, -np.inf]), tail.shape)
        return np.ascontiguousarray(np.moveaxis(x, 1, axis))

    return array


def _with(letters: str, at: tuple[int, ...], value: float) -> Option:
    def array(d: Draw) -> np.ndarray:
        x = d.normal(letters)
        x[at] = value
        return x

    return array


_LONG = {"B": 1, "Hq": 2, "Hkv": 1, "Sq": 5, "D": 8}

CASES = (
    # C1: masks.
    attention("C1-mask-of-full-shape", given={"mask": lambda d: d.mask("B Hq Sq Sk")}),
    attention("C1-mask-of-rank-two", given={"mask": lambda d: d.mask("Sq Sk")}),
    attention("C1-mask-per-head", given={"mask": lambda d: d.mask("Hq Sq Sk")}),
    attention("C1-padding-mask", given={"mask": lambda d: d.mask("B 1 1 Sk")}),
    attention("C1-mask-per-head-and-key", given={"mask": lambda d: d.mask("Hq 1 Sk")}),
    attention("C1-mask-per-head-alone", given={"mask": lambda d: d.mask("Hq 1 1")}),
    attention(
        "C1-mask-per-batch-entry",
        given={"mask": lambda _: np.array([False, True])[:, None, None, None]},
    ),
    attention("C1-mask-of-rank-one", given={"mask": lambda d: d.mask("Sk")}),
    attention("C1-mask-without-axes", given={"mask": lambda _: np.array(True)}),
    attention("C1-mask-per-query", given={"mask": lambda d: d.mask("B 1 Sq 1")}),
    attention(
        "C1-mask-with-causal",
        given={"mask": lambda d: d.mask("B 1 Sq Sk")},
        options={"causal": True},
    ),
    attention(
        "C1-mask-with-window-and-bias",
        options={"window": (9, 6)},
        given={"mask": lambda d: d.mask("Hq Sq Sk"), "bias": lambda d: d.normal("B 1 Sq Sk")},
    ),
    attention(
        "C1-mask-in-the-last-tile",
        {"Sq": 9, "Sk": 261},
        given={"mask": lambda d: d.mask("B 1 Sq Sk", 0.5)},
    ),
    attention(
        "C1-mask-over-thousands-of-keys",
        {**_LONG, "Sk": 2411},
        given={"mask": lambda d: d.mask("Sq Sk")},
        quick=False,
    ),
    # C2: windows.
    attention("C2-causal", options={"causal": True}),
    attention("C2-causal-over-several-tiles", {"Sq": 197}, options={"causal": True}),
    attention("C2-window", {"Sq": 150}, options={"window": (9, 4)}),
    attention("C2-window-to-the-left", options={"window": (5, None)}),
    attention("C2-window-to-the-right", options={"window": (None, 5)}),
    attention("C2-window-of-one", options={"window": (0, 0)}),
    attention("C2-window-wider-than-the-keys", options={"window": (100, 100)}),
    attention("C2-causal-caps-the-right", options={"window": (6, 3), "causal": True}),
    attention(
        "C2-causal-with-window-to-the-left",
        {"Sq": 133},
        options={"window": (17, None), "causal": True},
    ),
    attention("C2-window-of-several-tiles", {**_LONG, "Sq": 203}, options={"window": (90, 41)}),
    attention(
        "C2-window-over-thousands-of-keys",
        {**_LONG, "Sk": 2503},
        options={"window": (1107, 0), "q_offset": "end"},
        quick=False,
    ),
    # C3: alignment.
    attention(
        "C3-start-with-more-keys",
        {"Sq": 21, "Sk": 50},
        options={"causal": True, "q_offset": "start"},
    ),
    attention(
        "C3-end-with-more-keys", {"Sq": 21, "Sk": 50}, options={"causal": True, "q_offset": "end"}
    ),
    attention(
        "C3-start-with-fewer-keys",
        {"Sq": 50, "Sk": 21},
        options={"causal": True, "q_offset": "start"},
    ),
    attention(
        "C3-end-with-fewer-keys", {"Sq": 50, "Sk": 21}, options={"causal": True, "q_offset": "end"}
    ),
    attention(
        "C3-window-at-the-end", {"Sq": 19, "Sk": 88}, options={"window": (7, 2), "q_offset": "end"}
    ),
    attention(
        "C3-offset-by-a-number", {"Sq": 21, "Sk": 50}, options={"window": (4, 3), "q_offset": 11}
    ),
    attention(
        "C3-offset-before-the-keys",
        {"Sq": 21, "Sk": 50},
        options={"window": (4, 3), "q_offset": -6},
    ),
    attention(
        "C3-offset-out-of-32-bits",
        {"Sq": 9, "Sk": 9},
        options={"causal": True, "q_offset": 2**31 + 5},
    ),
    attention(
        "C3-offset-far-before", {"Sq": 9, "Sk": 9}, options={"causal": True, "q_offset": -(2**40)}
    ),
    attention(
        "C3-offset-per-batch-entry",
        {"Sq": 21, "Sk": 50},
        options={"causal": True},
        given={"q_offset": lambda _: np.array([29, -4])},
    ),
    attention(
        "C3-offset-per-batch-entry-with-a-window",
        {"Sq": 21, "Sk": 50},
        options={"window": (6, 2)},
        given={"q_offset": lambda _: np.array([29, -4])},
    ),
    attention(
        "C3-offset-per-batch-entry-out-of-32-bits",
        {"Sq": 9},
        options={"causal": True},
        given={"q_offset": lambda _: np.array([2**32 - 5, 2 - 2**33])},
    ),
    attention(
        "C3-position-past-the-dtype-of-the-offset",
        {"Sq": 21},
        options={"causal": True},
        given={"q_offset": lambda _: np.array([2**31 - 7, -3], np.int32)},
    ),
    attention("C3-offset-matters-to-nobody", {"Sq": 21, "Sk": 50}, options={"q_offset": 7}),
    # C4: lengths.
    attention("C4-key-lengths", given={"kv_lens": lens(20, 37)}),
    attention("C4-query-lengths", given={"q_lens": lens(37, 11)}),
    attention(
        "C4-lengths-of-zero",
        {"B": 3},
        given={"kv_lens": lens(0, 25, 11), "q_lens": lens(30, 0, 37)},
    ),
    attention("C4-lengths-in-64-bits", given={"kv_lens": lambda _: np.array([5, 36], np.int64)}),
    attention(
        "C4-causal-at-the-end-of-each",
        {"Sq": 21, "Sk": 50},
        options={"causal": True, "q_offset": "end"},
        given={"kv_lens": lens(33, 12), "q_lens": lens(17, 21)},
    ),
    attention(
        "C4-window-at-the-end-of-each",
        {"Sq": 5, "Sk": 90},
        options={"window": (13, 0), "q_offset": "end"},
        given={"kv_lens": lens(90, 41)},
    ),
    attention(
        "C4-nothing-past-a-length-matters",
        q=_spoiled("B Hq Sq D", (30, 9), 2),
        k=_spoiled("B Hkv Sk D", (21, 35), 2),
        v=_spoiled("B Hkv Sk Dv", (21, 35), 2),
        given={
            "bias": _spoiled("B Hq Sq Sk", (21, 35), 3),
            "mask": lambda d: d.mask("B 1 Sq Sk", 0.8),
            "q_lens": lens(30, 9),
            "kv_lens": lens(21, 35),
        },
        poison=True,
    ),
    # One length at a time, for backends that know no more.
    attention(
        "C4-nothing-past-kv-lens-matters",
        k=_spoiled("B Hkv Sk D", (21, 35), 2),
        v=_spoiled("B Hkv Sk Dv", (21, 35), 2),
        given={"kv_lens": lens(21, 35)},
    ),
    attention(
        "C4-no-bias-past-kv-lens-matters",
        given={"bias": _spoiled("B Hq Sq Sk", (21, 35), 3), "kv_lens": lens(21, 35)},
    ),
    attention(
        "C4-no-bias-past-q-lens-matters",
        {"Sk": 203},
        given={"bias": _spoiled("B Hq Sq Sk", (30, 9), 2), "q_lens": lens(30, 9)},
    ),
    attention(
        "C4-nothing-past-q-lens-matters",
        q=_spoiled("B Hq Sq D", (30, 9), 2),
        given={"q_lens": lens(30, 9)},
        poison=True,
    ),
    attention(
        "C4-lengths-over-thousands-of-keys",
        {**_LONG, "B": 2, "Sk": 2203},
        given={"kv_lens": lens(2111, 1049)},
        quick=False,
    ),
    attention(
        "C4-lengths-with-a-mask",
        given={"kv_lens": lens(20, 31), "mask": lambda d: d.mask("B 1 Sq Sk", 0.8)},
    ),
    # C5: rows that see nothing.
    attention("C5-first-rows-see-nothing", given={"mask": _rows_without_keys(0, 4)}),
    attention("C5-middle-rows-see-nothing", given={"mask": _rows_without_keys(14, 19)}),
    attention("C5-last-rows-see-nothing", given={"mask": _rows_without_keys(30, 37)}),
    attention(
        "C5-queries-past-the-keys-see-nothing",
        {"Sq": 50, "Sk": 21},
        options={"window": (6, None), "q_offset": "start"},
    ),
    attention("C5-no-row-sees-anything", given={"mask": _rows_without_keys(0, 37)}),
    attention(
        "C5-hidden-behind-large-values",
        {"Sk": 60},
        v=lambda d: d.normal("B Hkv Sk Dv", times=1e3),
        given={"mask": _rows_without_keys(3, 8)},
        dtypes=("float32", "float64"),
    ),
    attention(
        "C5-rows-of-nan-are-not-empty",
        q=_with("B Hq Sq D", (1, 2, 20), np.nan),
        given={"mask": _rows_without_keys(3, 8)},
        parts=_FORWARD,
    ),
    # C6: what is not finite.
    attention("C6-nan-in-a-query", q=_with("B Hq Sq D", (0, 1, 3, 2), np.nan), parts=_FORWARD),
    attention(
        "C6-nan-in-a-visible-key",
        k=_with("B Hkv Sk D", (0, 1, 20), np.nan),
        options={"causal": True},
        parts=_FORWARD,
        promised="masked_nonfinite",
    ),
    attention(
        "C6-nan-in-a-visible-value",
        v=_with("B Hkv Sk Dv", (1, 0, 5, 3), np.nan),
        parts=_FORWARD,
    ),
    attention(
        "C6-infinity-in-a-visible-value",
        v=_with("B Hkv Sk Dv", (1, 0, 0, 3), np.inf),
        parts=_FORWARD,
    ),
    attention("C6-infinite-score", q=_with("B Hq Sq D", (0, 0, 2, 0), np.inf), parts=_FORWARD),
    attention(
        "C6-nan-in-bias", given={"bias": _with("B Hq Sq Sk", (0, 2, 5, 7), np.nan)}, parts=_FORWARD
    ),
    attention(
        "C6-nan-in-an-invisible-key",
        k=_with("B Hkv Sk D", (0, 0, 9), np.nan),
        v=_with("B Hkv Sk Dv", (1, 1, 9), np.nan),
        given={"mask": lambda d: np.arange(d.sizes["Sk"]) != 9},
        parts=_FORWARD,
        promised="masked_nonfinite",
    ),
)
