"""Cases of clause F1: sequences that lie end to end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnref_conformance.case import Call, Case, cast
from attnref_conformance.cases.build import Rng


def _packed(
    name: str,
    queries: Sequence[int],
    keys: Sequence[int] | None = None,
    *,
    rest: int = 0,
    Hq: int = 4,
    Hkv: int = 2,
    sinks: bool = False,
    offsets: Sequence[int] | None = None,
    integer: str = "int32",
    **options: Any,
) -> Case:
    """Make a case of `attention_varlen` from the lengths of its sequences.

    Tokens past the last offset hold NaN: they belong to nobody.
    """

    def build(rng: Rng, dtype: str) -> Call:
        cu_q = np.cumsum([0, *queries]).astype(integer)
        cu_k = np.cumsum([0, *(keys or queries)]).astype(integer)
        shapes = {"q": (cu_q, Hq, 24), "k": (cu_k, Hkv, 24), "v": (cu_k, Hkv, 20)}
        inputs: dict[str, np.ndarray] = {}
        for tensor, (cu, heads, size) in shapes.items():
            x = rng.normal(size=(int(cu[-1]) + rest, heads, size))
            x[int(cu[-1]) :] = np.nan
            inputs[tensor] = cast(x, dtype)
        inputs |= {"cu_q": cu_q, "cu_k": cu_k}
        if sinks:
            inputs["sinks"] = cast(rng.normal(size=Hq), dtype)
        if offsets is not None:
            inputs["q_offset"] = np.array(offsets)
        return Call("attention_varlen", inputs, options, poison=rest > 0)

    return Case(name, build)


CASES = (
    _packed("F1-ragged", [3, 17, 40, 1]),
    _packed("F1-one-sequence", [29]),
    _packed("F1-no-sequence", []),
    _packed("F1-empty-sequences-anywhere", [0, 9, 0, 0, 14, 0]),
    _packed("F1-queries-without-keys", [4, 6, 5], [7, 0, 11]),
    _packed("F1-more-keys-than-queries", [4, 6, 5], [17, 30, 11]),
    _packed("F1-tokens-of-nobody", [5, 12], rest=6),
    _packed("F1-tokens-of-nobody-with-sinks", [5, 12], rest=6, sinks=True),
    _packed("F1-causal-at-the-end", [4, 16, 5], [17, 9, 5], causal=True, q_offset="end"),
    _packed("F1-causal-at-the-start", [4, 16, 5], [17, 9, 5], causal=True, q_offset="start"),
    _packed("F1-window", [40, 23], window=(5, 2), q_offset="start"),
    _packed("F1-offset-per-sequence", [9, 9], [20, 30], causal=True, offsets=[11, -3]),
    _packed(
        "F1-offset-per-sequence-with-a-window", [9, 9], [20, 30], window=(5, 1), offsets=[11, -3]
    ),
    _packed("F1-seventy-sequences", [1, 2, 3, 0, 2] * 14, [3, 1, 2, 5, 4] * 14),
    _packed("F1-groups-of-three", [8, 21], Hq=6, Hkv=2, integer="int64"),
    _packed("F1-soft-cap-and-sinks", [8, 21], softcap=1.5, sinks=True, scale=1.0),
    _packed("F1-hints", [8, 21, 3], max_q=21, max_k=21),
    _packed("F1-many-tiles", [150, 3, 77], [190, 3, 80], causal=True, q_offset="end"),
)
