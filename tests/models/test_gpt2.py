"""GPT-2: causal, cached, and honest about its limits."""

import numpy as np
import pytest
import torch

from attnref.errors import InvalidProblem
from attnref.models import gpt2

from .drawn import SMALL, parameters

CONFIG = SMALL["gpt2"]
BACKENDS = ["reference", "numpy", "torch"]
IDS = np.random.default_rng(1).integers(0, 13, (3, 9))
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def p() -> dict[str, np.ndarray]:
    """Parameters in float64, so that equal means equal."""
    return parameters(CONFIG, "float64")


@every_backend
def test_cached_and_uncached_logits_are_equal(p, backend):
    """Contexts of unequal lengths grow by unequal steps, and nothing of the past changes."""
    expected = gpt2.logits(p, CONFIG, IDS, backend=backend)
    have, cache = np.zeros(3, int), None
    for lens in ([4, 1, 3], [1, 2, 0], [1, 1, 1], [3, 5, 4]):
        ids = np.full((3, max(lens)), 12)
        for row, n in enumerate(lens):
            ids[row, :n] = IDS[row, have[row] : have[row] + n]

        actual, cache = gpt2.extend(p, CONFIG, ids, cache, lens=np.array(lens), backend=backend)

        for row, n in enumerate(lens):
            theirs = expected[row, have[row] : have[row] + n]
            np.testing.assert_allclose(actual[row, :n], theirs, rtol=0, atol=1e-12)
        have += lens
    assert have.tolist() == cache.lens.tolist() == [9, 9, 8]


def test_a_cache_is_not_changed_by_what_is_put_behind_it(p):
    """Two continuations of one context do not see each other."""
    _, cache = gpt2.extend(p, CONFIG, IDS[:, :4], backend="numpy")
    first = gpt2.extend(p, CONFIG, IDS[:, 4:6], cache, backend="numpy")

    gpt2.extend(p, CONFIG, IDS[:, 6:8], cache, backend="numpy")
    again = gpt2.extend(p, CONFIG, IDS[:, 4:6], cache, backend="numpy")

    assert np.array_equal(first.logits, again.logits)


def test_no_token_sees_a_later_one(p):
    """Another ending changes no logits before it."""
    other = IDS.copy()
    other[:, 5:] = 12 - other[:, 5:]

    first = gpt2.logits(p, CONFIG, IDS, backend="numpy")
    second = gpt2.logits(p, CONFIG, other, backend="numpy")

    np.testing.assert_allclose(second[:, :5], first[:, :5], rtol=0, atol=1e-12)
    assert abs(second[:, 5:] - first[:, 5:]).max() > 0.1


@every_backend
def test_texts_are_continued_with_the_likeliest_tokens(p, backend):
    """What the cache generates is what logits of the whole text say, at every step."""
    texts = gpt2.generate(p, CONFIG, [[1, 2, 3], [4]], steps=6, backend=backend)

    assert [9, 7] == [len(text) for text in texts]
    for text, prompt in zip(texts, (3, 1), strict=True):
        known = gpt2.logits(p, CONFIG, np.array([text]), backend=backend)[0]
        assert text[prompt:] == known[prompt - 1 : -1].argmax(axis=-1).tolist()


def test_chance_has_a_seed_and_a_temperature(p):
    """One seed gives one text; a low temperature gives the likeliest."""

    def texts(seed: int, temperature: float) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return gpt2.generate(
            p, CONFIG, [[1, 2]], steps=10, temperature=temperature, rng=rng, backend="numpy"
        )

    likeliest = gpt2.generate(p, CONFIG, [[1, 2]], steps=10, backend="numpy")
    assert texts(0, 5.0) == texts(0, 5.0)
    assert texts(0, 5.0) != texts(1, 5.0)
    assert likeliest == texts(0, 1e-6)


def test_draws_follow_the_softmax_of_the_logits():
    """Ten thousand draws have the frequencies that the softmax says."""
    found = np.log(np.array([0.5, 0.3, 0.2]))
    rng = np.random.default_rng(0)

    drawn = gpt2._choose(np.tile(found, (10_000, 1)), 1.0, rng)

    np.testing.assert_allclose(np.bincount(drawn) / 10_000, [0.5, 0.3, 0.2], atol=0.02)


def test_tensors_give_what_arrays_give(p):
    """The same page runs on torch, and differentiates."""
    tensors = {n: torch.from_numpy(x).requires_grad_() for n, x in p.items()}
    expected = gpt2.logits(p, CONFIG, IDS, backend="numpy")

    actual = gpt2.logits(tensors, CONFIG, torch.from_numpy(IDS), backend="numpy")
    actual.sum().backward()

    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=1e-12)
    assert all(x.grad is not None for x in tensors.values())
    with torch.no_grad():
        longer = gpt2.generate(tensors, CONFIG, [[1, 2, 3], [4]], steps=6, backend="torch")
    assert gpt2.generate(p, CONFIG, [[1, 2, 3], [4]], steps=6, backend="torch") == longer


@every_backend
def test_a_text_may_end_one_token_past_the_position_table(p, backend):
    """The last token is predicted from a context that `logits` takes, and is read by nobody."""
    (text,) = gpt2.generate(p, CONFIG, [[1, 2]], steps=15, backend=backend)

    assert 17 == len(text)
    last = gpt2.logits(p, CONFIG, [text[:-1]], backend=backend)[0, -1]
    assert text[-1] == last.argmax()


def test_prompts_may_be_the_rows_of_an_array(p):
    """Of NumPy or torch, or of any integers."""
    expected = gpt2.generate(p, CONFIG, [[1, 2], [3, 4]], steps=3, backend="numpy")

    for prompts in (np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]])):
        assert expected == gpt2.generate(p, CONFIG, prompts, steps=3, backend="numpy")


def test_no_prompts_have_no_continuations_and_no_steps_add_nothing(p):
    """An empty batch is a batch."""
    assert [] == gpt2.generate(p, CONFIG, [], steps=2, backend="numpy")
    assert [[1, 2], [3]] == gpt2.generate(p, CONFIG, [[1, 2], [3]], steps=0)


def test_an_empty_cache_begins_new_contexts(p):
    """It is no cache at all; and no tokens can be put behind none."""
    first = gpt2.extend(p, CONFIG, IDS, backend="numpy")
    again = gpt2.extend(p, CONFIG, IDS, gpt2.Cache(), backend="numpy")
    nothing = gpt2.extend(p, CONFIG, IDS[:, :0], first.cache, backend="numpy")

    assert np.array_equal(first.logits, again.logits)
    assert (3, 0, 13) == nothing.logits.shape
    assert first.cache.lens.tolist() == nothing.cache.lens.tolist()


def kept(p, tokens: int) -> gpt2.Cache:
    """Return the cache of one context."""
    return gpt2.extend(p, CONFIG, np.zeros((1, tokens), int), backend="numpy").cache


def reshaped(cache: gpt2.Cache, shape: tuple[int, ...]) -> gpt2.Cache:
    """Return a cache whose arrays have another shape."""
    layers = tuple(tuple(x.reshape(shape) for x in pair) for pair in cache.layers)
    return gpt2.Cache(layers, cache.lens)


REFUSED = {
    "an id past the table": (
        lambda p: gpt2.logits(p, CONFIG, np.array([[1, 13]])),
        "ids[0, 1] is 13; known are 0 to 12.",
    ),
    "a negative id": (
        lambda p: gpt2.logits(p, CONFIG, np.array([[1], [-1]])),
        "ids[1, 0] is -1; known are 0 to 12.",
    ),
    "ids that are no integers": (
        lambda p: gpt2.logits(p, CONFIG, np.array([[1.0]])),
        "ids must be integers (B, S).",
    ),
    "one text instead of a batch": (
        lambda p: gpt2.logits(p, CONFIG, np.array([1, 2])),
        "ids must be integers (B, S).",
    ),
    "a context past the position table": (
        lambda p: gpt2.logits(p, CONFIG, np.zeros((1, 17), int)),
        "a context of 17 tokens is longer than the position table's 16.",
    ),
    "a cache that grows past the position table": (
        lambda p: gpt2.extend(
            p,
            CONFIG,
            np.zeros((1, 2), int),
            kept(p, 15),
        ),
        "a context of 17 tokens is longer than the position table's 16.",
    ),
    "a continuation past the position table": (
        lambda p: gpt2.generate(p, CONFIG, [[1, 2]], steps=16),
        "a context of 17 tokens is longer than the position table's 16.",
    ),
    "a cache of another batch": (
        lambda p: gpt2.extend(p, CONFIG, np.zeros((2, 1), int), kept(p, 3)),
        "ids has 2 rows, and the cache is of 1 contexts.",
    ),
    "a cache without lengths": (
        lambda p: gpt2.extend(p, CONFIG, [[1]], gpt2.Cache(kept(p, 3).layers)),
        "ids has 1 rows, and the cache is of 0 contexts.",
    ),
    "a cache without layers": (
        lambda p: gpt2.extend(p, CONFIG, [[1]], gpt2.Cache((), np.array([3]))),
        "the cache is of 0 layers; needed are 2 of numpy (1, 3, 2, 4).",
    ),
    "a cache of other heads": (
        lambda p: gpt2.extend(p, CONFIG, [[1]], reshaped(kept(p, 3), (1, 3, 4, 2))),
        "the cache is of 2 layers of numpy (1, 3, 4, 2); needed are 2 of numpy (1, 3, 2, 4).",
    ),
    "a cache of another head size": (
        lambda p: gpt2.extend(p, CONFIG, [[1]], reshaped(kept(p, 4), (1, 8, 2, 2))),
        "the cache is of 2 layers of numpy (1, 8, 2, 2); needed are 2 of numpy (1, 4, 2, 4).",
    ),
    "a cache shorter than it says": (
        lambda p: gpt2.extend(p, CONFIG, [[1]], gpt2.Cache(kept(p, 3).layers, np.array([4]))),
        "the cache is of 2 layers of numpy (1, 3, 2, 4); needed are 2 of numpy (1, 4, 2, 4).",
    ),
    "a cache of another library": (
        lambda p: gpt2.extend(
            {n: torch.from_numpy(x) for n, x in p.items()}, CONFIG, [[1]], kept(p, 3)
        ),
        "the cache is of 2 layers of numpy (1, 3, 2, 4); needed are 2 of torch (1, 3, 2, 4).",
    ),
    "ids of unequal lengths": (
        lambda p: gpt2.logits(p, CONFIG, [[1, 2], [3]]),
        "ids must be integers (B, S), and its rows are of unequal lengths.",
    ),
    "more new tokens than there are": (
        lambda p: gpt2.extend(p, CONFIG, np.zeros((1, 2), int), lens=np.array([3])),
        "lens must be 1 numbers between 0 and 2, one for each row of ids.",
    ),
    "lengths of another batch": (
        lambda p: gpt2.extend(p, CONFIG, np.zeros((1, 2), int), lens=np.array([1, 1])),
        "lens must be 1 numbers between 0 and 2, one for each row of ids.",
    ),
    "an empty prompt": (
        lambda p: gpt2.generate(p, CONFIG, [[1], []], steps=1),
        "prompts[1] is empty.",
    ),
    "a prompt of parts of tokens": (
        lambda p: gpt2.generate(p, CONFIG, [[1.7]], steps=1),
        "prompts[0] must be integers (S,).",
    ),
    "one prompt instead of a list of prompts": (
        lambda p: gpt2.generate(p, CONFIG, [1, 2], steps=1),
        "prompts[0] must be integers (S,).",
    ),
    "an id past the table that is never read": (
        lambda p: gpt2.generate(p, CONFIG, [[1], [2, 13]], steps=0),
        "prompts[1][1] is 13; known are 0 to 12.",
    ),
    "fewer steps than none": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=-1),
        "steps is -1.",
    ),
    "a part of a step": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=1.5),
        "steps is 1.5.",
    ),
    "a negative temperature": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=1, temperature=-1.0),
        "temperature is -1.0.",
    ),
    "a temperature that is no number": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=1, temperature=np.nan),
        "temperature is nan.",
    ),
    "chance without a source": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=1, temperature=1.0),
        "temperature is 1.0 and rng is None.",
    ),
    "chance from a number": (
        lambda p: gpt2.generate(p, CONFIG, [[1]], steps=1, temperature=1.0, rng=0),
        "temperature is 1.0 and rng is 0.",
    ),
}


@pytest.mark.parametrize(("call", "fact"), REFUSED.values(), ids=REFUSED)
def test_what_the_model_cannot_take_is_refused_with_its_numbers(p, call, fact):
    """The error says the fact first."""
    with pytest.raises(InvalidProblem) as error:
        call(p)

    assert fact == str(error.value).splitlines()[0]
