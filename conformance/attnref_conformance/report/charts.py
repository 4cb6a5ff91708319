"""The error plots of the HTML page, as inline SVG that takes its colours from the page."""

import math
from collections.abc import Iterable, Sequence

from attnref_conformance.report.claims import EXECUTED
from attnref_conformance.status import Outcome

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 10, 34
_DECADES = range(-5, 2)
_BINS = 4
"""Bars per factor of ten."""


def used(o: Outcome) -> float:
    """Return the largest error over its limit; of a failure that of the quoted element."""
    if o.status in EXECUTED:
        return o.utilisation
    try:
        assert o.element is not None
        return float(o.element.error) / float(o.element.limit)
    except (AssertionError, ValueError):
        return 0.0
    except ZeroDivisionError:
        return math.inf


def histogram(outcomes: Sequence[Outcome], dtype: str) -> str:
    """Draw how near the errors of one dtype came to their limits; empty without errors."""
    shares = [x for o in outcomes if o.dtype == dtype and (x := used(o)) > 0]
    if not shares:
        return ""
    counts: dict[int, int] = {}
    for x in shares:
        at = math.floor(_clipped(x) * _BINS)
        counts[at] = counts.get(at, 0) + 1
    most = max(counts.values())
    step = (WIDTH - LEFT - RIGHT) / (len(_DECADES) - 1) / _BINS
    bars = "".join(
        _bar(_x(at / _BINS), step, n / most, "past" if at >= 0 else "within", f"{n}")
        for at, n in sorted(counts.items())
    )
    body = f"{_limit()}{bars}{_decades()}{_left(str(most), '0')}"
    title = f"{dtype}: how many cases came how near to their limit"
    return _figure(dtype, title, body, "error / limit", "cases")


def lengths(outcomes: Sequence[Outcome], dtype: str) -> str:
    """Draw the errors of one dtype against the number of keys; empty without errors."""
    mine = [o for o in outcomes if o.dtype == dtype and o.length and used(o) > 0]
    if not mine:
        return ""
    longest = max(4, *(o.length for o in mine))
    octaves = math.ceil(math.log2(longest))
    points: dict[tuple[str, int, int], None] = {}
    for o in mine:
        x = LEFT + math.log2(o.length) / octaves * (WIDTH - LEFT - RIGHT)
        kind = "failed" if o.status.failure else "back" if "gradients" in o.features else "fore"
        points[kind, round(x), round(_y(_clipped(used(o))))] = None
    marks = "".join(_mark(*point) for point in sorted(points, key=lambda p: p[0] == "failed"))
    y = _y(0.0)
    limit = f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    ticks = "".join(
        _text(
            LEFT + e / octaves * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM + 14, str(2**e), "middle"
        )
        for e in range(0, octaves + 1, max(1, octaves // 4))
    )
    rows = "".join(_text(LEFT - 5, _y(e) + 4, _power(e), "end") for e in list(_DECADES)[::2])
    title = f"{dtype}: error over its limit, against the number of keys"
    return _figure(dtype, title, f"{limit}{marks}{ticks}{rows}", "keys", "error / limit")


def _clipped(x: float) -> float:
    """Return the decimal logarithm, kept on the plot."""
    return min(max(math.log10(x), _DECADES[0]), _DECADES[-1] - 0.01)


def _x(exponent: float) -> float:
    span = _DECADES[-1] - _DECADES[0]
    return LEFT + (exponent - _DECADES[0]) / span * (WIDTH - LEFT - RIGHT)


def _y(exponent: float) -> float:
    span = _DECADES[-1] - _DECADES[0]
    return HEIGHT - BOTTOM - (exponent - _DECADES[0]) / span * (HEIGHT - TOP - BOTTOM)


def _bar(x: float, width: float, share: float, kind: str, said: str) -> str:
    tall = max(share * (HEIGHT - TOP - BOTTOM), 1.5)
    return (
        f'<rect class="{kind}" x="{x + 0.5:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
        f'width="{width - 1:.1f}" height="{tall:.1f}"><title>{said}</title></rect>'
    )


def _mark(kind: str, x: int, y: int) -> str:
    if kind == "failed":
        return f'<path class="failed" d="M{x - 3} {y - 3}l6 6m0-6l-6 6"/>'
    if kind == "back":
        return f'<path class="back" d="M{x} {y - 3}l3 5h-6z"/>'
    return f'<circle class="fore" cx="{x}" cy="{y}" r="2.2"/>'


def _limit() -> str:
    x = _x(0.0)
    return f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _decades() -> str:
    return "".join(_text(_x(e), HEIGHT - BOTTOM + 14, _power(e), "middle") for e in _DECADES)


def _left(top: str, bottom: str) -> str:
    high, low = (
        _text(LEFT - 5, TOP + 8, top, "end"),
        _text(LEFT - 5, HEIGHT - BOTTOM, bottom, "end"),
    )
    return high + low


def _power(exponent: int) -> str:
    return {0: "1", 1: "10"}.get(exponent, f"10{str(exponent).translate(_RAISED)}")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{said}</text>'


def _figure(dtype: str, title: str, body: str, below: str, beside: str) -> str:
    axis = f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    label = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, below, "middle")
    up = (
        f'<text transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2:.1f}" y="10" '
        f'text-anchor="middle">{beside}</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{body}{axis}{label}{up}</svg><figcaption>{dtype}</figcaption></figure>"
    )


def joined(figures: Iterable[str]) -> str:
    """Put figures side by side, where there are any."""
    drawn = "".join(figures)
    return f'<div class="plots">{drawn}</div>' if drawn else ""
