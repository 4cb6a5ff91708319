"""A run as one self-contained HTML page: no network, no font, no library."""

from html import escape
from pathlib import Path
from statistics import geometric_mean

from attnref_conformance.bench.page import plots, tables, told
from attnref_conformance.bench.results import Run
from attnref_conformance.report import shell


def document(run: Run) -> str:
    """Write the page."""
    drawn = plots.lengths(run)
    grown = "".join(f"<figure>{svg}</figure>" for svg in drawn.values())
    fitted, host, absent = tables.fitted(run), tables.host(run), tables.absent(run)
    sections = [
        ("wrong", "Wrong, and not timed", _wrong(run)),
        ("roofline", "Roofline", _roofline(run)),
        ("rates", "Rates", "".join(map(_titled, tables.timed(run)))),
        ("growth", "Against length",
         (f'<div class="plots">{grown}</div>' if grown else "") + (_table(fitted) if fitted else "")),
        ("host", "Time of the host", _table(host) if host else ""),
        ("absent", "Who is absent", _table(absent) if absent else ""),
        ("method", "How it was measured", _METHOD + shell.facts([*run.facts.items()])),
    ]  # fmt: skip
    style = Path(__file__).with_name("bench.css").read_text("utf-8").strip()
    return shell.document(f"{run.backend} benchmarks", _head(run), sections, "tables", style)


_METHOD = (
    "<p>Everyone is timed in turns in one process, on inputs that rotate, after a warm-up; "
    "a rate is that of the median. Operations are useful ones: two products forward and five "
    "backward, of the pairs that see each other. A row was compared with the specification "
    "before and after it was timed, and is not timed where it does not hold.</p>"
)


def _head(run: Run) -> str:
    wrong = sum(bool(row.wrong) for row in run.rows)
    ratios = [row.ratio for row in run.rows if row.ratio is not None]
    chips = [f'<li class="good"><b>{sum(bool(r.timings) for r in run.rows)}</b> timed</li>']
    if wrong:
        chips.append(f'<li class="bad"><b>{wrong}</b> wrong</li>')
    if ratios:
        ahead = sum(x >= 1 for x in ratios)
        chips.append(f"<li><b>{ahead} of {len(ratios)}</b> at least level with the best peer</li>")
        mean = told.ratio(geometric_mean(ratios))
        chips.append(f"<li><b>{mean}x</b> the best peer in the geometric mean</li>")
    facts = [("measured on", told.device(run)), *told.ceilings(run)]
    facts += [(n, run.facts[n]) for n in ("blas", "pinned") if n in run.facts]
    facts += [("made", run.made)] if run.made else []
    return (
        f'<header><p class="kicker">attnref benchmarks, {escape(run.size)} size</p>'
        f'<h1><span class="name">{escape(run.backend)}</span></h1>'
        f'<ul class="chips">{"".join(chips)}</ul>{shell.facts(facts)}</header>'
    )


def _wrong(run: Run) -> str:
    items = "".join(
        f"<li>{escape(row.name)}, {row.passes}: {escape(row.wrong)}</li>"
        for row in run.rows
        if row.wrong
    )
    return f"<ul>{items}</ul>" if items else ""


def _roofline(run: Run) -> str:
    svg = plots.roofline(run)
    if not svg:
        return ""
    missing = [n for n, key in (("copy", "copy"), ("matrix product", "product"))
               if key not in run.ceilings]  # fmt: skip
    note = f" No {' and no '.join(missing)} was measured in this run." if missing else ""
    return (
        "<p>Every row is a point: useful operations for each byte that has to move at least, "
        f"and in a second. The lines are the ceilings of this run.{note}</p>"
        f'<figure class="wide">{svg}</figure>'
    )


def _titled(t: tables.Table) -> str:
    return f"<h3>{escape(t.title)}</h3>{_table(t)}"


def _table(t: tables.Table) -> str:
    columns = "".join(f'<th scope="col">{escape(h)}</th>' for h in t.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in t.rows
    )
    return shell.scroll(escape(t.title), f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody>")
