"""Hugging Face's Swin V2 layer.

The shift is one number for both axes, decided on the first when the model was built. The
mask is added twice, so that wrapped pairs get -200.

Known are 4.40 to 5.24. What changed in between: arguments (a mask of heads until 4.57),
the device of the mask and how its regions are counted, and `view` with `transpose` in
place of a method that did the same.
"""

from typing import Any, ClassVar

from torch import nn
from transformers.models.swinv2 import modeling_swinv2

from attnref.integrations.maps import attend_by_cosine, continuous_bias, cropped, padded
from attnref.integrations.sources import Prints
from attnref.integrations.transformers_layer import (
    PADDING,
    PARTITION,
    Map,
    SquareLayer,
    Tokens,
    asks,
)


class LayerV2(SquareLayer, modeling_swinv2.Swinv2Layer):
    """Version 2: cosines, a learned scale, continuous biases, and no bias for keys."""

    replaces = modeling_swinv2.Swinv2Layer
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attention": modeling_swinv2.Swinv2Attention,
        "attention.self": modeling_swinv2.Swinv2SelfAttention,
        "attention.self.dropout": nn.Dropout,
    }
    drops = "attention.self.dropout"
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"c52f64a5ac7b", "9a013477bdec", "5bbf8026ceda"}),
        replaces.get_attn_mask: frozenset(
            {"7851d4b5c6d2", "61865045a00e", "b0caadc889c7", "069b3902dd11"}
        ),
        replaces.maybe_pad: PADDING,
        modeling_swinv2.Swinv2SelfAttention.forward: frozenset(
            {"b1ec81e4781c", "ea64dfb98a1d", "e6d194d5aea3"}
        ),
        modeling_swinv2.Swinv2Attention.forward: frozenset({"1645f4c1bd28", "d711851ee635"}),
        modeling_swinv2.window_partition: PARTITION,
    }

    def forward(
        self,
        hidden_states: Tokens,
        input_dimensions: tuple[int, int],
        *asked: Any,
        **named: Any,
    ) -> tuple[Tokens, ...]:
        """Take tokens one layer further; who asks for more than that gets theirs.

        Attention weights may be asked for, and before transformers 5 a mask of heads
        stood in front of them.
        """
        more = asks((*asked, *named.values()))
        if more or self._is_theirs(hidden_states, input_dimensions):
            return super().forward(hidden_states, input_dimensions, *asked, **named)
        x = self._attended(hidden_states.unflatten(1, input_dimensions)).flatten(1, 2)
        x = hidden_states + self.drop_path(self.layernorm_before(x))
        y = self.output(self.intermediate(x))
        return (x + self.drop_path(self.layernorm_after(y)),)

    def _attended(self, x: Map) -> Map:
        attention, heads, G = (
            self.attention.self,
            self.attention.self.num_attention_heads,
            x.shape[1:3],
        )
        whole = padded(x, (self.window_size,) * 2)
        table = attention.continuous_position_bias_mlp(attention.relative_coords_table)
        out = attend_by_cosine(
            attention.query(whole),
            attention.key(whole),
            attention.value(whole),
            heads,
            logit_scale=attention.logit_scale,
            bias=continuous_bias(table.view(-1, heads), attention.relative_position_index),
            masked=2,
            **self._cut(),
        )
        return self.attention.output(cropped(out, G), x)
