"""The registry: entry points, loaded when first considered (H1)."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

import attnref
from attnref import registry
from attnref.reference import backend as reference


def point(name: str, value: str, dist: str | None = None) -> EntryPoint:
    """Make an entry point, optionally of a distribution."""
    made = EntryPoint(name, value, registry.GROUP)
    return made if dist is None else made._for(SimpleNamespace(name=dist))


def forget() -> None:
    """Make the registry look again."""
    registry._registered.cache_clear()
    registry._loaded.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Pretend that these entry points, and no others, are installed."""
    points = [
        point("zeta", "attnref.reference:backend"),
        point("broken", "attnref_not_there:backend"),
        point("wrong", "attnref.reference:wide"),
    ]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert "attnref.backends" == group
        return points

    monkeypatch.setattr(registry, "entry_points", entry_points)
    forget()
    yield points
    forget()


def test_the_reference_is_registered_like_any_other() -> None:
    """The installed distribution registers the in-tree backends (H1)."""
    assert {"numpy", "reference", "torch"} <= set(attnref.backends())
    assert reference is registry.load("reference")


@pytest.mark.usefixtures("installed")
def test_names_are_in_alphabetical_order() -> None:
    """Names are listed without loading anything."""
    assert ("broken", "wrong", "zeta") == attnref.backends()


@pytest.mark.usefixtures("installed")
def test_a_backend_is_found_and_loaded() -> None:
    """What loads is the backend itself."""
    assert reference is registry.find("zeta")
    assert reference is registry.load("zeta")


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_imported_is_kept_as_the_reason() -> None:
    """Finding returns the error, loading raises it, and both say why."""
    found = registry.find("broken")
    wording = (
        "backend 'broken' cannot be loaded: "
        "ModuleNotFoundError: No module named 'attnref_not_there'"
    )
    assert wording == str(found)
    with pytest.raises(attnref.BackendLoadError) as caught:
        registry.load("broken")
    assert found is caught.value


@pytest.mark.usefixtures("installed")
def test_what_is_not_a_backend_is_not_loaded() -> None:
    """An entry point that names something else is told so."""
    with pytest.raises(attnref.BackendLoadError) as caught:
        registry.load("wrong")
    assert (
        "backend 'wrong' cannot be loaded: attnref.reference:wide is not a backend; "
        "see attnref.backend"
    ) == str(caught.value)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("ask", [registry.find, registry.load])
def test_an_unknown_name_suggests_a_near_one(ask: Any) -> None:
    """Nobody registered it: the nearest name and the list (H1)."""
    with pytest.raises(attnref.UnknownBackend) as caught:
        ask("zetta")
    assert (
        "no backend is called 'zetta'. Did you mean 'zeta'?\n"
        "  installed  broken, wrong, zeta\n"
        "  hint       a backend registers itself in the entry-point group "
        '"attnref.backends"'
    ) == str(caught.value)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_nobody_takes_the_name_of_an_in_tree_backend(
    first: str, installed: list[EntryPoint]
) -> None:
    """Installing a package that registers a name again changes nothing (H1)."""
    ours = point("same", "attnref.reference:backend", "attnref")
    theirs = point("same", "attnref_not_there:backend", "squatter")
    installed[:] = [ours, theirs] if first == "ours" else [theirs, ours]
    assert reference is registry.load("same")
