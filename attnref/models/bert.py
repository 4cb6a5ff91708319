r"""BERT: a state for every token of a sentence, from all of its tokens.

With tables $T$ of tokens, $E$ of positions and $G$ of segments,

$$x_0 = \mathrm{norm}(T_{\mathrm{id}} + E_{\mathrm{place}} + G_{\mathrm{segment}}),$$

$$x' = \mathrm{norm}_1(x + \mathrm{attention}(x)), \qquad
x'' = \mathrm{norm}_2(x' + \mathrm{mlp}(x')).$$

Norms come after the sums here, and before them in GPT-2. Sentences of unequal length share
an array; their lengths say what is not there, and nothing past them matters.

Source: J. Devlin et al., "BERT", 2019.
"""

import numpy as np
from jaxtyping import Float, Int

import attnref
from attnref import arrays
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.errors import InvalidProblem
from attnref.models import inputs
from attnref.models.arithmetic import gelu, namespace
from attnref.models.blocks import affine, before_tokens, join_heads, layer_norm, project
from attnref.models.configurations import BERTConfig
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters


def states(
    parameters: Parameters,
    config: BERTConfig,
    ids: Int[Array, "B S"],
    *,
    lens: Int[Array, " B"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    backend: str | Backend | None = None,
) -> Float[Array, "B S C"]:
    """Compute the last state of every token.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        ids: Token ids `(B, S)`; past a sentence's length any that the table has.
        lens: How many tokens each sentence has `(B,)`; by default all.
        segments: Which kind of sentence each token is of `(B, S)`; by default the first.
        backend: Who computes attention, as in `attnref.attention`.

    Returns:
        The states `(B, S, C)`; those past a length are arbitrary.

    Raises:
        InvalidProblem: An id is in no table, or a sentence longer than the positions.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import BERTConfig, bert, initialise
        >>> config = BERTConfig(vocabulary=9, positions=8, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> ids = np.array([[1, 2, 3], [4, 0, 0]])
        >>> bert.states(parameters, config, ids, lens=np.array([3, 1]), backend="numpy").shape
        (2, 3, 8)
    """
    fits(config, parameters)
    x = embed(parameters, config, ids, segments=segments)
    known = inputs.lengths("lens", lens, *x.shape[:2])
    return encode(parameters, config, x, known, backend=backend)


def embed(
    parameters: Parameters,
    config: BERTConfig,
    ids: Int[Array, "B S"],
    *,
    segments: Int[Array, "B S"] | None = None,
) -> Float[Array, "B S C"]:
    """Look up tokens, places and segments, add them and normalise: the first part of `states`."""
    p = parameters
    known = inputs.tokens("ids", ids, config.vocabulary)
    inputs.context(known.shape[1], config.positions)
    kinds = np.zeros_like(known) if segments is None else segments
    kinds = inputs.tokens("segments", kinds, config.segments)
    if kinds.shape != known.shape:
        raise InvalidProblem(
            f"segments is {kinds.shape}, and ids is {known.shape}.",
            see="attnref.models.bert",
            hint="one segment for every token",
        )
    x = p["tokens"][known] + p["positions"][: known.shape[1]] + p["segments"][kinds]
    return layer_norm(p, "norm", x, config.epsilon)


def encode(
    parameters: Parameters,
    config: BERTConfig,
    x: Float[Array, "B S C"],
    lens: Int[np.ndarray, " B"],
    *,
    backend: str | Backend | None = None,
) -> Float[Array, "B S C"]:
    """Run what `embed` returned through every block: the second part of `states`."""
    kv_lens = arrays.from_numpy(lens, x)
    for n in range(config.layers):
        x = _block(parameters, config, f"blocks.{n}", x, kv_lens, backend)
    return x


def _block(
    p: Parameters,
    config: BERTConfig,
    name: str,
    x: Float[Array, "B S C"],
    kv_lens: Int[Array, " B"],
    backend: str | Backend | None,
) -> Float[Array, "B S C"]:
    """Attend, then transform every token alone; each adds to what came in, then normalises."""
    q, k, v = map(before_tokens, project(p, f"{name}.attention", x, config.heads))
    found = attnref.attention(q, k, v, kv_lens=kv_lens, backend=backend)
    y = join_heads(p, f"{name}.attention", before_tokens(found))
    x = layer_norm(p, f"{name}.norm1", x + y, config.epsilon)
    y = affine(p, f"{name}.mlp.down", gelu(affine(p, f"{name}.mlp.up", x)))
    return layer_norm(p, f"{name}.norm2", x + y, config.epsilon)


def pooled(parameters: Parameters, states: Float[Array, "B S C"]) -> Float[Array, "B C"]:
    r"""Sum up a sentence from its first token: $\tanh(x_0 W^\top + b)$."""
    _has(parameters, "pooler")
    if states.shape[1] == 0:
        raise InvalidProblem(
            "states has no tokens, and the first is read.", see="attnref.models.bert"
        )
    return namespace(states).tanh(affine(parameters, "pooler", states[:, 0]))


def words(
    parameters: Parameters, config: BERTConfig, states: Float[Array, "B S C"]
) -> Float[Array, "B S V"]:
    r"""Predict which token stood at every place, with the token table as head.

    $$\mathrm{norm}(\mathrm{gelu}(x W^\top + b))\, T^\top + c$$
    """
    _has(parameters, "words")
    y = gelu(affine(parameters, "words.transform", states))
    y = layer_norm(parameters, "words.norm", y, config.epsilon)
    return y @ parameters["tokens"].swapaxes(0, 1) + parameters["words.bias"]


def _has(parameters: Parameters, head: str) -> None:
    """Refuse parameters without a head that a BERT need not have."""
    if not any(name.startswith(f"{head}.") for name in parameters):
        raise InvalidProblem(
            f"the parameters have no {head}.",
            see="attnref.models.bert",
            hint=f"it belongs to BERTConfig({head}=True)",
        )
