"""GPT-2 and BERT of `attnref.models` compute what those of transformers compute."""

import numpy as np
import pytest
import torch
import transformers

from attnref.models import BERTConfig, GPT2Config, bert, gpt2, load

from .drawn_models import BACKENDS, LIMIT, in_numpy, loud

SMALL = {"vocabulary": 31, "positions": 24, "width": 32, "layers": 3, "heads": 4, "hidden": 48}

every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def their_gpt2():
    """A small GPT-2 of transformers."""
    config = transformers.GPT2Config(
        vocab_size=31, n_positions=24, n_embd=32, n_layer=3, n_head=4, n_inner=48,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return loud(transformers.GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def their_bert():
    """A small BERT of transformers with a head for words."""
    config = transformers.BertConfig(
        vocab_size=31, max_position_embeddings=24, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=48,
    )  # fmt: skip
    return loud(transformers.BertForMaskedLM(config))


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    """Two rows of tokens."""
    return np.random.default_rng(0).integers(0, 31, (2, 11))


@every_backend
def test_gpt2_gives_the_logits_of_transformers(their_gpt2, ids, backend):
    """Every logit agrees, with the same random weights."""
    config = GPT2Config(**SMALL)
    parameters = load(config, in_numpy(their_gpt2.state_dict()), source="huggingface")
    expected = their_gpt2(torch.from_numpy(ids)).logits.detach().numpy()

    actual = gpt2.logits(parameters, config, ids, backend=backend)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@every_backend
def test_gpt2_continues_a_text_as_transformers_does(their_gpt2, ids, backend):
    """The likeliest tokens are the same ones, by either cache."""
    config = GPT2Config(**SMALL)
    parameters = load(config, in_numpy(their_gpt2.state_dict()), source="huggingface")
    start = torch.from_numpy(ids[:1, :5])
    greedy = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = their_gpt2.generate(start, attention_mask=torch.ones_like(start), **greedy)

    actual = gpt2.generate(parameters, config, ids[:1, :5].tolist(), steps=8, backend=backend)

    assert expected.tolist() == actual


@every_backend
def test_bert_gives_the_logits_of_transformers(their_bert, ids, backend):
    """Words are predicted alike, in a batch of unequal lengths and two segments."""
    config = BERTConfig(**SMALL, pooler=False, words=True)
    parameters = load(config, in_numpy(their_bert.state_dict()), source="huggingface")
    lens, segments = np.array([11, 6]), (np.arange(11) > 4).astype(int)[None].repeat(2, 0)
    mask = np.arange(11) < lens[:, None]
    theirs = their_bert(
        torch.from_numpy(ids), torch.from_numpy(mask).int(), torch.from_numpy(segments)
    )
    expected = theirs.logits.detach().numpy()

    states = bert.states(parameters, config, ids, lens=lens, segments=segments, backend=backend)
    actual = bert.words(parameters, config, states)

    np.testing.assert_allclose(actual[mask], expected[mask], rtol=0, atol=LIMIT)


def test_bert_pools_a_sentence_as_transformers_does(ids):
    """The first token's state goes through the pooler."""
    config = BERTConfig(**SMALL)
    small = transformers.BertConfig(
        vocab_size=31, max_position_embeddings=24, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=48,
    )  # fmt: skip
    theirs = loud(transformers.BertModel(small))
    parameters = load(config, in_numpy(theirs.state_dict()), source="huggingface")
    expected = theirs(torch.from_numpy(ids)).pooler_output.detach().numpy()

    actual = bert.pooled(parameters, bert.states(parameters, config, ids, backend="numpy"))

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_files_that_transformers_saves_are_read(their_gpt2, their_bert, kind, tmp_path):
    """A safetensors file holds the same parameters, under the names of published files."""
    theirs = their_gpt2 if kind == "gpt2" else their_bert
    config = (
        GPT2Config(**SMALL) if kind == "gpt2" else BERTConfig(**SMALL, pooler=False, words=True)
    )
    theirs.save_pretrained(tmp_path)
    expected = load(config, in_numpy(theirs.state_dict()), source="huggingface")

    actual = load(config, tmp_path / "model.safetensors", source="huggingface")

    assert list(expected) == list(actual)
    assert all(np.array_equal(expected[name], actual[name]) for name in expected)
