"""Teach a single block to read digits in plain NumPy, with every gradient written out.

    python examples/learning/one_block.py --backend numpy

The model is `attnref.models.vit` with one layer and without a class token. What torch does
for `digits.py` is done by hand here: each function goes forward and returns how to go back.
Only attention is not written out. Its gradient is `attnref.attention_backward`, which needs
no stored weights, only the output and the log-sum-exp. Needs scikit-learn for the digits.

Letters: `B` images, `S` patches, `C` channels.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

import attnref
from attnref.models import ViTConfig, arithmetic, initialise, vit

CONFIG = ViTConfig(
    image=(8, 8), patch=2, channels=1, width=48, layers=1, heads=4, hidden=192, classes=10,
    class_token=False, pool="mean",
)  # fmt: skip
BATCH = 64

Arrays = dict[str, np.ndarray]
Back = Callable[[np.ndarray], np.ndarray]
"""From the gradient of a result to the gradient of what it was made of."""


def affine(p: Arrays, g: Arrays, name: str, x: np.ndarray) -> tuple[np.ndarray, Back]:
    """Multiply by a matrix and add a vector: dx = dy W, dW = dy^T x, db = sum dy."""
    w = p[f"{name}.weight"]

    def back(dy: np.ndarray) -> np.ndarray:
        rows = dy.reshape(-1, dy.shape[-1])
        g[f"{name}.weight"] = rows.T @ x.reshape(-1, x.shape[-1])
        g[f"{name}.bias"] = rows.sum(axis=0)
        return dy @ w

    return x @ w.T + p[f"{name}.bias"], back


def layer_norm(p: Arrays, g: Arrays, name: str, x: np.ndarray) -> tuple[np.ndarray, Back]:
    """Normalise: with n = (x - mean) / d, dx = (dn - mean dn - n mean(n dn)) / d."""
    centred = x - x.mean(axis=-1, keepdims=True)
    d = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + CONFIG.epsilon)
    n = centred / d

    def back(dy: np.ndarray) -> np.ndarray:
        axes = tuple(range(dy.ndim - 1))
        g[f"{name}.weight"], g[f"{name}.bias"] = (dy * n).sum(axis=axes), dy.sum(axis=axes)
        dn = dy * p[f"{name}.weight"]
        along = (n * dn).mean(axis=-1, keepdims=True)
        return (dn - dn.mean(axis=-1, keepdims=True) - n * along) / d

    return n * p[f"{name}.weight"] + p[f"{name}.bias"], back


def gelu(x: np.ndarray) -> tuple[np.ndarray, Back]:
    """Let through what a normal variable stays below: dx = (Phi(x) + x phi(x)) dy."""
    below = 0.5 * (1.0 + arithmetic.erf(x * np.sqrt(0.5).astype(x.dtype)))
    slope = below + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi).astype(x.dtype)
    return x * below, lambda dy: dy * slope


def attention(p: Arrays, g: Arrays, x: np.ndarray, backend: str) -> tuple[np.ndarray, Back]:
    """Attend; back through attention itself goes `attnref.attention_backward`."""
    B, S, C = x.shape
    qkv, back_qkv = affine(p, g, "blocks.0.attention.qkv", x)
    q, k, v = qkv.reshape(B, S, 3, CONFIG.heads, -1).transpose(2, 0, 3, 1, 4)
    out, lse = attnref.attention_with_lse(q, k, v, backend=backend)
    joined = out.swapaxes(1, 2).reshape(B, S, C)
    y, back_output = affine(p, g, "blocks.0.attention.output", joined)

    def back(dy: np.ndarray) -> np.ndarray:
        dout = back_output(dy).reshape(B, S, CONFIG.heads, -1).swapaxes(1, 2)
        gradients = attnref.attention_backward(dout, q, k, v, out, lse, backend=backend)
        dqkv = np.stack(gradients[:3]).transpose(1, 3, 0, 2, 4).reshape(B, S, 3 * C)
        return back_qkv(dqkv)

    return y, back


def mlp(p: Arrays, g: Arrays, x: np.ndarray) -> tuple[np.ndarray, Back]:
    """Transform every token alone."""
    up, back_up = affine(p, g, "blocks.0.mlp.up", x)
    bent, back_gelu = gelu(up)
    down, back_down = affine(p, g, "blocks.0.mlp.down", bent)
    return down, lambda dy: back_up(back_gelu(back_down(dy)))


def loss_and_gradients(
    p: Arrays, images: np.ndarray, labels: np.ndarray, backend: str
) -> tuple[float, Arrays]:
    """Run the model on images `(B, 8, 8, 1)` and all the way back."""
    g: Arrays = {}
    B, P = len(images), CONFIG.patch
    cut = images.reshape(B, 8 // P, P, 8 // P, P, 1).transpose(0, 1, 3, 5, 2, 4)
    cut = cut.reshape(B, -1, P * P)
    kernel = {**p, "patches.weight": p["patches.weight"].reshape(CONFIG.width, -1)}
    x, back_patches = affine(kernel, g, "patches", cut)
    x = x + p["positions"]
    n, back_norm1 = layer_norm(p, g, "blocks.0.norm1", x)
    y, back_attention = attention(p, g, n, backend)
    x = x + y
    n, back_norm2 = layer_norm(p, g, "blocks.0.norm2", x)
    y, back_mlp = mlp(p, g, n)
    x = x + y
    n, back_norm = layer_norm(p, g, "norm", x.mean(axis=1))
    logits, back_head = affine(p, g, "head", n)
    loss, dlogits = cross_entropy(logits, labels)

    dx = np.broadcast_to(back_norm(back_head(dlogits))[:, None] / x.shape[1], x.shape)
    dx = dx + back_norm2(back_mlp(dx))
    dx = dx + back_norm1(back_attention(dx))
    g["positions"] = dx.sum(axis=0)
    back_patches(dx)
    g["patches.weight"] = g["patches.weight"].reshape(p["patches.weight"].shape)
    return loss, g


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of -log softmax at the labels, and its gradient: softmax - label."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=-1, keepdims=True)
    share = np.exp(shifted)
    share = share / share.sum(axis=-1, keepdims=True)
    loss = -np.log(share[rows, labels]).mean()
    share[rows, labels] -= 1
    return float(loss), share / len(labels)


def train(
    data: tuple[np.ndarray, ...], backend: str, *, seed: int, epochs: int, rate: float = 3e-3
) -> dict:
    """Train with Adam; return losses, test accuracy by epoch, and the seconds."""
    images, labels, test_images, test_labels = data
    rng, begun = np.random.default_rng(seed), perf_counter()
    p = initialise(CONFIG, rng)
    mean = {name: np.zeros_like(x) for name, x in p.items()}
    square = {name: np.zeros_like(x) for name, x in p.items()}
    losses, accuracies, step = [], [], 0
    steps = epochs * (len(labels) // BATCH)
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for batch in np.split(order, range(BATCH, len(order), BATCH))[: len(order) // BATCH]:
            loss, g = loss_and_gradients(p, images[batch], labels[batch], backend)
            step += 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for name, x in p.items():
                mean[name] += 0.1 * (g[name] - mean[name])
                square[name] += 0.01 * (g[name] ** 2 - square[name])
                m, s = mean[name] / (1 - 0.9**step), square[name] / (1 - 0.99**step)
                p[name] = x - np.float32(now) * m / (np.sqrt(s) + 1e-8)
            losses.append(round(loss, 5))
        found = vit.logits(p, CONFIG, test_images, backend=backend)
        accuracies.append(float((found.argmax(-1) == test_labels).mean()))
    seconds = round(perf_counter() - begun, 1)
    return {"losses": losses, "accuracies": accuracies, "seconds": seconds}


def main() -> None:
    """Train with every seed, and print the accuracies."""
    from digits import load  # the same images, as tensors

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", nargs="+", default=["numpy"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", metavar="FILE", help="write losses and accuracies there")
    said = parser.parse_args()
    data, runs = tuple(x.numpy() for x in vars(load()).values()), []
    for backend in said.backend:
        for seed in range(said.seeds):
            run = train(data, backend, seed=seed, epochs=said.epochs)
            runs.append({"model": "one block", "backend": backend, "seed": seed, **run})
        ends = [run["accuracies"][-1] for run in runs[-said.seeds :]]
        each = ", ".join(f"{x:.2%}" for x in ends)
        print(
            f"one block on {backend}: {np.mean(ends):.2%} of the test images ({each})", flush=True
        )
    if said.json:
        Path(said.json).write_text(json.dumps(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
