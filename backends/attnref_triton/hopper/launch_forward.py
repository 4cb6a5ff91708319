"""What the forward kernel is told."""

from dataclasses import replace

import torch

from attnref_triton.call import Call, in_eights
from attnref_triton.hopper.schedule import HEAD, ROWS, TOGETHER, bounds, plan_of
from attnref_triton.hopper.tma import as_batch, described, parts_of, same_for_queries, table_of
from attnref_triton.launch import Launch, enter
from attnref_triton.layout import EIGHT
from attnref_triton.plan import tiles_to_cover
from attnref_triton.tables import (
    DENSE,
    DENSE_ENTRIES,
    DENSE_TABLED,
    WASTE,
    Chip,
    Form,
)

COUNTER = 4
"""Numbers before a table that the device writes; the first counts the turns that were taken."""

STEP = 16
"""Keys at whose multiples tiles of a bias or mask begin: TMA's columns begin at sixteen bytes."""


def launches_of(
    call: Call, buffers: dict[str, torch.Tensor], chip: Chip, form: Form | None = None
) -> list[Launch]:
    """List the launches of a forward pass into its buffers, of which a table may become one."""
    from attnref_triton.hopper.forward import LOG2E, attend_kernel

    (Hq, _), (Sq, Sk), form = call.heads, call.tokens, form or form_of(call)
    entries, cap, (D, DV) = has_entries(call), call.softcap, form.columns
    extra = table_of(call, ROWS, form.keys)
    usual = replace(call, offset=0) if isinstance(call.offset, torch.Tensor) else call
    shape = (Sq, Sk, *bounds(usual), Hq)
    tiles = tiles_to_cover(call, Sq, form.consumers * ROWS)
    programs = min(chip.processors, tiles * Hq * call.batch)
    row_bytes = sum(call.sizes) * call.q.element_size()
    together = max(1, TOGETHER // (Sk * row_bytes)) * call.group
    step = 1 if extra.keyed or extra.kind == "no" else STEP
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
    natural = extra.kind == "bias"
    unit = call.scale if cap is None else cap
    arguments = {
        "q": described(as_batch(call.q), ROWS, D // parts),
        "k": described(as_batch(call.k), form.keys, D // parts),
        "v": described(as_batch(call.v), form.keys, DV),
        "extra": extra.array,
        "shared": extra.shared,
        "out": None if form.direct else described(as_batch(out), ROWS, DV),
        "results": out if direct else None,
        "out_strides": (*in_eights(call.strides(out))[:3], out.shape[-1] // EIGHT),
        "lse": buffers["lse"],
        "sinks": call.sinks,
        "turns": turns,
        "table": table,
        "exponent": (1.0 if natural else unit) * LOG2E,
        "bend": None if cap is None else 2 * call.scale * LOG2E / cap,
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
        "TABLED": extra.kind,
        "KEYED": extra.keyed,
    }
    attend = Launch(
        attend_kernel,
        (programs,),
        arguments,
        registers=form.registers,
        roles={"results": "out", "extra": extra.kind},
        kept=frozenset({"turns"} if entries else {"turns", "table"}),
    )
    return [*launches, attend]


def table_launch(call: Call, form: Form, tiles: int, step: int = 1) -> tuple[torch.Tensor, Launch]:
    """Allocate a table, and have the device write it, as `table_of` does on the host."""
    from attnref_triton.hopper.entries import table_kernel

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


def form_of(call: Call) -> Form:
    """Look up how the kernel is cut: for the narrowest columns that hold the call's.

    Three groups have large tiles of queries, two small ones: less of a short head is wasted.
    """
    D, DV = call.sizes
    x = call.bias if call.mask is None else call.mask
    forms = DENSE_ENTRIES if has_entries(call) or x is not None else DENSE
    if x is not None and not same_for_queries(x):
        forms = DENSE_TABLED
    columns = min((d, dv) for d, dv in forms if d >= D and dv >= DV)
    form, other = forms[columns], DENSE_ENTRIES[columns]
    if forms is DENSE and _rows(call, form) > WASTE * _rows(call, other):
        return other
    return form


def _rows(call: Call, form: Form) -> int:
    """Count the rows of a head's tiles."""
    rows = form.consumers * ROWS
    return -(-call.tokens[0] // rows) * rows


def has_entries(call: Call) -> bool:
    """Tell whether only the device knows what each entry of a batch has."""
    return call.packed or call.lens != (None, None) or isinstance(call.offset, torch.Tensor)
