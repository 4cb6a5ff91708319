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
    head = [f"# {run.backend}, {run.size} size", "", *_facts(run), ""]
    wrong = [f"- {row.name}, {row.passes}: {row.wrong}" for row in run.rows if row.wrong]
    if wrong:
        head += ["**Wrong, and not timed:**", "", *wrong, ""]
    head += [f"![{plot.rsplit('-', 1)[-1].removesuffix('.svg')}]({plot})\n" for plot in plots]
    return "\n".join(head) + "\n" + "\n".join(map(table, tables.all_of(run)))


def table(t: tables.Table) -> str:
    """Write a table under its heading."""
    lines = [t.heads, ("---",) * len(t.heads), *t.rows]
    body = "".join(
        f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |\n" for line in lines
    )
    return f"## {t.title}\n\n{body}"


def _facts(run: Run) -> list[str]:
    said = [*run.facts.items(), *told.ceilings(run), *([("made", run.made)] if run.made else [])]
    return [f"- {name}: {value}" for name, value in said]
