"""What a fault is: a wrong backend, and the clause that it breaks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from attnref.backend import Backend
from attnref_conformance.honest import Tiled

T = TypeVar("T", bound=type[Tiled])


@dataclass(frozen=True)
class Fault:
    """A wrong backend and the clause that it breaks.

    Attributes:
        name: The name by which the command finds it.
        clause: The clause on which it must fail.
        meaning: What is wrong, in one sentence.
        kind: The class of the backend.
    """

    name: str
    clause: str
    meaning: str
    kind: type[Tiled]

    @property
    def backend(self) -> Backend:
        """A new one each time: some faults remember, and none inherits a memory."""
        return self.kind(self.name)


FAULTS: dict[str, Fault] = {}
"""Every fault by name."""


def breaks(clause: str) -> Callable[[T], T]:
    """Register a class as the fault that breaks a clause; its docstring says how."""

    def register(cls: T) -> T:
        name = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")
        assert name not in FAULTS
        FAULTS[name] = Fault(name, clause, (cls.__doc__ or "").strip(), cls)
        return cls

    return register
