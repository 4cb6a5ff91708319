"""Draws how a map is cut, shifted and masked, from the specification's own functions.

    python docs/figures/windows.py docs/images/windows.svg
"""

import sys
from pathlib import Path

import numpy as np

from attnref.spec import windows as spec

G, W, S = (11, 11), (4, 4), (2, 2)
CELL, GAP, LEFT, TOP = 18, 60, 16, 52
SIDE = 12 * CELL
INK, FAINT, PAPER, PAD = "#1f2933", "#9aa5b1", "#ffffff", "#e4e7eb"
COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f"
)


def main() -> None:
    """Write the figure to the path that is given."""
    Path(sys.argv[1]).write_text(figure(), encoding="utf-8")


def figure() -> str:
    """Put four panels on one sheet."""
    width, height = 2 * LEFT + 2 * SIDE + GAP, 2 * (TOP + SIDE + GAP) - 10
    right, below = LEFT + SIDE + GAP, TOP + SIDE + GAP + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="15" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        title(LEFT, TOP, "Cut from the origin", "11 x 11 tokens, windows of 4 x 4"),
        *tokens(LEFT, TOP, (0, 0)),
        title(right, TOP, "Cut again, shifted by 2", "the last windows wrap around"),
        *tokens(right, TOP, S),
        title(LEFT, below, "Rolled: what windows hold", "a broken line parts wrapped pairs"),
        *rolled(LEFT, below),
        title(right, below, "Who sees whom", "16 queries down, keys across"),
        *masks(right, below),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def title(x: int, y: int, said: str, more: str) -> str:
    """Write two lines above a panel."""
    return (
        f'<text x="{x}" y="{y - 28}" font-weight="600">{said}</text>'
        f'<text x="{x}" y="{y - 10}" font-size="13" fill="#52606d">{more}</text>'
    )


def cell(x: float, y: float, side: float, fill: str) -> str:
    """Draw one square."""
    return f'<rect x="{x:g}" y="{y:g}" width="{side - 1:g}" height="{side - 1:g}" fill="{fill}"/>'


def window_of(shift: tuple[int, int]) -> np.ndarray:
    """Return the window of every place, padding included, where the place lies on the map."""
    padded = tuple(n * w for n, w in zip(spec.counts(G, W), W, strict=True))
    places = np.arange(np.prod(padded)).reshape(1, *padded)
    cut = spec.partition(places, W, shift)
    found = np.zeros(places.size, int)
    found[cut] = np.arange(len(cut))[:, None]
    return found.reshape(padded)


def tokens(x: int, y: int, shift: tuple[int, int]) -> list[str]:
    """Colour every token of the map by its window; padding is grey."""
    return [
        cell(x + j * CELL, y + i * CELL, CELL, COLOURS[n] if i < G[0] and j < G[1] else PAD)
        for (i, j), n in np.ndenumerate(window_of(shift))
    ]


def rolled(x: int, y: int) -> list[str]:
    """Draw the windows as the roll leaves them, with lines where a pair is wrapped."""
    real = spec.partition(np.ones((1, *G), bool), W, S)
    across = spec.wrapped(G, W, S)
    parts, n = [], spec.counts(G, W)
    for window in range(len(real)):
        top, left = divmod(window, n[1])
        for token in range(W[0] * W[1]):
            i, j = divmod(token, W[1])
            cx, cy = x + (left * W[1] + j) * CELL, y + (top * W[0] + i) * CELL
            parts.append(cell(cx, cy, CELL, COLOURS[window] if real[window, token] else PAD))
            if j + 1 < W[1] and across[window, token, token + 1]:
                parts.append(line(cx + CELL - 0.5, cy, cx + CELL - 0.5, cy + CELL, "3 3"))
            if i + 1 < W[0] and across[window, token, token + W[1]]:
                parts.append(line(cx, cy + CELL - 0.5, cx + CELL, cy + CELL - 0.5, "3 3"))
    for at in range(0, 12 * CELL + 1, 4 * CELL):
        parts.append(line(x + at - 0.5, y - 0.5, x + at - 0.5, y + SIDE - 0.5))
        parts.append(line(x - 0.5, y + at - 0.5, x + SIDE - 0.5, y + at - 0.5))
    return parts


def line(x1: float, y1: float, x2: float, y2: float, dashes: str = "") -> str:
    """Draw a line."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" '
        f'stroke="{INK}" stroke-width="2"{dashed}/>'
    )


def masks(x: int, y: int) -> list[str]:
    """Draw who sees whom in the first window, at the right edge, at the lower one, in the corner."""
    seen = spec.allowed(G, W, S, np.ones((1, *G), bool), wrap=False)[:, 0]
    n = spec.counts(G, W)
    chosen = {
        "inside": 0,
        "right edge": n[1] - 1,
        "lower edge": (n[0] - 1) * n[1],
        "corner": n[0] * n[1] - 1,
    }
    parts, small = [], 6
    for at, (said, window) in enumerate(chosen.items()):
        cx, cy = x + at % 2 * (SIDE // 2 + 4), y + at // 2 * (SIDE // 2 + 10)
        parts.append(f'<text x="{cx}" y="{cy + 16 * small + 13}" font-size="13">{said}</text>')
        for (i, j), see in np.ndenumerate(seen[window]):
            colour = COLOURS[window] if see else PAD
            parts.append(cell(cx + j * small, cy + i * small, small, colour))
    return parts


if __name__ == "__main__":
    main()
