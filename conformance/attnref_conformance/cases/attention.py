"""Cases of clause families A and B: arrays and scores; sinks of family D."""

import numpy as np

from attnref_conformance.case import DTYPES, Part, cast, cut, permute, stretch
from attnref_conformance.cases.build import Draw, attention, lens


def _falling(d: Draw) -> np.ndarray:
    """Draw values that change sign halfway, so that a drift between tiles does not cancel."""
    x = d.normal("B Hkv Sk Dv", times=0.1)
    half = x.shape[2] // 2
    x[:, :, :half] += 1
    x[:, :, half:] -= 1
    return x


def _hidden_by_bias(d: Draw) -> np.ndarray:
    """Draw a bias that selects: a third of it is minus infinity."""
    bias = d.normal("Hq Sq Sk")
    bias[d.mask("Hq Sq Sk", 0.3)] = -np.inf
    return bias


def _rows_hidden_by_bias(d: Draw) -> np.ndarray:
    bias = d.normal("1 Hq Sq Sk")
    bias[:, :, 5:9] = -np.inf
    return bias


def _finite_minimum(d: Draw) -> np.ndarray:
    """Draw a bias whose rows hold the smallest finite float32, or minus infinity."""
    bias = np.zeros(d.shape("Sq Sk"), np.float32)
    bias[:, ::2] = np.finfo(np.float32).min / 4
    bias[3] = np.finfo(np.float32).min / 4
    bias[4] = -np.inf
    return bias


CASES = (
    # A1: any strides, and the memory order of the result.
    attention("A1-contiguous"),
    attention(
        "A1-tokens-before-heads",
        q=lambda d: d.normal("B Sq Hq D"),
        k=lambda d: d.normal("B Sk Hkv D"),
        v=lambda d: d.normal("B Sk Hkv Dv"),
        views={n: permute(0, 2, 1, 3) for n in "qkv"},
    ),
    attention(
        "A1-features-first",
        q=lambda d: d.normal("D B Sq Hq"),
        k=lambda d: d.normal("D Sk Hkv B"),
        v=lambda d: d.normal("Dv Hkv Sk B"),
        views={"q": permute(1, 3, 2, 0), "k": permute(3, 2, 1, 0), "v": permute(3, 1, 2, 0)},
    ),
    attention(
        "A1-sliced",
        q=lambda d: d.normal("B Hq 80 50"),
        k=lambda d: d.normal("B Hkv 80 D"),
        v=lambda d: d.normal("B Hkv 80 64"),
        views={
            "q": cut(*[slice(None)] * 2, slice(3, 77, 2), slice(1, 49, 2)),
            "k": cut(*[slice(None)] * 2, slice(0, 74, 2)),
            "v": cut(*[slice(None)] * 2, slice(43, 80), slice(2, 62, 3)),
        },
    ),
    attention(
        "A1-strides-of-zero",
        k=lambda d: d.normal("B 1 Sk D"),
        v=lambda d: d.normal("1 Hkv Sk Dv"),
        views={"k": stretch(2, 2, 37, 24), "v": stretch(2, 2, 37, 20)},
    ),
    attention(
        "A1-negative-strides",
        views={
            "q": cut(slice(None), slice(None, None, -1)),
            "k": cut(*[slice(None)] * 2, slice(None, None, -1)),
            "v": cut(*[slice(None)] * 3, slice(None, None, -1)),
        },
    ),
    attention("A1-seven-batch-entries", {"B": 7, "Sq": 9}),
    attention("A1-head-size-of-256", {"D": 256, "Dv": 256, "Sq": 21}, quick=False),
    # A2: grouped heads, and values of another size.
    attention("A2-one-head-each", {"Hq": 3, "Hkv": 3}),
    attention("A2-groups-of-three", {"Hq": 6, "Hkv": 2}),
    attention("A2-groups-of-eight", {"Hq": 8, "Hkv": 1}),
    attention("A2-twelve-heads-in-groups-of-three", {"Hq": 12, "Hkv": 4, "Sq": 19}),
    attention("A2-seventeen-heads", {"Hq": 17, "Hkv": 17, "Sq": 9}),
    attention("A2-wider-values", {"D": 8, "Dv": 40}),
    attention("A2-narrower-values", {"D": 40, "Dv": 8}),
    # A3: companions of another dtype.
    attention(
        "A3-bias-and-sinks-in-float32",
        given={
            "bias": lambda d: d.normal("Hq Sq Sk", "float32"),
            "sinks": lambda d: d.normal("Hq", "float32"),
        },
    ),
    attention(
        "A3-bias-in-float64",
        given={"bias": lambda d: d.normal("1 1 Sk", "float64")},
        dtypes=("float16", "float32"),
    ),
    # A4: sizes of zero.
    attention("A4-no-keys", {"Sk": 0, "Sq": 5}),
    attention(
        "A4-no-keys-but-sinks", {"Sk": 0, "Sq": 5}, given={"sinks": lambda d: d.normal("Hq")}
    ),
    attention("A4-no-queries", {"Sq": 0, "Sk": 7}),
    attention("A4-no-batch", {"B": 0}),
    attention("A4-no-heads", {"Hq": 0, "Hkv": 0}),
    attention("A4-values-of-size-zero", {"Dv": 0}),
    attention("A4-head-size-zero", {"D": 0, "Dv": 6}, options={"scale": 1.0}),
    attention("A4-one-query-one-key", {"Sq": 1, "Sk": 1}),
    # A5: a result that equals an input is not that input.
    attention("A5-one-key-gives-back-its-value", {"Hq": 2, "Hkv": 2, "Sq": 1, "D": 8, "Dv": 8}),
    # A6: what is accumulated in which precision.
    attention(
        "A6-long-positive-sum",
        {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 3, "Sk": 3001, "D": 8, "Dv": 5},
        v=lambda d: cast(0.5 + 0.5 * d.rng.random(d.shape("B Hkv Sk Dv")), d.dtype),
        quick=False,
    ),
    attention(
        "A6-cancelling-values",
        v=lambda d: cast(
            100.0 * np.where(np.arange(d.sizes["Sk"]) % 2, 1.0, -1.0)[:, None]
            + d.rng.normal(size=d.shape("B Hkv Sk Dv")),
            d.dtype,
        ),
    ),
    attention(
        "A6-float64-honoured",
        {"D": 64},
        dtypes=("float64",),
        q=lambda d: d.normal("B Hq Sq D", times=3.0),
    ),
    attention(
        "A6-exact-average",
        {"Sq": 5, "Sk": 32, "D": 4, "Dv": 6},
        q=lambda d: cast(np.zeros(d.shape("B Hq Sq D")), d.dtype),
        v=lambda d: cast(d.rng.integers(-4, 5, d.shape("B Hkv Sk Dv")) * 2, d.dtype),
        parts=(Part.OUT,),
        exact=True,
    ),
    attention(
        "A6-exact-selection",
        {"Sq": 9, "D": 4, "Dv": 6},
        given={"mask": lambda d: np.eye(d.sizes["Sq"], dtype=bool)[::-1]},
        parts=(Part.OUT,),
        exact=True,
    ),
    attention(
        "A6-denormal-values",
        v=lambda d: cast(2.0**-20 * d.rng.normal(size=d.shape("B Hkv Sk Dv")), d.dtype),
    ),
    attention(
        "A6-denormal-keys",
        q=lambda d: cast(2.0**6 * d.rng.normal(size=d.shape("B Hq Sq D")), d.dtype),
        k=lambda d: cast(2.0**-18 * d.rng.normal(size=d.shape("B Hkv Sk D")), d.dtype),
        options={"scale": 64.0},
    ),
    # B1: the scale.
    attention("B1-default-scale", {"D": 17}),
    attention("B1-scale-of-one", options={"scale": 1.0}),
    attention("B1-negative-scale", options={"scale": -0.3}),
    attention("B1-scale-of-zero", options={"scale": 0.0}),
    attention("B1-scale-not-a-half", options={"scale": 0.1234567}),
    # B2: the soft cap.
    attention("B2-soft-cap", options={"softcap": 2.0}),
    attention("B2-soft-cap-not-a-half", options={"softcap": 0.7}),
    attention("B2-soft-cap-far-below-the-scores", options={"softcap": 0.25, "scale": 4.0}),
    attention(
        "B2-soft-cap-before-bias",
        options={"softcap": 1.5},
        given={"bias": lambda d: d.normal("Hq Sq Sk", times=4.0)},
    ),
    # B3: every broadcast of a bias.
    attention("B3-bias-of-full-shape", given={"bias": lambda d: d.normal("B Hq Sq Sk")}),
    attention("B3-bias-per-head", given={"bias": lambda d: d.normal("Hq Sq Sk")}),
    attention("B3-bias-per-pair", given={"bias": lambda d: d.normal("Sq Sk")}),
    attention("B3-bias-per-key", given={"bias": lambda d: d.normal("B 1 1 Sk")}),
    attention("B3-bias-per-query", given={"bias": lambda d: d.normal("B Hq Sq 1")}),
    attention("B3-bias-per-batch", given={"bias": lambda d: d.normal("B 1 1 1")}),
    attention(
        "B3-bias-per-head-and-key",
        {"Sq": 21, "Sk": 30},
        given={"bias": lambda d: d.normal("Hq 1 Sk")},
    ),
    attention(
        "B3-bias-with-soft-cap",
        given={"bias": lambda d: d.normal("Hq Sq Sk")},
        options={"softcap": 1.0},
    ),
    attention("B3-bias-of-rank-one", given={"bias": lambda d: d.normal("Sk")}),
    attention(
        "B3-bias-over-thousands-of-keys",
        {"B": 1, "Hq": 2, "Sq": 3, "Sk": 2311, "D": 8},
        given={"bias": lambda d: d.normal("Hq 1 Sk")},
        quick=False,
    ),
    attention("B3-bias-without-axes", given={"bias": lambda d: d.normal("")}),
    attention(
        "B3-large-bias",
        given={"bias": lambda d: d.normal("Hq 1 Sk", times=30.0)},
    ),
    attention(
        "B3-a-bias-far-below-zero-over-thousands-of-keys",
        {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 9, "Sk": 4203},
        v=_falling,
        given={"bias": lambda d: d.normal("Sq 1", times=1000.0) - 10000.0},
        quick=False,
    ),
    # B4: selection, and minus infinity.
    attention("B4-bias-of-minus-infinity-selects", given={"bias": _hidden_by_bias}),
    attention("B4-bias-hides-whole-rows", given={"bias": _rows_hidden_by_bias}),
    attention(
        "B4-minus-infinity-with-soft-cap",
        given={"bias": _hidden_by_bias},
        options={"softcap": 2.0},
    ),
    attention(
        "B4-finite-minimum-is-visible",
        given={"bias": _finite_minimum},
        dtypes=("float32", "float64"),
    ),
    # D4: sinks.
    attention("D4-sinks", given={"sinks": lambda d: d.normal("Hq")}),
    attention(
        "D4-sink-above-every-score",
        given={"sinks": lambda d: cast(30.0 + d.rng.normal(size=d.shape("Hq")), d.dtype)},
    ),
    attention(
        "D4-sink-of-minus-infinity",
        given={"sinks": lambda d: cast(np.array([-np.inf, 0.5, -np.inf, -1.0]), d.dtype)},
    ),
    attention(
        "D4-sink-alone-in-a-row",
        {"Sq": 40, "Sk": 23},
        given={"sinks": lambda d: d.normal("Hq")},
        options={"causal": True, "q_offset": "end"},
    ),
    attention(
        "D4-sink-is-not-scaled-nor-capped",
        given={"sinks": lambda d: d.normal("Hq", times=3.0)},
        options={"scale": 0.05, "softcap": 0.5},
    ),
    attention(
        "D4-no-sink-past-a-length",
        given={"sinks": lambda d: d.normal("Hq"), "q_lens": lens(20, 0)},
    ),
    # E: what a backward may be given.
    attention("E1-gradient-of-lse", parts=(Part.GRADIENTS,)),
    attention("E1-scaled-gradients", parts=(Part.GRADIENTS,), options={"scale": 0.3}),
    attention("E1-gradient-of-a-sum", parts=(Part.GRADIENTS,), dout="stretched"),
    attention(
        "E1-one-key-has-no-gradient", {"Sq": 19, "Sk": 1}, parts=(Part.GRADIENTS,), dlse=False
    ),
    attention(
        "E1-over-thousands-of-keys",
        {"B": 1, "Hq": 2, "Hkv": 1, "Sq": 3, "Sk": 2111, "D": 8},
        parts=(Part.GRADIENTS,),
        quick=False,
    ),
    attention("E1-no-gradient-of-lse", parts=(Part.GRADIENTS,), dlse=False),
    attention(
        "E2-out-and-lse-of-a-merged-problem",
        options={"window": (9, 6)},
        given={"bias": lambda d: d.normal("Hq Sq Sk"), "sinks": lambda d: d.normal("Hq")},
        parts=(Part.GRADIENTS,),
        merged=True,
    ),
    attention(
        "E3-key-head-shared-by-eight", {"Hq": 8, "Hkv": 1, "Sq": 70}, parts=(Part.GRADIENTS,)
    ),
    attention(
        "E3-bias-and-sinks-shared-by-all",
        {"B": 3, "Sq": 70},
        given={"bias": lambda d: d.normal("1 1 Sk"), "sinks": lambda d: d.normal("Hq")},
        parts=(Part.GRADIENTS,),
    ),
    attention(
        "E1-one-weight-takes-all",
        q=lambda d: d.normal("B Hq Sq D", times=40.0),
        options={"scale": 1.0},
        parts=(Part.GRADIENTS,),
        dtypes=DTYPES[2:],
        dlse=False,
    ),
)
