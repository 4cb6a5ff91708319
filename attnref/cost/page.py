"""The figures of the documentation's page, written between marks and never typed.

`python -m attnref.cost.page docs/cost.md` writes them; the prose around them is by hand.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attnref.cost import growth, tables
from attnref.cost.attention import Attention
from attnref.cost.command import part_table
from attnref.cost.counts import Setting
from attnref.cost.figures import figures
from attnref.cost.models import model
from attnref.models.presets import PRESETS, preset
from attnref.problem import Sizes

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
HALF = Setting(dtype="float16")


def quoted() -> str:
    """What everybody quotes, and what it is."""
    head = ["what", "exactly", "quoted", "by", "remark"]
    rows = [[f.what, f"{f.exact:,}", f.quoted, f.source, f.remark] for f in figures()]
    return tables.markdown(head, rows)


def models() -> str:
    """Every preset on its own input, and a step of training of it."""
    head = ["model", "parameters", "multiply-adds", "backward", "kept, tiled", "untiled"]
    rows = []
    for name, config in PRESETS.items():
        one = model(config)
        forward, backward = one.forward(), one.backward()
        rows.append(
            [
                f"`{name}`",
                f"{one.parameters:,}",
                tables.count(forward.untiled.multiply_adds),
                tables.count(backward.untiled.multiply_adds),
                tables.size(forward.tiled.kept),
                tables.size(forward.untiled.kept),
            ]
        )
    return tables.markdown(head, rows)


def swin() -> str:
    """Swin-T part by part."""
    return part_table(model(preset("swin-tiny")), Setting(), write=tables.markdown)


def lengths() -> str:
    """One head of attention, by the number of tokens."""
    head = ["tokens", "moved, tiled", "untiled", "operations per byte, tiled", "untiled"]
    head += ["kept, tiled", "untiled", "backward moved, tiled", "untiled"]
    rows = []
    for S in LENGTHS:
        call = Attention(sizes=Sizes(1, 1, 1, S, S, 64, 64))
        forward, backward = call.forward(HALF), call.backward(HALF)
        ways = (forward.tiled, forward.untiled)
        back = (backward.tiled, backward.untiled)
        row = [str(S), *(tables.size(way.bytes) for way in ways)]
        row += [f"{way.intensity:.0f}" for way in ways]
        row += [tables.size(way.kept) for way in ways]
        rows.append([*row, *(tables.size(way.bytes) for way in back)])
    return tables.markdown(head, rows)


def images() -> str:
    """Convolution, ViT and Swin by the size of the image."""
    return tables.markdown(*growth.table())


SECTIONS: dict[str, Callable[[], str]] = {
    "quoted": quoted,
    "models": models,
    "swin": swin,
    "lengths": lengths,
    "images": images,
}
"""What stands between the marks of each name."""


def written(page: str) -> str:
    """Return a page with its figures as they are now.

    Args:
        page: Markdown with `<!-- NAME: begin -->` and `<!-- NAME: end -->` around each section.

    Example:
        >>> page = "<!-- quoted: begin -->" + "old" + "<!-- quoted: end -->"
        >>> "3 x 768^2" in written(page)
        True
    """
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        # Whatever is not on the page is not made.
        page = re.sub(
            f"{begin}.*?{end}",
            lambda _, b=begin, e=end, m=make: f"{b}\n\n{m()}\n\n{e}",  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
    return page


def main(words: Sequence[str]) -> None:
    """Write the figures of every page that is named."""
    for word in words:
        page = Path(word)
        page.write_text(written(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
