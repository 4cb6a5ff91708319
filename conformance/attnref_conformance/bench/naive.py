"""Attention in NumPy as one writes it down: all scores in memory, no tile, no thread."""

from typing import Any

import numpy as np

from attnref_conformance.bench.contenders import Absent, Given, Passes
from attnref_conformance.bench.machine import free_memory
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload, Workload

COPIES = 4
"""Arrays of the size of the scores that a pass holds at once."""


def prepare(w: AnyWorkload) -> Passes | Absent:
    """Return the passes of a workload, unless its scores do not fit into memory."""
    if w.dtype not in ("float32", "float64"):
        return Absent("multiplies no half precision")
    if isinstance(w, Workload) and w.softcap is not None:
        return Absent("no soft cap")
    needed, free = COPIES * 4 * w.call.all_pairs, free_memory()
    if free is not None and needed > free / 2:
        gib = 2**30
        return Absent(f"its scores need {needed / gib:.1f} GiB, and {free / gib:.1f} are free")
    run = _Maps(w) if isinstance(w, MapWorkload) else _Dense(w)
    return Passes(dict, run.forward, run.record, run.backward, np.asarray)


class _Dense:
    def __init__(self, w: Workload) -> None:
        self.w, self.scale = w, np.float32(w.columns**-0.5)
        self.hidden = _hidden(w)

    def weights(self, x: Given) -> tuple[Any, ...]:
        w = self.w
        group = w.heads // w.kv_heads
        k, v = (np.repeat(x[n], group, axis=1) if group > 1 else x[n] for n in ("k", "v"))
        s = (x["q"] @ k.swapaxes(-1, -2)) * self.scale
        if "bias" in x:
            s += x["bias"]
        hidden = self.hidden
        if "kv_lens" in x:
            past = np.arange(w.keys) >= x["kv_lens"][:, None, None, None]
            hidden = past if hidden is None else past | hidden
        return k, v, softmax(s if hidden is None else np.where(hidden, -np.inf, s))

    def forward(self, x: Given) -> Any:
        _, v, P = self.weights(x)
        return P @ v

    def record(self, x: Given) -> tuple[Any, Any, Any]:
        k, v, P = self.weights(x)
        out = P @ v
        return out, None, (x, k, v, P, out)

    def backward(self, state: Any) -> tuple[Any, ...]:
        x, k, v, P, out = state
        dq, dk, dv = gradients(x["q"], k, v, P, out, x["dout"], self.scale)
        group = self.w.heads // self.w.kv_heads
        if group > 1:
            dk, dv = (g.reshape(g.shape[0], -1, group, *g.shape[2:]).sum(2) for g in (dk, dv))
        return dq, dk, dv


class _Maps:
    def __init__(self, w: MapWorkload) -> None:
        self.w, self.scale = w, np.float32(w.columns**-0.5)
        n, R, shift = w.side // w.window, w.side, w.shift
        x = (np.arange(R) - shift) // w.window
        region = np.roll(x[:, None] * R + x, (-shift, -shift), (0, 1))
        cut = region.reshape(n, w.window, n, w.window).swapaxes(1, 2).reshape(n * n, 1, -1)
        self.hidden = (cut[..., None] != cut[..., None, :]) if shift else None

    def cut(self, x: Any) -> Any:
        """Turn maps `(B, R, R, ..., H, D)` into windows `(B, windows, ..., H, N, D)`."""
        w = self.w
        n = w.side // w.window
        rolled = np.roll(x, (-w.shift, -w.shift), (1, 2)) if w.shift else x
        parted = rolled.reshape(len(x), n, w.window, n, w.window, *x.shape[3:])
        parted = parted.swapaxes(2, 3).reshape(len(x), n * n, w.window**2, *x.shape[3:])
        return np.moveaxis(parted, 2, -2)

    def joined(self, x: Any) -> Any:
        """Undo `cut`."""
        w = self.w
        n = w.side // w.window
        whole = np.moveaxis(x, -2, 2)
        rest = whole.shape[3:]
        whole = whole.reshape(len(x), n, n, w.window, w.window, *rest).swapaxes(2, 3)
        whole = whole.reshape(len(x), w.side, w.side, *rest)
        return np.roll(whole, (w.shift, w.shift), (1, 2)) if w.shift else whole

    def weights(self, x: Given) -> tuple[Any, ...]:
        q, k, v = (self.cut(x["qkv"][:, :, :, n]) for n in range(3))
        s = (q @ k.swapaxes(-1, -2)) * self.scale + x["bias"]
        if self.hidden is not None:
            s = np.where(self.hidden, -np.inf, s)
        return q, k, v, softmax(s)

    def forward(self, x: Given) -> Any:
        _, _, v, P = self.weights(x)
        return self.joined(P @ v)

    def record(self, x: Given) -> tuple[Any, Any, Any]:
        q, k, v, P = self.weights(x)
        out = P @ v
        return self.joined(out), None, (x, q, k, v, P, out)

    def backward(self, state: Any) -> tuple[Any, ...]:
        x, q, k, v, P, out = state
        found = gradients(q, k, v, P, out, self.cut(x["dout"]), self.scale)
        return (np.stack([self.joined(g) for g in found], axis=3),)


def softmax(s: Any) -> Any:
    """Return the weights of scores."""
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gradients(q: Any, k: Any, v: Any, P: Any, out: Any, dout: Any, scale: Any) -> tuple[Any, ...]:
    """Pass a gradient back through stored weights."""
    dP = dout @ v.swapaxes(-1, -2)
    dS = P * (dP - (dout * out).sum(axis=-1, keepdims=True)) * scale
    return dS @ k, dS.swapaxes(-1, -2) @ q, P.swapaxes(-1, -2) @ dout


def _hidden(w: Workload) -> Any:
    """Return which pairs see nothing of each other, `(Sq, Sk)`."""
    if not w.causal and w.window is None:
        return None
    i, j = np.arange(w.queries)[:, None] + (w.keys - w.queries), np.arange(w.keys)
    hidden = j > i if w.causal else np.zeros((w.queries, w.keys), bool)
    return hidden if w.window is None else hidden | (j < i - w.window)
