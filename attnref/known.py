"""Calls of a form that was seen before are neither checked nor chosen for anew.

What a call means and which backend runs it follow from its options and from the *forms* of
its arrays: library, dtype, shape, strides, device, and whether gradients are wanted. So a
problem is described and a backend chosen once per form, and later calls take the copy with
their own arrays in it. No array is kept; backend objects are. A call is not kept where
values count: lengths and offsets that the host holds are checked every time (A7).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from inspect import signature
from typing import Any

from attnref import arrays, dispatch, registry
from attnref.backend import Backend
from attnref.dispatch import Chosen
from attnref.problem import Problem, split_qkv

MOST = 4096
"""Forms that are kept; a program whose shapes never come again must not fill the memory."""

_Reader = Callable[[Any], Hashable]

_READERS: dict[type, _Reader] = {}
"""By the type of an argument."""

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class _Known:
    """A call without its arrays.

    Attributes:
        kind: Of its problem.
        plain: Fields that are the same in every such call.
        positional: Fields that are arrays, and which arguments they are.
        named: Fields that are arrays and options of the same name.
        packed: Whether q, k and v are views of a projection that is among these.
        chosen: What runs it, outside of a `trace`.
        registered: The backends that there were to choose from.
    """

    kind: type[Problem]
    plain: Mapping[str, Any]
    positional: tuple[tuple[str, int], ...]
    named: tuple[str, ...]
    packed: bool
    chosen: Chosen
    registered: Mapping[str, Any]

    def serves(self, requested: str | Backend | None) -> bool:
        """Tell whether what would be chosen from is what was, objects alike or not."""
        if requested is None or isinstance(requested, str):
            return self.registered is registry.registered()
        return self.chosen.backend is requested

    def problem(self, given: Sequence[Any], options: Mapping[str, Any]) -> Problem:
        """Put the arrays of a call into its description."""
        problem = object.__new__(self.kind)
        made = problem.__dict__  # past what keeps it frozen
        made.update(self.plain)
        for name, at in self.positional:
            made[name] = given[at]
        for name in self.named:
            made[name] = options[name]
        if self.packed:
            made.update(split_qkv(made["qkv"]))
        return problem


_known: dict[Hashable, _Known] = {}


def resolve(
    describe: Callable[..., Problem],
    requested: str | Backend | None,
    given: tuple[Any, ...],
    options: Mapping[str, Any],
) -> tuple[Any, Chosen]:
    """Describe a call and choose its backend, or remember both.

    Args:
        describe: Turns the call into its problem, and checks it.
        requested: A registered name, or a backend object; `None` walks the order.
        given: The arrays that `describe` takes by position.
        options: What it takes by name.

    Returns:
        The problem, and the backend that runs it.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.
    """
    key = _key(describe, requested, given, options)
    known = None
    if key is not None:
        try:
            known = _known.get(key)
        except TypeError:  # an option or a backend that cannot be looked up
            key = None
    if known is not None and known.serves(requested):
        log, chosen = dispatch.log(), known.chosen
        return known.problem(given, options), chosen if log is None else replace(chosen, log=log)
    problem = describe(*given, **options)
    chosen = dispatch.choose(problem, requested=requested)
    if key is not None:
        _keep(key, describe, given, options, problem, chosen)
    return problem, chosen


def _key(
    describe: Callable[..., Problem],
    requested: str | Backend | None,
    given: tuple[Any, ...],
    options: Mapping[str, Any],
) -> Hashable:
    """Return everything that a call's meaning and backend follow from, if that can be told."""
    read = (*given, *options.values()) if options else given
    forms = [(_READERS.get(type(x)) or _reader(x))(x) for x in read]
    if None in forms:
        return None
    who = dispatch.order() if requested is None else requested
    # Packed sequences of one array of offsets are told from those of two that are alike.
    one = len(given) > 3 and given[-1] is given[-2]  # noqa: PLR2004  # q, k and v
    return (describe, requested is None, who, one, *options, *forms)


def _reader(x: Any) -> _Reader:
    """Say what reads of an argument all that a call's meaning follows from, and remember it."""
    kind = type(x)
    if kind in _PLAIN:
        reader: _Reader = partial(_plain, kind)
    else:
        reader = _bounds if kind is tuple else arrays.reader(x)
    _READERS[kind] = reader
    return reader


def _plain(kind: type, x: Any) -> Hashable:
    return kind, x


def _bounds(x: tuple[Any, ...]) -> Hashable:
    return tuple((type(n), n) for n in x) if all(type(n) in _PLAIN for n in x) else None


def _keep(
    key: Hashable,
    describe: Callable[..., Problem],
    given: tuple[Any, ...],
    options: Mapping[str, Any],
    problem: Problem,
    chosen: Chosen,
) -> None:
    """Keep a call, unless values count, or its problem holds arrays that no argument names."""
    if any(map(arrays.read_by_value, (*given, *options.values()))):
        return
    names = _parameters(describe)[: len(given)]
    plain: dict[str, Any] = {}
    positional: list[tuple[str, int]] = []
    named: list[str] = []
    packed = getattr(problem, "qkv", None) is not None
    for field in fields(problem):
        name, value = field.name, getattr(problem, field.name)
        if arrays.library(value) is None:
            plain[name] = value
        elif name in names and given[names.index(name)] is value:
            positional.append((name, names.index(name)))
        elif options.get(name) is value:
            named.append(name)
        elif not (packed and name in ("q", "k", "v")):
            return
    if len(_known) >= MOST:
        _known.clear()
    _known[key] = _Known(
        type(problem),
        plain,
        tuple(positional),
        tuple(named),
        packed,
        replace(chosen, log=None),
        registry.registered(),
    )


@cache
def _parameters(describe: Callable[..., Problem]) -> tuple[str, ...]:
    return tuple(signature(describe).parameters)
