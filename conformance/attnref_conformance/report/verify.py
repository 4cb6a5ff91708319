"""`attnref verify-report`: whether a report says what follows from its outcomes, unedited.

The digest is no signature: it shows that a report was edited by hand, not who made it.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnref_conformance import SUITE_VERSION
from attnref_conformance.report import claims, jsonfile
from attnref_conformance.report.evidence import hash_of
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection

_SHOWN = 10


@dataclass(frozen=True)
class Verdict:
    """What verifying a report found.

    Attributes:
        wrong: What is wrong with it, a sentence each; empty if it verifies.
        stale: Why it is evidence of other code; empty if it is not.
        not_run: The ids of the cases that are newer than the report, or were left out of it.
        unknown: Why nothing can be said about its sources; empty if something can.
    """

    wrong: Sequence[str] = ()
    stale: str = ""
    not_run: Sequence[str] = ()
    unknown: str = ""
    about: str = field(default="", kw_only=True)


def verify(text: str) -> Verdict:
    """Verify the text of a JSON report."""
    try:
        content = json.loads(text)
    except ValueError as error:
        return Verdict([f"it is not JSON: {error}"])
    wrong = _against_schema(content)
    if wrong:
        return Verdict(wrong)
    outcomes = [Outcome.from_json(o) for o in content["outcomes"]]
    wrong = [*_digest(content), *_recomputed(content, outcomes), *_twice(outcomes)]
    stale, unknown = freshness(content)
    return Verdict(wrong, stale, not_run(content), unknown, about=_about(content))


def _against_schema(content: Any) -> list[str]:
    from jsonschema import Draft202012Validator  # needed here alone

    said = content.get("schema") if isinstance(content, dict) else None
    if said != jsonfile.SCHEMA:
        return [f"its format is {said!r} and must be {jsonfile.SCHEMA}; judge again"]
    errors = sorted(Draft202012Validator(jsonfile.schema()).iter_errors(content), key=str)
    told = [f"{error.json_path}: {error.message[:200]}" for error in errors[:_SHOWN]]
    more = len(errors) - _SHOWN
    return [*told, f"and {more} more departures from the schema"] if more > 0 else told


def _digest(content: Mapping[str, Any]) -> list[str]:
    if jsonfile.digest(content) == content["digest"]:
        return []
    return ["its digest is not that of its content: it was edited after it was written"]


def _recomputed(content: Mapping[str, Any], outcomes: Sequence[Outcome]) -> list[str]:
    """Recompute everything that follows from the outcomes."""
    numbers = map(int, content["levels"])  # a level may be newer than the report
    follows = {
        "counts": claims.counts(outcomes),
        "levels": claims.levels(outcomes, partial=content["partial"], numbers=numbers),
        "passed": not claims.failures(outcomes),
        "statistics": claims.statistics(outcomes),
    }
    return [
        f"{name} does not follow from the outcomes: {_difference(content[name], x)}"
        for name, x in follows.items()
        if content[name] != x
    ]


def _difference(said: Any, follows: Any, at: str = "") -> str:
    """Describe the first difference of two values."""
    if isinstance(said, dict) and isinstance(follows, dict):
        for key in sorted(said.keys() | follows.keys()):
            if said.get(key) != follows.get(key):
                return _difference(said.get(key), follows.get(key), f"{at}[{key}]")
    if isinstance(said, list) and isinstance(follows, list) and len(said) == len(follows):
        for n, (x, y) in enumerate(zip(said, follows, strict=True)):
            if x != y:
                return _difference(x, y, f"{at}[{n}]")
    return f"it says {at + ' ' if at else ''}{said!r}, and {follows!r} follows"


def _twice(outcomes: Sequence[Outcome]) -> list[str]:
    twice = [case for case, n in Counter(o.id for o in outcomes).items() if n > 1]
    return [f"{case} has more than one outcome" for case in twice[:_SHOWN]]


def freshness(content: Mapping[str, Any]) -> tuple[str, str]:
    """Compare a report with the sources that are installed.

    Returns:
        Why it is stale, and why nothing can be said; both empty if it is fresh.
    """
    package = content["package"]
    found = hash_of(package)
    if found is None:
        return "", f"{package} is not installed here, so its sources cannot be compared"
    if found != content["package_hash"]:
        return f"the sources of {package} have changed since", ""
    return "", ""


def not_run(content: Mapping[str, Any]) -> list[str]:
    """Return the ids of the suite's cases that the report does not have, or not run."""
    known = {o["id"] for o in content["outcomes"] if o["status"] != Status.NOT_RUN}
    return [trial.id for trial in Selection().trials() if trial.id not in known]


def _about(content: Mapping[str, Any]) -> str:
    machine = content["machine"]
    device = machine.get("gpu", f"CPU ({machine['processor']})")
    scope = "a part of suite" if content["partial"] else "suite"
    verdict = "conforms" if content["passed"] else "does not conform"
    return f"{content['backend']} on {device}, {scope} {content['suite']}: {verdict}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `attnref verify-report` to a parser."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON report")


def main(arguments: argparse.Namespace) -> int:
    """Verify reports, and say what is wrong with each.

    Returns:
        0 if all verify and none is stale, 1 if not, 2 if a file cannot be read.
    """
    status = 0
    for path in arguments.files:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            sys.stderr.write(f"{path} cannot be read: {error}\n")
            return 2
        verdict = verify(text)
        sys.stdout.write("\n".join(_said(path, verdict)) + "\n")
        status = max(status, int(bool(verdict.wrong or verdict.stale)))
    return status


def _said(path: Path, verdict: Verdict) -> list[str]:
    state = "does not verify" if verdict.wrong else "STALE" if verdict.stale else "verifies"
    lines = [f"{path}: {state}"]
    lines += [f"  {verdict.about}"] if verdict.about else []
    lines += [f"  {sentence}" for sentence in verdict.wrong]
    lines += [f"  STALE: {verdict.stale}"] if verdict.stale else []
    lines += [f"  {verdict.unknown}"] if verdict.unknown else []
    if verdict.not_run:
        n = len(verdict.not_run)
        lines.append(f"  {n} case{'' if n == 1 else 's'} of suite {SUITE_VERSION} NOT RUN:")
        lines += [f"    {case}" for case in verdict.not_run[:_SHOWN]]
        lines += [f"    and {n - _SHOWN} more"] if n > _SHOWN else []
    return lines
