"""What every public function does before its own work."""

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, ParamSpec, TypeVar, cast, get_args

from attnref import dispatch
from attnref.backend import Backend
from attnref.errors import UnknownArgument
from attnref.options import DEFAULTS
from attnref.problem import Problem

P = ParamSpec("P")
R = TypeVar("R")


def public(describe: Callable[..., Problem]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function public: refuse unknown keywords, serve `torch.compile`.

    Args:
        describe: Turns the function's arguments into its problem; `explain` uses it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        shown = _signature(function)
        names = frozenset(shown.parameters)
        keywords = frozenset(_keywords(shown))
        name = function.__name__

        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            if not keywords.issuperset(options):
                if not names.issuperset(options):
                    raise _unknown(name, shown, options)
                bound = shown.bind(*args, **options)
                args, options = bound.args, bound.kwargs  # type: ignore[assignment]
            torch = sys.modules.get("torch")
            if torch is not None and torch.compiler.is_compiling():
                from attnref import compiled  # loads torch

                return cast("R", compiled.call(name, args, options))
            return function(*args, **options)

        call.__signature__ = shown  # type: ignore[attr-defined]
        call.describe = describe  # type: ignore[attr-defined]
        return call

    return decorate


def _keywords(shown: Signature) -> list[str]:
    return [p.name for p in shown.parameters.values() if p.kind is Parameter.KEYWORD_ONLY]


def _unknown(name: str, shown: Signature, options: Iterable[str]) -> UnknownArgument:
    known = list(shown.parameters)
    return UnknownArgument(name, next(key for key in options if key not in known), known)


def _signature(function: Callable[..., Any]) -> Signature:
    """Return the signature with `**options` written out."""
    shown = signature(function)
    parameters: list[Parameter] = []
    for p in shown.parameters.values():
        if p.kind is not Parameter.VAR_KEYWORD:
            parameters.append(p)
            continue
        (options,) = get_args(p.annotation)
        parameters += [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty
                if name in options.__required_keys__
                else DEFAULTS.get(name),
                annotation=kind,
            )
            for name, kind in options.__annotations__.items()
        ]
    return shown.replace(parameters=parameters)


def explain(
    function: Callable[..., Any], *args: Any, backend: str | Backend | None = None, **options: Any
) -> dispatch.Explanation:
    """Say what each backend answers to a call and which one would run; runs nothing.

    Args:
        function: A public function, e.g. `attnref.attention`.
        *args: Its arrays.
        backend: As the call would name it.
        **options: Its options.

    Returns:
        An `Explanation`: print it, or read `runs` and `reasons`.

    Raises:
        InvalidProblem: The call has no meaning.
        UnknownArgument: The function has no such option.
        UnknownBackend: No package registers the name.

    Example:
        >>> import numpy as np, attnref
        >>> q = np.zeros((1, 2, 4, 8))
        >>> attnref.explain(attnref.attention, q, q, q, backend="reference").runs
        'reference'
    """
    return dispatch.explain(described(function, *args, **options), requested=backend)


def described(function: Callable[..., Any], *args: Any, **options: Any) -> Problem:
    """Return the problem that a call of a public function is, without running anything.

    Args:
        function: A public function, e.g. `attnref.attention`.
        *args: Its arrays.
        **options: Its options, without a backend.

    Raises:
        InvalidProblem: The call has no meaning.
        UnknownArgument: The function has no such option.
    """
    describe = getattr(function, "describe", None)
    if describe is None:
        raise TypeError(f"{function!r} is not a public function of attnref")
    shown = signature(function)
    if not shown.parameters.keys() >= options.keys():
        raise _unknown(function.__name__, shown, options)
    return cast("Problem", describe(*args, **options))
