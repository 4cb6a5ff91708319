"""Draw what one token of a photograph attends to, in a block of a Swin transformer.

    python examples/draw_attention.py attention.png

No weights are needed, and none are downloaded: queries and keys are made by hand from the
colours of a token, so that tokens of like colour attend to each other, by cosines as in
version 2; a bias prefers what is near. The cut, the shift and the mask are Swin's.

The weights of a token are a gradient. Its output is `sum_j w_j v_j`; so if a gradient of
one arrives at its output and nowhere else, what reaches `v_j` is `w_j`, on the map as it
is, whatever was shifted and cut.

The photograph, a cup of coffee by Rachel Michetti (CC0), comes with scikit-image:
`pip install scikit-image`.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw
from skimage import color, data

import attnref

SIDE, TOKEN, WINDOW = 384, 16, 8
"""Pixels of the photograph and of a token; tokens of a window."""

SHIFT = WINDOW // 2
SCALE = 12.0
"""What multiplies a cosine."""

MARK, CUT, GLOW = (0, 230, 255), (255, 255, 255), (255, 120, 0)


def photograph() -> np.ndarray:
    """Return a square of the photograph, `(SIDE, SIDE, 3)`."""
    return data.coffee()[8 : 8 + SIDE, 130 : 130 + SIDE]


def tokens(photo: np.ndarray) -> np.ndarray:
    """Return the mean and the spread of a token's colours, `(1, H, W, 1, 6)`."""
    lab = color.rgb2lab(photo) / 100.0
    n = SIDE // TOKEN
    cells = lab.reshape(n, TOKEN, n, TOKEN, 3).swapaxes(1, 2).reshape(n, n, -1, 3)
    features = np.concatenate([cells.mean(2), 2.0 * cells.std(2)], axis=-1)
    features -= features.mean((0, 1))
    return (features / np.linalg.norm(features, axis=-1, keepdims=True))[None, :, :, None]


def nearness() -> np.ndarray:
    """Return a bias that prefers near tokens, `(1, N, N)`."""
    d = np.arange(1 - WINDOW, WINDOW)
    table = -0.02 * (d[:, None] ** 2 + d**2).reshape(-1, 1)
    return attnref.relative_position_bias(table, window=(WINDOW, WINDOW))


def weights(x: np.ndarray, at: np.ndarray, **cut: object) -> np.ndarray:
    """Return where the gradient `at` the outputs of a block comes from: the weights."""
    v = np.zeros((*x.shape[:-1], 1))
    options = {"window": WINDOW, "scale": SCALE, "bias": nearness(), "backend": "reference", **cut}
    out, lse = attnref.window_attention_with_lse(x, x, v, **options)
    return attnref.window_attention_backward(at, x, x, v, out, lse, **options).dv


def at(x: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a one at a token, and zeros elsewhere."""
    one = np.zeros((*x.shape[:-1], 1))
    one[0, row, column] = 1.0
    return one


def heat(photo: np.ndarray, w: np.ndarray) -> Image.Image:
    """Let tokens glow on the greyed photograph as much as they weigh."""
    grey = photo.mean(-1, keepdims=True) * 0.6
    much = np.kron((w[0, ..., 0, 0] / w.max()) ** 0.5, np.ones((TOKEN, TOKEN)))[..., None]
    mixed = (1 - much) * grey + much * (0.8 * np.array(GLOW) + 0.2 * photo)
    return Image.fromarray(mixed.astype(np.uint8))


def cuts(picture: Image.Image, shift: int) -> None:
    """Draw the borders of the windows."""
    draw = ImageDraw.Draw(picture)
    step, start = WINDOW * TOKEN, shift * TOKEN
    for place in range(start, SIDE, step):
        if place > 0:
            draw.line([(place, 0), (place, SIDE)], fill=CUT)
            draw.line([(0, place), (SIDE, place)], fill=CUT)


def mark(picture: Image.Image, row: int, column: int) -> None:
    """Draw a frame around the token that asks."""
    corner = (column * TOKEN - 2, row * TOKEN - 2)
    end = ((column + 1) * TOKEN + 1, (row + 1) * TOKEN + 1)
    ImageDraw.Draw(picture).rectangle([corner, end], outline=MARK, width=2)


def panel(
    photo: np.ndarray, w: np.ndarray, token: tuple[int, int], shifts: tuple[int, ...], text: str
) -> Image.Image:
    """Draw the weights of a token over the photograph and the cut."""
    picture = heat(photo, w)
    for shift in shifts:
        cuts(picture, shift)
    mark(picture, *token)
    return titled(picture, text)


def titled(picture: Image.Image, text: str) -> Image.Image:
    """Put a line of text under a picture."""
    whole = Image.new("RGB", (SIDE, SIDE + 26), "white")
    whole.paste(picture)
    ImageDraw.Draw(whole).text((2, SIDE + 4), text, fill="black", font_size=16)
    return whole


def beside(panels: list[Image.Image], gap: int = 12) -> Image.Image:
    """Lay panels out in two rows."""
    width, height = panels[0].size
    columns = len(panels) // 2
    whole = Image.new("RGB", (columns * (width + gap) - gap, 2 * height + gap), "white")
    for place, each in enumerate(panels):
        row, column = divmod(place, columns)
        whole.paste(each, (column * (width + gap), row * (height + gap)))
    return whole


def drawn() -> Image.Image:
    """Draw a token in the middle by three blocks, and one at the far edge."""
    photo = photograph()
    x = tokens(photo)
    inside, edge = (9, 10), (22, 21)
    plain = weights(x, at(x, *inside))
    shifted = weights(x, at(x, *inside), shift=SHIFT)
    through = weights(x, shifted)
    hidden = weights(x, at(x, *edge), shift=SHIFT)
    seen = weights(x, at(x, *edge), shift=SHIFT, wrap_bias=0.0)
    whole = Image.fromarray(photo)
    mark(whole, *inside)
    mark(whole, *edge)
    return beside(
        [
            titled(whole, "the photograph, and two tokens"),
            panel(photo, plain, inside, (0,), "a block: the window of the token"),
            panel(photo, shifted, inside, (SHIFT,), "the next: windows shifted by half"),
            panel(photo, through, inside, (0, SHIFT), "both: what reached it"),
            panel(photo, hidden, edge, (SHIFT,), "at the edge: wrapped pairs hidden"),
            panel(photo, seen, edge, (SHIFT,), "and if they were not (wrap_bias=0)"),
        ]
    )


if __name__ == "__main__":
    drawn().quantize(160).save(sys.argv[1], optimize=True)
