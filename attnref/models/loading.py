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
from attnref.errors import AttnrefError, InvalidProblem
from attnref.models.arithmetic import namespace
from attnref.models.configurations import Config
from attnref.models.fitting import SIZES, ParameterMismatch, differences, mapped, together
from attnref.models.names import Layout, Stored, layout
from attnref.models.parameters import Shape, shapes

HINTS = {
    "missing": "check source= and the configuration: shapes(config) lists what a model has",
    "misshapen": SIZES,
    "untied": "the head of this model is its token table; a head of its own has no place",
}
"""What to do about a state dict."""


def load(
    config: Config,
    state: Mapping[str, Array] | str | Path,
    *,
    source: str = "attnref",
    ignore: str | Sequence[str] = (),
) -> dict[str, Array]:
    """Take a model's parameters from a state dict or a safetensors file.

    Args:
        config: The model that the state dict must be of.
        state: Arrays of one library by name, or a safetensors file.
        source: Whose names they are: `"attnref"`, `"huggingface"`, `"timm"` or
            `"torchvision"`.
        ignore: Beginnings of names in the state dict that do not matter, e.g. another head;
            or one beginning.

    Returns:
        The parameters as `shapes(config)` lists them: NumPy's from a file, else of the
        given library, sharing its memory where the layout allows.

    Raises:
        ParameterMismatch: A name is missing, unexpected, misshapen or not tied.
        InvalidProblem: There are no such names for this kind of model; the file is not
            there or not of that kind; arrays are of several libraries.

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
    mapped("state", given, "of a torch module take module.state_dict()")
    spelled: dict[str, str] = {}
    for name in given:
        spelled.setdefault(_spell(name, theirs), name)
    wanted = {name: (shape, _stored(name, theirs)) for name, shape in shapes(config).items()}
    what = f"the state dict is not {type(config).__name__.removesuffix('Config')} of {source}"
    _check(what, given, spelled, wanted, theirs, (ignore,) if isinstance(ignore, str) else ignore)
    return {
        name: _build([given[spelled[n]] for n in stored.names], shape, stored)
        for name, (shape, stored) in wanted.items()
    }


def _read(file: str | Path) -> Mapping[str, Array]:
    """Read a safetensors file, or say why it is none."""
    if util.find_spec("safetensors") is None:
        raise AttnrefError(f"{file} needs one more package: pip install safetensors")
    if not Path(file).is_file():
        raise InvalidProblem(
            f"{file} is a folder." if Path(file).is_dir() else f"there is no file {file}.",
            see="attnref.models.loading",
            hint="state is a mapping, or the path of a safetensors file",
        )
    if util.find_spec("ml_dtypes"):
        import_module("ml_dtypes")  # With it NumPy has bfloat16, and files may be of it.
    try:
        return import_module("safetensors.numpy").load_file(file)
    except Exception as error:  # noqa: BLE001  # whatever the package's version raises
        raise InvalidProblem(
            f"{file} cannot be read as safetensors: {error}",
            see="attnref.models.loading",
            hint="bfloat16 needs ml_dtypes; of a file of torch's own take "
            "torch.load(file, weights_only=True)",
        ) from None


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
    needed = {
        spelled.get(n, n): _theirs(shape, stored)
        for shape, stored in wanted.values()
        for n in stored.names
    }
    optional = {n: wanted[ours][1].names[0] for n, ours in theirs.tied.items() if ours in wanted}

    def idle(name: str) -> bool:
        """Tell whether a name may be there and is not read: a tied copy, a buffer, what is ignored.

        A name that is spelled in two ways is there twice, and one of them is too many.
        """
        n = _spell(name, theirs)
        tied, buffer = n in optional and spelled[n] == name, re.fullmatch(theirs.buffers, n)
        return bool(tied or buffer) or any(start and name.startswith(start) for start in ignore)

    read = {name: x for name, x in given.items() if name in needed}
    together(read)
    rest: dict[str, Shape] = {name: () for name in given if name not in needed and not idle(name)}
    found = differences(needed, {n: tuple(x.shape) for n, x in read.items()} | rest, _same)
    untied = {
        spelled[n]: spelled[first]
        for n, first in optional.items()
        if n in spelled and first in spelled
        if not _equal(given[spelled[n]], given[spelled[first]])
    }
    if any(found) or untied:
        odd = next(iter(found.unexpected), "")
        start = odd[: odd.find(".") + 1] or odd
        hints = {"unexpected": f"ignore={start!r} leaves out names that begin so", **HINTS}
        raise ParameterMismatch(what, "loaded", found, untied, hints)


def _equal(x: Array, y: Array) -> bool:
    return x is y or np.array_equal(arrays.to_numpy(x), arrays.to_numpy(y))


def _build(given: Sequence[Array], shape: Shape, stored: Stored) -> Array:
    """Make one of our parameters of a library's arrays."""
    x = given[0] if len(given) == 1 else namespace(given[0]).concat(list(given), axis=0)
    x = x if stored.rows is None else x[slice(*stored.rows)]
    return (x.swapaxes(0, 1) if stored.transposed else x).reshape(shape)
