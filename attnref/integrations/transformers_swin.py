"""Hugging Face's Swin layer, of version 1.

The shift is one number for both axes. Version 1 drops it, and shrinks the window for good,
once either axis is no longer than the window.

Known are 5.9 to 5.24. Before, the layer was cut into other modules: `transformers_swin4`.
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.swin import modeling_swin

from attnref.integrations.maps import attend, cropped, padded
from attnref.integrations.sources import Prints
from attnref.integrations.transformers_layer import PADDING, PARTITION, Map, SquareLayer, Tokens

UNDERSTOOD = frozenset({"output_attentions", "output_hidden_states", "return_dict"})
"""What a layer may be told without its attention being another."""


class Layer(SquareLayer, modeling_swin.SwinLayer):
    """Version 1: scaled products, and a table of biases."""

    replaces = modeling_swin.SwinLayer
    parts: ClassVar[dict[str, type[nn.Module]]] = {"attention": modeling_swin.SwinAttention}
    drops = "attention.attention_dropout"
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"2aff3d5f7bb3"}),
        replaces.set_shift_and_window_size: frozenset({"aa7a6ee2d609"}),
        replaces.get_attn_mask: frozenset({"dfc0247f586d", "ab01d82feec2"}),
        replaces.maybe_pad: PADDING,
        replaces.cyclic_shift: frozenset({"605e6496a5e3"}),
        modeling_swin.SwinAttention.forward: frozenset({"71488a2afd0f"}),
        modeling_swin.eager_attention_forward: frozenset({"d2eb787ff7a9"}),
        modeling_swin.window_partition: PARTITION,
    }

    def forward(
        self,
        hidden_states: Tokens,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        **kwargs: Any,
    ) -> tuple[Tokens, Tensor | None]:
        """Take tokens one layer further; attention weights are never returned from here."""
        if not always_partition:
            self.set_shift_and_window_size(input_dimensions)
        if self._is_theirs(hidden_states, input_dimensions) or self._asked_for_more(kwargs):
            return super().forward(hidden_states, input_dimensions, always_partition, **kwargs)
        x = self.layernorm_before(hidden_states).unflatten(1, input_dimensions)
        x = self.dropout(self._attended(x)).flatten(1, 2)
        x = hidden_states + self.drop_path(x)
        return self.dropout(self.mlp(self.layernorm_after(x))) + x, None

    def _asked_for_more(self, told: dict[str, Any]) -> bool:
        """Tell whether attention is wanted that is not the plain one, or its weights."""
        attention = self.attention
        config = attention.config
        weights = told.get("output_attentions", config.output_attentions)
        plain = modeling_swin.eager_attention_forward
        named = config._attn_implementation  # noqa: SLF001  # where transformers looks
        runs = ALL_ATTENTION_FUNCTIONS.get_interface(named, plain)
        return (
            bool(weights)
            or not UNDERSTOOD.issuperset(told)
            or runs not in (plain, sdpa_attention_forward)
            or self.window_size != attention.relative_position_bias.window_size[0]
        )

    def _attended(self, x: Map) -> Map:
        attention, G = self.attention, x.shape[1:3]
        x = padded(x, (self.window_size,) * 2)
        out = attend(
            attention.q_proj(x),
            attention.k_proj(x),
            attention.v_proj(x),
            attention.num_attention_heads,
            scale=attention.scaling,
            bias=attention.relative_position_bias().squeeze(0),
            **self._cut(),
        )
        return attention.o_proj(cropped(out, G))
