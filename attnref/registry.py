"""Finds backends by entry point and loads them when they are first considered.

A package registers a backend in the group `attnref.backends`: the name that callers
write, and where the object is. In-tree backends do the same as anyone's. What cannot be
loaded is kept as the reason why, shown by `attnref backends` and raised for whoever
asks for that backend by name.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from attnref.backend import Backend, is_backend
from attnref.errors import BackendLoadError, UnknownBackend

GROUP = "attnref.backends"
"""The entry-point group."""

OURS = "attnref"
"""The distribution that the in-tree backends come with."""


@cache
def _registered() -> dict[str, EntryPoint]:
    # The last of a name wins, and nobody takes an in-tree one: no package may change what
    # runs by being installed (H1).
    points = sorted(
        entry_points(group=GROUP), key=lambda p: p.dist is not None and p.dist.name == OURS
    )
    return {point.name: point for point in points}


@cache
def _loaded(name: str) -> Backend | BackendLoadError:
    point = _registered()[name]
    try:
        backend = point.load()
    except Exception as error:  # noqa: BLE001  # whatever a third party's import raises
        return BackendLoadError(name, f"{type(error).__name__}: {error}")
    if not is_backend(backend):
        return BackendLoadError(name, f"{point.value} is not a backend; see attnref.backend")
    return backend


def registered() -> Mapping[str, EntryPoint]:
    """Return the entry points by name; another object once they were looked up again."""
    return _registered()


def names() -> tuple[str, ...]:
    """Return the registered names, in alphabetical order."""
    return tuple(sorted(_registered()))


def find(name: str) -> Backend | BackendLoadError:
    """Return the backend, or the error that keeps it from being loaded.

    Raises:
        UnknownBackend: Nobody registered this name.
    """
    if name not in _registered():
        raise UnknownBackend(name, names())
    return _loaded(name)


def load(name: str) -> Backend:
    """Return the backend.

    Raises:
        UnknownBackend: Nobody registered this name.
        BackendLoadError: Its package cannot be imported.
    """
    found = find(name)
    if isinstance(found, BackendLoadError):
        raise found
    return found
