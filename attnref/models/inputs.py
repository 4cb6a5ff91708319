"""What a model can be asked about; everything else is refused before it computes anything."""

import numpy as np
from jaxtyping import Int

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import InvalidProblem
from attnref.models.configurations import Extent


def whole_numbers(name: str, x: Array, shape: str, rank: int) -> Int[np.ndarray, "..."]:
    """Return an array of integers as NumPy's, or say that it is none."""
    values = np.asarray(arrays.to_numpy(x) if arrays.library(x) else x)
    if values.dtype.kind not in "iu" or values.ndim != rank:
        raise InvalidProblem(
            f"{name} must be integers {shape}.",
            [f"{name}  {values.dtype}  {values.shape}"],
            see="attnref.models.inputs",
        )
    return values


def tokens(name: str, ids: Array, below: int) -> Int[np.ndarray, "B S"]:
    """Check token ids and return them as a NumPy array, which indexes arrays of any library."""
    values = whole_numbers(name, ids, "(B, S)", 2)
    outside = (values < 0) | (values >= below)
    if outside.any():
        row, column = (int(n) for n in np.argwhere(outside)[0])
        raise InvalidProblem(
            f"{name}[{row}, {column}] is {values[row, column]}; known are 0 to {below - 1}.",
            [f"{name}  {values.dtype}  {values.shape}  (B, S)"],
            see="attnref.models.inputs",
            hint="the tokenizer is another model's, or padding is a negative number",
        )
    return values.astype(np.int64)


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


def image(x: Array, channels: int) -> Extent:
    """Return the height and width of images `(B, height, width, channels)`."""
    if arrays.library(x) is None or x.ndim != 4 or x.shape[-1] != channels:  # noqa: PLR2004
        shape = tuple(x.shape) if arrays.library(x) else type(x).__name__
        raise InvalidProblem(
            f"images must be (B, height, width, {channels}), channels last.",
            [f"image  {shape}"],
            see="attnref.models.inputs",
            hint="of channels-first images take np.moveaxis(image, 1, -1)",
        )
    return int(x.shape[1]), int(x.shape[2])
