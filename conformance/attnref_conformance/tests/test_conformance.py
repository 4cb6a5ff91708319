"""The suite as pytest sees it: one test, given every trial by the plugin."""

import json
from typing import Any

import pytest


def test_conformance(attnref_trial: Any, attnref_judge: Any, record_property: Any) -> None:
    """The backend means what the specification means."""
    outcome = attnref_judge.judge(attnref_trial)
    record_property("attnref_status", str(outcome.status))
    record_property("attnref_message", outcome.message)
    record_property("attnref_outcome", json.dumps(outcome.as_json()))
    if outcome.status.failure:
        pytest.fail(f"{outcome.status} {outcome.id}\n{outcome.message}", pytrace=False)
