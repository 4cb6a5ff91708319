"""The pytest plugin: `pytest --pyargs attnref_conformance --attnref-backend NAME`."""

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("attnref", "judging a backend of attnref")
    group.addoption("--attnref-backend", metavar="NAME", help="the backend to judge")
    group.addoption("--attnref-quick", action="store_true", help="a first impression")
    group.addoption("--attnref-clause", action="append", default=[], metavar="ID",
                    help="only this clause or family")  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the one test of the suite its trials."""
    if "attnref_trial" not in metafunc.fixturenames:
        return
    name = metafunc.config.getoption("--attnref-backend")
    if not name:
        raise pytest.UsageError("name the backend to judge: --attnref-backend NAME")
    from attnref_conformance.suite import Selection, unknown  # noqa: PLC0415  # loads the suite

    clauses = tuple(metafunc.config.getoption("--attnref-clause"))
    quick = bool(metafunc.config.getoption("--attnref-quick"))
    if strange := unknown(clauses):
        raise pytest.UsageError(strange)
    trials = Selection(clauses=clauses, quick=quick).trials()
    metafunc.parametrize("attnref_trial", trials, ids=[trial.id for trial in trials])


@pytest.fixture(scope="session")
def attnref_backend(request: pytest.FixtureRequest) -> Any:
    """The backend under judgement."""
    from attnref_conformance.suite import resolve  # noqa: PLC0415  # loads the suite

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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the reasons for which cases were declined."""
    declined: dict[str, int] = {}
    for report in terminalreporter.stats.get("unsupported", []):
        reason = dict(report.user_properties)["attnref_message"]
        declined[reason] = declined.get(reason, 0) + 1
    if declined:
        terminalreporter.section("declined by the backend")
    for reason, n in sorted(declined.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{n:5} cases: {reason}")
