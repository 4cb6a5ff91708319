"""What may be chosen: every field of a configuration by the type that its class declares.

Whoever reads a configuration relies on it: no size is zero or negative, a word is one of
those that are listed, and equal choices are equal.
"""

from collections.abc import Callable
from dataclasses import Field, fields
from math import inf
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args, get_origin

from attnref.errors import InvalidProblem

Extent = tuple[int, int]
"""Height and width."""

MAY_BE_ZERO = ("classes", "pretrained_window")
"""Numbers of what need not be there; of everything else there is at least one."""


def declared(config: Any) -> None:
    """Refuse a choice that is not of its declared type; lists become tuples."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        holds, rule = _rule(field)
        require(holds(value), f"{field.name} is {value!r}.", f"{field.name} is {rule}")


def sides(image: object) -> Extent:
    """Return height and width, or say that an image is not of them."""
    image = tuple(image) if isinstance(image, list) else image
    require(_sides(image), f"image is {image!r}.", "image is height and width, 1 or more")
    height, width = cast("Extent", image)
    return height, width


def divides(part: str, n: int, whole: str, of: int) -> None:
    """Refuse a number of parts that leaves a rest."""
    require(
        of % n == 0,
        f"{whole} {of} is not a multiple of {part} {n}.",
        f"change one of them: {part} divides {whole}",
    )


def require(holds: bool, fact: str, hint: str) -> None:
    """Refuse a configuration of which something does not hold."""
    if not holds:
        raise InvalidProblem(fact, see="attnref.models.configurations", hint=hint)


def _rule(field: "Field[Any]") -> tuple[Callable[[Any], bool], str]:
    """Return what a choice must fulfil, and how that is said."""
    kind: Any = field.type
    if kind is int:
        least = int(field.name not in MAY_BE_ZERO)
        return lambda n: _whole(n, least), f"a whole number, {least} or more"
    if kind == Extent:
        return _sides, "height and width, 1 or more"
    if get_origin(kind) is tuple:
        return _sizes, "a tuple of whole numbers, 1 or more"
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return lambda x: x in words, f"one of {', '.join(map(repr, words))}"
    if field.name == "epsilon":
        return lambda x: _real(x) and 0 < x < inf, "a number above 0"
    if kind is float:
        return lambda x: _real(x) and -inf <= x < inf, "a number, or minus infinity"
    return lambda x: isinstance(x, kind), f"a {kind.__name__}"


def _sides(x: object) -> bool:
    return _sizes(x) and len(x) == 2  # type: ignore[arg-type]  # noqa: PLR2004


def _real(x: object) -> bool:
    return isinstance(x, Real) and not _truth(x)


def _whole(n: object, least: int = 1) -> bool:
    return isinstance(n, Integral) and not _truth(n) and int(n) >= least


def _truth(x: object) -> bool:
    """Tell whether it is True or False, which Python counts among the numbers."""
    return isinstance(x, bool)


def _sizes(x: object) -> bool:
    return isinstance(x, tuple) and all(map(_whole, x))
