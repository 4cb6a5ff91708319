"""How much of their limits honest computations use, over thousands of drawn problems.

A bound that honest computations exceed is wrong. One of which they use next to nothing
hides faults. `python -m attnref_conformance.utilisation` draws problems, has two of the honest
variants compute each, and says what share of each element's limit the worst error of every
result takes. It fails if any takes more than all of it.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from attnref import arrays
from attnref.backend import Backend
from attnref.problem import Result
from attnref.reference import wide
from attnref_conformance import oracle, replay, strategies
from attnref_conformance.case import DTYPES, Part
from attnref_conformance.compare import compare
from attnref_conformance.drawn import Found, explore, shared
from attnref_conformance.faulty import HONEST
from attnref_conformance.oracle import Expected
from attnref_conformance.profiles import DEFAULT, arithmetic
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Judgement, Trial

BEGIN, END = "<!-- utilisation: begin -->", "<!-- utilisation: end -->"

_OF = {"softmax": "softmax ", "merge": "merge ", "relative_position_bias": "table "}


@dataclass(frozen=True)
class Use:
    """What share of its limits one result takes.

    Attributes:
        result: The result, e.g. `"dk"` or `"merge lse"`.
        dtype: The dtype of the call.
        variant: Who computed it.
        share: The largest error divided by its limit.
        problem: What is wrong, empty if nothing is.
    """

    result: str
    dtype: str
    variant: str
    share: float
    problem: str


def uses(trial: Trial, backend: Backend) -> Iterator[Use]:
    """Have a backend compute a drawn problem and measure every result."""
    judgement = Judgement(trial, backend)
    p = judgement.problem
    u = arithmetic(getattr(backend, "profile", DEFAULT), trial.dtype)
    answer: Mapping[str, object]
    if trial.part is Part.GRADIENTS:
        exact, given = judgement.stored()
        stored = Result(given["out"], given.get("lse"))
        if p.operation in ("softmax", "merge"):
            exact = Result(wide(stored.out), None if stored.lse is None else wide(stored.lse))
        expected = oracle.backward(p, exact, given["dout"], given.get("dlse"), u)
        answer = backend.backward(p, stored, given["dout"], given.get("dlse"))._asdict()
    else:
        _, expected = oracle.forward(p, u)
        answer = backend.forward(p)._asdict()
    for name, want in expected.items():
        got = answer[name]
        found = compare(name, got, got, want, _order(p.arrays, want))
        result = _OF.get(p.operation, "") + name
        if found.elements or found.problem:
            yield Use(result, trial.dtype, backend.name, found.utilisation, found.problem)


def _order(named: Mapping[str, arrays.Array], want: Expected) -> tuple[int, ...]:
    plain = tuple(range(want.value.ndim))
    order = arrays.memory_order(named[want.follows]) if want.follows else plain
    return order if len(order) == len(plain) else plain


@dataclass
class Survey:
    """The honest variants at work.

    Attributes:
        problems: How many problems were computed.
        found: Every use that was measured.
        failure: A program that shows a bound that is too tight; empty if none was found.
    """

    problems: int = 0
    found: list[Use] = field(default_factory=list)
    failure: str = ""

    def judge(self, trial: Trial) -> None:
        """Have two variants compute a problem; all have their turns.

        Raises:
            AssertionError: One is past a limit.
        """
        variants = list(HONEST.values())
        first = self.problems % len(variants)
        if not self.failure:
            self.problems += 1
        for backend in (variants[first], variants[first - len(variants) // 2]):
            for use in uses(trial, backend):
                if use.problem:
                    self.failure = _program(trial, backend, use)
                    raise AssertionError(use.problem)
                self.found.append(use)

    def draw(self, n: int, seed: int = 0, dtypes: Sequence[str] = DTYPES) -> None:
        """Draw `n` problems, shared out among functions and dtypes."""
        for number, (function, dtype, mine) in enumerate(shared(n, dtypes)):
            if mine:
                strategy = strategies.trials(function, dtype)
                explore(strategy, self.judge, mine, (seed << 16) + number)

    def table(self) -> list[str]:
        """Write the median and the largest share of every result in every dtype."""
        shares: dict[str, dict[str, list[float]]] = {}
        for use in self.found:
            shares.setdefault(use.result, {}).setdefault(use.dtype, []).append(use.share)
        lines = [f"| result | {' | '.join(DTYPES)} |", "|---|" + "--:|" * len(DTYPES)]
        for result in sorted(shares, key=lambda r: (" " in r, r.startswith("d"), r)):
            cells = [_cell(shares[result].get(dtype, [])) for dtype in DTYPES]
            lines.append(f"| {result} | {' | '.join(cells)} |")
        return lines


def _cell(shares: Sequence[float]) -> str:
    return f"{median(shares):.3f}, {max(shares):.3f}" if shares else ""


def _program(trial: Trial, backend: Backend, use: Use) -> str:
    shown = Outcome(trial.id, "drawn", 0, "", trial.dtype, (), Status.FAIL, use.problem)
    named = f"attnref_conformance.faulty:{backend.name}"
    return replay.program(trial, backend, named, shown, drawn=True)


def block(survey: Survey, seed: int) -> str:
    """Write the part of the page that is measured."""
    said = (
        f"{len(HONEST)} honest variants on {survey.problems} drawn problems (seed {seed}), two variants\n"
        f"each: {len(survey.found)} results compared, none past its limit. Median and largest share:"
    )
    return "\n".join([BEGIN, said, "", *survey.table(), END])


def main() -> int:
    """Draw, print what was measured, and write it into a page.

    Returns:
        0 if no honest variant exceeds a bound, else 1.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--draw", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--page", type=Path, help="a page with a block to be replaced")
    arguments = parser.parse_args()
    survey = Survey()
    try:
        survey.draw(arguments.draw, arguments.seed)
    except Found:
        sys.stdout.write(survey.failure)
        return 1
    measured = block(survey, arguments.seed)
    sys.stdout.write(measured + "\n")
    if arguments.page:
        text = arguments.page.read_text("utf-8")
        before, _, rest = text.partition(BEGIN)
        arguments.page.write_text(before + measured + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
