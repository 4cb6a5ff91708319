"""The MiniLM example computes what sentence-transformers computes."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "minilm"
LIMIT = 1e-5


@pytest.fixture(scope="module")
def minilm() -> ModuleType:
    """Load the example, which is a script's neighbour and not a package."""
    spec = importlib.util.spec_from_file_location("minilm", EXAMPLE / "minilm.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["minilm"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["minilm"]


@pytest.fixture(scope="module")
def model(minilm):
    """Load the weights and the tokenizer."""
    return minilm.load()


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    """Read what sentence-transformers computed; see `make_minilm_embeddings.py`."""
    with np.load(HERE / "minilm_embeddings.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def embeddings(minilm, model, stored):
    """Embed the stored sentences with the example, once per backend."""
    done: dict[str, np.ndarray] = {}

    def of(backend: str) -> np.ndarray:
        if backend not in done:
            # Two ragged batches: the long sentences come last, and would pad all the others.
            batches = np.split(stored["sentences"], [-2])
            parts = [minilm.embed(model, batch.tolist(), backend=backend) for batch in batches]
            done[backend] = np.concatenate(parts)
        return done[backend]

    return of


@pytest.mark.parametrize("backend", ["reference", "numpy", "torch"])
def test_embeddings_equal_those_of_sentence_transformers(embeddings, stored, backend):
    """Every number agrees, though all padding is NaN."""
    expected = stored["embeddings"]

    actual = embeddings(backend)

    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_backends_agree_with_the_reference(embeddings, backend):
    """The model's meaning does not depend on who computes attention."""
    expected = embeddings("reference")

    actual = embeddings(backend)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


def test_embeddings_have_length_one(embeddings):
    """The dot product of two embeddings is their cosine."""
    lengths = np.linalg.norm(embeddings("reference"), axis=-1)

    np.testing.assert_allclose(lengths, 1.0, rtol=0, atol=1e-6)


def test_a_sentence_alone_equals_the_same_sentence_in_a_batch(minilm, model, embeddings, stored):
    """What pads a batch reaches no embedding."""
    expected = embeddings("reference")[0]

    (actual,) = minilm.embed(model, [str(stored["sentences"][0])], backend="reference")

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


def test_padding_is_nan_inside_the_model(minilm, model):
    """The example proves what its comment says."""
    ids, lens = np.array([[101, 1037, 102, 0], [101, 2048, 4606, 102]]), np.array([3, 4])

    states = minilm.encode(model, ids, lens, "reference")

    assert np.isnan(states[0, 3]).all()
    assert np.isfinite(states[0, :3]).all()
    assert np.isfinite(states[1]).all()


@pytest.mark.usefixtures("minilm")
def test_search_ranks_the_nearest_sentence_first(monkeypatch, capsys):
    """The command line prints every sentence, with its score, in order."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
    search = importlib.import_module("search")
    query = "How do plants make food?"
    monkeypatch.setattr(sys, "argv", ["search.py", "--backend", "reference", query])

    search.main()

    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert len(lines) == len(search.SENTENCES)
    assert scores == sorted(scores, reverse=True)
    assert "Photosynthesis" in lines[0]
