"""Stands in for transformers' layer of Swin version 1 as it was cut before 5.9.

Beside a newer transformers, the class that takes that layer's place has nothing to take
the place of. This has the names of the old modules, of their parts and of their arguments,
and the old meaning, written down for these tests. It shows what the class does with such a
layer. That the layers of transformers 4 are such is seen beside them: where one is
installed, the same tests run on it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cut a map `(B, H, W, C)` into windows `(B * windows, window, window, C)`."""
    cut = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return cut.transpose(2, 3).flatten(0, 2)


class SwinSelfAttention(nn.Module):
    """Scaled products and a table of biases, inside windows."""

    def __init__(self, config: Any, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = num_heads, dim // num_heads
        self.window_size = (window_size, window_size)
        side = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side**2, num_heads))
        at = torch.cartesian_prod(*[torch.arange(window_size)] * 2)
        apart = at[:, None] - at + window_size - 1
        self.register_buffer("relative_position_index", side * apart[..., 0] + apart[..., 1])
        self.query, self.key, self.value = (
            nn.Linear(dim, dim, bias=config.qkv_bias) for _ in range(3)
        )
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        q, k, v = (
            project(hidden_states).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = q @ k.mT / math.sqrt(self.attention_head_size)
        scores = scores + self.relative_position_bias_table[self.relative_position_index].permute(
            2, 0, 1
        )
        if attention_mask is not None:
            by_map = scores.unflatten(0, (-1, len(attention_mask)))
            scores = (by_map + attention_mask[:, None]).flatten(0, 1)
        weights = self.dropout(scores.softmax(-1))
        if head_mask is not None:
            weights = weights * head_mask
        out = (weights @ v).transpose(1, 2).flatten(2)
        return (out, weights) if output_attentions else (out,)


class SwinSelfOutput(nn.Module):
    """The projection of what was attended to."""

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden_states))


class SwinAttention(nn.Module):
    """Both."""

    def __init__(self, config: Any, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.self = SwinSelfAttention(config, dim, num_heads, window_size)
        self.output = SwinSelfOutput(config, dim)

    def forward(self, hidden_states: Tensor, *asked: Any) -> tuple[Tensor, ...]:
        out, *weights = self.self(hidden_states, *asked)
        return (self.output(out, hidden_states), *weights)


class SwinLayer(nn.Module):
    """Pads, rolls, attends in windows, and undoes all that; then a network per token."""

    def __init__(
        self,
        config: Any,
        dim: int,
        input_resolution: tuple[int, int],
        num_heads: int,
        *,
        shift_size: int = 0,
    ) -> None:
        super().__init__()
        self.input_resolution = input_resolution
        self.window_size, self.shift_size = config.window_size, shift_size
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SwinAttention(config, dim, num_heads, self.window_size)
        self.drop_path = nn.Identity()
        self.intermediate = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU())
        self.output = nn.Linear(4 * dim, dim)

    def set_shift_and_window_size(self, input_resolution: tuple[int, int]) -> None:
        if min(input_resolution) <= self.window_size:
            self.shift_size, self.window_size = 0, min(input_resolution)

    def maybe_pad(self, x: Tensor, height: int, width: int) -> Tensor:
        return functional.pad(
            x, (0, 0, 0, -width % self.window_size, 0, -height % self.window_size)
        )

    def get_attn_mask(self, x: Tensor) -> Tensor | None:
        """Return -100 for pairs of a window that came from two ends of the map."""
        if self.shift_size == 0:
            return None
        rows, columns = (
            (torch.arange(g) >= g - self.window_size).long()
            + (torch.arange(g) >= g - self.shift_size)
            for g in x.shape[1:3]
        )
        regions = (3 * rows[:, None] + columns)[None, ..., None]
        regions = window_partition(regions, self.window_size).flatten(1)
        return -100.0 * (regions[:, None] != regions[..., None]).to(x)

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        always_partition: bool = False,
    ) -> tuple[Tensor, ...]:
        if not always_partition:
            self.set_shift_and_window_size(input_dimensions)
        height, width = input_dimensions
        x = self.layernorm_before(hidden_states).unflatten(1, input_dimensions)
        x = self.maybe_pad(x, height, width).roll((-self.shift_size,) * 2, (1, 2))
        windows = window_partition(x, self.window_size).flatten(1, 2)
        out, *weights = self.attention(windows, self.get_attn_mask(x), head_mask, output_attentions)
        across = x.shape[2] // self.window_size
        out = out.unflatten(1, (self.window_size,) * 2).unflatten(0, (len(x), -1, across))
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        out = out.roll((self.shift_size,) * 2, (1, 2))[:, :height, :width].flatten(1, 2)
        x = hidden_states + self.drop_path(out)
        return (x + self.output(self.intermediate(self.layernorm_after(x))), *weights)
