"""What every replacement does: one call on the whole map, in the library's own convention.

The libraries cut a map `(B, *G, C)` into windows, project, attend, project and put the
windows back. Projections see one token at a time, so they may as well see the map; what
is left between them is `attnref.window_attention`. Three things remain to be kept:

- Libraries add -100 to wrapped pairs, not minus infinity (G3).
- Libraries attend to padding, whose keys and values are the biases of the projection. So
  a map that its window does not divide is padded before the projection (G5).
- timm rolls first and pads afterwards. Padding then stands in the middle of the map, and
  wraps elsewhere. Rolling the padded map back undoes the order: what attnref rolls next
  is what timm had, on every axis that has padding. An axis without any is not touched.
"""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

import attnref
from attnref.backend import Backend

WRAP_BIAS = -100.0
"""What Swin code adds to wrapped pairs."""

LOUDEST = math.log(100.0)
"""The logarithm of the largest scale of cosine attention."""

Extents = Sequence[int]
"""One number per spatial axis."""


class Cut(TypedDict):
    """How a module cuts its map, and what runs the call."""

    window: tuple[int, ...]
    shift: tuple[int, ...]
    backend: str | Backend | None


def covered(G: Extents, window: Extents, shift: Extents) -> bool:
    """Tell whether an axis is shifted that one window covers, as attnref never does (G4)."""
    return any(s > 0 and w >= g for g, w, s in zip(G, window, shift, strict=True))


def padded(
    x: Float[Tensor, "B *G C"], window: Extents, rolled: Extents | None = None
) -> Float[Tensor, "B *P C"]:
    """Pad a map at its far end to whole windows, as the library does.

    Args:
        x: The map.
        window: Tokens per axis in a window.
        rolled: The shift, where the library rolls before it pads.
    """
    far = [-g % w for g, w in zip(x.shape[1:-1], window, strict=True)]
    if not any(far):
        return x
    x = _roll(x, far, rolled, -1)
    x = functional.pad(x, (0, 0, *(n for f in reversed(far) for n in (0, f))))
    return _roll(x, far, rolled, 1)


def cropped(
    x: Float[Tensor, "B *P C"], G: Extents, rolled: Extents | None = None
) -> Float[Tensor, "B *G C"]:
    """Take the padding away again: the inverse of `padded`."""
    far = [p - g for p, g in zip(x.shape[1:-1], G, strict=True)]
    if not any(far):
        return x
    x = _roll(x, far, rolled, -1)
    x = x[:, *(slice(g) for g in G)]
    return _roll(x, far, rolled, 1)


def _roll(x: Tensor, far: Extents, rolled: Extents | None, sign: int) -> Tensor:
    if rolled is None:
        return x
    by = [sign * s if f else 0 for f, s in zip(far, rolled, strict=True)]
    return torch.roll(x, by, tuple(range(1, x.ndim - 1))) if any(by) else x


def attend_packed(
    qkv: Float[Tensor, "B *G thrice"], heads: int, **options: Any
) -> Float[Tensor, "B *G HD"]:
    """Attend inside the windows of a packed projection, whose last axis is `3 H D`."""
    packed = qkv.unflatten(-1, (3, heads, -1))
    return attnref.window_attention_qkv(packed, wrap_bias=WRAP_BIAS, **options).flatten(-2)


def attend(
    q: Float[Tensor, "B *G HD"],
    k: Float[Tensor, "B *G HD"],
    v: Float[Tensor, "B *G HD"],
    heads: int,
    *,
    masked: int = 1,
    **options: Any,
) -> Float[Tensor, "B *G HD"]:
    """Attend inside the windows of three projections; some add the mask more than once."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    out = attnref.window_attention(q, k, v, wrap_bias=masked * WRAP_BIAS, **options)
    return out.flatten(-2)


def attend_by_cosine(
    q: Float[Tensor, "B *G HD"],
    k: Float[Tensor, "B *G HD"],
    v: Float[Tensor, "B *G HD"],
    heads: int,
    *,
    logit_scale: Float[Tensor, "..."],
    **options: Any,
) -> Float[Tensor, "B *G HD"]:
    """Attend by the angle between query and key, times a learned scale per head."""
    q, k = (_unit(x, heads).to(v.dtype) for x in (q, k))  # autocast normalises in float32
    scale = torch.clamp(logit_scale, max=LOUDEST).exp().flatten()
    return attend(q, k, v, heads, scale=scale, **options)


def _unit(x: Float[Tensor, "B *G HD"], heads: int) -> Float[Tensor, "B *G HD"]:
    return functional.normalize(x.unflatten(-1, (heads, -1)), dim=-1).flatten(-2)


def continuous_bias(
    table: Float[Tensor, "R H"], index: Integer[Tensor, "N N"]
) -> Float[Tensor, "H N N"]:
    """Read version 2's biases from its table; they lie between 0 and 16."""
    return 16 * torch.sigmoid(table[index].permute(2, 0, 1))
