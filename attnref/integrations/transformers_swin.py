"""Hugging Face's Swin and Swin V2 layers.

A layer takes tokens in a row, and what is to be replaced stands in the middle of it, so
the whole layer is written down again around one call. Padding comes before the roll. The
shift is one number for both axes: version 1 drops it, and shrinks the window for good,
once either axis is no longer than the window; version 2 decided on the first axis when
the model was built. Version 2 adds -100 twice to wrapped pairs.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.swin import modeling_swin
from transformers.models.swinv2 import modeling_swinv2

from attnref.integrations.maps import (
    Cut,
    attend,
    attend_by_cosine,
    continuous_bias,
    covered,
    cropped,
    padded,
)
from attnref.integrations.replaced import Replaced
from attnref.integrations.sources import Prints

Tokens = Float[Tensor, "B S C"]
Map = Float[Tensor, "B H W C"]

UNDERSTOOD = frozenset({"output_attentions", "output_hidden_states", "return_dict"})
"""What a layer may be told without its attention being another."""

PADDING = frozenset({"92c2f7144880"})
PARTITION = frozenset({"ad458c13f938"})


class _Layer(Replaced):
    """What the two layers share: square windows and square shifts."""

    def _is_theirs(self, x: Tokens, G: tuple[int, int]) -> bool:
        """Tell whether transformers must run: the call asks for it, or so does the cut."""
        square = (self.window_size,) * 2, (self.shift_size,) * 2
        return self.runs_own_code(x) or covered(G, *square)

    def _cut(self) -> Cut:
        return {
            "window": (int(self.window_size),) * 2,
            "shift": (int(self.shift_size),) * 2,
            "backend": self.attnref_backend,
        }


class Layer(_Layer, modeling_swin.SwinLayer):
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


class LayerV2(_Layer, modeling_swinv2.Swinv2Layer):
    """Version 2: cosines, a learned scale, continuous biases, and no bias for keys."""

    replaces = modeling_swinv2.Swinv2Layer
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "attention": modeling_swinv2.Swinv2Attention,
        "attention.self": modeling_swinv2.Swinv2SelfAttention,
        "attention.self.dropout": nn.Dropout,
    }
    drops = "attention.self.dropout"
    sources: ClassVar[Prints] = {
        replaces.forward: frozenset({"9a013477bdec", "5bbf8026ceda"}),
        replaces.get_attn_mask: frozenset({"61865045a00e", "069b3902dd11"}),
        replaces.maybe_pad: PADDING,
        modeling_swinv2.Swinv2SelfAttention.forward: frozenset({"e6d194d5aea3"}),
        modeling_swinv2.Swinv2Attention.forward: frozenset({"d711851ee635"}),
        modeling_swinv2.window_partition: PARTITION,
    }

    def forward(
        self,
        hidden_states: Tokens,
        input_dimensions: tuple[int, int],
        output_attentions: bool | None = False,
    ) -> tuple[Tokens, ...]:
        """Take tokens one layer further; who wants attention weights gets theirs."""
        if output_attentions or self._is_theirs(hidden_states, input_dimensions):
            return super().forward(hidden_states, input_dimensions, output_attentions)
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
