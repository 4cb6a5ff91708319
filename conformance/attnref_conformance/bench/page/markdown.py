"""A run as Markdown."""

from collections.abc import Sequence

from attnref_conformance.bench.page import tables, told
from attnref_conformance.bench.results import Run


def document(run: Run, plots: Sequence[str] = ()) -> str:
    """Write a run.

    Args:
        run: What was measured.
        plots: Files beside it that show it.
    """
    ceilings = (f"{name} {rate}" for name, rate in told.ceilings(run))
    head = [f"# {run.backend}, {run.size} size", "", ", ".join([told.device(run), *ceilings]), ""]
    wrong = [f"- {row.name}, {row.passes}: {row.wrong}" for row in run.rows if row.wrong]
    if wrong:
        head += ["**Wrong, and not timed:**", "", *wrong, ""]
    head += [f"![{plot.rsplit('-', 1)[-1].removesuffix('.svg')}]({plot})\n" for plot in plots]
    foot = ["## Made with", "", *_facts(run), ""]
    return "\n".join([*head, *map(table, tables.all_of(run)), *foot])


def table(t: tables.Table) -> str:
    """Write a table under its heading."""
    lines = [t.heads, ("---",) * len(t.heads), *t.rows]
    body = "".join(
        f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |\n" for line in lines
    )
    return f"## {t.title}\n\n{body}"


def _facts(run: Run) -> list[str]:
    said = [*run.facts.items(), *([("made", run.made)] if run.made else [])]
    return [f"- {name}: {value}" for name, value in said]
