"""What the kernels of a pass back are told."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from attnref_triton.arguments import of_sinks, rows_like
from attnref_triton.call import Call, in_eights
from attnref_triton.hopper.schedule import TOGETHER, band_of
from attnref_triton.hopper.tma import (
    as_batch,
    blocks,
    described,
    described_floats,
    same_for_queries,
    table_of,
)
from attnref_triton.launch import Launch, enter
from attnref_triton.layout import EIGHT
from attnref_triton.plan import block, tiles_to_cover
from attnref_triton.sums import sinks_kernel
from attnref_triton.tables import CAPPED_BACKWARD, DENSE_BACKWARD, TABLED_BACKWARD, BackwardForm

KEYS = 128
"""Keys of a program of the backward kernel."""

WIDE = 128
"""Columns of a head beyond which the backward kernel is the one for wide heads."""

WIDE_KEYS = 64
"""Keys of a program of that."""

ROOMS = ("rows", "sums", "delta", "q_tails", "do_tails")
"""Buffers of a backward pass, by the names that its first kernel has for them."""


def launches_of(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    gradients: Sequence[torch.Tensor],
    dsinks: torch.Tensor | None = None,
    dscores: torch.Tensor | None = None,
    delta: torch.Tensor | None = None,
    form: BackwardForm | None = None,
) -> Iterator[Launch]:
    """List the launches of a backward pass that fills in `dq`, `dk` and `dv`.

    Args:
        call: The call.
        out: Its result.
        lse: Likewise.
        dout: The gradient of `out`.
        dlse: The gradient of `lse`, if there is one.
        gradients: `dq`, `dk` and `dv`.
        dsinks: Filled in, too.
        dscores: What `scores_like` returned: filled in, too.
        delta: One number for each row, filled in, too, if anybody else wants it.
        form: How the kernel is cut, if not as `form_of` says.
    """
    from attnref_triton.hopper.backward import gradients_kernel, rows_kernel, scale_kernel
    from attnref_triton.hopper.forward import LOG2E
    from attnref_triton.hopper.wide import wide_kernel

    (dq, dk, dv), (D, DV), cap = gradients, call.sizes, call.softcap
    width = block(call)
    form = form or form_of(call)
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
    if dsinks is not None and delta is None:
        delta = rows_like(call)
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
        "row_strides": tuple(call.row_strides(lse if x is None else x) for x in (lse, dlse, delta)),
        "origin": cap or 0.0,
        "rate": 1.0 if call.bias is not None else LOG2E,
        "lines": lines,
        "DV": DV,
        **cut,
    }
    yield Launch(rows_kernel, (tiles * lines,), arguments, warps=8)
    first, last, kind = band_of(call)
    tiles, heads = tiles_to_cover(call, Sk, keys), call.batch * Hkv
    together = max(1, TOGETHER // (Sq * 4 * D * call.q.element_size() * call.group))
    enter(call.q.device)
    if width <= WIDE:
        extra = table_of(call, M, keys)
        keyed = extra.keyed or dscores is None
        columns |= {"extra": extra.array, "shared": extra.shared, "TABLED": extra.kind}
        columns |= {"dextra": dscores if keyed else described(dscores, M, keys)}
        columns |= {"KEYED": extra.keyed}
    exponent = call.scale if cap is None else -cap
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
        "exponent": exponent * (1.0 if call.bias is not None else LOG2E),
        "scale": call.scale,
        "BLOCK_M": M,
        **columns,
        "LEFT": first is not None,
        "RIGHT": last is not None,
        "OFFSET": kind,
        "CAPPED": cap is not None,
    }
    roles = {"offsets": "q_offset", "dk_to": "dk", "dv_to": "dv", "extra": "mask"}
    yield Launch(
        kernel, (tiles * heads,), arguments, warps=8, registers=form.registers, roles=roles
    )
    arguments = {"sums": sums, "dq": dq, "strides": in_eights(call.strides(dq))}
    arguments |= {**cut, "scale": call.scale}
    yield Launch(scale_kernel, (lines * cut["tiles"],), arguments, warps=8)
    if dsinks is not None and delta is not None:
        yield Launch(sinks_kernel, (Hq,), of_sinks(call, lse, delta, dsinks))


def form_of(call: Call) -> BackwardForm:
    """Look up how the kernel is cut."""
    x = call.bias if call.mask is None else call.mask
    forms = DENSE_BACKWARD if call.softcap is None and x is None else CAPPED_BACKWARD
    if x is not None and not same_for_queries(x):
        forms = TABLED_BACKWARD
    return forms[block(call)]


def scores_like(call: Call, dbias: torch.Tensor | None) -> torch.Tensor | None:
    """Return what the kernel writes of the gradient of a bias, if it writes any.

    That is the gradient of scores, `(B, Hq, Sq, Sk)` in rows of sixteen bytes, where the bias has
    one number for each of them, and `dbias` itself where that lies so; or their sums over queries
    `(B, Hq, Sk)`. A tile that nobody visits stays clear. A bias that is shared by entries or heads
    is summed by another kernel.
    """
    if dbias is None:
        return None
    *axes, Sk = call.scores
    if dbias.shape[2] == 1:
        return dbias.new_zeros((*axes[:2], Sk), dtype=torch.float32)
    if not call.has_dense_bias or dbias.dtype != call.q.dtype:
        return None
    if any(stride % EIGHT for stride in dbias.stride()[:3]) or dbias.stride(3) != 1:
        dbias = dbias.new_empty((*axes, -(-Sk // EIGHT) * EIGHT))[..., :Sk]
    return dbias if call.is_full else dbias.zero_()


def sum_scores(dscores: torch.Tensor, dbias: torch.Tensor) -> None:
    """Bring what `scores_like` returned, filled in, to the gradient of the bias."""
    if dscores is dbias:
        return
    if dscores.ndim < dbias.ndim:
        dscores = dscores[:, :, None]
    shared = [axis for axis in (0, 1) if dbias.shape[axis] < dscores.shape[axis]]
    dbias.copy_(dscores.sum(shared, keepdim=True) if shared else dscores)
