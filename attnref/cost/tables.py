"""Numbers and tables that a person reads."""

from collections.abc import Sequence

_THOUSANDS = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(n: float) -> str:
    """Write a number to three digits, by thousands.

    Example:
        >>> count(0), count(999), count(1234), count(154_618_822_656)
        ('0', '999', '1.23 k', '155 G')
    """
    return _scaled(n, 1000, _THOUSANDS)


def size(n: float) -> str:
    """Write a number of bytes to three digits, by 1024.

    Example:
        >>> size(0), size(1023), size(1536), size(3 * 2**30)
        ('0 B', '1023 B', '1.50 KiB', '3.00 GiB')
    """
    return _scaled(n, 1024, _BINARY)


def _scaled(n: float, step: int, units: Sequence[str]) -> str:
    power = 0
    # 999.5 rounds to the next unit: no number is written with a fourth digit.
    while power < len(units) - 1 and n >= step - 0.5 * (power > 0):
        n, power = n / step, power + 1
    digits = 0 if power == 0 else max(0, 3 - len(str(int(n))))
    return f"{n:.{digits}f} {units[power]}".strip()


def text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for a terminal: the first column on the left, numbers on the right.

    Args:
        head: A word for each column.
        rows: As many cells each.

    Example:
        >>> print(text(["part", "operations"], [["head", "1.54 M"]]))
        part  operations
        head      1.54 M
    """
    lines = [head, *rows]
    widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in lines
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for a page, with numbers on the right.

    Example:
        >>> print(markdown(["part", "operations"], [["head", "1.54 M"]]))
        | part | operations |
        |---|---:|
        | head | 1.54 M |
    """
    rule = "|---" + "|---:" * (len(head) - 1) + "|"
    body = ["| " + " | ".join(line) + " |" for line in rows]
    return "\n".join(["| " + " | ".join(head) + " |", rule, *body])
