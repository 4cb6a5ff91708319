"""The prints are those of the installed libraries, and a change of meaning changes them."""

import doctest
import importlib
import linecache
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnref import integrations
from attnref.integrations import replacing, sources

MODULES = [m.name for m in pkgutil.walk_packages(integrations.__path__, "attnref.integrations.")]


def function(source: str) -> Callable[..., Any]:
    """Define a function whose source can be found."""
    name = f"<made {abs(hash(source))}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space)
    return space["f"]


PLAIN = function("def f(x, y=1):\n    return x + y\n")


@pytest.mark.parametrize("where", sorted(replacing.REPLACEABLE.values()))
def test_the_installed_versions_are_known(where: str) -> None:
    """If this fails, a library changed: compare it, hold it to parity, then add its print."""
    module, _, name = where.partition(".")
    kind = getattr(importlib.import_module(f"attnref.integrations.{module}"), name)
    actual = {f.__qualname__: sources.fingerprint(f) for f in kind.sources}
    known = {f.__qualname__: prints for f, prints in kind.sources.items()}

    assert {} == {n: print_ for n, print_ in actual.items() if print_ not in known[n]}


@pytest.mark.parametrize(
    "source",
    [
        'def f(x: int, y: int = 1) -> int:\n    """Add."""\n    return x + y  # a sum\n',
        "def f(x,\n      y=1):\n    return (x +\n            y)\n",
    ],
    ids=["annotations and comments", "layout"],
)
def test_what_means_nothing_changes_no_print(source: str) -> None:
    """A library may be reformatted."""
    assert sources.fingerprint(PLAIN) == sources.fingerprint(function(source))


@pytest.mark.parametrize(
    "source",
    ["def f(x, y=2):\n    return x + y\n", "def f(x, y=1):\n    return y + x\n"],
    ids=["a default", "an order"],
)
def test_what_means_something_changes_the_print(source: str) -> None:
    """However little it is."""
    assert sources.fingerprint(PLAIN) != sources.fingerprint(function(source))


def test_a_docstring_alone_is_a_body() -> None:
    """A function that only says something does nothing."""
    said = function('def f():\n    """Nothing."""\n')
    assert sources.fingerprint(function("def f():\n    pass\n")) == sources.fingerprint(said)


def test_without_source_there_is_no_print() -> None:
    """What cannot be read was not compared."""
    assert ["len"] == sources.unknown({len: frozenset({"0"})})


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """What follows `>>>` prints what stands under it."""
    with np.printoptions(legacy=False):
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert 0 == failed
