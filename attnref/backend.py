"""What a backend is.

This module, `attnref.problem`, `attnref.errors` and `attnref.spec.visibility` are all
that a backend may import, and what is kept stable for its author.
`backends/README.md` shows how to write one.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, TypeGuard

import numpy as np

from attnref.arrays import Array, memory_order
from attnref.errors import Reason, UnsupportedError
from attnref.problem import Gradients, Problem, Result

__all__ = ["Backend", "Reason", "is_backend", "memory_order", "not_understood", "refuse"]


class Backend(Protocol):
    """An implementation of the specification.

    Attributes:
        name: What callers write: `attention(..., backend=name)`.
        library: The array library it computes with, e.g. `"torch"`; `"any"` if it
            reads all of them. Arrays of another library reach a backend only when it
            was named, and then as views on the same device.

    A backend may also have a `profile`, the name of the arithmetic it is judged by:
    `"ieee"` (one rounding at the end, and the default), `"half-weights"` (weights and dS
    are rounded to a half input dtype before their product) or `"tf32"`. And it may say
    `masked_nonfinite = True`: what is not finite at an invisible position inside the given
    lengths reaches no result (C6); or `deterministic = True`: the same call gives the same
    bits, forward and backward.

    And it may have a method `remarks(problem)`, which returns a sequence of `Reason`: what
    `explain` says of how a call would run that it does not refuse, e.g. why it would take a
    slower kernel. Like `unsupported`, it never raises, compiles or allocates.
    """

    name: str
    library: str

    def available(self) -> Sequence[Reason]:
        """Say why nothing can run on this machine; empty if something can.

        Asked once for each form of a call, see `attnref.known`.
        """

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Say why this problem cannot be run; empty if it can.

        Cheap, and never raises, compiles or allocates. It is asked once for each form of a
        call, see `attnref.known`: the answer follows from the description alone.
        """

    def forward(self, problem: Problem) -> Result:
        """Run the problem, or raise `UnsupportedError` if there are reasons against it."""

    def backward(
        self, problem: Problem, result: Result, dout: Array, dlse: Array | None = None
    ) -> Gradients:
        """Pass gradients back, from the problem and its result alone."""

    def from_numpy(self, x: np.ndarray) -> Array:
        """Make an array for this backend; used by the judge only."""

    def to_numpy(self, x: Array) -> np.ndarray:
        """Read an array of this backend; used by the judge only."""


_MEMBERS = ("name", "library", *(n for n in vars(Backend) if not n.startswith("_")))


def is_backend(candidate: object) -> TypeGuard[Backend]:
    """Tell whether an object has every member of a backend, delegated ones included.

    `isinstance` asks the class alone from Python 3.12 on, and would refuse a wrapper.
    """
    return all(hasattr(candidate, member) for member in _MEMBERS)


def not_understood(problem: Problem, understood: Mapping[str, AbstractSet[str]]) -> list[Reason]:
    """List what a call asks for and a backend has never heard of.

    Args:
        problem: The call.
        understood: Operation to the features of it that the backend implements.

    Returns:
        A reason for the operation, or for each feature, that is missing.

    Example:
        >>> import numpy as np
        >>> from attnref import normalize
        >>> q = np.zeros((1, 1, 3, 2))
        >>> problem = normalize.attention(q, q, q, softcap=30.0)
        >>> [str(reason) for reason in not_understood(problem, {"attention": set()})]
        ['softcap is not implemented']
    """
    if problem.operation not in understood:
        return [Reason("operation", f"{problem.operation} is not implemented")]
    missing = sorted(problem.features - understood[problem.operation])
    return [Reason("feature", f"{name} is not implemented", name) for name in missing]


def refuse(backend: Backend, problem: Problem) -> None:
    """Raise if the backend cannot run the problem: the first line of a `forward`.

    Raises:
        UnsupportedError: There are reasons against the call.
    """
    reasons = backend.unsupported(problem)
    if reasons:
        raise UnsupportedError(str(problem), {backend.name: reasons}, requested=backend.name)
