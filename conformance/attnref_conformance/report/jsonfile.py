"""The JSON report: one line per outcome, sealed by a digest of its content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attnref_conformance.status import Outcome

SCHEMA = 2
"""The version of the format; `schema.json` describes it."""


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of a report."""
    return dict(json.loads(Path(__file__).with_name("schema.json").read_text("utf-8")))


def digest(content: Mapping[str, Any]) -> str:
    """Hash all that a report says, except the digest itself; the order of keys is no matter."""
    said = {name: x for name, x in content.items() if name != "digest"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Add the digest."""
    plain = json.loads(json.dumps(content))
    return {**plain, "digest": digest(plain)}


def kept(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return outcomes as a report keeps them, with three digits of every number."""
    return [Outcome.from_json(o.as_json()) for o in outcomes]


def lines(content: Mapping[str, Any]) -> str:
    """Write a report as JSON of one line per outcome, so that two reports compare well."""
    outcomes = ",\n".join(json.dumps(o) for o in content["outcomes"])
    head = json.dumps({**content, "outcomes": []}, indent=1)
    return head.replace('"outcomes": []', f'"outcomes": [\n{outcomes}\n]') + "\n"
