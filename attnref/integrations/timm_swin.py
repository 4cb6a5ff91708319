"""timm's Swin blocks: of version 1, of version 2, and Christoph Reich's of version 2.

A block takes a map to a map in one method, so that it is all there is to replace. The
window and its shift were fitted to the input size when the model was built, axis by axis,
and so was the mask, unless the model takes maps of any size. timm rolls a map before it
pads it.

Known are 1.0.8 to 1.0.31. Earlier versions keep the mask in the constructor; their second
versions do not pad. Prints of the mask follow each other by 1.0.21, where device and dtype
became arguments, and 1.0.31, where the mask of the foreseen map is rounded up to windows:
before, version 2 could not be built for a map that its window does not divide.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from timm.models import swin_transformer, swin_transformer_v2, swin_transformer_v2_cr
from torch import Tensor, nn
from torch.nn import functional

from attnref.integrations.maps import (
    Cut,
    attend_by_cosine,
    attend_packed,
    continuous_bias,
    covered,
    cropped,
    padded,
)
from attnref.integrations.replaced import Replaced
from attnref.integrations.sources import Prints

Map = Float[Tensor, "B H W C"]

PARTITION = frozenset({"74e744e26434"})
"""All three files cut a map in the same words."""


class _Block(Replaced):
    """What the three blocks share: a map that was foreseen, and how it is cut."""

    drops = "attn.attn_drop"

    def _is_timms(self, x: Map, foreseen: tuple[int, int]) -> bool:
        """Tell whether timm must run: the call asks for it, or the cut cannot be said."""
        if self.runs_own_code(x):
            return True
        G, window, shift = x.shape[1:3], self.window_size, self.shift_size
        fits = getattr(self, "dynamic_mask", False) or all(
            -(-g // w) == -(-f // w) for g, w, f in zip(G, window, foreseen, strict=True)
        )
        return any(shift) and (not fits or covered(G, window, shift))

    def _cut(self) -> Cut:
        return {
            "window": tuple(self.window_size),
            "shift": tuple(self.shift_size),
            "backend": self.attnref_backend,
        }


class Block(_Block, swin_transformer.SwinTransformerBlock):
    """Version 1: scaled products, and a table of biases."""

    replaces = swin_transformer.SwinTransformerBlock
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attn": swin_transformer.WindowAttention,
        "attn.softmax": nn.Softmax,
        "attn.attn_drop": nn.Dropout,
    }
    sources: ClassVar[Prints] = {
        replaces._attn: frozenset({"1729d45df45b"}),  # noqa: SLF001  # what is replaced
        replaces.get_attn_mask: frozenset({"16b51a8a353e", "338270c0e8ce", "ded0a17b976e"}),
        swin_transformer.WindowAttention.forward: frozenset({"1c7c9afb1fe0"}),
        swin_transformer.window_partition: PARTITION,
    }

    def _attn(self, x: Map) -> Map:
        if self._is_timms(x, self.input_resolution):
            return super()._attn(x)
        attn, G = self.attn, x.shape[1:3]
        qkv = attn.qkv(padded(x, self.window_size, rolled=self.shift_size))
        bias = attn._get_rel_pos_bias().squeeze(0)  # noqa: SLF001  # timm's own reading
        x = attend_packed(qkv, attn.num_heads, scale=attn.scale, bias=bias, **self._cut())
        return attn.proj_drop(attn.proj(cropped(x, G, rolled=self.shift_size)))


class BlockV2(_Block, swin_transformer_v2.SwinTransformerV2Block):
    """Version 2: cosines, a learned scale, continuous biases, and no bias for keys."""

    replaces = swin_transformer_v2.SwinTransformerV2Block
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attn": swin_transformer_v2.WindowAttention,
        "attn.softmax": nn.Softmax,
        "attn.attn_drop": nn.Dropout,
    }
    sources: ClassVar[Prints] = {
        replaces._attn: frozenset({"a2366c403bfa"}),  # noqa: SLF001  # what is replaced
        replaces.get_attn_mask: frozenset({"f41ac6bf4be1", "1d36a08db3b9", "f94db34fc30a"}),
        swin_transformer_v2.WindowAttention.forward: frozenset({"222a933229fa"}),
        swin_transformer_v2.window_partition: PARTITION,
    }

    def _attn(self, x: Map) -> Map:
        if self._is_timms(x, self.input_resolution):
            return super()._attn(x)
        attn, G = self.attn, x.shape[1:3]
        x = self._projected(padded(x, self.window_size, rolled=self.shift_size))
        q, k, v = x.chunk(3, dim=-1)
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        x = attend_by_cosine(
            q,
            k,
            v,
            attn.num_heads,
            logit_scale=attn.logit_scale,
            bias=continuous_bias(table, attn.relative_position_index),
            **self._cut(),
        )
        return attn.proj_drop(attn.proj(cropped(x, G, rolled=self.shift_size)))

    def _projected(self, x: Map) -> Float[Tensor, "B H W thrice"]:
        """Project as timm does: the biases are parameters of their own, the keys' a zero."""
        attn = self.attn
        if attn.q_bias is None:
            return attn.qkv(x)
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        if attn.qkv_bias_separate:
            return attn.qkv(x) + bias
        return functional.linear(x, weight=attn.qkv.weight, bias=bias)


class BlockV2Cr(_Block, swin_transformer_v2_cr.SwinTransformerV2CrBlock):
    """Version 2 by Christoph Reich: biases by a network of another shape, without a bound."""

    replaces = swin_transformer_v2_cr.SwinTransformerV2CrBlock
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attn": swin_transformer_v2_cr.WindowMultiHeadAttention,
        "attn.attn_drop": nn.Dropout,
    }
    sources: ClassVar[Prints] = {
        replaces._shifted_window_attn: frozenset({"afd4b7beb6ad"}),  # noqa: SLF001
        replaces.get_attn_mask: frozenset({"cd7bf1234f98", "6fcdb5f674e3", "95172cd6832e"}),
        swin_transformer_v2_cr.WindowMultiHeadAttention.forward: frozenset({"250895167a71"}),
        swin_transformer_v2_cr.window_partition: PARTITION,
    }

    def _shifted_window_attn(self, x: Map) -> Map:
        if self._is_timms(x, self.feat_size):
            return super()._shifted_window_attn(x)
        attn, G = self.attn, x.shape[1:3]
        q, k, v = attn.qkv(padded(x, self.window_size, rolled=self.shift_size)).chunk(3, dim=-1)
        x = attend_by_cosine(
            q,
            k,
            v,
            attn.num_heads,
            logit_scale=attn.logit_scale,
            bias=attn._relative_positional_encodings().squeeze(0),  # noqa: SLF001
            **self._cut(),
        )
        return attn.proj_drop(attn.proj(cropped(x, G, rolled=self.shift_size)))
