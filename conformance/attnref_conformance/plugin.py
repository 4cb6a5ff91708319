"""The pytest plugin: `pytest --pyargs attnref_conformance --attnref-backend NAME`."""

from pathlib import Path
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks to whoever names them: they judge nothing."""
    bench = Path(__file__).with_name("bench")
    named = any("bench" in str(argument) for argument in config.args)
    return True if collection_path == bench and not named else None


_misused = pytest.StashKey[str]()
"""What keeps the suite from being run as it was asked for."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the one test of the suite its trials."""
    if "attnref_trial" not in metafunc.fixturenames:
        return
    from attnref_conformance.suite import Selection  # loads the suite

    config = metafunc.config
    clauses = tuple(config.getoption("--attnref-clause"))
    misuse = _misuse(config.getoption("--attnref-backend"), clauses)
    if misuse:
        config.stash[_misused] = misuse
    quick = bool(config.getoption("--attnref-quick"))
    trials = [] if misuse else Selection(clauses=clauses, quick=quick).trials()
    metafunc.parametrize("attnref_trial", trials, ids=[trial.id for trial in trials])


def _misuse(name: str | None, clauses: tuple[str, ...]) -> str:
    from attnref.errors import AttnrefError  # loads the suite
    from attnref_conformance.suite import resolve, unknown

    if not name:
        return "name the backend to judge: --attnref-backend NAME"
    try:
        resolve(name)
    except AttnrefError as error:
        return str(error)
    return unknown(clauses)


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse what was not understood; while collecting, pytest would not call it misuse."""
    if _misused in config.stash:
        raise pytest.UsageError(config.stash[_misused])


@pytest.fixture(scope="session")
def attnref_backend(request: pytest.FixtureRequest) -> Any:
    """The backend under judgement."""
    from attnref_conformance.suite import resolve  # loads the suite

    return resolve(request.config.getoption("--attnref-backend"))


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
    return None


def _vacuous(config: pytest.Config) -> bool:
    """Tell whether trials were run, and every one of them was declined."""
    stats = getattr(config.pluginmanager.get_plugin("terminalreporter"), "stats", {})
    others = ("passed", "quality", "failed", "error")
    return bool(stats.get("unsupported")) and not any(stats.get(name) for name in others)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that executed nothing."""
    if _vacuous(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List the reasons for which cases were declined."""
    declined: dict[str, int] = {}
    for report in terminalreporter.stats.get("unsupported", []):
        reason = dict(report.user_properties)["attnref_message"]
        declined[reason] = declined.get(reason, 0) + 1
    if declined:
        terminalreporter.section("declined by the backend")
    for reason, n in sorted(declined.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{n:5} cases: {reason}")
    if _vacuous(config):
        terminalreporter.line("VACUOUS: no case was executed, everything was declined", red=True)
