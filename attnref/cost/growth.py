r"""How cost grows with the size of an image: convolution, ViT and Swin side by side.

A map of $h \times w$ tokens has $(h w)^2$ pairs for global attention, and $h w N$ in windows
of $N$ tokens; a convolution is linear in $h w$ as well.
"""

from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple

from attnref.cost import tables
from attnref.cost.models import model
from attnref.models.presets import preset

MODELS = ("conv", "vit-s16", "swin-tiny")
SIDES = (224, 448, 672, 896, 1120, 1344, 1568, 1792)
"""Images that each of them takes: windows of 7 on maps halved three times, from patches of 4."""


class Point(NamedTuple):
    """What one image costs.

    Attributes:
        multiply_adds: Of the whole model.
        attention: Of attention alone, without its projections.
        tiled: Bytes kept without the matrix of weights.
        untiled: Bytes kept with it.
    """

    multiply_adds: int
    attention: int
    tiled: int
    untiled: int


def point(name: str, side: int) -> Point:
    """Count what a model makes of a square image.

    Args:
        name: A preset.
        side: Of the image.

    Example:
        >>> small, large = point("vit-s16", 224), point("vit-s16", 448)
        >>> round(large.attention / small.attention, 1), large.multiply_adds > small.multiply_adds
        (15.9, True)
    """
    one = model(preset(name), image=side)
    work = one.forward()
    attention = one.parts.get("attention")
    return Point(
        work.untiled.multiply_adds,
        0 if attention is None else attention.forward().untiled.multiply_adds,
        work.tiled.kept,
        work.untiled.kept,
    )


def table() -> tuple[list[str], list[list[str]]]:
    """Lay out multiply-adds of models and of attention, and the memory kept by ViT and Swin."""
    _, vit, swin = MODELS
    head = ["image", *MODELS, f"{vit}'s attention", f"{swin}'s"]
    head += [f"kept by {vit}, tiled", "untiled", f"by {swin}, tiled", "untiled"]
    rows = []
    for side in SIDES:
        of = {name: point(name, side) for name in MODELS}
        made = [of[name].multiply_adds for name in MODELS]
        made += [of[vit].attention, of[swin].attention]
        kept = [of[vit].tiled, of[vit].untiled, of[swin].tiled, of[swin].untiled]
        rows.append([str(side), *map(tables.count, made), *map(tables.size, kept)])
    return head, rows


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return util.find_spec("matplotlib") is not None


def draw(to: Path) -> None:
    """Draw multiply-adds against the side of the image, of models and of attention alone.

    Args:
        to: The file; its ending says of which kind.
    """
    figure = import_module("matplotlib.figure").Figure(figsize=(9, 4), layout="constrained")
    whole, alone = figure.subplots(1, 2, sharey=True)
    _, vit, swin = MODELS
    for name, colour, marker in zip(MODELS, ("#6b7280", "#c2410c", "#1d4ed8"), "s^o", strict=True):
        points = [point(name, side) for side in SIDES]
        style = {"color": colour, "marker": marker, "markersize": 4, "label": name}
        whole.plot(SIDES, [p.multiply_adds for p in points], **style)
        if name in (vit, swin):
            alone.plot(SIDES, [p.attention for p in points], **style)
    whole.set_title("the whole model")
    alone.set_title("attention alone, without its projections")
    for axes in (whole, alone):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(SIDES, [str(side) for side in SIDES], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel("side of the image")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
    whole.set_ylabel("multiply-adds")
    # The same figures make the same file, whenever it is drawn.
    dated = {"metadata": {"Date": None}} if to.suffix == ".svg" else {}
    with import_module("matplotlib").rc_context({"svg.hashsalt": "attnref"}):
        figure.savefig(to, dpi=150, **dated)
