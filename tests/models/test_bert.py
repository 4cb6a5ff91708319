"""BERT: padding is not there, and heads read the states."""

import numpy as np
import pytest
import torch

from attnref.errors import InvalidProblem
from attnref.models import bert

from .drawn import SMALL, parameters

CONFIG = SMALL["bert"]
IDS = np.random.default_rng(1).integers(0, 13, (2, 7))


@pytest.fixture(scope="module")
def p() -> dict[str, np.ndarray]:
    """Parameters in float64, so that equal means equal."""
    return parameters(CONFIG, "float64")


@pytest.mark.parametrize("backend", ["reference", "numpy", "torch"])
def test_a_sentence_alone_has_the_states_that_it_has_in_a_batch(p, backend):
    """What pads a batch reaches no token."""
    expected = bert.states(p, CONFIG, IDS[1:, :4], backend=backend)[0]

    actual = bert.states(p, CONFIG, IDS, lens=np.array([7, 4]), backend=backend)[1, :4]

    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_padding_may_be_anything_at_all(p):
    """NaN past a length stays where it is."""
    x = bert.embed(p, CONFIG, IDS)
    x[1, 4:] = np.nan

    states = bert.encode(p, CONFIG, x, np.array([7, 4]), backend="numpy")

    assert np.isfinite(states[0]).all()
    assert np.isfinite(states[1, :4]).all()
    assert np.isnan(states[1, 4:]).all()


def test_segments_matter_and_are_the_first_by_default(p):
    """Two kinds of sentence have two tables' rows."""
    first = bert.embed(p, CONFIG, IDS)

    assert np.array_equal(first, bert.embed(p, CONFIG, IDS, segments=np.zeros_like(IDS)))
    assert abs(first - bert.embed(p, CONFIG, IDS, segments=np.ones_like(IDS))).max() > 0.1


def test_heads_give_a_vector_and_words(p):
    """Tensors give what arrays give."""
    states = bert.states(p, CONFIG, IDS, backend="numpy")
    tensors = {n: torch.from_numpy(x) for n, x in p.items()}
    theirs = bert.states(tensors, CONFIG, IDS, backend="torch")

    pooled, words = bert.pooled(p, states), bert.words(p, CONFIG, states)

    assert (2, 8) == pooled.shape
    assert (2, 7, 13) == words.shape
    np.testing.assert_allclose(bert.pooled(tensors, theirs).numpy(), pooled, atol=1e-12)
    np.testing.assert_allclose(bert.words(tensors, CONFIG, theirs).numpy(), words, atol=1e-12)


def test_a_head_that_is_not_there_is_refused_by_its_name(p):
    """BERT has a pooler and predicts words only where the configuration says so."""
    states = bert.states(p, CONFIG, IDS, backend="numpy")
    bare = {n: x for n, x in p.items() if not n.startswith(("pooler", "words"))}

    with pytest.raises(InvalidProblem, match=r"have no pooler.\n.*\n  hint .*pooler=True"):
        bert.pooled(bare, states)
    with pytest.raises(InvalidProblem, match=r"have no words.\n.*\n  hint .*words=True"):
        bert.words(bare, CONFIG, states)


def test_a_sentence_without_tokens_has_no_first_state(p):
    """What a pooler would read is not there."""
    states = bert.states(p, CONFIG, IDS[:, :0], backend="numpy")

    assert (2, 0, 8) == states.shape
    with pytest.raises(InvalidProblem, match="states has no tokens, and the first is read"):
        bert.pooled(p, states)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"segments": np.zeros((1, 7), int)}, "segments is (1, 7), and ids is (2, 7)."),
        ({"segments": np.zeros((2, 1), int)}, "segments is (2, 1), and ids is (2, 7)."),
        ({"segments": np.full_like(IDS, 2)}, "segments[0, 0] is 2; known are 0 to 1."),
        (
            {"lens": np.array([8, 1])},
            "lens must be 2 numbers between 0 and 7, one for each row of ids.",
        ),
        ({"lens": np.array([[7, 1]])}, "lens must be integers (B,)."),
    ],
    ids=[
        "one row of segments for all",
        "one segment for a sentence",
        "a segment past the table",
        "a length past the array",
        "lengths of another rank",
    ],
)
def test_what_the_model_cannot_take_is_refused_with_its_numbers(p, options, fact):
    """The error says the fact first."""
    with pytest.raises(InvalidProblem) as error:
        bert.states(p, CONFIG, IDS, **options)

    assert fact == str(error.value).splitlines()[0]
