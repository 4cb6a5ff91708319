"""Measures when the warpgroups of the Hopper forward kernel do what, and draws it.

    python docs/figures/hopper_timeline.py measure docs/benchmarks/hopper-timeline-h200.json
    python docs/figures/hopper_timeline.py draw docs/benchmarks/hopper-timeline-h200.json \\
        docs/images/hopper-timeline.svg

The kernel itself knows no clock. What is measured is a copy of it, with a reading of the
multiprocessor's clock behind four lines of `in_turn`; the measurement says how much longer the
copy takes. Measuring needs a GPU of capability 9.0, drawing nothing.
"""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

INK, FAINT, PAPER = "#1f2933", "#9aa5b1", "#ffffff"
STAGES = ("q kᵀ", "softmax", "p v", "wait for keys")
COLOURS = dict(zip(STAGES, ("#4e79a7", "#f28e2b", "#59a14f", "#e4e7eb"), strict=True))

MARKS = (
    "mbarrier.wait(k_full.index(slot), phase)",
    "s = warpgroup_mma_wait(0, deps=(s,))",
    "mbarrier.wait(v_full.index(slot), phase)",
    "acc = warpgroup_mma_wait(0, deps=(acc,))",
)
"""Lines of `in_turn` behind which the clock is read: a stage ends at the next."""

ROOM = 4096
"""Visits of a consumer that are kept."""

SHOWN = 4
"""Visits of each warpgroup in the picture."""

CLOCK = '''
@gluon.jit
def mark(times, visit, n: gl.constexpr, ME: gl.constexpr):
    now = gl.inline_asm_elementwise(
        "mov.u64 $0, %clock64;", "=l", [], dtype=gl.int64, is_pure=False, pack=1
    )
    at = ((gl.program_id(0) * 3 + ME) * ROOM + visit % ROOM) * 4 + n
    gl.store(times + at, now)
'''


def main() -> None:
    """Measure, or draw what was measured."""
    match sys.argv[1:]:
        case ["measure", into]:
            Path(into).write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
        case ["draw", measured, into]:
            data = json.loads(Path(measured).read_text(encoding="utf-8"))
            Path(into).write_text(figure(data), encoding="utf-8")
        case _:
            sys.exit(__doc__)


def marked(source: str) -> str:
    """Return the kernel's source with the clock read behind `MARKS`, each there exactly once.

    The array of times comes in as `unit`, which a call without a bias does not use.
    """
    begin = source.index("def in_turn(")
    end = source.index("@gluon.jit", begin)
    lines = []
    for line in source[begin:end].splitlines(keepends=True):
        lines.append(line)
        if line.strip() in MARKS:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}mark(unit, c + t, {MARKS.index(line.strip())}, ME)\n")
    if sum("mark(unit" in line for line in lines) != len(MARKS):
        raise ValueError("in_turn has changed: a line that ends a stage is not there once")
    head = source[:begin].removesuffix("@gluon.jit\n")
    clock = f"ROOM = gl.constexpr({ROOM})\n{CLOCK}\n\n@gluon.jit\n"
    return head + clock + "".join(lines) + source[end:]


def marked_kernel() -> Any:
    """Load the copy of the kernel; Triton reads its source from a file."""
    spec = find_spec("attnref_triton.hopper.forward")
    assert spec is not None and spec.origin is not None
    source = marked(Path(spec.origin).read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False, encoding="utf-8") as file:
        file.write(source)
    return loaded(file.name).attend_kernel


def loaded(path: str) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location("marked_hopper_forward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure() -> dict[str, Any]:
    """Measure full attention of 4096 tokens for each head size."""
    import torch

    kernel = marked_kernel()
    return {
        "device": torch.cuda.get_device_name(),
        "unit": "clocks of a multiprocessor",
        "heads": {str(D): timed(kernel, D) for D in (64, 128)},
    }


def timed(kernel: Any, D: int) -> dict[str, Any]:
    """Run the copy, and return its stages' medians and what one program did for a while."""
    import torch
    from triton.testing import do_bench

    launch = launch_of(D, "cuda")
    programs = launch.grid[0]
    times = torch.zeros((programs, 3, ROOM, 4), dtype=torch.int64, device="cuda")
    timed_launch = with_times(launch, kernel, times)
    slower = do_bench(timed_launch.run, rep=300) / do_bench(launch.run, rep=300)
    times.zero_()
    timed_launch.run()
    each = times.tolist()
    found: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for program in each:
        for consumer in program:
            for stage, a, b in stages(consumer):
                found[stage].append(b - a)
    start = ROOM // 2 if all(each[0][0][ROOM // 2]) else 16
    return {
        "clocks": {stage: median(them) for stage, them in found.items()},
        "slower": round(slower, 3),
        "shown": [consumer[start : start + SHOWN + 1] for consumer in each[0]],
    }


def launch_of(D: int, device: str, chip: Any = None) -> Any:
    """Describe a launch of the kernel: 4096 tokens, 16 384 in all, 2048 columns in all heads."""
    import torch

    from attnref import normalize
    from attnref_triton.hopper import launch_forward
    from attnref_triton.call import call_of
    from attnref_triton.chips import chip_of

    shape = (4, 2048 // D, 4096, D)
    q, k, v = (torch.randn(shape, device=device).to(torch.bfloat16) for _ in range(3))
    call = call_of(normalize.attention(q, k, v))
    buffers = {"out": torch.empty_like(q), "lse": torch.empty(shape[:-1], device=device)}
    (launch,) = launch_forward.launches_of(call, buffers, chip or chip_of(q.device))
    return launch


def with_times(launch: Any, kernel: Any, times: Any) -> Any:
    """Give a launch the copy of its kernel, and where to write times."""
    return replace(launch, kernel=kernel, arguments={**launch.arguments, "unit": times})


def stages(visits: Sequence[Sequence[int]]) -> Iterator[tuple[str, int, int]]:
    """List what a consumer did from when to when; what was never written is left out."""
    for this, following in zip(visits, visits[1:], strict=False):
        if 0 in this or following[0] <= this[3]:
            continue
        yield from zip(STAGES, this, (*this[1:], following[0]), strict=True)


def figure(data: dict[str, Any]) -> str:
    """Draw the consumers of one program below each other, for each head size."""
    left, right, bar, top = 90, 16, 22, 76
    width = 760
    parts, y = [], top
    for D, found in data["heads"].items():
        begin = min(v[0][0] for v in found["shown"])
        until = max(v[-1][0] for v in found["shown"])
        scale = (width - left - right) / (until - begin)
        parts.append(text(left, y, f"D {D}: {until - begin} clocks", 15))
        for n, visits in enumerate(found["shown"]):
            row = y + 12 + n * (bar + 6)
            parts.append(text(left - 8, row + 16, f"group {n + 1}", 13, "end"))
            for stage, a, b in stages(visits):
                x, w = left + (a - begin) * scale, (b - a) * scale
                parts.append(
                    f'<rect x="{x:.1f}" y="{row}" width="{max(w, 0.5):.1f}" height="{bar}" '
                    f'fill="{COLOURS[stage]}"><title>{stage}: {b - a} clocks</title></rect>'
                )
        y += 12 + 3 * (bar + 6) + 36
    legend = []
    for n, (stage, colour) in enumerate(COLOURS.items()):
        x = left + n * 150
        legend.append(f'<rect x="{x}" y="34" width="14" height="14" fill="{colour}"/>')
        legend.append(text(x + 20, 46, stage, 13))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y - 16}" '
            f'font-family="system-ui, sans-serif" fill="{INK}">',
            f'<rect width="{width}" height="{y - 16}" fill="{PAPER}"/>',
            text(left, 22, "Who multiplies when: one multiprocessor, three warpgroups", 16),
            *legend,
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, said: str, size: int, anchor: str = "start") -> str:
    """Write a line of text."""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{said}</text>'


if __name__ == "__main__":
    main()
