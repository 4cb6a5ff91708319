"""Modules that a backend says it does without: importing one fails while it is judged."""

import sys
from collections.abc import Iterable

from attnref.errors import AttnrefError


class AlreadyImportedError(AttnrefError):
    """A module that is to be forbidden is there already, and may have been used."""


def forbid(modules: Iterable[str]) -> None:
    """Make every import of some modules fail, in this process and for good.

    Raises:
        AlreadyImportedError: One is imported.
    """
    for name in modules:
        if sys.modules.get(name) is not None:
            raise AlreadyImportedError(f"{name} cannot be forbidden: it is imported already")
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own sign for it
