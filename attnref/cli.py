"""The command line: `attnref backends | explain | models | cost | conform | bench`, and others.

Whatever it does not understand, it says on standard error and returns `USAGE`; it leaves
no argument out of account.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np

import attnref
from attnref import arrays, cli_calls, registry
from attnref.cost import command as cost_command
from attnref.errors import AttnrefError, BackendLoadError

_DTYPES = cli_calls.DTYPES

USAGE = 2
"""The exit status of a command that was not understood."""

CUT = 141
"""The exit status where nobody reads on, as in `attnref models | head`: that of SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: The words after `attnref`; by default those of the process.

    Example:
        >>> main(["explain", "attention", "--q", "1,2,8,16", "--backend", "reference"])
        attention: q float32 (1, 2, 8, 16) cpu
        ...
          reference  runs
        ...
    """
    arguments = _parser().parse_args(argv)
    if arguments.command is None:
        _parser().print_help(sys.stderr)
        return USAGE
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        if "judge" in arguments:
            raise  # Its workers have pipes of their own.
        # What is left to write goes nowhere, else Python would complain of it at its end.
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return CUT
    except AttnrefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attnref", description="Attention that means one thing everywhere."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    listing = commands.add_parser("backends", help="what is installed, and usable or why not")
    listing.set_defaults(run=_backends)
    explain = commands.add_parser("explain", help="which backend would run a call, and why")
    explain.set_defaults(run=_explain)
    explain.add_argument("function", choices=["attention", "window_attention"])
    cli_calls.add_call(explain)
    explain.add_argument("--library", default="numpy", choices=["numpy", "torch"])
    explain.add_argument("--device", default="cpu", help="for torch, e.g. cuda")
    explain.add_argument("--backend", help="as the call would name it")
    prices = commands.add_parser("cost", help="operations, bytes, memory and parameters")
    cost_command.add_arguments(prices)
    prices.set_defaults(run=cost_command.main)
    conform = commands.add_parser("conform", help="judge a backend")
    _add_judge(conform, "attnref_conformance.command", "rich", "pytest")
    verify = commands.add_parser(
        "verify-report", help="whether a report of the judge is whole, unedited and fresh"
    )
    _add_judge(verify, "attnref_conformance.report.verify", "rich", "jsonschema")
    bench = commands.add_parser("bench", help="time a backend on the standard workloads")
    _add_judge(bench, "attnref_conformance.bench.command", "rich", "pytest_benchmark")
    models = commands.add_parser("models", help="the reference models, and where backends part")
    import_module("attnref.models.command").add_arguments(models)
    return parser


def _add_judge(parser: argparse.ArgumentParser, module: str, *needed: str) -> None:
    """Let a module of the judge run a command, where what it needs is installed."""
    if all(map(util.find_spec, needed)):
        command = import_module(module)
        command.add_arguments(parser)
        parser.set_defaults(run=command.main, judge=True)
    else:
        parser.add_argument("words", nargs=argparse.REMAINDER)
        parser.set_defaults(run=_bench_missing if "pytest_benchmark" in needed else _judge_missing)


def _bench_missing(_: argparse.Namespace) -> int:
    print('benchmarks need more packages: pip install "attnref[bench]"', file=sys.stderr)  # noqa: T201
    return USAGE


def _judge_missing(_: argparse.Namespace) -> int:
    print('the judge needs more packages: pip install "attnref[conformance]"', file=sys.stderr)  # noqa: T201
    return USAGE


def _backends(_: argparse.Namespace) -> int:
    """Print each backend: usable or why not, and which operations and dtypes it takes."""
    for name in registry.names():
        found = registry.find(name)
        if isinstance(found, BackendLoadError):
            print(f"{name:<12}cannot be loaded: {found.cause}")  # noqa: T201
            continue
        reasons = found.available()
        library = "arrays of any library" if found.library == "any" else f"{found.library} arrays"
        state = "usable" if not reasons else "not usable: " + "; ".join(map(str, reasons))
        print(f"{name:<12}{state}; takes {library}")  # noqa: T201
        if not reasons:
            for operation, said in _operations(found):
                print(f"{'':<12}  {operation:<24}{said}")  # noqa: T201
    return 0


def _operations(backend: Any) -> list[tuple[str, str]]:
    """Ask a backend about one small call of every operation in every dtype."""
    rows = []
    for function in _EXAMPLES:
        taken, refused = [], ""
        for dtype in _DTYPES:
            try:
                problem = _example(function, backend, dtype)
            except ImportError:
                refused = "bfloat16 needs ml_dtypes"
                continue
            reasons = backend.unsupported(problem)
            taken += [] if reasons else [dtype]
            refused = str(reasons[0]) if reasons else refused
        rows.append((function, ", ".join(taken) or refused))
    return rows


_EXAMPLES = {
    "attention": ((1, 1, 2, 8),) * 3,
    "attention_varlen": ((2, 1, 8),) * 3,
    "window_attention": ((1, 2, 2, 1, 8),) * 3,
    "softmax": ((2, 3),),
    "merge": ((2, 3),),
    "relative_position_bias": ((9, 1),),
}


def _example(function: str, backend: Any, dtype: str) -> Any:
    made = [
        backend.from_numpy(np.zeros(shape, arrays.numpy_dtype(dtype)))
        for shape in _EXAMPLES[function]
    ]
    if function == "attention_varlen":
        made += [backend.from_numpy(np.array([0, 2], np.int32))] * 2
    if function == "merge":
        wide = "float64" if dtype == "float64" else "float32"
        made = [*made, backend.from_numpy(np.zeros(2, wide))] * 2
    needs: dict[str, dict[str, Any]] = {
        "window_attention": {"window": 2},
        "relative_position_bias": {"window": (2, 2)},
    }
    describe = getattr(attnref, function).describe
    return describe(*made, **needs.get(function, {}))


def _explain(arguments: argparse.Namespace) -> int:
    """Print what every backend answers to a described call; nothing is allocated or run."""
    function = getattr(attnref, arguments.function)
    given, options = cli_calls.call_of(arguments, arguments.function)
    if arguments.backend is not None:
        options["backend"] = arguments.backend
    explanation = attnref.explain(function, *given, **options)
    print(explanation)  # noqa: T201
    if explanation.runs is None:
        print(_hint(arguments), file=sys.stderr)  # noqa: T201
    return 0 if explanation.runs else 1


def _hint(arguments: argparse.Namespace) -> str:
    if arguments.backend:
        return f"backend {arguments.backend!r} cannot run this call"
    return "no backend in the preference order can run this call; try --backend reference"
