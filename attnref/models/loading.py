"""Parameters from other libraries' state dicts and files, all of them or none.

What a file must hold follows from the configuration; `attnref.models.names` says what each
library calls it. Names that are missing, unexpected or of another shape are all listed in
one error, and nothing is loaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module, util
from pathlib import Path

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import AttnrefError
from attnref.models.arithmetic import namespace
from attnref.models.configurations import Config
from attnref.models.names import Layout, Stored, layout
from attnref.models.parameters import Shape, shapes

SHOWN = 8
"""How many names of a kind an error lists before it counts the rest."""


class ParameterMismatch(AttnrefError, ValueError):  # noqa: N818  # reads as a sentence
    """A state dict that is not this model's.

    Attributes:
        missing: Names that the model needs and the state dict does not have.
        unexpected: Names that the model does not know.
        misshapen: Names with the shape that they have and the one that they must have.
        untied: Names that must equal another parameter and do not.
    """

    __module__ = "attnref.models"

    def __init__(
        self,
        what: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshapen: Mapping[str, tuple[Shape, Shape]] | None = None,
        untied: Mapping[str, str] | None = None,
    ) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.misshapen, self.untied = dict(misshapen or {}), dict(untied or {})
        lines = [
            f"the state dict is not {what}: {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.misshapen)} misshapen, "
            f"{len(self.untied)} untied; nothing was loaded."
        ]
        shaped = [f"{n} has {has}, must have {must}" for n, (has, must) in self.misshapen.items()]
        tied = [f"{name} differs from {other}" for name, other in self.untied.items()]
        said = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "misshapen": shaped,
            "untied": tied,
        }
        for kind, texts in said.items():
            lines += [f"  {kind:<10}  {text}" for text in texts[:SHOWN]]
            lines += [f"  {kind:<10}  and {len(texts) - SHOWN} more"] if texts[SHOWN:] else []
        lines.append("  hint        ignore=('head.',) leaves out names that begin so")
        super().__init__("\n".join(lines))


def load(
    config: Config,
    state: Mapping[str, Array] | str | Path,
    *,
    source: str = "attnref",
    ignore: Sequence[str] = (),
) -> dict[str, Array]:
    """Take a model's parameters from a state dict or a safetensors file.

    Args:
        config: The model that the state dict must be of.
        state: Arrays of one library by name, or a safetensors file.
        source: Whose names they are: `"attnref"`, `"huggingface"`, `"timm"` or
            `"torchvision"`.
        ignore: Beginnings of names in the state dict that do not matter, e.g. another head.

    Returns:
        The parameters as `shapes(config)` lists them: NumPy's from a file, else of the
        given library, sharing its memory where the layout allows.

    Raises:
        ParameterMismatch: A name is missing, unexpected, misshapen or not tied.
        InvalidProblem: There are no such names for this kind of model.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ConvConfig, initialise, load
        >>> config = ConvConfig(widths=(4,), depth=1, classes=2)
        >>> parameters = load(config, initialise(config, np.random.default_rng(0)))
        >>> parameters["head.weight"].shape
        (2, 4)
    """
    theirs = layout(config, source)
    given = _read(state) if isinstance(state, str | Path) else state
    spelled: dict[str, str] = {}
    for name in given:
        spelled.setdefault(_spell(name, theirs), name)
    wanted = {name: (shape, _stored(name, theirs)) for name, shape in shapes(config).items()}
    what = f"{type(config).__name__.removesuffix('Config')} of {source}"
    _check(what, given, spelled, wanted, theirs, ignore)
    return {
        name: _build([given[spelled[n]] for n in stored.names], shape, stored)
        for name, (shape, stored) in wanted.items()
    }


def _read(file: str | Path) -> Mapping[str, Array]:
    if util.find_spec("safetensors") is None:
        raise AttnrefError(f"{file} needs one more package: pip install safetensors")
    return import_module("safetensors.numpy").load_file(file)


def _spell(name: str, theirs: Layout) -> str:
    """Return the name without its model's prefix, in the library's present spelling."""
    name = name.removeprefix(theirs.prefix)
    for old, new in theirs.spellings:
        name = re.sub(old, new, name)
    return name


def _stored(name: str, theirs: Layout) -> Stored:
    """Return where one of our parameters is: the first row of the table that fits its name."""
    for ours, where in theirs.table.items():
        pattern = re.escape(ours).replace(r"\{", "{").replace(r"\}", "}")
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^.]+)", pattern), name)
        if found:
            words = found.groupdict()
            if "s" in words:
                s = int(words["s"])
                words |= {"s1": str(s + 1), "odd": str(2 * s + 1), "even": str(2 * s + 2)}
            stored = Stored((where,)) if isinstance(where, str) else where
            return replace(stored, names=tuple(n.format_map(words) for n in stored.names))
    return Stored((f"(no name for {name})",))


def _theirs(shape: Shape, stored: Stored) -> Shape:
    """Return the shape that a library's array must have, axes of length one aside."""
    if stored.transposed:
        shape = shape[::-1]
    return (stored.of or shape[0] // len(stored.names), *shape[1:])


def _same(has: Shape, must: Shape) -> bool:
    return [n for n in has if n != 1] == [n for n in must if n != 1]


def _check(
    what: str,
    given: Mapping[str, Array],
    spelled: Mapping[str, str],
    wanted: Mapping[str, tuple[Shape, Stored]],
    theirs: Layout,
    ignore: Sequence[str],
) -> None:
    """List everything that is wrong with a state dict, if anything is."""
    needed = {n: _theirs(shape, stored) for shape, stored in wanted.values() for n in stored.names}
    missing = [n for n in needed if n not in spelled]
    optional = {n: wanted[ours] for n, ours in theirs.tied.items() if ours in wanted}
    known = {*needed, *optional}
    unexpected = [
        name
        for name in given
        for n in (_spell(name, theirs),)
        # A name that is spelled in two ways is there twice, and one of them is too many.
        if (n not in known and not re.fullmatch(theirs.buffers, n)) or spelled[n] != name
        if not any(start and name.startswith(start) for start in ignore)
    ]
    shaped = {
        spelled[n]: (tuple(given[spelled[n]].shape), must)
        for n, must in needed.items()
        if n in spelled
    }
    misshapen = {n: pair for n, pair in shaped.items() if not _same(*pair)}
    pairs = {n: stored.names[0] for n, (_, stored) in optional.items()}
    untied = {
        spelled[n]: spelled[first]
        for n, first in pairs.items()
        if n in spelled and first in spelled
        if not _equal(given[spelled[n]], given[spelled[first]])
    }
    if missing or unexpected or misshapen or untied:
        raise ParameterMismatch(what, missing, unexpected, misshapen, untied)


def _equal(x: Array, y: Array) -> bool:
    return x is y or np.array_equal(arrays.to_numpy(x), arrays.to_numpy(y))


def _build(given: Sequence[Array], shape: Shape, stored: Stored) -> Array:
    """Make one of our parameters of a library's arrays."""
    x = given[0] if len(given) == 1 else namespace(given[0]).concat(list(given), axis=0)
    x = x if stored.rows is None else x[slice(*stored.rows)]
    return (x.swapaxes(0, 1) if stored.transposed else x).reshape(shape)
