"""The Hopper path: which calls take it, and what its kernel is told.

`hopper_forward` is written in Gluon, Triton's language beneath Triton: it says itself which
warps copy and which multiply. That pays on capability 9.0, in half precision, from some
hundred queries on; everything else runs the kernels of `forward`. Nothing here changes what
a call means, only which kernel answers it, and `reasons` says why one does not take the path.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
import triton

from attnref.backend import Reason
from attnref.problem import AttentionProblem, VarlenProblem
from attnref_triton.arguments import of_sinks, rows_like
from attnref_triton.backend import WIDEST, interpreted
from attnref_triton.call import MILD, TINY, Call, in_eights
from attnref_triton.launch import Launch, enter
from attnref_triton.layout import EIGHT
from attnref_triton.plan import block, tiles_to_cover
from attnref_triton.sums import sinks_kernel
from attnref_triton.tables import (
    CAPPED_BACKWARD,
    DENSE,
    DENSE_BACKWARD,
    DENSE_ENTRIES,
    DENSE_TABLED,
    FEW,
    BackwardForm,
    Chip,
    Form,
)

KEYS = 128
"""Keys of a program of the backward kernel."""

WIDE = 128
"""Columns of a head beyond which the backward kernel is the one for wide heads."""

WIDE_KEYS = 64
"""Keys of a program of that."""

SHORT = {64: 512, WIDEST: 128}
"""Columns to the tokens that packed sequences have on average at least, to go this way back."""

ROOMS = ("rows", "sums", "delta", "q_tails", "do_tails")
"""Buffers of a backward pass, by the names that its first kernel has for them."""

ROWS = 64
"""Queries of a consumer: the height of a matrix product of four warps."""

HEAD = 10
"""Numbers of a tile that all consumers read, see `table_of`."""

COUNTER = 4
"""Numbers before a table that the device writes; the first counts the turns that were taken."""

TURN = 4
"""Numbers of a turn, see `turns_of`."""

TOGETHER = 2**25
"""Bytes of keys and values that programs at work at one time should share: most of the L2 cache."""

OVERHEAD = 0.7
"""What a tile of queries costs beside its visits, in visits."""

SORTED = 2**16
"""Tiles of queries up to which each is given to the program that is free first.

Where there are more, programs have so many that taking turns is as fair.
"""


STEP = 16
"""Keys at whose multiples tiles of a bias or mask begin: TMA's columns begin at sixteen bytes."""

HALF = (torch.float16, torch.bfloat16)
"""Types of a bias whose tiles fit."""

MOST = 2**20
"""Tiles of queries whose turns are still written down."""

FLAT = 1e-3
"""The smallest soft cap beneath which the power of a hidden score is sure to vanish."""

KNOWN = ("3.6",)
"""Releases of Triton that the path ran with; to others Gluon, an experiment, may mean less."""


@lru_cache
def missing() -> str | None:
    """Say what of Gluon this Triton lacks; `None` if nothing."""
    installed = triton.__version__
    if ".".join(installed.split(".")[:2]) not in KNOWN:
        return f"Triton is {installed}, and the path is known to run with {' and '.join(KNOWN)}"
    try:
        import_module("attnref_triton.hopper_forward")
        import_module("attnref_triton.hopper_backward")
        import_module("attnref_triton.hopper_wide")
        import_module("triton.experimental.gluon.nvidia.hopper")
        rooms = import_module("triton.experimental.gluon.language").shared_memory_descriptor
        _ = rooms._reinterpret, rooms.index  # noqa: SLF001  # what of them the kernel calls
    except (ImportError, AttributeError, TypeError) as error:
        return f"this Triton's Gluon is not the one the path is written for: {error}"
    return None


def reasons(problem: AttentionProblem | VarlenProblem, chip: Chip) -> list[Reason]:
    """Say why a call does not take the path; empty if it does."""
    if against := _about_machine(chip):
        return against
    if capturing():
        return [Reason("capture", "a graph is being captured, and no call like it ran before")]
    return [*_about_options(problem), *_about_sizes(problem), *_about_strides(problem)]


def _about_machine(chip: Chip) -> list[Reason]:
    if chip.capability != 9:
        return [Reason("capability", f"the chip has capability {chip.capability}, not 9.0")]
    if interpreted():
        return [Reason("interpreter", "Triton's interpreter does not run Gluon")]
    lacking = missing()
    return [] if lacking is None else [Reason("gluon", lacking)]


def _about_options(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    if isinstance(p, AttentionProblem):
        yield from _about_tables(p)
    if p.dtype not in ("float16", "bfloat16"):
        yield Reason("dtype", f"{p.dtype} is no half precision", "q")
    if p.softcap is not None and p.softcap > MILD:
        yield Reason("softcap", f"a softcap of {p.softcap} is above {MILD}", "softcap", MILD)
    if p.softcap is None and p.scale <= TINY:
        yield Reason("scale", f"a scale of {p.scale} does not keep the order of scores")


def _about_tables(p: AttentionProblem) -> Iterator[Reason]:
    if p.bias is not None and p.mask is not None:
        yield Reason("feature", "there is a bias and a mask, and room for one", "mask")
    for name, x, dtypes in (("bias", p.bias, HALF), ("mask", p.mask, (torch.bool,))):
        if x is None:
            continue
        if x.dtype not in dtypes:
            yield Reason("dtype", f"the {name} is {x.dtype}, which is no half precision", name)
        lines = x.ndim > 1 and x.shape[-2:] == (p.sizes.Sq, p.sizes.Sk)
        sixteen = 16 // x.element_size()
        rows = [s for s, n in zip(x.stride()[:-1], x.shape, strict=False) if n > 1]
        if not lines or rows[-1:] == [0] or any(s % sixteen for s in rows) or x.data_ptr() % 16:
            yield Reason("strides", f"rows of the {name} do not begin at sixteen bytes", name)
        elif x.stride(-1) != 1:
            yield Reason("strides", f"columns of the {name} are not adjacent", name)
        if p.window[0] is not None:
            yield Reason("window", f"a bound on the left beside a {name} is not tried yet", name)
        if p.softcap is not None:
            yield Reason("softcap", f"a softcap beside a {name} is not tried yet", "softcap")
        if max(p.sizes.D, p.sizes.Dv) > max(DENSE_TABLED)[0]:
            said = f"there is a {name}, and no room for it beside {p.sizes.D} columns"
            yield Reason("head-size", said, name, max(DENSE_TABLED)[0])


def _about_options_backward(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    for name in ("bias", "mask"):
        if getattr(p, name, None) is not None:
            yield Reason("feature", f"there is a {name}", name)
    if p.dtype not in ("float16", "bfloat16"):
        yield Reason("dtype", f"{p.dtype} is no half precision", "q")
    if p.softcap is not None and not FLAT <= p.softcap <= MILD:
        said = f"a softcap of {p.softcap} is not between {FLAT} and {MILD}"
        yield Reason("softcap", said, "softcap")
    if p.softcap is None and p.scale <= TINY:
        yield Reason("scale", f"a scale of {p.scale} does not keep the order of scores")


def _about_sizes(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    D, Dv = p.q.shape[-1], p.v.shape[-1]
    if not 0 < min(D, Dv) <= max(D, Dv) <= WIDEST:
        yield Reason("head-size", f"D = {D} and Dv = {Dv} are not from 1 to {WIDEST}", "q")
    yield from _about_packed(p) if isinstance(p, VarlenProblem) else _about_tokens(p)


def _about_packed(p: VarlenProblem) -> Iterator[Reason]:
    n, (Tq, Hq, _) = p.cu_q.shape[0] - 1, p.q.shape
    if 0 in (n, Hq, Tq, p.k.shape[0]):
        yield Reason("empty", "an axis is empty")
    elif Tq <= FEW * n:
        yield Reason("queries", f"sequences have {FEW} queries or fewer on average", "q")
    if Hq * (Tq // ROWS + n + 1) > MOST:
        yield Reason("tiles", f"there are more than {MOST} tiles of queries", "q", MOST)


def _about_sizes_backward(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    D, Dv = p.q.shape[-1], p.v.shape[-1]
    low, high = min(DENSE_BACKWARD) // 2, max(DENSE_BACKWARD)
    if not low < max(D, Dv) <= high:
        said = f"the larger of D = {D} and Dv = {Dv} is not from {low + 1} to {high}"
        yield Reason("head-size", said, "q", high)
    yield from _about_packed_backward(p) if isinstance(p, VarlenProblem) else _about_tokens(p)


def _about_packed_backward(p: VarlenProblem) -> Iterator[Reason]:
    (Tq, Hq, D), Tk, n = p.q.shape, p.k.shape[0], p.cu_q.shape[0] - 1
    least = SHORT[64 if max(D, p.v.shape[-1]) <= 64 else WIDEST]
    if 0 in (n, Hq, Tq, Tk):
        yield Reason("empty", "an axis is empty")
    elif min(Tq, Tk) < n * least:
        yield Reason("short", f"sequences have fewer than {least} tokens on average", "cu_q")
    elif Hq * (Tq // ROWS + n + 1) > MOST:
        yield Reason("tiles", f"there are more than {MOST} tiles of queries", "q", MOST)


def _about_tokens(p: AttentionProblem) -> Iterator[Reason]:
    B, Hq, Hkv, Sq, Sk, _, _ = p.sizes
    if 0 in (B, Hq, Sq, Sk):
        yield Reason("empty", "an axis is empty")
    elif Sq * (Hq // Hkv) <= FEW:
        yield Reason("queries", f"a group has {FEW} rows or fewer", "q")
    if B * Hq * -(-Sq // ROWS) > MOST:
        yield Reason("tiles", f"there are more than {MOST} tiles of queries", "q", MOST)


def _about_strides(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    for name, x in {"q": p.q, "k": p.k, "v": p.v}.items():
        if any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True)):
            yield Reason("strides", f"{name} is broadcast, and TMA reads no stride of 0", name)


def reasons_backward(problem: AttentionProblem | VarlenProblem, chip: Chip) -> list[Reason]:
    """Say why a call does not take the path backward.

    There is no schedule backward that could not be copied into a graph, but bits that must
    repeat do not.
    """
    if against := _about_machine(chip):
        return against
    against = [*_about_options_backward(problem), *_about_sizes_backward(problem)]
    against += _about_strides(problem)
    if torch.are_deterministic_algorithms_enabled():
        said = "torch.use_deterministic_algorithms is on, and dq is added up in no fixed order"
        against.append(Reason("deterministic", said))
    return against


def remarks(problem: AttentionProblem | VarlenProblem, chip: Chip) -> list[Reason]:
    """Say which kernel answers a call, for `explain`."""
    against = reasons(problem, chip)
    if not against:
        runs = Reason("hopper", "Hopper path: runs")
        backward = reasons_backward(problem, chip)
        said = "Hopper path: backward, {}; the portable kernels run"
        return [runs, *(Reason("portable", said.format(why)) for why in backward)]
    return [
        Reason("portable", f"Hopper path: {why}; the portable kernel runs", why.field, why.limit)
        for why in against
    ]


def capturing() -> bool:
    """Tell whether a graph is being captured, into which no schedule may be copied."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def form_of(call: Call) -> Form:
    """Look up how the kernel is cut: for the narrowest columns that hold the call's."""
    D, DV = call.sizes
    forms = DENSE_ENTRIES if has_entries(call) else DENSE
    if call.bias is not None or call.mask is not None:
        forms = DENSE_TABLED
    columns = min((d, dv) for d, dv in forms if d >= D and dv >= DV)
    return forms[columns]


def has_entries(call: Call) -> bool:
    """Tell whether only the device knows what each entry of a batch has."""
    return call.packed or call.lens != (None, None) or isinstance(call.offset, torch.Tensor)


def launches_of(
    call: Call, buffers: dict[str, torch.Tensor], chip: Chip, form: Form | None = None
) -> list[Launch]:
    """List the launches of a forward pass into its buffers, of which a table may become one."""
    from attnref_triton.hopper_forward import LOG2E, attend_kernel

    (Hq, _), (Sq, Sk), form = call.heads, call.tokens, form or form_of(call)
    entries, cap, (D, DV) = has_entries(call), call.softcap, form.columns
    tabled, extra = "no", None
    if call.bias is not None:
        tabled, extra = "bias", condensed(call.bias)
    elif call.mask is not None:
        tabled, extra = "mask", condensed(call.mask.view(torch.uint8))
    usual = replace(call, offset=0) if isinstance(call.offset, torch.Tensor) else call
    shape = (Sq, Sk, *bounds(usual), Hq)
    tiles = tiles_to_cover(call, Sq, form.consumers * ROWS)
    programs = min(chip.processors, tiles * Hq * call.batch)
    row_bytes = sum(call.sizes) * call.q.element_size()
    together = max(1, TOGETHER // (Sk * row_bytes)) * call.group
    step = 1 if tabled == "no" else STEP
    cut = (form, step, call.batch, call.group, programs, together, entries, call.packed * tiles)
    turns, table = plan_of(shape, *cut, str(call.q.device))
    launches = []
    if entries:
        table, launch = table_launch(call, form, tiles, step)
        buffers["table"] = table
        launches.append(launch)
    enter(call.q.device)
    if call.q.is_cuda:
        for x in (turns, table):  # of another stream, and perhaps the last call of their shape
            x.record_stream(torch.cuda.current_stream(call.q.device))
    out, parts = buffers["out"], parts_of(D)
    direct = form.direct or call.packed
    natural = tabled == "bias"
    unit = call.scale if cap is None else 2 * cap
    arguments = {
        "q": described(as_batch(call.q), ROWS, D // parts),
        "k": described(as_batch(call.k), form.keys, D // parts),
        "v": described(as_batch(call.v), form.keys, DV),
        "extra": None if extra is None else described(extra, ROWS, form.keys),
        "shared": (0, 0) if extra is None else tuple(int(n > 1) for n in extra.shape[:2]),
        "out": None if form.direct else described(as_batch(out), ROWS, DV),
        "results": out if direct else None,
        "out_strides": (*in_eights(call.strides(out))[:3], out.shape[-1] // EIGHT),
        "lse": buffers["lse"],
        "sinks": call.sinks,
        "turns": turns,
        "table": table,
        "exponent": (1.0 if natural else unit) * LOG2E,
        "bend": None if cap is None else 2 * call.scale * LOG2E / cap,
        "origin": cap,
        "unit": unit if natural else None,
        "CONSUMERS": form.consumers,
        "BLOCK_N": form.keys,
        "STAGES": form.stages,
        "D": D,
        "DV": DV,
        "PARTS": parts,
        "LEFT": call.band["LEFT"] if entries else shape[2] is not None,
        "OVERLAP": form.overlap,
        "DIRECT": form.direct,
        "ENTRIES": entries,
        "CLEAN": call.packed or call.lens[1] is not None,
        "PACKED": call.packed,
        "TABLED": tabled,
    }
    attend = Launch(
        attend_kernel,
        (programs,),
        arguments,
        registers=form.registers,
        roles={"results": "out", "extra": tabled},
        kept=frozenset({"turns"} if entries else {"turns", "table"}),
    )
    return [*launches, attend]


def table_launch(call: Call, form: Form, tiles: int, step: int = 1) -> tuple[torch.Tensor, Launch]:
    """Allocate a table, and have the device write it, as `table_of` does on the host."""
    from attnref_triton.hopper_entries import table_kernel

    rows = tiles * call.batch
    width = HEAD + 4 * form.consumers
    table = call.q.new_empty(COUNTER + rows * width, dtype=torch.int32)
    q_side, k_side = call.sides
    arguments = {
        **call.band,
        "table": table,
        "q_side": q_side,
        "k_side": k_side,
        "n": call.entries,
        "heads": call.heads[0],
        "tiles": tiles,
        "Sq": call.tokens[0],
        "Sk": call.tokens[1],
        "CONSUMERS": form.consumers,
        "BLOCK_N": form.keys,
        "STEP": step,
    }
    return table, Launch(table_kernel, (rows,), arguments, warps=1)


def backward_launches(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    gradients: Sequence[torch.Tensor],
    dsinks: torch.Tensor | None = None,
    form: BackwardForm | None = None,
) -> Iterator[Launch]:
    """List the launches of a backward pass that fills in `dq`, `dk` and `dv`."""
    from attnref_triton.hopper_backward import gradients_kernel, rows_kernel, scale_kernel
    from attnref_triton.hopper_forward import LOG2E
    from attnref_triton.hopper_wide import wide_kernel

    (dq, dk, dv), (D, DV), cap = gradients, call.sizes, call.softcap
    width = block(call)
    form = form or (DENSE_BACKWARD if cap is None else CAPPED_BACKWARD)[width]
    kernel, keys, wide, wide_v = gradients_kernel, KEYS, width, width
    columns: dict[str, Any] = {"STAGES": form.stages, "BLOCK_D": width}
    if width > WIDE:
        kernel, keys = wide_kernel, WIDE_KEYS
        wide, wide_v = (WIDE if n <= WIDE else width for n in (D, DV))
        columns = {"STAGES": form.stages, "DO_STAGES": form.stages if wide_v == WIDE else 1}
        columns |= {"D": blocks(D), "DV": blocks(DV), "BLOCK_D": wide, "BLOCK_DV": wide_v}
    (Hq, Hkv), (Sq, Sk), M = call.heads, call.tokens, form.queries
    lines, tiles = call.batch * Hq, tiles_to_cover(call, Sq, M)
    rows = call.q.new_empty((2 * lines, tiles * M), dtype=torch.float32)
    sums = call.q.new_empty((lines * tiles * M, D), dtype=torch.float32)
    delta = None if dsinks is None else rows_like(call)
    q_tails = do_tails = None
    q_side, k_side = call.sides
    if q_side != (None, None):
        q_tails = call.q.new_empty((call.entries, Hq, M, D))
        do_tails = call.q.new_empty((call.entries, Hq, M, DV))
    cut = {"q_side": q_side, "n": call.entries, "heads": Hq, "tiles": tiles, "Sq": Sq}
    cut |= {"padded": tiles * M, "BLOCK_M": M, "D": D, "BLOCK_D": width}
    arguments = {
        "q": call.q,
        "out": out,
        "dout": dout,
        "lse": lse,
        "dlse": dlse,
        "delta": delta,
        "rows": rows,
        "sums": sums,
        "q_tails": q_tails,
        "do_tails": do_tails,
        "strides": tuple(in_eights(call.strides(x)) for x in (out, dout, call.q)),
        "row_strides": tuple(call.row_strides(lse if x is None else x) for x in (lse, dlse)),
        "origin": cap or 0.0,
        "lines": lines,
        "DV": DV,
        **cut,
    }
    yield Launch(rows_kernel, (tiles * lines,), arguments, warps=8)
    first, last, kind = band_of(call)
    tiles, heads = tiles_to_cover(call, Sk, keys), call.batch * Hkv
    together = max(1, TOGETHER // (Sq * 4 * D * call.q.element_size() * call.group))
    enter(call.q.device)
    arguments = {
        "q": described(as_batch(call.q), M, wide),
        "k": described(as_batch(call.k), keys, wide),
        "v": described(as_batch(call.v), keys, wide_v),
        "dout": described(as_batch(dout), M, wide_v),
        "q_tails": None if q_tails is None else described(q_tails, M, wide),
        "do_tails": None if do_tails is None else described(do_tails, M, wide_v),
        "q_side": q_side,
        "k_side": k_side,
        "offsets": call.offset if kind == "array" else None,
        "rows": described_floats(rows, 1, M),
        "sums": described_floats(sums, M, wide if width <= WIDE else wide // 2),
        "dk": described(as_batch(dk), keys, wide),
        "dv": described(as_batch(dv), keys, wide_v),
        "dk_to": dk if call.packed else None,
        "dv_to": dv if call.packed else None,
        "token_strides": tuple(in_eights(call.strides(x)) for x in (dk, dv)),
        "first": first or 0,
        "last": last or 0,
        "n": call.entries,
        "Sq": Sq,
        "Sk": Sk,
        "tiles": tiles,
        "heads": Hkv,
        "group": call.group,
        "lines": lines,
        "together": min(together, heads),  # times tiles, it is within 32 bits
        "padded": cut["padded"],
        "bend": 0.0 if cap is None else 2 * call.scale * LOG2E / cap,
        "exponent": LOG2E * (call.scale if cap is None else -cap),
        "scale": call.scale,
        "BLOCK_M": M,
        **columns,
        "LEFT": first is not None,
        "RIGHT": last is not None,
        "OFFSET": kind,
        "CAPPED": cap is not None,
    }
    roles = {"offsets": "q_offset", "dk_to": "dk", "dv_to": "dv"}
    yield Launch(
        kernel, (tiles * heads,), arguments, warps=8, registers=form.registers, roles=roles
    )
    arguments = {"sums": sums, "dq": dq, "strides": in_eights(call.strides(dq))}
    arguments |= {**cut, "scale": call.scale}
    yield Launch(scale_kernel, (lines * cut["tiles"],), arguments, warps=8)
    if dsinks is not None and delta is not None:
        yield Launch(sinks_kernel, (Hq,), of_sinks(call, lse, delta, dsinks))


def blocks(columns: int) -> int:
    """Round columns up to whole blocks of shared memory."""
    return -(-columns // 64) * 64


def band_of(call: Call) -> tuple[int | None, int | None, str]:
    """Return `bounds`, and what is added to them on the device: the offset of an entry, or nothing.

    Where it is for the device to say, `(first, last)` are the window's own.
    """
    left, right = call.window
    by_length = call.offset == "end" if isinstance(call.offset, str) else False
    if (left, right) == (None, None):
        return None, None, "number"
    if isinstance(call.offset, torch.Tensor):
        return None if left is None else -left, right, "array"
    if by_length and (call.packed or call.lens != (None, None)):
        return None if left is None else -left, right, "end"
    return *bounds(call), "number"


def bounds(call: Call) -> tuple[int | None, int | None]:
    """Return `(first, last)`: row `i` sees the keys from `i + first` to `i + last`.

    A bound that hides nobody is `None`. Both are kept so near that sums with positions stay
    within 32 bits.
    """
    left, right = call.window
    Sq, Sk = call.tokens
    offset = Sk - Sq if isinstance(call.offset, str) and call.offset == "end" else call.offset
    if isinstance(offset, str):
        offset = 0
    assert isinstance(offset, int)
    first = None if left is None else max(min(offset - left, Sk), -Sq)
    last = None if right is None else max(min(offset + right, Sk), -Sq)
    if first is not None and first + Sq - 1 <= 0:
        first = None
    if last is not None and last >= Sk - 1:
        last = None
    return first, last


def table_of(shape: tuple[Any, ...], form: Form, step: int = 1) -> list[list[int]]:
    """Say for each tile of queries of a head what its program does.

    Its keys begin at a multiple of `step`.

    Numbers of all: the first row, the first key, visits to tiles of keys, and then, counted
    from that key, what row `i` of the tile sees: from `left + i` to `right + i`, and not past
    the last key; heads and rows of `lse` to a head; and where real rows end, and those that
    are written. Numbers of each consumer: of those visits it takes part
    from `begin` to `end`, and from `a` to `z` all its rows see every key (`tiles.span`).
    """
    Sq, Sk, first, last, heads = shape
    M, N = form.consumers * ROWS, form.keys
    rows = []
    for i0 in range(0, Sq, M):
        low, high = _seen(i0, min(i0 + M, Sq), Sk, first, last)
        if low < high:
            low = low // step * step
        visits = -(-(high - low) // N)
        left = 0 if first is None else i0 + first - low
        right = Sk if last is None else i0 + last - low
        row = [i0, low, visits, left, right, Sk - 1 - low, heads, Sq, Sq, Sq]
        for r0 in range(i0, i0 + M, ROWS):
            r1 = min(r0 + ROWS, Sq)
            if r0 >= Sq:
                row += [0, 0, 0, 0]
                continue
            own_low, own_high = _seen(r0, r1, Sk, first, last)
            begin = (own_low - low) // N
            end = max(begin, -(-(own_high - low) // N))
            if own_low == own_high:
                end = begin = min(begin, visits)
            all_low = low if first is None else max(r1 - 1 + first, low)
            all_high = Sk if last is None else min(r0 + last + 1, Sk)
            a = min(max(-(-(all_low - low) // N), begin), end)
            z = min(max((all_high - low) // N, a), end)
            row += [begin, a, z, end]
        rows.append(row)
    return rows


def _seen(r0: int, r1: int, Sk: int, first: int | None, last: int | None) -> tuple[int, int]:
    low = 0 if first is None else min(max(r0 + first, 0), Sk)
    high = Sk if last is None else min(max(r1 + last, 0), Sk)
    return low, max(low, high)


def turns_of(
    visits: Sequence[int],
    batch: int,
    heads: int,
    group: int,
    programs: int,
    together: int,
    apart: int = 0,
) -> torch.Tensor:
    """Give each program its tiles of queries: `(row, b, query head, key/value head)` in turn.

    The row is that of the table, in which entries of a batch are so many apart.

    The longest come first, and each goes to the program that is free first; but only heads
    whose keys fit into the cache together are worked on at a time. What is returned begins
    with where each program's turns begin; a row of `-1` ends them.
    """
    T, n = len(visits), batch * heads
    longest = torch.tensor(visits).argsort(descending=True, stable=True)
    if min(visits) == max(visits):
        together = 1
    at = torch.arange(n * T)
    section = at // (together * T)
    inside = at - section * together * T
    width = torch.minimum(n - section * together, torch.tensor(together))
    tile = longest[inside // width]
    head = section * together + inside % width
    program = at % programs
    if programs > 1 and len(at) <= SORTED:
        free = [(0.0, p) for p in range(programs)]
        chosen = []
        for t in tile.tolist():
            cost, p = heapq.heappop(free)
            heapq.heappush(free, (cost + visits[t] + OVERHEAD, p))
            chosen.append(p)
        program = torch.tensor(chosen)
    order = program.argsort(stable=True)
    h = head % heads
    b = head // heads
    items = torch.stack([tile + b * apart, b, h, h // group], 1)[order]
    counts = torch.bincount(program, minlength=programs)
    ends = torch.tensor([[-1, 0, 0, 0]])
    parts = [torch.cat([part, ends]) for part in items.split(counts.tolist())]
    begins = programs + TURN * (torch.cat([torch.zeros(1), (counts + 1).cumsum(0)[:-1]]))
    return torch.cat([begins.long(), torch.cat(parts).flatten()]).to(torch.int32)


@lru_cache(maxsize=64)
def plan_of(
    shape: tuple[Any, ...],
    form: Form,
    step: int,
    batch: int,
    group: int,
    programs: int,
    together: int,
    entries: bool,
    packed: int,
    device: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return turns and table, as they lie on a device; for shapes seen before, as they lay.

    Where the device writes the table, turns are one list, in the order of a batch without
    lengths, and end as often as there are programs. Packed sequences have so many tiles.
    """
    table = [] if packed else table_of(shape, form, step)
    visits = [1] * packed or [row[2] for row in table]
    if not entries:
        turns = turns_of(visits, batch, shape[4], group, programs, together)
        return sent(turns, device), sent(torch.tensor(table, dtype=torch.int32).flatten(), device)
    turns = turns_of(visits, batch, shape[4], group, 1, together, len(visits))
    ends = turns.new_tensor([-1, 0, 0, 0]).repeat(programs)
    return sent(torch.cat([turns, ends]), device), ends


def sent(x: torch.Tensor, device: str) -> torch.Tensor:
    """Copy to a device on a stream of its own, and wait for that copy alone (A7)."""
    if torch.device(device).type != "cuda":
        return x
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        copied = x.pin_memory().to(device, non_blocking=True)
        stream.synchronize()
    return copied


def parts_of(D: int) -> int:
    """Say in how many parts of equal width the columns of queries and keys are copied."""
    return 1 if D & (D - 1) == 0 else D // 64


def as_batch(x: torch.Tensor) -> torch.Tensor:
    """See packed sequences as one entry of a batch."""
    return x.transpose(0, 1)[None] if x.ndim == 3 else x


def condensed(x: torch.Tensor) -> torch.Tensor:
    """Give axes of entries and heads the length one along which all are the same."""
    b, h = (1 if s == 0 else n for s, n in zip(x.stride()[:2], x.shape[:2], strict=True))
    return x[:b, :h]


def described(x: torch.Tensor, rows: int, columns: int | None = None) -> Any:
    """Describe an array of tokens to TMA, which copies so many rows of a head at a time.

    A head is an axis of its own, so that what lies past its last token or column is neither
    read, but taken as zeros, nor written.
    """
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    block = [1, 1, rows, columns or x.shape[-1]]
    dtypes = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.uint8: gl.uint8}
    layout = gl.NVMMASharedLayout.get_default_for(block, dtypes[x.dtype])
    return TensorDescriptor(x, list(x.shape), strides_of(x), block, layout)


def described_floats(x: torch.Tensor, rows: int, columns: int) -> Any:
    """Describe a matrix of float32 to TMA: in tiles, or in pieces of one row, laid as they are."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    block = [rows, columns]
    if rows == 1:
        layout = gl.NVMMASharedLayout(0, 32, rank=2)
    else:
        layout = gl.NVMMASharedLayout.get_default_for(block, gl.float32)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), block, layout)


def strides_of(x: torch.Tensor) -> list[int]:
    """Return strides as TMA wants them, also of axes of length one."""
    sixteen = 16 // x.element_size()
    return [sixteen if n == 1 else s for n, s in zip(x.shape[:-1], x.stride(), strict=False)] + [1]
