"""Teach a small ViT and a small Swin to read handwritten digits, through attnref's gradients.

    python examples/learning/digits.py --backend numpy torch

The models are pages of `attnref.models`, and torch differentiates them: everything by its
own rules, and attention by the backend's backward pass. Data, weights and order are the
same for every backend. Needs torch and scikit-learn, which brings the digits: 1797 images
of 8 by 8, of which a quarter is kept for the test.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from attnref.models import Config, SwinConfig, ViTConfig, forward, initialise

MODELS: dict[str, Config] = {
    "vit": ViTConfig(
        image=(8, 8), patch=2, channels=1, width=48, layers=3, heads=4, hidden=96, classes=10,
        class_token=False, pool="mean",
    ),
    "swin": SwinConfig(
        image=(8, 8), patch=2, channels=1, width=32, depths=(2, 2), heads=(2, 4), window=2,
        classes=10,
    ),
}  # fmt: skip
EPOCHS = {"vit": 40, "swin": 24}
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images `(N, 8, 8, 1)` between -1 and 1, and what they show.

    Attributes:
        images: To learn from.
        labels: Of those.
        test_images: Never learned from.
        test_labels: Of those.
    """

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load() -> Digits:
    """Load the digits, split once and for all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images[..., None] / 8 - 1).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        pixels, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    return Digits(*map(torch.from_numpy, (x, y, x_test, y_test)))


def shifted(images: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Move every image by up to one pixel in each direction; what comes in is paper."""
    wide = torch.full((len(images), 10, 10, 1), -1.0)
    wide[:, 1:9, 1:9] = images
    down, right = torch.randint(3, (2, len(images), 1, 1), generator=chance)
    line = torch.arange(8)
    rows = torch.arange(len(images))[:, None, None]
    return wide[rows, line[:, None] + down, line + right]


def train(config: Config, digits: Digits, backend: str, *, seed: int, epochs: int) -> dict:
    """Train one model; return its losses, its test accuracy by epoch, and the seconds."""
    chance = torch.Generator().manual_seed(seed)
    drawn = initialise(config, np.random.default_rng(seed))
    parameters = {name: torch.from_numpy(x).requires_grad_() for name, x in drawn.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=3e-3, weight_decay=0.05)
    batches = len(digits.labels) // BATCH
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * batches)
    losses, accuracies, begun = [], [], perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(digits.labels), generator=chance)
        for batch in order[: batches * BATCH].split(BATCH):
            images = shifted(digits.images[batch], chance)
            found = forward(config, parameters, images, backend=backend)
            loss = cross_entropy(found, digits.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            losses.append(loss.detach())
        accuracies.append(accuracy(config, parameters, digits, backend))
    return {
        "losses": [round(x.item(), 5) for x in losses],
        "accuracies": accuracies,
        "seconds": round(perf_counter() - begun, 1),
    }


@torch.no_grad()
def accuracy(config: Config, parameters: dict, digits: Digits, backend: str) -> float:
    """Return the share of test images that are read rightly."""
    found = forward(config, parameters, digits.test_images, backend=backend)
    return float((found.argmax(-1) == digits.test_labels).float().mean())


def main() -> None:
    """Train on every backend with every seed, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", nargs="+", default=["numpy"])
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default: 40 of ViT, 24 of Swin")
    parser.add_argument("--json", metavar="FILE", help="write losses and accuracies there")
    said = parser.parse_args()
    digits, runs = load(), []
    for name in said.model:
        for backend in said.backend:
            ends = []
            for seed in range(said.seeds):
                epochs = said.epochs or EPOCHS[name]
                run = train(MODELS[name], digits, backend, seed=seed, epochs=epochs)
                runs.append({"model": name, "backend": backend, "seed": seed, **run})
                ends.append(run["accuracies"][-1])
            each = ", ".join(f"{x:.2%}" for x in ends)
            print(
                f"{name} on {backend}: {np.mean(ends):.2%} of the test images ({each})", flush=True
            )
            if said.json:
                Path(said.json).write_text(json.dumps(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
