"""The suite as pytest sees it: one test, given every trial by the plugin."""

from typing import Any

import pytest


def test_conformance(attnref_trial: Any, attnref_backend: Any, record_property: Any) -> None:
    """The backend means what the specification means."""
    outcome = attnref_trial.run(attnref_backend)
    record_property("attnref_status", str(outcome.status))
    record_property("attnref_message", outcome.message)
    if outcome.status.failure:
        pytest.fail(f"{outcome.status} {outcome.id}\n{outcome.message}", pytrace=False)
