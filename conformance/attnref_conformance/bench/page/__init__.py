"""A run as one HTML page and as Markdown, both made of its results alone."""

from pathlib import Path

from attnref_conformance.bench.page import html, markdown, plots
from attnref_conformance.bench.results import Run


def write(run: Run, folder: Path, name: str = "") -> list[Path]:
    """Write the page, the Markdown and the plots that the Markdown shows.

    Args:
        run: What was measured.
        folder: Where to.
        name: What the files are called; by default after the backend.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = name or f"bench-{run.backend.replace(':', '-')}"
    drawn = {
        f"{stem}-{plot}.svg": plots.alone(svg)
        for plot, svg in {"roofline": plots.roofline(run), **plots.lengths(run)}.items()
        if svg
    }
    files = {f"{stem}.html": html.document(run), f"{stem}.md": markdown.document(run, list(drawn))}
    for file, text in {**files, **drawn}.items():
        (folder / file).write_text(text, "utf-8")
    return [folder / file for file in (*files, *drawn)]
