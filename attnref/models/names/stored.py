"""How a library stores a model's parameters: the vocabulary of the tables beside this file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Table = dict[str, "str | Stored"]
"""Our names to theirs."""

BUFFERS = r".*(relative_position_index|relative_coords_table|attn_mask|position_ids)"
"""A pattern of what libraries store and do not learn."""


@dataclass(frozen=True)
class Stored:
    """How a library stores one of our parameters.

    Attributes:
        names: Its name; or several, whose arrays stand one above the other.
        transposed: Its matrix is `(inputs, outputs)`.
        rows: The first of the rows that are ours, and the first one after them.
        of: How many rows there are; zero if all are ours.
    """

    names: tuple[str, ...]
    transposed: bool = False
    rows: tuple[int, int] | None = None
    of: int = 0


@dataclass(frozen=True)
class Layout:
    """One library's names for one model.

    Attributes:
        table: Our names to theirs.
        prefix: What stands before every name where the model is part of a larger one.
        spellings: Patterns of older names, and what they became.
        tied: Their names for what is another of our parameters.
        buffers: A pattern of names that hold nothing learned.
    """

    table: Table
    prefix: str = ""
    spellings: tuple[tuple[str, str], ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: str = "(?!)"
