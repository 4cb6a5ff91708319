"""How numbers are told: three digits and a unit."""

from attnref_conformance.bench.results import Row, Run

SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def number(x: float) -> str:
    """Write three significant digits, without an exponent.

    Example:
        >>> number(1234.5), number(12.345), number(0.0012345)
        ('1,234', '12.3', '0.00123')
    """
    if abs(x) >= 100 or x == 0:
        return f"{x:,.0f}"
    if abs(x) >= 10:
        return f"{x:.1f}"
    return f"{x:.2f}" if abs(x) >= 1 else f"{x:.3g}"


def seconds(x: float) -> str:
    """Write a time in the unit that fits."""
    return _scaled(x, SECONDS)


def size(x: float | None) -> str:
    """Write bytes in the unit that fits; nobody may know how many."""
    return "unknown" if x is None else _scaled(x, BYTES)


def share(x: float | None) -> str:
    """Write a ratio to a ceiling."""
    return "-" if x is None else f"{x:.0%}" if x >= 0.1 else f"{x:.1%}"


def ratio(x: float | None) -> str:
    """Write a ratio to a peer."""
    return "-" if x is None else f"{x:.2f}"


def _scaled(x: float, units: tuple[tuple[float, str], ...]) -> str:
    for unit, name in units:
        if abs(x) >= unit:
            return f"{number(x / unit)} {name}"
    return f"{number(x / units[-1][0])} {units[-1][1]}"


def device(run: Run) -> str:
    """Name what was measured on: a GPU, or else the processor."""
    return run.facts.get("device") or run.facts.get("processor", "")


def ceilings(run: Run) -> list[tuple[str, str]]:
    """Say the measured ceilings."""
    said = []
    if "copy" in run.ceilings:
        said.append(("copy", f"{number(run.ceilings['copy'] / 1e9)} GB/s"))
    if "product" in run.ceilings:
        said.append(("matrix product", f"{number(run.ceilings['product'] / 1e12)} TFLOP/s"))
    if "threads" in run.ceilings:
        said.append(("threads at work in it", number(run.ceilings["threads"])))
    return said


def line(run: Run, row: Row) -> str:
    """Say a row in a line, for a terminal."""
    words = [row.name, row.passes]
    if row.wrong:
        return " | ".join([*words, f"WRONG, not timed: {row.wrong}"])
    for who, timing in row.timings.items():
        times = f"{seconds(timing.median)}, {number(row.told(who))} {row.unit}"
        words.append(f"{who} {times}")
    if row.ratio is not None:
        words.append(f"{ratio(row.ratio)}x the best peer ({row.best_peer})")
    if run.of_ceiling(row) is not None:
        words.append(f"{share(run.of_ceiling(row))} of the ceiling")
    words += [f"without {who}: {why}" for who, why in row.absent.items()]
    return " | ".join(words)
