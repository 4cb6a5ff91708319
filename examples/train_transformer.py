"""Train one small transformer on several backends, and hold their loss curves together.

    python examples/train_transformer.py triton torch

The task is to repeat: the second half of a sequence is its first half again, which one
layer alone cannot learn. Everything but the backend is the same in every run: weights,
data, optimiser. The backends round in different orders, so that curves part by a little.
"""

import argparse
import json

import torch
from torch import nn
from torch.nn import functional

import attnref

WORDS, HALF, WIDTH, HEADS, KV_HEADS, LAYERS = 64, 64, 256, 4, 2, 3


class Block(nn.Module):
    """Attention with grouped heads and a soft cap, then an MLP, each normalised before."""

    def __init__(self, backend: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.backend, self.dtype = backend, dtype
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, WIDTH // HEADS * (HEADS + 2 * KV_HEADS))
        self.sinks = nn.Parameter(torch.zeros(HEADS))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take tokens `(B, S, WIDTH)` one layer further."""
        heads = self.qkv(self.before_attention(x)).to(self.dtype)
        heads = heads.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
        q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        found = attnref.attention(
            q, k, v, causal=True, softcap=30.0, sinks=self.sinks.to(self.dtype),
            backend=self.backend,
        )  # fmt: skip
        x = x + self.out(found.transpose(1, 2).flatten(2).to(x.dtype))
        return x + self.mlp(self.before_mlp(x))


class Transformer(nn.Module):
    """Token and position embeddings, blocks, and a head."""

    def __init__(self, backend: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.tokens = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(2 * HALF, WIDTH)
        self.blocks = nn.Sequential(*(Block(backend, dtype) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Predict the next of each of the words `(B, S)`."""
        places = torch.arange(words.shape[1], device=words.device)
        return self.head(self.blocks(self.tokens(words) + self.positions(places)))


def train(backend: str, steps: int, device: str, dtype: torch.dtype) -> list[float]:
    """Return the loss of every step, over the half that can be known."""
    torch.manual_seed(0)
    model = Transformer(backend, dtype).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        half = torch.randint(WORDS, (64, HALF)).to(device)
        words = torch.cat([half, half], dim=1)
        known = model(words[:, :-1])[:, HALF - 1 :]
        loss = functional.cross_entropy(known.flatten(0, 1), words[:, HALF:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return [x.item() for x in losses]


def main() -> None:
    """Train on each backend, and print the curves side by side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backends", nargs="+")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--json", type=argparse.FileType("w"), metavar="FILE")
    said = parser.parse_args()
    dtype = getattr(torch, said.dtype)
    curves = {name: train(name, said.steps, said.device, dtype) for name in said.backends}
    print("step", *curves, sep="\t")
    for step in range(0, said.steps, max(1, said.steps // 16)):
        print(step, *(f"{curve[step]:.4f}" for curve in curves.values()), sep="\t")
    first, *others = curves.values()
    apart = [abs(x - y) for other in others for x, y in zip(first, other, strict=True)]
    print(f"furthest apart: {max(apart, default=0.0):.4f}; last losses:", end=" ")
    print(*(f"{name} {curve[-1]:.4f}" for name, curve in curves.items()), sep=", ")
    if said.json:
        json.dump({"dtype": said.dtype, "curves": curves}, said.json, indent=1)


if __name__ == "__main__":
    main()
