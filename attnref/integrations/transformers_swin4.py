"""Hugging Face's Swin layer, of version 1, as transformers 4 cut it, and 5 until 5.8.

The shift is one number for both axes. Version 1 drops it, and shrinks the window for good,
once either axis is no longer than the window. Attention is a module inside a module, as in
version 2, and always eager.

Known are 4.40 to 5.8. What changed in between: arguments (a mask of heads until 4.57), the
device of the mask, what a tracer sees of a small map, and `view` with `transpose` in place
of a method that did the same.
"""

from inspect import signature
from typing import Any, ClassVar

from torch import nn
from transformers.models.swin import modeling_swin

from attnref.integrations.maps import attend, cropped, padded
from attnref.integrations.sources import Prints
from attnref.integrations.transformers_layer import (
    PADDING,
    PARTITION,
    Map,
    SquareLayer,
    Tokens,
    asks,
)

ASKED = tuple(signature(modeling_swin.SwinLayer.forward).parameters)[3:]
"""What a layer may be asked for behind its tokens and their map, in the release's order."""


class Layer(SquareLayer, modeling_swin.SwinLayer):
    """Version 1: scaled products, and a table of biases."""

    replaces = modeling_swin.SwinLayer
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attention": modeling_swin.SwinAttention,
        "attention.self": modeling_swin.SwinSelfAttention,
        "attention.self.dropout": nn.Dropout,
    }
    drops = "attention.self.dropout"
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"b92df6ea6935", "fe693ae88230", "be6544e6d606"}),
        replaces.set_shift_and_window_size: frozenset({"993a305af03d", "aa7a6ee2d609"}),
        replaces.get_attn_mask: frozenset({"7851d4b5c6d2", "d92af173cc9b", "dfc0247f586d"}),
        replaces.maybe_pad: PADDING,
        modeling_swin.SwinSelfAttention.forward: frozenset(
            {"ebfae31c96f9", "b96bd61ac6fd", "141f23b8f4e1"}
        ),
        modeling_swin.SwinAttention.forward: frozenset({"1645f4c1bd28", "d711851ee635"}),
        modeling_swin.window_partition: PARTITION,
    }

    def forward(
        self,
        hidden_states: Tokens,
        input_dimensions: tuple[int, int],
        *asked: Any,
        **named: Any,
    ) -> tuple[Tokens, ...]:
        """Take tokens one layer further; who asks for more than to cut always gets theirs."""
        told = dict(zip(ASKED, asked, strict=False)) | named
        if not told.pop("always_partition", False):
            self.set_shift_and_window_size(input_dimensions)
        theirs = asks(told.values()) or self._is_theirs(hidden_states, input_dimensions)
        if theirs or self._misfits():
            return super().forward(hidden_states, input_dimensions, *asked, **named)
        x = self.layernorm_before(hidden_states).unflatten(1, input_dimensions)
        x = hidden_states + self.drop_path(self._attended(x).flatten(1, 2))
        return (x + self.output(self.intermediate(self.layernorm_after(x))),)

    def _misfits(self) -> bool:
        """Tell whether the table is of another window, or of heads that were pruned."""
        attention = self.attention.self
        table = attention.relative_position_bias_table
        return table.shape != ((2 * self.window_size - 1) ** 2, attention.num_attention_heads)

    def _attended(self, x: Map) -> Map:
        attention, G = self.attention.self, x.shape[1:3]
        whole = padded(x, (self.window_size,) * 2)
        table = attention.relative_position_bias_table
        out = attend(
            attention.query(whole),
            attention.key(whole),
            attention.value(whole),
            attention.num_attention_heads,
            scale=attention.attention_head_size**-0.5,
            bias=table[attention.relative_position_index].permute(2, 0, 1),
            **self._cut(),
        )
        return self.attention.output(cropped(out, G), x)
