"""What the tests of the judge share: the core runs there as for its users, and no slower."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def unwatched(no_cover: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check no shapes, and count no lines: watched, the core takes several times as long.

    The judge calls it on the same few hundred problems for each of hundreds of backends. Its
    lines must be covered by tests of its own.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def shapes_checked(unwatched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check shapes all the same, where each problem of the suite is met once."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
