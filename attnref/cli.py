"""The command line: `attnref backends | explain | conform`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module, util
from typing import Any

import numpy as np

import attnref
from attnref import arrays, registry
from attnref.errors import AttnrefError, BackendLoadError

USAGE = 2
"""The exit status of a command that was not understood."""


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
        _parser().print_help()
        return USAGE
    try:
        return int(arguments.run(arguments))
    except AttnrefError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attnref", description="Attention that means one thing everywhere."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    listing = commands.add_parser("backends", help="what is installed, and usable or why not")
    listing.set_defaults(run=_backends)
    explain = commands.add_parser("explain", help="which backend would run a call, and why")
    explain.set_defaults(run=_explain)
    _add_call(explain)
    conform = commands.add_parser("conform", help="judge a backend")
    if util.find_spec("rich") and util.find_spec("pytest"):
        command = import_module("attnref_conformance.command")
        command.add_arguments(conform)
        conform.set_defaults(run=command.main)
    else:
        conform.add_argument("words", nargs="*")
        conform.set_defaults(run=_conformance_missing)
    return parser


def _conformance_missing(_: argparse.Namespace) -> int:
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
        for dtype in ("float16", "bfloat16", "float32", "float64"):
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
    "window_attention": ((1, 2, 2, 1, 8),) * 3,
    "softmax": ((2, 3),),
    "relative_position_bias": ((9, 1),),
}


def _example(function: str, backend: Any, dtype: str) -> Any:
    made = [
        backend.from_numpy(np.zeros(shape, arrays.numpy_dtype(dtype)))
        for shape in _EXAMPLES[function]
    ]
    needs = {"window_attention": {"window": 2}, "relative_position_bias": {"window": (2, 2)}}
    describe = getattr(attnref, function).describe
    return describe(*made, **needs.get(function, {}))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(","))


def _bound(text: str) -> int | None:
    return None if text == "none" else int(text)


def _add_call(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a call."""
    parser.add_argument("function", choices=["attention", "window_attention"])
    parser.add_argument("--q", type=_shape, required=True, metavar="SHAPE", help="e.g. 2,8,128,64")
    parser.add_argument("--k", type=_shape, metavar="SHAPE", help="default: q's")
    parser.add_argument("--v", type=_shape, metavar="SHAPE", help="default: k's")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--library", default="numpy", choices=["numpy", "torch"])
    parser.add_argument("--device", default="cpu", help="for torch, e.g. cuda")
    parser.add_argument("--backend", help="as the call would name it")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--window", nargs="+", metavar="N", help="left right, or one per axis")
    parser.add_argument("--shift", type=int, nargs="+", metavar="N")
    parser.add_argument("--q-offset", help="start, end or an integer")
    parser.add_argument("--softcap", type=float)
    parser.add_argument("--mask", type=_shape, metavar="SHAPE")
    parser.add_argument("--bias", type=_shape, metavar="SHAPE")


def _explain(arguments: argparse.Namespace) -> int:
    """Print what every backend answers to a described call; nothing is allocated or run."""
    k = arguments.k or arguments.q
    shapes = {"q": arguments.q, "k": k, "v": arguments.v or k}
    given = [_hollow(arguments, shape, arguments.dtype) for shape in shapes.values()]
    options: dict[str, Any] = {"backend": arguments.backend}
    if arguments.bias:
        options["bias"] = _hollow(arguments, arguments.bias, arguments.dtype)
    if arguments.function == "attention":
        options |= {"causal": arguments.causal, "softcap": arguments.softcap}
        if arguments.window:
            options["window"] = tuple(map(_bound, arguments.window))
        if arguments.mask:
            options["mask"] = _hollow(arguments, arguments.mask, "bool")
        if arguments.q_offset:
            named = arguments.q_offset in ("start", "end")
            options["q_offset"] = arguments.q_offset if named else int(arguments.q_offset)
    else:
        options["window"] = tuple(map(int, arguments.window or ()))
        options["shift"] = tuple(arguments.shift) if arguments.shift else 0
    explanation = attnref.explain(getattr(attnref, arguments.function), *given, **options)
    print(explanation)  # noqa: T201
    return 0 if explanation.runs else 1


def _hollow(arguments: argparse.Namespace, shape: tuple[int, ...], dtype: str) -> Any:
    """Make an array of any size without its memory: every stride is zero."""
    if arguments.library == "torch":
        torch = import_module("torch")
        return torch.zeros((), dtype=getattr(torch, dtype), device=arguments.device).expand(shape)
    return np.broadcast_to(np.zeros((), arrays.numpy_dtype(dtype)), shape)


