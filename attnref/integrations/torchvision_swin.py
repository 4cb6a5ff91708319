"""torchvision's shifted-window attention: of versions 1 and 2, and of videos.

The module that attends takes a map to a map. Padding comes before the roll, and the shift
is dropped on each axis that one window covers. On images the window stays as it is there;
on videos it shrinks to the map, and the table of biases is read for the smaller window.

Known are 0.15 to 0.29, which are of one print.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.models import swin_transformer
from torchvision.models.video import swin_transformer as video

from attnref.integrations.maps import (
    Cut,
    Extents,
    attend_by_cosine,
    attend_packed,
    cropped,
    padded,
)
from attnref.integrations.replaced import Replaced
from attnref.integrations.sources import Prints

Map = Float[Tensor, "B *G C"]


class _Attention(Replaced):
    """What the three share: the weights of projections, which are used without a call."""

    drops = "attention_dropout"

    def _projected(
        self, x: Map, window: Extents, bias: Tensor | None
    ) -> Float[Tensor, "B *P thrice"]:
        return functional.linear(padded(x, window), self.qkv.weight, bias)

    def _ended(self, x: Map, G: Extents) -> Map:
        x = functional.linear(cropped(x, G), self.proj.weight, self.proj.bias)
        return functional.dropout(x, p=self.dropout, training=self.training)

    def _cut(self, window: Extents, shift: Extents) -> Cut:
        """State the cut; attnref drops the shift where torchvision does (G4)."""
        return {
            "window": tuple(window),
            "shift": tuple(shift),
            "backend": self.attnref_backend,
        }


class Attention(_Attention, swin_transformer.ShiftedWindowAttention):
    """Version 1: scaled products, and a table of biases."""

    replaces = swin_transformer.ShiftedWindowAttention
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"7b138d7df367"}),
        swin_transformer.shifted_window_attention: frozenset({"4358a511bee8"}),
    }

    def forward(self, x: Map) -> Map:
        """Attend inside the windows of a map."""
        if self.runs_own_code(x):
            return super().forward(x)
        out = attend_packed(
            self._projected(x, self.window_size, self.qkv.bias),
            self.num_heads,
            bias=self.get_relative_position_bias().squeeze(0),
            **self._cut(self.window_size, self.shift_size),
        )
        return self._ended(out, x.shape[1:-1])


class AttentionV2(_Attention, swin_transformer.ShiftedWindowAttentionV2):
    """Version 2: cosines, a learned scale, continuous biases, and no bias for keys."""

    replaces = swin_transformer.ShiftedWindowAttentionV2
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"38c5ae614489"}),
        swin_transformer.shifted_window_attention: frozenset({"4358a511bee8"}),
    }

    def forward(self, x: Map) -> Map:
        """Attend inside the windows of a map."""
        if self.runs_own_code(x):
            return super().forward(x)
        q, k, v = self._projected(x, self.window_size, self._bias()).chunk(3, dim=-1)
        out = attend_by_cosine(
            q,
            k,
            v,
            self.num_heads,
            logit_scale=self.logit_scale,
            bias=self.get_relative_position_bias().squeeze(0),
            **self._cut(self.window_size, self.shift_size),
        )
        return self._ended(out, x.shape[1:-1])

    def _bias(self) -> Float[Tensor, " thrice"] | None:
        """Hide the biases of the keys, whatever they are: they get a gradient of zero."""
        bias = self.qkv.bias
        if bias is None:
            return None
        bias = bias.clone()
        C = bias.numel() // 3
        bias[C : 2 * C].zero_()
        return bias


class Attention3d(_Attention, video.ShiftedWindowAttention3d):
    """Version 1 on videos."""

    replaces = video.ShiftedWindowAttention3d
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"4799740a2352"}),
        video.shifted_window_attention_3d: frozenset({"fe7685c453eb"}),
        video._get_window_and_shift_size: frozenset({"8ea6cd82ffc3"}),  # noqa: SLF001
        video._compute_pad_size_3d: frozenset({"8b0179ff5c3b"}),  # noqa: SLF001
        video._compute_attention_mask_3d: frozenset({"56b8763ab55e"}),  # noqa: SLF001
    }

    def forward(self, x: Map) -> Map:
        """Attend inside the windows of a video."""
        if self.runs_own_code(x):
            return super().forward(x)
        G = x.shape[1:-1]
        window = [min(g, w) for g, w in zip(G, self.window_size, strict=True)]
        shift = [0 if g <= w else s for g, w, s in zip(G, window, self.shift_size, strict=True)]
        out = attend_packed(
            self._projected(x, window, self.qkv.bias),
            self.num_heads,
            bias=self.get_relative_position_bias(window).squeeze(0),
            **self._cut(window, shift),
        )
        return self._ended(out, G)
