"""Calls described by words of the command line: the arrays have shapes and no memory."""

import argparse
from importlib import import_module
from typing import Any

import numpy as np

from attnref import arrays
from attnref.errors import AttnrefError

DTYPES = ("float16", "bfloat16", "float32", "float64")


def shape_of(text: str) -> tuple[int, ...]:
    """Read extents: `2,8,128,64`."""
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = (-1,)
    if min(shape) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write 2,8,128,64")
    return shape


def bound_of(text: str) -> int | None:
    """Read a number, or `none` for what is unbounded."""
    try:
        return None if text == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer nor none") from None


def offset_of(text: str) -> str | int:
    """Read where the first query stands: `start`, `end` or a position."""
    try:
        return text if text in ("start", "end") else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither start nor end nor an integer"
        ) from None


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a call."""
    shape: dict[str, Any] = {"type": shape_of, "metavar": "SHAPE"}
    parser.add_argument("--q", required=True, help="e.g. 2,8,128,64", **shape)
    parser.add_argument("--k", help="default: q's", **shape)
    parser.add_argument("--v", help="default: k's", **shape)
    parser.add_argument("--mask", help="e.g. 128,128", **shape)
    parser.add_argument("--bias", help="of q's dtype", **shape)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--causal", action="store_true", default=None)
    parser.add_argument(
        "--window",
        type=bound_of,
        nargs="+",
        metavar="N",
        help="left and right, or one per axis; none is unbounded",
    )
    parser.add_argument("--shift", type=int, nargs="+", metavar="N", help="one per axis")
    parser.add_argument("--q-offset", type=offset_of, metavar="AT", help="start, end or an integer")
    parser.add_argument("--q-lens", type=shape_of, metavar="LENS", help="one per entry, e.g. 5,128")
    parser.add_argument("--kv-lens", type=shape_of, metavar="LENS", help="one per entry")
    parser.add_argument("--softcap", type=float)


def call_of(arguments: argparse.Namespace, function: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays and options of a described call; nothing is allocated.

    What the function does not take, it will refuse: nothing is left out of account.
    """
    if function == "window_attention" and not arguments.window:
        raise AttnrefError("window_attention needs --window, e.g. --window 7")
    k = arguments.k or arguments.q
    shapes = {"q": arguments.q, "k": k, "v": arguments.v or k}
    given = [_hollow(arguments, shape, arguments.dtype) for shape in shapes.values()]
    named = {n: getattr(arguments, n) for n in ("causal", "softcap", "q_offset")}
    for name in ("window", "shift"):
        numbers = getattr(arguments, name)
        every = function == "window_attention" and numbers and len(numbers) == 1
        named[name] = numbers[0] if every else numbers and tuple(numbers)
    for name, dtype in (("mask", "bool"), ("bias", arguments.dtype)):
        shape = getattr(arguments, name)
        named[name] = shape and _hollow(arguments, shape, dtype)
    for name in ("q_lens", "kv_lens"):
        lens = getattr(arguments, name)
        named[name] = lens and _lengths(arguments, lens)
    return given, {n: x for n, x in named.items() if x is not None}


def _hollow(arguments: argparse.Namespace, shape: tuple[int, ...], dtype: str) -> Any:
    """Make an array of any size without its memory, since every stride is zero.

    It is all ones, so that a mask hides nothing.
    """
    if arguments.library == "torch":
        return _tensor(arguments, 1, dtype).expand(shape)
    return np.broadcast_to(np.ones((), arrays.numpy_dtype(dtype)), shape)


def _lengths(arguments: argparse.Namespace, lens: tuple[int, ...]) -> Any:
    """Make an array of lengths, whose values are read."""
    if arguments.library == "torch":
        return _tensor(arguments, lens, "int64")
    return np.array(lens, np.int64)


def _tensor(arguments: argparse.Namespace, values: object, dtype: str) -> Any:
    try:
        torch = import_module("torch")
        return torch.tensor(values, dtype=getattr(torch, dtype), device=arguments.device)
    except (ImportError, RuntimeError, AssertionError) as error:
        raise AttnrefError(f"no torch array on {arguments.device}: {error}") from None
