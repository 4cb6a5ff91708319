"""`attnref conform`: judge a backend and print one page."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnref.backend import Backend
from attnref.errors import AttnrefError
from attnref_conformance import SUITE_VERSION, suite
from attnref_conformance.case import DTYPES
from attnref_conformance.profiles import DEFAULT, PROFILES
from attnref_conformance.report import Report, profile_sentence
from attnref_conformance.status import Outcome

USAGE = 2
"""The exit status of a command that was not understood."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `attnref conform` to a parser."""
    parser.add_argument("backend", help="a registered name, or module:object")
    parser.add_argument("--quick", action="store_true", help="a first impression in seconds")
    parser.add_argument(
        "--clause", action="append", default=[], metavar="ID", help="only this clause or family"
    )
    parser.add_argument(
        "--dtype", action="append", default=[], choices=DTYPES, help="only this dtype"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write the report there, as NAME.html, .json, .xml and .md",
    )


def main(arguments: argparse.Namespace) -> int:
    """Judge a backend.

    Returns:
        0 if it conforms, 1 if it does not, 2 if the command was not understood.
    """
    console = Console()
    if strange := suite.unknown(arguments.clause):
        console.print(strange, highlight=False, markup=False)
        return USAGE
    selection = suite.Selection(
        tuple(arguments.clause), tuple(arguments.dtype) or DTYPES, arguments.quick
    )
    try:
        backend = suite.resolve(arguments.backend)
    except AttnrefError as error:
        console.print(str(error), highlight=False, markup=False)
        return USAGE
    if getattr(backend, "profile", DEFAULT) not in PROFILES:
        console.print(
            f"{backend.name} names the unknown profile {backend.profile!r}; "  # type: ignore[attr-defined]
            f"there are {', '.join(PROFILES)}"
        )
        return USAGE
    console.print(
        f"[bold]{backend.name}[/] judged by suite {SUITE_VERSION}, profile "
        f"{profile_sentence(backend)}"
    )
    unusable = backend.available()
    for reason in unusable:
        console.print(f"  cannot run here: {reason}", highlight=False, markup=False)
    report = Report(
        backend, _run(console, backend, selection), selection.partial, arguments.backend
    )
    report.print(console)
    if arguments.report:
        console.print(f"wrote {report.write(arguments.report)}", highlight=False)
    return 0 if report.passed else 1


def _run(console: Console, backend: Backend, selection: suite.Selection) -> list[Outcome]:
    """Run the trials under a progress bar that says how long it will take."""
    trials = selection.trials()
    outcomes: list[Outcome] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("judging", total=len(trials), failed="")
        for outcome in suite.run(backend, trials):
            outcomes.append(outcome)
            failed = sum(o.status.failure for o in outcomes)
            progress.update(task, advance=1, failed=f"{failed} failed" if failed else "")
    return outcomes
