"""`python -m attnref_conformance.bench`: what `attnref bench` runs, with the same words."""

import sys

from attnref_conformance.bench.command import main, parser

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(parser().parse_args(words[1:] if words[:1] == ["bench"] else words)))
