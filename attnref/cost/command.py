"""`attnref cost`: what a call or a model costs, as a table."""

import argparse
import sys
from pathlib import Path
from typing import Any

import attnref
from attnref import cli_calls
from attnref.api.public import described
from attnref.cost import growth, tables
from attnref.cost.calls import of
from attnref.cost.counts import ITEMSIZE, ON_CHIP, Cost, Setting, Step, Work
from attnref.cost.models import Model, model
from attnref.cost.roofline import Roofline
from attnref.models.configurations import BERTConfig, GPT2Config
from attnref.models.presets import PRESETS

CALLS = ("attention", "window_attention")
USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each thing that has a cost."""
    parser.add_argument("--list", action="store_true", help="every model, and what it costs")
    parser.set_defaults(price=None, listing=parser.format_help)
    things = parser.add_subparsers(dest="what", metavar="WHAT")
    for name in CALLS:
        one = things.add_parser(name, help="a call, described by its shapes")
        cli_calls.add_call(one)
        _add_setting(one)
        one.set_defaults(price=_call, library="numpy", device="cpu")
    grows = things.add_parser("growth", help="by the size of an image: convolution, ViT and Swin")
    grows.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as .svg or .png")
    grows.set_defaults(price=_growth)
    for name, config in PRESETS.items():
        one = things.add_parser(name, help=type(config).__name__)
        one.add_argument("--batch", type=int, default=1, metavar="N")
        if isinstance(config, GPT2Config | BERTConfig):
            one.add_argument(
                "--tokens", type=int, metavar="N", help="default: what there is room for"
            )
        else:
            one.add_argument("--image", type=_image, metavar="N", help="side, or HEIGHTxWIDTH")
        if isinstance(config, GPT2Config):
            one.add_argument(
                "--cached", type=int, default=0, metavar="N", help="tokens before these"
            )
        one.add_argument("--dtype", default="float32", choices=list(ITEMSIZE))
        _add_setting(one)
        one.set_defaults(price=_model)


def _add_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backward", action="store_true", help="of the backward pass")
    parser.add_argument(
        "--on-chip",
        type=cli_calls.bound_of,
        default=ON_CHIP,
        metavar="BYTES",
        help=f"fast memory that a tile may fill; none is unlimited (default: {ON_CHIP})",
    )
    parser.add_argument("--peak", type=float, metavar="TFLOP/S", help="ceiling of operations")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="ceiling of bytes")


def _image(text: str) -> int | tuple[int, int]:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is no size of an image; write 224 or 224x448")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def main(arguments: argparse.Namespace) -> int:
    """Print the cost of what was named."""
    if arguments.list:
        print(_listing())  # noqa: T201
        return 0
    if arguments.price is None:
        print(arguments.listing(), end="", file=sys.stderr)  # noqa: T201
        return USAGE
    return int(arguments.price(arguments))


def _listing() -> str:
    """A table of all models."""
    rows = []
    for name, config in PRESETS.items():
        one = model(config)
        work = one.forward().untiled
        rows.append([name, tables.count(one.parameters), tables.count(work.multiply_adds)])
    calls = f"Calls: {', '.join(CALLS)}. By the size of an image: growth."
    return tables.text(["model", "parameters", "multiply-adds"], rows) + "\n\n" + calls


def _growth(arguments: argparse.Namespace) -> int:
    """The table, and the picture where it can be drawn."""
    head, rows = growth.table()
    print(tables.text(head, rows))  # noqa: T201
    if arguments.plot is None:
        return 0
    if not growth.can_draw():
        print('drawing needs one more package: pip install "attnref[plot]"', file=sys.stderr)  # noqa: T201
        return USAGE
    growth.draw(arguments.plot)
    return 0


def _call(arguments: argparse.Namespace) -> int:
    """A call, both ways side by side."""
    # An array of bfloat16 needs a package, and is as large as one of float16.
    dtype = arguments.dtype
    arguments.dtype = "float16" if dtype == "bfloat16" else dtype
    given, options = cli_calls.call_of(arguments, arguments.what)
    problem = described(getattr(attnref, arguments.what), *given, **options)
    step: Any = of(problem)
    cost = _priced(step, arguments, dtype)
    print(str(problem).replace(arguments.dtype, dtype, 1).replace(" cpu", "", 1))  # noqa: T201
    tiled, untiled = cost.tiled, cost.untiled
    rows = [
        ["pairs", f"{step.pairs:,}", f"{step.all_pairs:,}"],
        *(_row(label, n, tiled, untiled) for label, n in _ROWS.items()),
        ["operations per byte", f"{tiled.intensity:.1f}", f"{untiled.intensity:.1f}"],
    ]
    print(tables.text([_passes(arguments), "tiled", "untiled"], rows))  # noqa: T201
    _bounds(arguments, cost)
    return 0


_ROWS = {
    "operations": "operations",
    "exponentials": "exponentials",
    "bytes moved": "bytes",
    "kept for backward": "kept",
}


def _row(label: str, field: str, *ways: Work) -> list[str]:
    write = tables.size if field in ("bytes", "kept") else tables.count
    return [label, *(write(getattr(way, field)) for way in ways)]


def _model(arguments: argparse.Namespace) -> int:
    """A model, part by part."""
    named = vars(arguments)
    feed = {name: named[name] for name in ("image", "tokens", "cached") if name in named}
    one = model(PRESETS[arguments.what], batch=arguments.batch, **feed)
    asked = [f"{name} {value}" for name, value in feed.items() if value]
    print(", ".join([arguments.what, f"batch {arguments.batch}", *asked, arguments.dtype]))  # noqa: T201
    whole = _priced(one, arguments, arguments.dtype)
    print(part_table(one, _setting(arguments, arguments.dtype), backward=arguments.backward))  # noqa: T201
    print(  # noqa: T201
        f"{tables.count(whole.untiled.operations)} operations are "
        f"{tables.count(whole.untiled.multiply_adds)} multiply-adds, which papers call FLOPs"
    )
    _bounds(arguments, whole)
    return 0


def part_table(
    one: Model, setting: Setting, *, backward: bool = False, write: Any = tables.text
) -> str:
    """Lay out what each part of a model costs, and their sum.

    Args:
        one: The model.
        setting: The dtype and the size of the chip.
        backward: Of the backward pass, which keeps nothing.
        write: How a table is written.
    """
    head = ["part", "parameters", "operations, tiled", "untiled", "bytes, tiled", "untiled"]
    head += [] if backward else ["kept, tiled", "untiled"]
    rows = []
    for name, step in [*one.parts.items(), ("all", one)]:
        cost = step.backward(setting) if backward else step.forward(setting)
        ways = (cost.tiled, cost.untiled)
        row = [name, f"{step.parameters:,}", *(tables.count(way.operations) for way in ways)]
        row += [tables.size(way.bytes) for way in ways]
        row += [] if backward else [tables.size(way.kept) for way in ways]
        rows.append(row)
    return str(write(head, rows))


def _setting(arguments: argparse.Namespace, dtype: str) -> Setting:
    return Setting(dtype=dtype, on_chip=arguments.on_chip)


def _priced(step: Step, arguments: argparse.Namespace, dtype: str) -> Cost:
    setting = _setting(arguments, dtype)
    return step.backward(setting) if arguments.backward else step.forward(setting)


def _passes(arguments: argparse.Namespace) -> str:
    return "backward" if arguments.backward else "forward"


def _bounds(arguments: argparse.Namespace, cost: Cost) -> None:
    """Print how long it takes at least, if both ceilings are given."""
    if (arguments.peak is None) != (arguments.bandwidth is None):
        raise attnref.InvalidProblem(
            f"--peak is {arguments.peak} and --bandwidth is {arguments.bandwidth}.",
            hint="a roofline has both ceilings",
        )
    if arguments.peak is None:
        return
    machine = Roofline(operations=arguments.peak * 1e12, bytes=arguments.bandwidth * 1e9)
    print(f"at least, where {machine.ridge:.0f} operations per byte are the ridge:")  # noqa: T201
    for name, way in (("tiled", cost.tiled), ("untiled", cost.untiled)):
        time = f"{machine.seconds(way) * 1e3:.3g} ms"
        print(f"  {name:<8} {time}, bound by {machine.bound(way)}")  # noqa: T201
