"""Every example in a docstring runs, and shows what it says."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import attnref

MODULES = [
    "attnref",
    *(m.name for m in pkgutil.walk_packages(attnref.__path__, "attnref.")),
]
# What needs other libraries' models runs where they are installed: in tests/parity.
MODULES = [name for name in MODULES if not name.startswith("attnref.integrations.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """What follows `>>>` prints what stands under it."""
    with np.printoptions(legacy=False):
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert 0 == failed


@pytest.mark.parametrize("name", [n for n in attnref.__all__ if n.islower() and n != "backends"])
def test_every_public_function_has_an_example(name: str) -> None:
    """Nobody has to guess how a function is called."""
    assert ">>> " in getattr(attnref, name).__doc__
