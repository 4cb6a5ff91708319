"""The report as one self-contained HTML page: no network, no font, no library.

The verdict comes first, then what failed and how to see it fail, then all that was judged.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

from attnref_conformance.case import DTYPES
from attnref_conformance.clauses import clause
from attnref_conformance.report import charts, shell
from attnref_conformance.report.page import Cell, Failure, Page, Row, cases, word
from attnref_conformance.status import Element, Outcome, Status

_LISTED = 60
"""How many ids a list shows before it only counts."""

_STATES = {"claimed": "●", "in part": "◐", "declined": "○", "failed": "✕", "not whole": "–"}


def document(page: Page) -> str:
    """Write the page."""
    sections = [
        ("failed", "What failed", _failures(page)),
        ("levels", "Levels", "" if page.partial else _levels(page)),
        ("clauses", "Per clause", _clauses(page)),
        ("coverage", "Coverage", _coverage(page)),
        ("declined", "Declined", _declined(page)),
        ("remarks", "Remarks", _remarks(page)),
        ("errors", "Errors", _errors(page)),
        ("evidence", "Evidence", _evidence(page)),
    ]
    return shell.document(f"{page.name} {page.verdict}", _head(page), sections, "report")


# ---- The verdict ---------------------------------------------------------------------


def _head(page: Page) -> str:
    tone = "good" if page.passed else "bad"
    chips = "".join(
        f'<li class="{_tone(status)}"><b>{n:,}</b> {word(status)}</li>' for status, n in page.counts
    )
    facts = [f for f in page.facts if f[0] in ("judged on", "profile", "made")]
    return (
        f'<header class="{tone}"><p class="kicker">attnref conformance, suite '
        f"{escape(page.content['suite'])}</p>"
        f'<h1><span class="name">{escape(page.name)}</span> {page.claim}</h1>'
        f'<p class="lede">{escape(page.summary)}</p><ul class="chips">{chips}</ul>'
        f"{shell.facts(facts)}</header>"
    )


def _tone(status: Status | None) -> str:
    tones = {Status.PASS: "good", Status.QUALITY: "fair", None: "none"}
    plain = (Status.UNSUPPORTED, Status.NOT_RUN)
    return tones.get(status, "plain" if status in plain else "bad")


# ---- What failed ---------------------------------------------------------------------


def _failures(page: Page) -> str:
    if not page.failures:
        return ""
    items = "".join(
        f'<li>{_marked(cause)}<br><span class="count">seen on {_links(on)}</span></li>'
        for cause, on in page.causes
    )
    lead = "<p>Made as small as they go, the failures come down to</p>" if items else ""
    causes = f'{lead}<ol class="causes">{items}</ol>' if items else ""
    return causes + "".join(map(_failure, page.failures))


def _links(names: Iterable[str]) -> str:
    return ", ".join(f'<a href="#failed-{name}">{name}</a>' for name in names)


def _failure(failure: Failure) -> str:
    """Write a failure; those whose cause was shown before are folded."""
    o, said = failure.shown, failure.clause
    count = f"{len(failure.outcomes):,} of {cases(failure.judged)}" if failure.judged else "This"
    others = failure.outcomes[1:]
    title = f'<span class="clause">{said.id}</span> {escape(said.title)}'
    message = f'<p class="message">{escape(o.message)}</p>'
    if o.element is not None and o.element.error != "not a number":
        message = ""  # the quoted element says all of it
    body = (
        f"{_text(said.text, 'blockquote')}"
        f"<p><b>{count} failed.</b> {_marked(failure.common)}</p>"
        f'<p class="case"><code>{_breakable(o.id)}</code> '
        f'<span class="status">{o.status}</span></p>'
        f"{message}"
        f"{_element(o.element)}{_call(o.call)}"
        f"{_list(f'The other {cases(len(others))}', others) if others else ''}"
    )
    if failure.first:
        return f'<article id="failed-{said.id}"><h3>{title}</h3>{body}</article>'
    return (
        f"<article><details><summary><h3>{title}</h3> "
        f'<span class="count">{count} failed, in a way shown above</span></summary>'
        f'<div id="failed-{said.id}">{body}</div></details></article>'
    )


def _element(e: Element | None) -> str:
    if e is None:
        return ""
    at = ", ".join(map(str, e.at))
    told = [
        ("element", f"{e.array}[{at}]"),
        ("got", e.got),
        ("expected", e.expected),
        ("error", e.error),
        ("limit", e.limit),
        ("wrong elements", f"{e.wrong:,} of {e.of:,}"),
    ]
    rows = "".join(f"<div><dt>{n}</dt><dd>{escape(x)}</dd></div>" for n, x in told)
    return f'<dl class="element">{rows}</dl>'


def _call(call: str) -> str:
    if not call:
        return ""
    lines = (
        f'<span class="comment">{escape(line)}</span>' if line.startswith("#") else escape(line)
        for line in call.rstrip().splitlines()
    )
    program = "\n".join(lines)
    return (
        '<figure class="call"><figcaption>To see it fail, copy and run '
        '<button type="button" class="copy" hidden>Copy</button></figcaption>'
        f'<pre tabindex="0" aria-label="A program that shows the failure"><code>'
        f"{program}\n</code></pre></figure>"
    )


def _list(title: str, outcomes: Sequence[Outcome]) -> str:
    items = "".join(
        f"<li><code>{_breakable(o.id)}</code> {escape(o.message)}</li>" for o in outcomes[:_LISTED]
    )
    more = len(outcomes) - _LISTED
    rest = f"<li>and {more:,} more, in the JSON report</li>" if more > 0 else ""
    return f"<details><summary>{title}</summary><ul>{items}{rest}</ul></details>"


# ---- Everything that was judged ------------------------------------------------------


def _levels(page: Page) -> str:
    rows = "".join(
        f'<tr><th scope="row"><b>{name}</b> {covers}</th>'
        + "".join(f'<td class="{_state(states[d])}">{_STATES[states[d]]} {states[d]}</td>'
                  for d in DTYPES)
        + "</tr>"
        for name, covers, states in page.levels
    )  # fmt: skip
    return "<p>A level is claimed only whole.</p>" + _table("Levels", ["level", *DTYPES], rows)


def _state(state: str) -> str:
    return {"claimed": "good", "failed": "bad", "in part": "fair"}.get(state, "plain")


def _clauses(page: Page) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="#clause-{row.heads[0]}"><b>{row.heads[0]}</b> '
        f"{escape(row.heads[1])}</a></th>{_cells(row)}</tr>"
        for row in page.clauses
    )
    told = "".join(_clause(page, row.heads[0]) for row in page.clauses)
    legend = "<p>A plain number is of cases that passed.</p>"
    heading = "<h3>What each clause says</h3>"
    return f"{legend}{_table('Per clause', ['clause', *page.dtypes], rows)}{heading}{told}"


def _clause(page: Page, name: str) -> str:
    """Write a clause with what was declined and remarked upon under it."""
    said = clause(name)
    declined = "".join(f"<li>{_reason(d.reason, d.ids)}</li>" for d in page.declined(name))
    failed = any(f.clause.id == name for f in page.failures)
    see = f'<p><a href="#failed-{name}">What failed</a></p>' if failed else ""
    return (
        f"<details><summary><b>{name}</b> {escape(said.title)}</summary>"
        f'<div id="clause-{name}">{_text(said.text, "div")}'
        + (f"<p>Declined:</p><ul>{declined}</ul>" if declined else "")
        + f"{see}</div></details>"
    )


def _coverage(page: Page) -> str:
    bodies: dict[str, str] = {}
    for row in page.grid:
        operation, feature = row.heads
        name = f"<b>{escape(operation) or 'unknown'}</b>" if feature == "all" else escape(feature)
        kind = "operation" if feature == "all" else "feature"
        line = f'<tr class="{kind}"><th scope="row">{name}</th>{_cells(row)}</tr>'
        bodies[operation] = bodies.get(operation, "") + line
    rows = "</tbody><tbody>".join(bodies.values())
    lead = "<p>By operation, and by each feature that its cases use.</p>"
    return lead + _table("Coverage", ["operation and feature", *page.dtypes], rows)


def _cells(row: Row) -> str:
    return "".join(map(_cell, row.cells.values()))


def _cell(cell: Cell) -> str:
    if not cell.counts:
        return '<td class="none"><span aria-hidden="true">·</span></td>'
    return f'<td class="{_tone(cell.gravest)}">{", ".join(map(escape, cell.words))}</td>'


def _table(label: str, heads: Sequence[str], rows: str) -> str:
    columns = "".join(f'<th scope="col">{h}</th>' for h in heads)
    return shell.scroll(label, f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody>")


def _declined(page: Page) -> str:
    return "".join(_reason(d.reason, d.ids) for d in page.declined())


def _reason(reason: str, ids: Sequence[str]) -> str:
    items = "".join(f"<li><code>{_breakable(case)}</code></li>" for case in ids[:_LISTED])
    more = len(ids) - _LISTED
    rest = f"<li>and {more:,} more</li>" if more > 0 else ""
    return (
        f"<details><summary>{escape(reason)} <span class='count'>{cases(len(ids))}</span>"
        f"</summary><ul>{items}{rest}</ul></details>"
    )


def _remarks(page: Page) -> str:
    if not page.remarks:
        return ""
    lead = "<p>Correct, but not as good as it could be.</p>"
    return lead + _list(cases(len(page.remarks)), page.remarks)


# ---- Errors and evidence -------------------------------------------------------------


def _errors(page: Page) -> str:
    near = charts.joined(charts.histogram(page.outcomes, d) for d in DTYPES)
    long = charts.joined(charts.lengths(page.outcomes, d) for d in DTYPES)
    if not near:
        return ""
    return (
        "<p>Every error is measured against a limit that is derived for its element; "
        "at 1 it would fail.</p>"
        f"{_statistics(page)}<h3>How near to the limit</h3>{near}"
        '<h3>Against the number of keys</h3><p class="key">'
        '<span class="fore">●</span> forward <span class="back">▲</span> gradients '
        f'<span class="failed">✕</span> failed</p>{long}'
    )


def _statistics(page: Page) -> str:
    columns = {
        "cases": "cases",
        "utilisation": "median error / limit",
        "nearest": "largest error / limit",
        "ratio": "worst error / honest error",
        "ulp": "worst ulp",
        "bias": "bias",
        "determinism": "repeats",
    }
    heads = "".join(f'<th scope="col">{title}</th>' for title in ["dtype", *columns.values()])
    rows = "".join(
        f'<tr><th scope="row">{s["dtype"]} {s["part"]}</th>'
        + "".join(f"<td>{_shown(s[name])}</td>" for name in columns)
        + "</tr>"
        for s in page.content["statistics"]
    )
    meaning = (
        '<p class="note">Worst ulp is the largest error in units in the last place, counted where '
        "the limit is less than the value itself. Bias is the mean error over the mean absolute error: negative where results are too "
        "small in magnitude, near 0 where errors go both ways. Repeats says whether the same "
        "call gave the same bits again.</p>"
    )
    return shell.scroll("Errors", f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>") + meaning


def _shown(x: object) -> str:
    return f"{x:,g}" if isinstance(x, int | float) else escape(str(x)) or "not asked"


def _evidence(page: Page) -> str:
    return shell.facts(page.facts) + (
        f'<p class="note"><code>attnref verify-report {escape(page.name)}.json</code> recomputes '
        "counts, levels and verdict, and says whether the sources have changed since.</p>"
    )


# ---- Text ----------------------------------------------------------------------------


def _text(text: str, tag: str) -> str:
    """Turn a clause's few marks into HTML: paragraphs, items, code."""
    if not text:
        return ""
    blocks = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if all(line.startswith("- ") for line in lines):
            items = "".join(f"<li>{_marked(line[2:])}</li>" for line in lines)
            blocks.append(f"<ul>{items}</ul>")
        else:
            blocks.append(f"<p>{_marked(' '.join(lines))}</p>")
    return f'<{tag} class="text">{"".join(blocks)}</{tag}>'


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _breakable(case: str) -> str:
    """Let a long id break after its hyphens."""
    return escape(case).replace("-", "-<wbr>")
