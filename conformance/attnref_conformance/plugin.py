"""The pytest plugin: `pytest --pyargs attnref_conformance --attnref-backend NAME`.

Every pytest process judges in a worker of its own, so that a backend that hangs or dies is
a failed test and not the end of pytest. What was declared and never exercised is known
when all trials have ended, and is told below them.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("attnref", "judging a backend of attnref")
    group.addoption("--attnref-backend", metavar="NAME", help="the backend to judge")
    group.addoption("--attnref-quick", action="store_true", help="a first impression")
    group.addoption(
        "--attnref-clause",
        action="append",
        default=[],
        metavar="ID",
        help="only this clause or family",
    )
    group.addoption(
        "--attnref-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="a case without an answer for so long has hung (default: 120)",
    )
    group.addoption(
        "--attnref-draw", type=int, default=0, metavar="N", help="N drawn problems after the cases"
    )
    group.addoption("--attnref-seed", type=int, default=0, metavar="S", help="draw others")


_misused = pytest.StashKey[str]()
"""What keeps the suite from being run as it was asked for."""

_worker = pytest.StashKey[Any]()
"""The process that the backend is judged in."""

_outcomes = pytest.StashKey[list[str]]()
"""How every trial ended, as JSON, where the terminal is."""

_vacuous = pytest.StashKey[Sequence[str]]()
"""What makes a run vacuous, in words."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the one test of the suite its trials."""
    if "attnref_trial" not in metafunc.fixturenames:
        return
    misuse = _misuse(metafunc.config)
    if misuse:
        metafunc.config.stash[_misused] = misuse
    trials = [] if misuse else _selection(metafunc.config).trials()
    metafunc.parametrize("attnref_trial", trials, ids=[trial.id for trial in trials])


def _selection(config: pytest.Config) -> Any:
    from attnref_conformance.suite import Selection  # loads the suite

    clauses = tuple(config.getoption("--attnref-clause"))
    draw, seed, named = map(
        config.getoption, ("--attnref-draw", "--attnref-seed", "--attnref-backend")
    )
    quick = bool(config.getoption("--attnref-quick"))
    return Selection(clauses=clauses, quick=quick, draw=draw, seed=seed, named=named or "")


def _misuse(config: pytest.Config) -> str:
    from attnref.errors import AttnrefError  # loads the suite
    from attnref_conformance.suite import undrawable, unknown
    from attnref_conformance.workers import CannotStart

    if not config.getoption("--attnref-backend"):
        return "name the backend to judge: --attnref-backend NAME"
    if missing := undrawable(config.getoption("--attnref-draw")):
        return missing
    try:
        _judge(config).start()
    except (AttnrefError, CannotStart) as error:
        return str(error)
    return unknown(config.getoption("--attnref-clause"))


def _judge(config: pytest.Config) -> Any:
    """Return this process's worker."""
    from attnref_conformance.worker import Task  # loads the suite
    from attnref_conformance.workers import Worker

    if _worker not in config.stash:
        named, timeout = map(config.getoption, ("--attnref-backend", "--attnref-timeout"))
        threads = 1 if hasattr(config, "workerinput") else 0
        config.stash[_worker] = Worker(Task(named, _selection(config), timeout), threads)
    return config.stash[_worker]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the worker."""
    if _worker in config.stash:
        config.stash[_worker].close()


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse what was not understood; while collecting, pytest would not call it misuse."""
    if _misused in config.stash:
        raise pytest.UsageError(config.stash[_misused])


@pytest.fixture(scope="session")
def attnref_judge(request: pytest.FixtureRequest) -> Any:
    """The process that judges the backend, whatever becomes of it."""
    return _judge(request.config)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Turn a skip inside the suite into an error: nothing is passed over silently."""
    outcome = yield
    report = outcome.get_result()
    if "attnref_trial" in getattr(item, "fixturenames", ()) and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"ERROR: skipped inside the suite: {report.longrepr}"


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show what was declined, and what was remarked upon, as what it is."""
    if report.when != "call" or not report.passed:
        return None
    words = dict(report.user_properties)
    status = words.get("attnref_status")
    if status == "UNSUPPORTED":
        return "unsupported", "u", "UNSUPPORTED"
    if status == "QUALITY":
        return "quality", "q", "QUALITY"
    if status == "NOT RUN":
        return "not run", "n", "NOT RUN"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Keep what trials came to, in the process that has the terminal."""
    config.stash[_outcomes] = []
    config.pluginmanager.register(_Ear(config.stash[_outcomes]), "attnref_outcomes")


class _Ear:
    """Hears how trials ended, those of other processes too."""

    def __init__(self, outcomes: list[str]) -> None:
        self._outcomes = outcomes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep an outcome."""
        if report.when == "call":
            said = (str(x) for n, x in report.user_properties if n == "attnref_outcome")
            self._outcomes.extend(said)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that executed nothing, or not what the backend declares."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("--attnref-backend"):
        return
    config.stash[_vacuous] = _found_vacuous(config)
    if config.stash[_vacuous]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _found_vacuous(config: pytest.Config) -> list[str]:
    from attnref_conformance.status import Outcome, Status  # loads the suite
    from attnref_conformance.vacuous import vacuous

    outcomes = [Outcome.from_json(json.loads(said)) for said in config.stash[_outcomes]]
    if outcomes and all(o.status is Status.UNSUPPORTED for o in outcomes):
        return ["no case was executed, everything was declined"]
    selection = _selection(config)
    if selection.partial or len(outcomes) < len(selection.trials()):
        return []  # what was not exercised here may be so in the rest
    return [f"{o.id}\n  {o.message}" for o in vacuous(_judge(config).declared(), outcomes)]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List the reasons for which cases were declined, and what was never exercised."""
    declined: dict[str, int] = {}
    for report in terminalreporter.stats.get("unsupported", []):
        reason = dict(report.user_properties)["attnref_message"]
        declined[reason] = declined.get(reason, 0) + 1
    if declined:
        terminalreporter.section("declined by the backend")
    for reason, n in sorted(declined.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{n:5} cases: {reason}")
    for said in config.stash.get(_vacuous, ()):
        terminalreporter.line(f"VACUOUS: {said}", red=True)
