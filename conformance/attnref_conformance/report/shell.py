"""What every HTML page is: self-contained, in both colours, readable on a phone and aloud."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path


def document(
    title: str, head: str, sections: Sequence[tuple[str, str, str]], what: str, more: str = ""
) -> str:
    """Write a page.

    Args:
        title: Plain text.
        head: The HTML of its header.
        sections: Id, title and HTML of each; those without any are left out.
        what: What a keyboard may skip to.
        more: Style sheets beside the page's own.
    """
    there = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{name}">{said}</a></li>' for name, said, _ in there)
    bodies = "".join(
        f'<section id="{name}"><h2>{said}</h2>{body}</section>' for name, said, body in there
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>"
        f"<style>{_beside('page.css')}{more}</style></head><body>"
        f'<a class="skip" href="#main">Skip to the {what}</a>'
        f'<main id="main" tabindex="-1">{head}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>{bodies}</main>'
        f"<script>{_beside('page.js')}</script></body></html>\n"
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8").strip()


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Write names and what they are."""
    made = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(x)}</dd></div>" for n, x in rows)
    return f'<dl class="facts">{made}</dl>'


def scroll(label: str, rows: str) -> str:
    """Put a table into a box of its own: it may be wider than a phone, and the page may not."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table>{rows}</table></div>"
    )
