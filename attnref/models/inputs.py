"""What a model can be asked about; everything else is refused before it computes anything."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import InvalidProblem
from attnref.models.choices import Extent
from attnref.models.configurations import GPT2Config
from attnref.models.parameters import Parameters


def whole_numbers(name: str, x: Array, shape: str, rank: int) -> Int[np.ndarray, "..."]:
    """Return an array of integers as NumPy's, or say that it is none."""
    listed = arrays.library(x) is None
    try:
        values = np.asarray(x) if listed else arrays.to_numpy(x)
    except ValueError:
        raise InvalidProblem(
            f"{name} must be integers {shape}, and its rows are of unequal lengths.",
            see="attnref.models.inputs",
            hint="fill up short rows, and say with lens= how many tokens of each are real",
        ) from None
    if listed and values.size == 0:
        values = values.astype(np.int64)  # No number says of which kind it is.
    if values.dtype.kind not in "iu" or values.ndim != rank:
        raise InvalidProblem(
            f"{name} must be integers {shape}.",
            [f"{name}  {values.dtype}  {values.shape}"],
            see="attnref.models.inputs",
        )
    return values


def tokens(
    name: str, ids: Array, below: int, shape: str = "(B, S)", rank: int = 2
) -> Int[np.ndarray, "..."]:
    """Check token ids and return them as a NumPy array, which indexes arrays of any library."""
    values = whole_numbers(name, ids, shape, rank)
    outside = (values < 0) | (values >= below)
    if outside.any():
        place = tuple(int(n) for n in np.argwhere(outside)[0])
        raise InvalidProblem(
            f"{name}[{', '.join(map(str, place))}] is {values[place]}; known are 0 to {below - 1}.",
            [f"{name}  {values.dtype}  {values.shape}  {shape}"],
            see="attnref.models.inputs",
            hint="the tokenizer is another model's, or padding is a negative number",
        )
    return values.astype(np.int64)


def prompts(given: Iterable[Array], below: int) -> list[list[int]]:
    """Check texts of any lengths, none of them empty, and return them as lists."""
    texts = [tokens(f"prompts[{n}]", ids, below, "(S,)", 1) for n, ids in enumerate(given)]
    for n, text in enumerate(texts):
        if text.size == 0:
            raise InvalidProblem(
                f"prompts[{n}] is empty.",
                see="attnref.models.inputs",
                hint="every prompt needs a token; GPT-2's vocabulary has one that begins texts",
            )
    return [text.tolist() for text in texts]


def sampling(steps: object, temperature: float, rng: object) -> None:
    """Refuse steps that cannot be taken, and chance without a source."""
    if not isinstance(steps, int | np.integer) or steps < 0:
        fact, hint = f"steps is {steps!r}.", "how many tokens to add: a whole number, 0 or more"
    elif not temperature >= 0:
        fact = f"temperature is {temperature!r}."
        hint = "0 takes the likeliest token; the higher the temperature, the more chance"
    elif temperature > 0 and not hasattr(rng, "gumbel"):
        fact = f"temperature is {temperature!r} and rng is {rng!r}."
        hint = "a temperature needs rng=np.random.default_rng(0)"
    else:
        return
    raise InvalidProblem(fact, see="attnref.models.inputs", hint=hint)


def kept(
    layers: Sequence[Sequence[Array]],
    lens: Int[np.ndarray, " B"] | None,
    B: int,
    config: GPT2Config,
    parameters: Parameters,
) -> Int[np.ndarray, " B"]:
    """Return how many tokens of each context are kept, if this model kept them for this batch."""
    if lens is None and not layers:
        return np.zeros(B, np.int64)
    if lens is None or lens.shape != (B,):
        raise InvalidProblem(
            f"ids has {B} rows, and the cache is of {0 if lens is None else len(lens)} contexts.",
            see="attnref.models.inputs",
            hint="one row of new tokens for every context",
        )
    H, D, longest = config.heads, config.width // config.heads, int(lens.max(initial=0))
    library = arrays.library(parameters["tokens"])
    found = [(arrays.library(x), tuple(x.shape)) for pair in layers for x in pair]
    odd = [
        f" of {theirs} {shape}"
        for theirs, shape in found
        if theirs != library or shape[1] < longest or (shape[0], *shape[2:]) != (B, H, D)
    ]
    if odd or len(layers) != config.layers:
        raise InvalidProblem(
            f"the cache is of {len(layers)} layers{''.join(odd[:1])}; "
            f"needed are {config.layers} of {library} {(B, longest, H, D)}.",
            see="attnref.models.inputs",
            hint="a cache belongs to the model and the batch that made it",
        )
    return lens


def context(longest: int, positions: int) -> None:
    """Refuse more tokens than the position table has rows."""
    if longest > positions:
        raise InvalidProblem(
            f"a context of {longest} tokens is longer than the position table's {positions}.",
            see="attnref.models.inputs",
            hint="cut the context; positions beyond the table were never learned",
        )


def lengths(name: str, lens: Array | None, B: int, S: int) -> Int[np.ndarray, " B"]:
    """Check how many tokens of each row are real; by default all of them."""
    if lens is None:
        return np.full(B, S, np.int64)
    values = whole_numbers(name, lens, "(B,)", 1)
    if values.shape != (B,) or values.min(initial=0) < 0 or values.max(initial=0) > S:
        raise InvalidProblem(
            f"{name} must be {B} numbers between 0 and {S}, one for each row of ids.",
            [f"{name}  {values.tolist()}"],
            see="attnref.models.inputs",
        )
    return values.astype(np.int64)


def image(x: Array, channels: int, parameters: Parameters) -> Extent:
    """Return the height and width of images `(B, height, width, channels)` for these parameters."""
    image = arrays.library(x) is not None and x.ndim == 4 and 0 not in x.shape[1:]  # noqa: PLR2004
    if not image or x.shape[-1] != channels:
        shape = tuple(x.shape) if arrays.library(x) else type(x).__name__
        raise InvalidProblem(
            f"images must be (B, height, width, {channels}), channels last.",
            [f"image  {shape}"],
            see="attnref.models.inputs",
            hint="of channels-first images take np.moveaxis(image, 1, -1)",
        )
    like = next(iter(parameters.values()))
    ours, theirs = (f"{arrays.library(y)} {arrays.dtype_name(y)}" for y in (x, like))
    # NumPy multiplies arrays of two dtypes, and torch does not.
    if arrays.library(x) != arrays.library(like) or (
        arrays.library(x) == "torch" and ours != theirs
    ):
        raise InvalidProblem(
            f"image is {ours}, and the parameters are {theirs}.",
            see="attnref.models.inputs",
            hint="bring the image to the parameters' library and dtype",
        )
    return int(x.shape[1]), int(x.shape[2])
