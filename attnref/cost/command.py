"""`attnref cost`: what a call or a model costs, as a table."""

import argparse

import attnref
from attnref import cli_calls
from attnref.api.public import described
from attnref.cost import tables
from attnref.cost.calls import of
from attnref.cost.counts import ITEMSIZE, ON_CHIP, Cost, Setting, Work
from attnref.cost.roofline import Roofline

CALLS = ("attention", "window_attention")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each thing that has a cost."""
    parser.add_argument("--list", action="store_true", help="what there is a cost of")
    things = parser.add_subparsers(dest="what", metavar="WHAT")
    parser.set_defaults(run=lambda _: parser.print_help() or 2)
    for name in CALLS:
        one = things.add_parser(name, help="a call, described by its shapes")
        cli_calls.add_call(one)
        _add_setting(one)
        one.set_defaults(price=_call, library="numpy", device="cpu")


def main(arguments: argparse.Namespace) -> int:
    """Print the cost of what was named."""
    arguments.price(arguments)
    return 0
