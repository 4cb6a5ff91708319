"""Mutation testing of the specification and of the judge's comparer.

Each mutant is a module with one small change: a sum for a difference, a bound that is off by
one, a condition turned round. The tests of that module must notice. Cosmic Ray makes the
mutants; they run here, and not under its own command, for two reasons. It edits the file
that is tested, and these tests run against an installed package. It starts a process per
mutant, and importing what the tests need takes longer than most of the tests; here the
parent has imported it, and each mutant is a fork that reads the changed source in place of
the file.

Run as `python tests/mutation/mutants.py`, or as `nox -s mutants`.
"""

import argparse
import gc
import importlib.machinery
import os
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import beartype
import hypothesis.strategies
import jaxtyping
import ml_dtypes
import mpmath
import numpy as np
import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

PRELOADED = (beartype, hypothesis, jaxtyping, ml_dtypes, mpmath, np, torch)
"""Imported once, before the forks."""

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).with_name("equivalent.toml")
PAGE = ROOT / "docs" / "mutation.md"

TESTS: Mapping[str, Sequence[str]] = {
    "attnref.spec.scores": ("spec/test_scores.py", "spec/test_attention.py"),
    "attnref.spec.visibility": ("spec/test_visibility.py", "spec/test_attention.py"),
    "attnref.spec.softmax": ("spec/test_softmax.py", "spec/test_attention.py"),
    "attnref.spec.attention": ("spec/test_attention.py",),
    "attnref.spec.gradients": ("spec/test_gradients.py",),
    "attnref.spec.packed": ("spec/test_packed.py",),
    "attnref.spec.windows": ("spec/test_windows.py",),
    "attnref_conformance.compare": ("conformance/test_compare.py",),
}
"""The tests that must notice, by the module that is changed; the quickest first."""

OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in (
            "Add_Sub",
            "Sub_Add",
            "Mul_Div",
            "Div_Mul",
            "FloorDiv_Mul",
            "Mod_Mul",
            "Pow_Mul",
            "BitAnd_BitOr",
            "BitOr_BitAnd",
        )
    ),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in (
            "Eq_NotEq",
            "NotEq_Eq",
            "Lt_LtE",
            "LtE_Lt",
            "Gt_GtE",
            "GtE_Gt",
            "Lt_GtE",
            "LtE_Gt",
            "Gt_LtE",
            "GtE_Lt",
            "Is_IsNot",
            "IsNot_Is",
        )
    ),
    "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "AddNot",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
"""One replacement per operator that stands for the others: `a ** b` for `a + b` fails louder
than `a - b` does, and shows nothing more."""

TIMEOUT = 180.0
"""After so many seconds a mutant hangs, which is noticed too."""


@dataclass(frozen=True)
class Mutant:
    """A module with one line changed.

    Attributes:
        module: Its dotted name.
        number: The line.
        line: The line as it was.
        changed: The line as it is.
        source: The whole text.
    """

    module: str
    number: int
    line: str
    changed: str
    source: str


def mutants(module: str, text: str) -> Iterator[Mutant]:
    """Make every mutant of a module, once."""
    seen = {text}
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        for occurrence in range(len(text)):
            source = mutate_code(text, operator, occurrence)
            if source is None:
                break
            if source in seen:
                continue
            seen.add(source)
            pairs = list(zip(text.splitlines(), source.splitlines(), strict=True))
            number = next(n for n, (a, b) in enumerate(pairs) if a != b)
            line, changed = (x.strip() for x in pairs[number])
            if line != "*,":  # a mark in a signature, and no product
                yield Mutant(module, number + 1, line, changed, source)


def installed(module: str) -> Path:
    """Find the file of a module without importing it."""
    top, *rest = module.split(".")
    found = importlib.machinery.PathFinder.find_spec(top)
    assert found is not None, f"{top} is not installed"
    assert found.origin is not None
    return Path(found.origin).parent.joinpath(*rest).with_suffix(".py")


def survives(module: str, source: str) -> bool:
    """Tell whether the tests of a module pass with another source in its place."""
    child = os.fork()
    if child == 0:
        os._exit(_tested(module, source))
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def _tested(module: str, source: str) -> int:
    """Run the tests of a module in this process, quietly."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    _replace(installed(module), source.encode())
    tests = [str(ROOT / "tests" / name) for name in TESTS[module]]
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    quick = [
        "-x",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "--assert=plain",
        "--disable-plugin-autoload",
    ]
    return int(pytest.main([*settings, *quick, *tests]))


def _replace(path: Path, source: bytes) -> None:
    """Have whoever imports a file read another text, and no bytecode of the old one."""
    loader = importlib.machinery.SourceFileLoader
    read = loader.get_data
    sys.dont_write_bytecode = True

    def get_data(self: importlib.machinery.SourceFileLoader, name: str) -> bytes:
        if Path(name) == path:
            return source
        if Path(name).parent == path.parent / "__pycache__" and (
            Path(name).name.partition(".")[0] == path.stem
        ):
            raise OSError(name)
        return read(self, name)

    loader.get_data = get_data  # type: ignore[method-assign]


def explanations() -> dict[tuple[str, str, str], str]:
    """Read why mutants that survive are no faults."""
    said = tomllib.loads(EXPLAINED.read_text("utf-8"))
    return {
        (module, e["line"], e["mutant"]): e["why"]
        for module, entries in said.items()
        for e in entries
    }


def main() -> int:
    """Make all mutants, run their tests, and write the page.

    Returns:
        0 if every survivor is explained and every explanation has a survivor, else 1.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("modules", nargs="*", help="only these modules, and the page of them")
    parser.add_argument("-n", type=int, default=1, help="how many mutants run at once")
    arguments = parser.parse_args()
    counts, survivors = {}, []
    gc.freeze()  # pytest collects garbage at its end: a fork need not look through all of this
    for module in arguments.modules or TESTS:
        text = installed(module).read_text("utf-8")
        if not survives(module, text):
            print(f"{module}: its tests fail without any change")
            return 1
        made = list(mutants(module, text))
        with ThreadPoolExecutor(arguments.n) as pool:
            alive = pool.map(lambda m: survives(m.module, m.source), made)
            mine = [m for m, lives in zip(made, alive, strict=True) if lives]
        counts[module] = (len(made), len(mine))
        survivors += mine
        print(f"{module}: {len(made)} mutants, {len(mine)} survive", flush=True)
        for m in mine:
            print(f"  {m.number}: {m.line}\n     -> {m.changed}", flush=True)
    return _verdict(counts, survivors)


def _verdict(counts: Mapping[str, tuple[int, int]], survivors: Sequence[Mutant]) -> int:
    known = explanations()
    found = {(m.module, m.line, m.changed) for m in survivors}
    bare = [m for m in survivors if (m.module, m.line, m.changed) not in known]
    for m in bare:
        print(f"not explained: {m.module}:{m.number}: {m.line} -> {m.changed}")
    idle = [key for key in known if key[0] in counts and key not in found]
    for module, line, changed in idle:
        print(f"explained, and does not survive: {module}: {line} -> {changed}")
    if not (bare or idle):
        PAGE.write_text(page(counts, survivors, known), encoding="utf-8")
    return 1 if bare or idle else 0


def page(
    counts: Mapping[str, tuple[int, int]],
    survivors: Sequence[Mutant],
    known: Mapping[tuple[str, str, str], str],
) -> str:
    """Write what the mutants showed."""
    made, alive = (sum(n[i] for n in counts.values()) for i in (0, 1))
    lines = [
        "# Mutation testing",
        "",
        "Who tests the tests?",
        "Each mutant is a module with one small change, made by Cosmic Ray:",
        "another operator, another number, a condition turned round, a loop that is not entered.",
        "The tests of that module must fail.",
        f"Of {made} mutants they notice {made - alive};",
        f"the other {alive} mean the same as what they were made from, for the reasons given.",
        "",
        "This page is written by `nox -s mutants`,",
        "which fails on a survivor that `tests/mutation/equivalent.toml` does not explain.",
        "",
        "| module | mutants | noticed | equivalent |",
        "|---|--:|--:|--:|",
        *(f"| `{m}` | {n} | {n - lives} | {lives} |" for m, (n, lives) in counts.items()),
        *(f"| `{m}` | not in this run | | |" for m in TESTS if m not in counts),
        "",
        "## Equivalent mutants",
    ]
    for module in counts:
        mine = [m for m in survivors if m.module == module]
        lines += ["", f"### `{module}`"] if mine else []
        for m in mine:
            why = known[m.module, m.line, m.changed]
            lines += ["", "```diff", f"- {m.line}", f"+ {m.changed}", "```", "", why]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
