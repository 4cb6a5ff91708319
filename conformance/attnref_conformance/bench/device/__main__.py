"""`python -m attnref_conformance.bench.device NAME`: `attnref bench NAME` on a GPU.

It takes the words it always took, and writes the JSON of `attnref bench`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attnref_conformance.bench import command
from attnref_conformance.bench.workloads import DATACENTRE

OTHERS = ("sweep", command.HOST)
"""What `--costs` adds."""


def words(argv: Sequence[str]) -> list[str]:
    """Translate the words of this command into those of `attnref bench`.

    Example:
        >>> words(["triton", "--tables", "decode", "--peers", "cudnn"])
        ['triton', '--device', 'cuda', '--table', 'decode', '--peer', 'cudnn']
    """
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.bench.device")
    tables = [table for table in DATACENTRE if table not in OTHERS]
    parser.add_argument("backend")
    parser.add_argument("--tables", nargs="*", default=tables, choices=tables)
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--costs", action="store_true", help="memory by length, and host time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    said = parser.parse_args(argv)
    chosen = [*said.tables, *(OTHERS if said.costs else ())]
    made = [said.backend, "--device", "cuda"]
    made += [word for table in chosen for word in ("--table", table)]
    made += [word for peer in said.peers for word in ("--peer", peer)]
    return made + (["--json", str(said.json)] if said.json else [])


if __name__ == "__main__":
    sys.exit(command.main(command.parser().parse_args(words(sys.argv[1:]))))
