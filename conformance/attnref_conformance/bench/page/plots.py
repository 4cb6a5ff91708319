"""Plots as inline SVG, which takes its colours from the page: a roofline, and lengths."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path

from attnref_conformance.bench import growth
from attnref_conformance.bench.page import told
from attnref_conformance.bench.results import Row, Run

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 28, 12, 38
COLOURS = 6


@dataclass(frozen=True)
class Axes:
    """Two logarithmic axes, from a power of ten to another.

    Attributes:
        x: Powers of ten at the ends of the horizontal axis.
        y: Of the vertical one.
    """

    x: tuple[int, int]
    y: tuple[int, int]

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> "Axes":
        """Return axes that hold all points."""
        xs, ys = ([log10(p[n]) for p in points] for n in range(2))
        return cls(_decades(xs), _decades(ys))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies on the plot."""
        across = (log10(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (log10(y) - self.y[0]) / (self.y[1] - self.y[0])
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> str:
        """Draw a line through points."""
        d = "L".join("{:.1f} {:.1f}".format(*self.at(*p)) for p in points)
        return f'<path class="{kind}" d="M{d}"/>'

    def grid(self, across: Callable[[float], str], up: Callable[[float], str]) -> str:
        """Draw a line at each power of ten, and say which it is."""
        parts = []
        for e in range(self.x[0], self.x[1] + 1):
            x, _ = self.at(10.0**e, 10.0 ** self.y[0])
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(_text(x, HEIGHT - BOTTOM + 13, across(10.0**e), "middle"))
        for e in range(self.y[0], self.y[1] + 1):
            _, y = self.at(10.0 ** self.x[0], 10.0**e)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(_text(LEFT - 5, y + 3.5, up(10.0**e), "end"))
        return "".join(parts)


def _decades(logs: Sequence[float]) -> tuple[int, int]:
    low, high = floor(min(logs)), ceil(max(logs))
    return low, max(high, low + 1)


def roofline(run: Run) -> str:
    """Draw operations per byte against operations in a second; empty without rows.

    The backend's rows are filled, those of the best peer of each row hollow.
    """
    timed = [row for row in run.rows if run.backend in row.timings]
    if not timed:
        return ""
    mine = [_point(row, run.backend) for row in timed]
    peers = [(row, _point(row, row.best_peer)) for row in timed if row.best_peer]
    copy, product = run.ceilings.get("copy"), run.ceilings.get("product")
    all_points = [*mine, *(p for _, p in peers)]
    if product:
        # A tenth below the ridge, so that both roofs are seen.
        ridge = product / copy if copy else all_points[0][0]
        all_points += [(ridge / 10, product / 10), (ridge, product)] if copy else [(ridge, product)]
    axes = Axes.around(all_points)
    tables = list(dict.fromkeys(row.table for row in timed))
    parts = [axes.grid(_power, _power), _roof(axes, copy, product)]
    for row, point in peers:
        said = f"{row.best_peer}: {row.name}, {row.passes}"
        parts.append(_dot(axes, point, tables.index(row.table), f"{said}", "hollow"))
    for row, point in zip(timed, mine, strict=True):
        parts.append(_dot(axes, point, tables.index(row.table), _said(run, row), ""))
    title = f"Roofline of {run.backend}: operations per byte against operations in a second"
    return _figure(
        title, "".join(parts), "operations per byte", "operations in a second",
        [*tables], f"● {run.backend}  ○ the best peer",
    )  # fmt: skip


def _point(row: Row, who: str) -> tuple[float, float]:
    return row.operations / row.bytes, row.operations / row.timings[who].median


def _said(run: Run, row: Row) -> str:
    rate = f"{told.number(row.told(run.backend))} {row.unit}"
    return f"{row.name}, {row.passes}: {rate}, {told.share(run.of_ceiling(row))} of the ceiling"


def _roof(axes: Axes, copy: float | None, product: float | None) -> str:
    """Draw what copying allows, and above it what multiplying does, as far as both are known."""
    left, right = 10.0 ** axes.x[0], 10.0 ** axes.x[1]
    bottom, top = 10.0 ** axes.y[0], 10.0 ** axes.y[1]
    parts = []
    if copy:
        first = max(left, bottom / copy)
        last = min(right, (product or top) / copy)
        if first < last:
            parts.append(axes.path([(first, first * copy), (last, last * copy)], "roof"))
            x, y = axes.at(last, last * copy)
            parts.append(_text(x - 26, y + 12, f"copy {told.number(copy / 1e9)} GB/s", "end"))
    if product:
        first = max(left, product / copy) if copy else left
        parts.append(axes.path([(min(first, right), product), (right, product)], "roof"))
        x, y = axes.at(right, product)
        label = f"matrix product {told.number(product / 1e12)} TFLOP/s"
        parts.append(_text(x - 4, y - 5, label, "end"))
    return "".join(parts)


def lengths(run: Run) -> dict[str, str]:
    """Draw time and memory of the sweeps, each contender a curve with its exponent."""
    found = growth.curves(run)
    drawn = {}
    for what, word in (("seconds", "time"), ("bytes", "memory")):
        for passes in ("forward", "backward"):
            mine = [c for c in found if (c.what, c.passes) == (what, passes)]
            if mine:
                drawn[f"{word}-{passes}"] = _curves(mine, f"{word}, {passes}", what)
    return drawn


def _curves(curves: list[growth.Curve], title: str, what: str) -> str:
    axes = Axes.around([p for c in curves for p in c.points])
    up = told.seconds if what == "seconds" else told.size
    names: list[str] = []
    parts = [axes.grid(lambda x: f"{x:,.0f}", up if what == "seconds" else _power)]
    for n, curve in enumerate(curves):
        parts.append(axes.path(curve.points, f"curve s{n % COLOURS}"))
        for x, y in curve.points:
            parts.append(_dot(axes, (x, y), n, f"{curve.who}, {x:,} tokens: {up(y)}", ""))
        power = "" if curve.exponent is None else f" ∝ S^{curve.exponent:.2f}"
        names.append(f"{curve.who}{power}")
    label = "seconds" if what == "seconds" else "bytes"
    return _figure(title.capitalize(), "".join(parts), "tokens", label, names, title)


def _dot(axes: Axes, point: tuple[float, float], colour: int, said: str, kind: str) -> str:
    x, y = axes.at(*point)
    return (
        f'<circle class="dot s{colour % COLOURS} {kind}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{2.4 if kind else 3.2}"><title>{escape(said)}</title></circle>'
    )


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(x: float) -> str:
    e = round(log10(x))
    return {0: "1", 1: "10"}.get(e, f"10{str(e).translate(_RAISED)}")


def _text(x: float, y: float, said: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _figure(title: str, body: str, below: str, beside: str, names: Sequence[str], note: str) -> str:
    """Put axes, their names and a key around what was drawn."""
    axis = f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    label = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 9, below, "middle")
    middle = -(TOP + HEIGHT - BOTTOM) / 2
    up = (
        f'<text transform="rotate(-90)" x="{middle:.1f}" y="11" text-anchor="middle">'
        f"{escape(beside)}</text>"
    )
    key, across, down = (
        [_text(LEFT, HEIGHT + 12, note, "start", "strong")],
        float(LEFT),
        HEIGHT + 28,
    )
    for n, name in enumerate(names):
        width = 22 + 5.8 * len(name)
        if across + width > WIDTH and across > LEFT:
            across, down = float(LEFT), down + 15
        dot = f'<circle class="dot s{n % COLOURS}" cx="{across + 4:.1f}" cy="{down - 3.5:.1f}" r="3.2"/>'
        key.append(dot + _text(across + 11, down, name, "start"))
        across += width
    return (
        f'<svg viewBox="0 0 {WIDTH} {down + 8}" role="img" aria-label="{escape(title)}">'
        f"{body}{axis}{label}{up}{''.join(key)}</svg>"
    )


def alone(svg: str) -> str:
    """Make a file of a plot, with the colours of both schemes in it."""
    here = Path(__file__)
    report = here.parents[2] / "report" / "page.css"
    colours = report.read_text("utf-8").split("* {")[0]
    style = colours + here.with_name("bench.css").read_text("utf-8")
    rest = "svg { background: var(--paper); font-family: system-ui, sans-serif; } "
    rest += "svg text { fill: var(--soft); font-size: 10px; } .axis { fill: none; stroke: var(--line); }"
    opening, body = svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{style}{rest}</style>{body}\n'
