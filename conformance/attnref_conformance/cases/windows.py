"""Cases of clause family G: windows on maps of one to three axes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from attnref_conformance.case import Call, Case, Part, cast, permute
from attnref_conformance.cases.build import Rng


def _map(
    name: str,
    G: Sequence[int],
    *,
    B: int = 2,
    H: int = 3,
    D: int = 16,
    Dv: int | None = None,
    qkv: bool = False,
    bias: bool = False,
    key_mask: bool = False,
    scales: bool = False,
    times: float = 1.0,
    heads_before_map: bool = False,
    quick: bool = True,
    **options: Any,
) -> Case:
    """Make a case of `window_attention`, or of its packed form."""

    def build(rng: Rng, dtype: str) -> Call:
        N = prod(np.broadcast_to(options["window"], len(G)).tolist())
        inputs: dict[str, np.ndarray] = {}
        if qkv:
            inputs["qkv"] = cast(rng.normal(size=(B, *G, 3, H, D)), dtype)
        else:
            place = (B, H, *G) if heads_before_map else (B, *G, H)
            for tensor, size in (("q", D), ("k", D), ("v", Dv or D)):
                inputs[tensor] = cast(times * rng.normal(size=(*place, size)), dtype)
        if bias:
            inputs["bias"] = cast(rng.normal(size=(H, N, N)), dtype)
        if key_mask:
            inputs["key_mask"] = rng.random((B, *G)) < 0.7
        if scales:
            inputs["scale"] = cast(rng.uniform(0.1, 2.0, H), "float32")
        n = len(G)
        views = {}
        if heads_before_map:
            back = permute(0, *range(2, n + 2), 1, n + 2)
            views = dict.fromkeys("qkv", back)
        function = "window_attention_qkv" if qkv else "window_attention"
        return Call(function, inputs, options, views)

    return Case(name, build, quick=quick)


def _table(name: str, window: tuple[int, ...]) -> Case:
    def build(rng: Rng, dtype: str) -> Call:
        rows = prod(2 * w - 1 for w in window)
        inputs = {"table": cast(rng.normal(size=(rows, 3)), dtype)}
        return Call("relative_position_bias", inputs, {"window": window})

    return Case(name, build, parts=(Part.OUT, Part.GRADIENTS))


def _grid() -> list[Case]:
    """Cut every small map by both usual windows, shifted: each clause that it brings up."""
    cases = []
    for G in ((7, 7), (8, 4), (4, 8), (9, 14), (10, 10), (3, 3)):
        for w in (4, 7):
            clause = "G4" if min(G) <= w else "G5" if any(g % w for g in G) else "G2"
            name = f"{clause}-{G[0]}-by-{G[1]}-in-windows-of-{w}"
            cases.append(_map(name, G, B=1, window=w, shift=w // 2, bias=True, quick=False))
    return cases


CASES = (
    *_grid(),
    _map(
        "E3-bias-and-scale-shared-by-all-windows",
        (16, 12),
        window=4,
        shift=1,
        bias=True,
        scales=True,
    ),
    _map("G1-packed-projection", (8, 8), qkv=True, window=4, shift=2, bias=True),
    _map("G1-packed-projection-on-a-line", (21,), qkv=True, window=5, shift=2),
    _map("G1-values-of-another-size", (8, 8), Dv=9, window=4),
    _map("G1-heads-before-the-map", (7, 9), window=3, shift=1, heads_before_map=True),
    _map("G1-nine-heads", (6, 6), H=9, window=3, shift=1, scales=True),
    _map("G1-head-size-of-256", (6, 6), D=256, window=3, shift=1, quick=False),
    _map("G2-one-window", (7, 7), window=7),
    _map("G2-windows", (8, 12), window=4, bias=True),
    _map("G2-shifted", (8, 12), window=4, shift=2, bias=True),
    _map("G2-shifted-by-one", (14, 14), window=7, shift=1),
    _map("G2-shifted-by-most-of-a-window", (14, 14), window=7, shift=6),
    _map("G2-shift-on-one-axis", (8, 12), window=4, shift=(0, 3)),
    _map("G2-window-and-shift-per-axis", (9, 10), window=(3, 5), shift=(1, 2), bias=True),
    _map("G2-text", (30,), window=6, shift=3, bias=True),
    _map("G2-video", (4, 6, 6), B=1, window=(2, 3, 3), shift=(1, 1, 1), bias=True),
    _map("G2-windows-of-one-token", (3, 4), window=1),
    _map("G2-thousands-of-windows", (64, 64), B=1, H=1, D=8, window=2, shift=1, quick=False),
    _map("G2-five-thousand-windows", (160, 128), B=1, H=1, D=4, window=2, shift=1, quick=False),
    _map("G2-hundreds-of-tokens", (32, 32), B=1, H=2, window=16, shift=8, quick=False),
    _map("G3-wrapped-pairs-do-not-meet", (8, 8), window=4, shift=2, times=4.0),
    _map("G3-wrapped-on-a-line", (21,), window=7, shift=3, times=4.0),
    _map("G3-wrapped-in-a-video", (4, 4, 6), B=1, window=(2, 2, 3), shift=1, times=4.0),
    _map("G3-bias-of-minus-100", (8, 8), window=4, shift=2, wrap_bias=-100.0),
    _map(
        "G3-large-scores-outweigh-100",
        (8, 8),
        window=4,
        shift=2,
        wrap_bias=-100.0,
        scale=8.0,
        times=3.0,
    ),
    _map("G3-small-wrap-bias", (8, 8), window=4, shift=1, wrap_bias=-0.75, bias=True),
    _map("G3-wrap-bias-not-a-half", (8, 8), window=4, shift=1, wrap_bias=-0.1),
    _map("G3-wrap-bias-without-shift", (8, 8), window=4, wrap_bias=3.0),
    _map("G4-window-covers-one-axis", (8, 4), window=4, shift=2, bias=True),
    _map("G4-window-covers-the-other-axis", (4, 8), window=4, shift=2, bias=True),
    _map("G4-window-covers-the-map", (3, 3), window=4, shift=2, bias=True),
    _map("G4-window-is-the-map", (7, 7), window=7, shift=3),
    _map("G5-far-end-is-padded", (9, 14), window=7, bias=True),
    _map("G5-padded-and-shifted", (9, 14), window=7, shift=3, bias=True),
    _map("G5-padded-on-both-axes", (10, 10), window=4, shift=2),
    _map("G5-padded-and-shifted-with-a-wrap-bias", (10, 9), window=4, shift=2, wrap_bias=-100.0),
    _map("G5-padded-video", (3, 5, 5), B=1, window=(2, 3, 4), shift=(1, 2, 3)),
    _map("G6-key-mask", (8, 8), window=4, shift=2, key_mask=True, bias=True),
    _map("G6-scale-per-head", (8, 8), window=4, shift=2, scales=True, bias=True),
    _map("G6-key-mask-with-padding", (9, 5), window=4, shift=1, key_mask=True),
    _map("G6-scale", (8, 8), window=4, scale=0.7),
    _map("G7-no-batch", (8, 8), B=0, window=4, shift=2, bias=True),
    _table("G6-table-of-a-line", (5,)),
    _table("G6-table-of-an-image", (4, 3)),
    _table("G6-table-of-a-video", (2, 3, 2)),
)
