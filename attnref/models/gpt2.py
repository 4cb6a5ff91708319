r"""GPT-2: predict the next token from those before it.

With a token table $T$ and a position table $E$,

$$x_0 = T_{\mathrm{id}} + E_{\mathrm{place}}, \qquad
x' = x + \mathrm{attention}(\mathrm{norm}_1 x), \qquad
x'' = x' + \mathrm{mlp}(\mathrm{norm}_2 x'),$$

$$\mathrm{logits} = \mathrm{norm}(x_L)\, T^\top.$$

A token sees itself and what is before it, so that what was computed for a context stays
true when the context grows: keys and values are kept, and only new tokens are computed.

Source: A. Radford et al., "Language models are unsupervised multitask learners", 2019.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

import attnref
from attnref import arrays
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.models import inputs
from attnref.models.arithmetic import gelu_tanh, namespace
from attnref.models.blocks import (
    Heads,
    affine,
    before_tokens,
    join_heads,
    layer_norm,
    project,
)
from attnref.models.configurations import GPT2Config
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters

Attend = Callable[[int, Heads], Float[Array, "B S H D"]]
"""Attention of one layer, which is with or without a cache."""


def logits(
    parameters: Parameters,
    config: GPT2Config,
    ids: Int[Array, "B S"],
    *,
    backend: str | Backend | None = None,
) -> Float[Array, "B S V"]:
    """Predict, at every token, the one that follows.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        ids: Token ids `(B, S)`, of NumPy or the parameters' library.
        backend: Who computes attention, as in `attnref.attention`.

    Returns:
        The logits `(B, S, V)` of every token id.

    Raises:
        InvalidProblem: An id is in no table, or the context longer than the positions.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import GPT2Config, gpt2, initialise
        >>> config = GPT2Config(vocabulary=9, positions=8, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> gpt2.logits(parameters, config, np.array([[1, 2, 3]]), backend="numpy").shape
        (1, 3, 9)
    """

    def attend(_: int, x: Heads) -> Float[Array, "B S H D"]:
        q, k, v = map(before_tokens, x)
        return before_tokens(attnref.attention(q, k, v, causal=True, backend=backend))

    fits(config, parameters)
    known = inputs.tokens("ids", ids, config.vocabulary)
    inputs.context(known.shape[1], config.positions)
    return _forward(parameters, config, known, np.arange(known.shape[1]), attend)


def _forward(
    p: Parameters,
    config: GPT2Config,
    ids: Int[np.ndarray, "B S"],
    places: Int[np.ndarray, "*B S"],
    attend: Attend,
) -> Float[Array, "B S V"]:
    """Run tokens at their places through all blocks and the head, which is the token table."""
    x = p["tokens"][ids] + p["positions"][places]
    for n in range(config.layers):
        x = _block(p, config, n, x, attend)
    return layer_norm(p, "norm", x, config.epsilon) @ p["tokens"].swapaxes(0, 1)


def _block(
    p: Parameters, config: GPT2Config, n: int, x: Float[Array, "B S C"], attend: Attend
) -> Float[Array, "B S C"]:
    """Attend, then transform every token alone; each normalises before and adds after."""
    name = f"blocks.{n}"
    y = layer_norm(p, f"{name}.norm1", x, config.epsilon)
    y = attend(n, project(p, f"{name}.attention", y, config.heads))
    x = x + join_heads(p, f"{name}.attention", y)
    y = layer_norm(p, f"{name}.norm2", x, config.epsilon)
    y = gelu_tanh(affine(p, f"{name}.mlp.up", y))
    return x + affine(p, f"{name}.mlp.down", y)


@dataclass(frozen=True)
class Cache:
    """The keys and values of the contexts so far.

    Attributes:
        layers: For each layer, keys and values `(B, P, H, D)`.
        lens: How many of the `P` tokens each context has; what is past them is arbitrary.
    """

    layers: tuple[tuple[Float[Array, "B P H D"], Float[Array, "B P H D"]], ...] = ()
    lens: Int[np.ndarray, " B"] | None = None


class Extended(NamedTuple):
    """What `extend` returns.

    Attributes:
        logits: Those of the new tokens `(B, S, V)`.
        cache: Of the longer contexts.
    """

    logits: Float[Array, "B S V"]
    cache: Cache


def extend(
    parameters: Parameters,
    config: GPT2Config,
    ids: Int[Array, "B S"],
    cache: Cache | None = None,
    *,
    lens: Int[Array, " B"] | None = None,
    backend: str | Backend | None = None,
) -> Extended:
    """Put tokens behind contexts of any lengths, and predict what follows each.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        ids: The new tokens `(B, S)`.
        cache: Of the contexts, unchanged afterwards; `None` begins new ones.
        lens: How many new tokens each row has `(B,)`; by default all `S`.
        backend: Who computes attention.

    Returns:
        A named `(logits, cache)`; logits past a row's length are arbitrary.

    Raises:
        InvalidProblem: As in `logits`, or the cache is of another batch or model.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import GPT2Config, gpt2, initialise
        >>> config = GPT2Config(vocabulary=9, positions=8, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> first = gpt2.extend(parameters, config, np.array([[1, 2, 3]]), backend="numpy")
        >>> gpt2.extend(parameters, config, [[4]], first.cache, backend="numpy").cache.lens
        array([4])
    """
    fits(config, parameters)
    known = inputs.tokens("ids", ids, config.vocabulary)
    B, S = known.shape
    new = inputs.lengths("lens", lens, B, S)
    cache = cache or Cache()
    before = inputs.kept(cache.layers, cache.lens, B, config, parameters)
    after = before + new
    inputs.context(int(after.max(initial=0)), config.positions)
    grown: list[tuple[Array, Array]] = []

    def attend(n: int, x: Heads) -> Float[Array, "B S H D"]:
        """Put keys and values where they belong; the last query stands at the last key."""
        old = cache.layers[n] if cache.layers else (x.k[:, :0], x.v[:, :0])
        pair = (_behind(old[0], x.k, before, after), _behind(old[1], x.v, before, after))
        grown.append(pair)
        q, k, v = map(before_tokens, (x.q, *pair))
        found = attnref.attention(
            q,
            k,
            v,
            causal=True,
            q_offset="end",
            q_lens=arrays.from_numpy(new, q),
            kv_lens=arrays.from_numpy(after, q),
            backend=backend,
        )
        return before_tokens(found)

    places = np.minimum(before[:, None] + np.arange(S), config.positions - 1)
    found = _forward(parameters, config, known, places, attend)
    return Extended(found, Cache(tuple(grown), after))


def _behind(
    old: Float[Array, "B P H D"],
    new: Float[Array, "B S H D"],
    before: Int[np.ndarray, " B"],
    after: Int[np.ndarray, " B"],
) -> Float[Array, "B longest H D"]:
    """Write each row's new tokens behind its old ones, in a new array as long as the longest."""
    place = np.arange(after.max(initial=0))[None]
    inside = np.minimum(place - before[:, None], new.shape[1] - 1)
    source = np.where(inside < 0, place, old.shape[1] + inside)
    both = namespace(new).concat([old, new], axis=1)
    return both[np.arange(len(before))[:, None], source]


def generate(
    parameters: Parameters,
    config: GPT2Config,
    prompts: Iterable[Sequence[int] | Array],
    *,
    steps: int,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
    backend: str | Backend | None = None,
) -> list[list[int]]:
    """Continue prompts of any lengths, one token at a time.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        prompts: Token ids, at least one each: lists, or the rows of an array.
        steps: How many tokens to add to each. The last of them is read by nobody, so that a
            text may be longer than the position table by one.
        temperature: What logits are divided by before one is drawn; zero takes the largest.
        rng: Where chance comes from; needed with a temperature.
        backend: Who computes attention.

    Returns:
        Every prompt with its continuation; of no prompts, nothing.

    Raises:
        InvalidProblem: As in `logits`; or a prompt is empty, or chance has no source.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import GPT2Config, gpt2, initialise
        >>> config = GPT2Config(vocabulary=9, positions=8, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> texts = gpt2.generate(parameters, config, [[1], [2, 3]], steps=4, backend="numpy")
        >>> [len(text) for text in texts]
        [5, 6]
    """
    fits(config, parameters)
    inputs.sampling(steps, temperature, rng)
    texts = inputs.prompts(prompts, config.vocabulary)
    lens = np.array([len(text) for text in texts], np.int64)
    longest = int(lens.max(initial=0))
    inputs.context(longest + max(int(steps) - 1, 0), config.positions)
    ids = np.zeros((len(texts), longest), np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    cache = None
    for _ in range(steps):
        found, cache = extend(parameters, config, ids, cache, lens=lens, backend=backend)
        last = arrays.to_numpy(found)[np.arange(len(texts)), lens - 1].astype(np.float64)
        ids = _choose(last, temperature, rng)[:, None]
        lens = np.ones(len(texts), np.int64)
        for text, token in zip(texts, ids[:, 0], strict=True):
            text.append(int(token))
    return texts


def _choose(
    found: Float[np.ndarray, "B V"], temperature: float, rng: np.random.Generator | None
) -> Int[np.ndarray, " B"]:
    r"""Take the likeliest token, or draw from $\mathrm{softmax}(\mathrm{logits} / t)$.

    The largest of logits with Gumbel noise added is a draw from their softmax.
    """
    if temperature > 0 and rng is not None:
        found = found / temperature + rng.gumbel(size=found.shape)
    return found.argmax(axis=-1)
