"""Whether arrays are a model's parameters, by name and shape.

`shapes(config)` lists what a model has. Whoever takes arrays from somebody holds them to
that list here: every forward pass, `load` with another library's names, `resized`. What
is wrong is listed in one error, all of it.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import eq
from typing import NamedTuple

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import AttnrefError, InvalidProblem
from attnref.models.configurations import Config
from attnref.models.parameters import Parameters, Shape, shapes

SHOWN = 8
"""How many names of a kind an error lists before it counts the rest."""

SIZES = "sizes follow from the configuration; resized() makes position tables for other images"
HINTS = {
    "missing": "initialise(config, rng) and load(config, state) return all that a model has",
    "unexpected": "leave out what the configuration does not have, or say in it that it is there",
    "misshapen": SIZES,
}
"""What to do about the parameters of a forward pass."""


class Differences(NamedTuple):
    """How names and shapes differ from those that are needed.

    Attributes:
        missing: Names that are needed and not there.
        unexpected: Names that are there and not needed.
        misshapen: Names with the shape that they have and the one that they must have.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: dict[str, tuple[Shape, Shape]]


class ParameterMismatch(AttnrefError, ValueError):  # noqa: N818  # reads as a sentence
    """Parameters, or a state dict, that are not this model's.

    Attributes:
        missing: Names that the model needs and that are not there.
        unexpected: Names that the model does not know.
        misshapen: Names with the shape that they have and the one that they must have.
        untied: Names that must equal another parameter and do not.
    """

    __module__ = "attnref.models"

    def __init__(
        self,
        what: str,
        done: str,
        differences: Differences,
        untied: Mapping[str, str] | None = None,
        hints: Mapping[str, str] = HINTS,
    ) -> None:
        self.missing, self.unexpected, self.misshapen = differences
        self.untied = dict(untied or {})
        shaped = [f"{n} has {has}, must have {must}" for n, (has, must) in self.misshapen.items()]
        tied = [f"{name} differs from {other}" for name, other in self.untied.items()]
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "misshapen": shaped,
            "untied": tied,
        }
        said = {kind: texts for kind, texts in kinds.items() if texts}
        counts = ", ".join(f"{len(texts)} {kind}" for kind, texts in said.items())
        lines = [f"{what}: {counts}; nothing was {done}."]
        for kind, texts in said.items():
            lines += [f"  {kind:<10}  {text}" for text in texts[:SHOWN]]
            lines += [f"  {kind:<10}  and {len(texts) - SHOWN} more"] if texts[SHOWN:] else []
        lines += [f"  hint        {hints[kind]}" for kind in said]
        super().__init__("\n".join(lines))


def fits(config: Config, parameters: Parameters) -> None:
    """Refuse parameters that are not those of a configuration; where they are, it costs little.

    Raises:
        ParameterMismatch: A name is missing, unexpected or misshapen.
        InvalidProblem: The arrays are of several libraries, or one is no array.
    """
    mapped("parameters", parameters, "forward() takes config first, a model's page parameters")
    together(parameters)
    needed, given = _needed(config), {n: tuple(x.shape) for n, x in parameters.items()}
    if given != needed:
        what = f"the parameters are not those of this {type(config).__name__}"
        raise ParameterMismatch(what, "computed", differences(needed, given))


_needed = lru_cache(maxsize=64)(shapes)


def differences(
    needed: Mapping[str, Shape],
    given: Mapping[str, Shape],
    same: Callable[[Shape, Shape], bool] = eq,
) -> Differences:
    """Compare names and shapes with those that are needed."""
    pairs = {n: (given[n], must) for n, must in needed.items() if n in given}
    return Differences(
        tuple(n for n in needed if n not in given),
        tuple(n for n in given if n not in needed),
        {n: (has, must) for n, (has, must) in pairs.items() if not same(has, must)},
    )


def mapped(what: str, given: object, hint: str) -> None:
    """Refuse what maps no names to arrays."""
    if not isinstance(given, Mapping):
        raise InvalidProblem(
            f"{what} is a {type(given).__name__}; it must map names to arrays.",
            see="attnref.models.fitting",
            hint=hint,
        )


def together(named: Mapping[str, Array]) -> None:
    """Refuse what is no array, and arrays of more than one library."""
    first = next(iter(named), "")
    for name, x in named.items():
        library = arrays.library(x)
        if library is None or library != arrays.library(named[first]):
            other = arrays.library(named[first])
            raise InvalidProblem(
                f"{name} is a {type(x).__name__}."
                if library is None
                else f"{name} is an array of {library}, and {first} is one of {other}.",
                see="attnref.models.fitting",
                hint="parameters are arrays of one library, e.g. all torch.from_numpy(x)",
            )
