"""`attnref conform`: judge a backend and print one page."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from attnref.errors import AttnrefError
from attnref_conformance import SUITE_VERSION, suite
from attnref_conformance.case import DTYPES
from attnref_conformance.forbidden import forbid
from attnref_conformance.profiles import DEFAULT, PROFILES
from attnref_conformance.progress import Watcher
from attnref_conformance.report import Report, profile_sentence
from attnref_conformance.running import run
from attnref_conformance.worker import Task
from attnref_conformance.workers import TIMEOUT, CannotStart, Crew, Here, crew

T = TypeVar("T", int, float)

USAGE = 2
"""The exit status of a command that was not understood."""

INTERRUPTED = 130
"""The exit status of a run that somebody ended with Ctrl-C, as shells have it."""


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
        "-n",
        dest="workers",
        type=_number(int, 0),
        metavar="N",
        help="judge in N processes; 0 for this one, where a debugger sees the backend",
    )
    parser.add_argument(
        "--timeout",
        type=_number(float, 0),
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"a case without an answer for so long has hung (default: {TIMEOUT:g})",
    )
    parser.add_argument(
        "--budget",
        type=_number(float, 0),
        metavar="SECONDS",
        help="run what fits, spread over everything; the rest is NOT RUN",
    )
    parser.add_argument(
        "--draw",
        type=int,
        default=0,
        metavar="N",
        help="after the cases, judge N problems that Hypothesis draws; they count towards no level",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="draw other problems (default: 0)"
    )
    parser.add_argument(
        "--forbid",
        action="append",
        default=[],
        metavar="MODULE",
        help="importing it fails, as where it is not installed; the report says so",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write the report there, as NAME.html, .json, .xml and .md",
    )


def _number(kind: Callable[[str], T], least: float) -> Callable[[str], T]:
    """Read a number that is not too small."""

    def number(text: str) -> T:
        value = kind(text)
        if not value >= least:  # nor is it NaN
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, not {text}")
        return value

    return number


def main(arguments: argparse.Namespace) -> int:
    """Judge a backend.

    Returns:
        0 if it conforms, 1 if it does not, 2 if the command was not understood, 130 if it
        was interrupted.
    """
    console = Console()
    if strange := suite.unknown(arguments.clause) or suite.undrawable(arguments.draw):
        console.print(strange, highlight=False, markup=False)
        return USAGE
    selection = suite.Selection(
        tuple(arguments.clause),
        tuple(arguments.dtype) or DTYPES,
        arguments.quick,
        arguments.draw,
        arguments.seed,
        arguments.backend,
    )
    task = Task(arguments.backend, selection, arguments.timeout, tuple(arguments.forbid))
    judges = crew(task, arguments.workers, len(selection.trials()))
    try:
        forbid(arguments.forbid)
        judges.start()
        return _judged(console, arguments, selection, judges)
    except AttnrefError as error:
        console.print(str(error), highlight=False, markup=False)
        return USAGE
    except CannotStart as error:
        console.print(f"ERROR: {error}", highlight=False, markup=False)
        return 1
    finally:
        judges.close()


def _judged(
    console: Console,
    arguments: argparse.Namespace,
    selection: suite.Selection,
    judges: Crew | Here,
) -> int:
    backend = suite.resolve(arguments.backend)
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
    done = run(judges, selection, arguments.budget, Watcher(console, arguments.budget))
    report = Report(
        backend, done.outcomes, done.partial, arguments.backend, tuple(arguments.forbid)
    )
    report.print(console)
    if arguments.report:
        console.print(f"wrote {report.write(arguments.report)}", highlight=False)
    if done.interrupted:
        return INTERRUPTED
    return 0 if report.passed else 1
