"""Teach a GPT-2 of two layers the Zen of Python, and let it recite.

    python examples/learning/zen.py --backend numpy

The text is in every Python, behind `import this`. The model reads characters and is
trained through attnref's gradients by torch, until it knows the text by heart. Then it is
given the first words and continues, each character computed once: keys and values of what
was read stay in the cache. Needs torch.
"""

import argparse
import codecs
import contextlib
import io
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from attnref.models import GPT2Config, gpt2, initialise

CONTEXT = 128
START = "Beautiful is better than "


@dataclass(frozen=True)
class Text:
    """A text as numbers.

    Attributes:
        letters: All characters that occur, sorted.
        ids: The text, as places in `letters`.
    """

    letters: str
    ids: np.ndarray

    @classmethod
    def of(cls, text: str) -> "Text":
        """Number the characters of a text."""
        letters = "".join(sorted(set(text)))
        return cls(letters, np.array([letters.index(c) for c in text]))

    def read(self, ids: list[int]) -> str:
        """Turn numbers into characters again."""
        return "".join(self.letters[n] for n in ids)


def zen() -> str:
    """Return the Zen of Python, without printing it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return codecs.decode(import_module("this").s, "rot13")


def configure(text: Text) -> GPT2Config:
    """Return the model for a text."""
    return GPT2Config(
        vocabulary=len(text.letters), positions=CONTEXT, width=64, layers=2, heads=4, hidden=256
    )


def train(
    text: Text, backend: str, *, steps: int, seed: int = 0
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train on random pieces of the text; return the parameters and every step's loss."""
    rng = np.random.default_rng(seed)
    config = configure(text)
    drawn = initialise(config, rng)
    p = {name: torch.from_numpy(x).requires_grad_() for name, x in drawn.items()}
    optimiser = torch.optim.AdamW(p.values(), lr=5e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        starts = rng.integers(0, len(text.ids) - CONTEXT, 16)
        piece = text.ids[starts[:, None] + np.arange(CONTEXT + 1)]
        found = gpt2.logits(p, config, piece[:, :-1], backend=backend)
        loss = cross_entropy(found.flatten(0, 1), torch.from_numpy(piece[:, 1:]).flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        losses.append(round(loss.item(), 5))
    return p, losses


def main() -> None:
    """Train on every backend, print the loss, and let the model recite."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", nargs="+", default=["numpy"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", metavar="FILE", help="write losses and texts there")
    said = parser.parse_args()
    text, runs = Text.of(zen()), []
    for backend in said.backend:
        begun = perf_counter()
        p, losses = train(text, backend, steps=said.steps)
        seconds = round(perf_counter() - begun, 1)
        prompt = [text.letters.index(c) for c in START]
        with torch.no_grad():
            (ids,) = gpt2.generate(p, configure(text), [prompt], steps=100, backend=backend)
        last = float(np.mean(losses[-20:]))
        print(f"{backend}: {last:.3f} nats a character after {said.steps} steps; it recites:")
        print(text.read(ids), flush=True)
        runs.append({"model": "zen", "backend": backend, "losses": losses, "seconds": seconds,
                     "recited": text.read(ids)})  # fmt: skip
        if said.json:
            Path(said.json).write_text(json.dumps(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
