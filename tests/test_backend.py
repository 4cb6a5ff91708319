"""The protocol: what a backend is, and the two helpers for its author (H1, H2)."""

from typing import Any

import numpy as np
import pytest

import attnref
from attnref import normalize
from attnref.backend import is_backend, memory_order, not_understood, refuse
from attnref.reference import backend as reference

Q = np.zeros((1, 1, 3, 2))


class Picky:
    """A backend that runs nothing."""

    name, library = "picky", "numpy"

    def available(self) -> list[attnref.Reason]:
        """Answer that it can run here."""
        return []

    def unsupported(self, problem: Any) -> list[attnref.Reason]:
        """Refuse whatever is asked."""
        return not_understood(problem, {"attention": {"mask"}})

    def forward(self, problem: Any) -> Any:
        """Refuse first, as every forward does."""
        refuse(self, problem)
        return "ran"

    def backward(self, problem: Any, result: Any, dout: Any, dlse: Any = None) -> Any:
        """Have nothing to pass back."""

    def from_numpy(self, x: np.ndarray) -> Any:
        """Return the array."""
        return x

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return the array."""
        return x


def test_a_backend_is_what_has_the_methods() -> None:
    """No base class: the protocol is checked by its members."""
    assert is_backend(Picky())
    assert is_backend(reference)
    assert not is_backend(object())


def test_a_wrapper_that_delegates_is_a_backend() -> None:
    """Members count wherever they come from, on every version of Python."""

    class Wrapper:
        def __getattr__(self, name: str) -> Any:
            return getattr(Picky(), name)

    assert is_backend(Wrapper())


def test_an_operation_that_is_not_understood_is_a_reason() -> None:
    """One reason names the operation (H2)."""
    (reason,) = not_understood(normalize.softmax(Q), {"attention": set()})
    assert attnref.Reason("operation", "softmax is not implemented") == reason


def test_each_feature_that_is_not_understood_is_a_reason() -> None:
    """Reasons come in alphabetical order and name the argument (H2)."""
    problem = normalize.attention(
        Q, Q, Q, softcap=1.0, bias=np.zeros((3, 3)), mask=np.ones((3, 3), bool)
    )
    expected = [
        attnref.Reason("feature", "bias is not implemented", "bias"),
        attnref.Reason("feature", "softcap is not implemented", "softcap"),
    ]
    assert expected == Picky().unsupported(problem)


def test_what_is_understood_runs() -> None:
    """Without a reason there is no refusal."""
    assert "ran" == Picky().forward(normalize.attention(Q, Q, Q))


def test_a_forward_refuses_what_it_cannot_run() -> None:
    """Called directly, a backend raises its own reasons (H1)."""
    with pytest.raises(attnref.UnsupportedError) as caught:
        Picky().forward(normalize.attention(Q, Q, Q, softcap=1.0))
    assert (
        "backend 'picky' cannot run this call.\n"
        "  attention: q float64 (1, 1, 3, 2) cpu, softcap\n"
        "  picky  softcap is not implemented"
    ) == str(caught.value)


def test_backends_are_given_the_memory_order() -> None:
    """The rule for the layout of results is theirs to import (A1)."""
    assert (0, 1, 3, 2) == memory_order(np.zeros((2, 3, 4, 5)).mT)
