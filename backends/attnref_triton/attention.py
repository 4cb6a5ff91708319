"""Attention, dense and packed: allocates, launches, and hands results over."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
import triton

from attnref.problem import AttentionGradients, AttentionProblem, Result, VarlenProblem
from attnref_triton import replay
from attnref_triton.arguments import common, of_sinks, rows_like, table, tokens
from attnref_triton.backward import keys_kernel, queries_kernel
from attnref_triton.call import Call, broadcast, call_of, in_eights
from attnref_triton.chips import chip_of
from attnref_triton.forward import forward_kernel, merge_parts_kernel
from attnref_triton.hopper import calls, launch_backward, launch_forward
from attnref_triton.launch import Launch
from attnref_triton.layout import EIGHT, columns_in_eights, empty_as, room_for, settle
from attnref_triton.plan import Plan, block, plan_of, tiles_of, tiles_to_cover
from attnref_triton.sums import bias_kernel, sinks_kernel

BUFFER = 2**24
"""Numbers that copies of a bias's gradient may hold before they are summed: 64 MiB."""


class Made(NamedTuple):
    """What a backward pass fills in; `delta` is of use to itself only."""

    dq: torch.Tensor
    dk: torch.Tensor
    dv: torch.Tensor
    dbias: torch.Tensor | None
    dsinks: torch.Tensor | None
    delta: torch.Tensor


def forward(
    problem: AttentionProblem | VarlenProblem, precision: str, *, path: bool = True
) -> Result:
    """Attend; with the kernel for Hopper, if the call may and can take that path."""
    call = call_of(problem, precision)
    chip = chip_of(problem.q.device)
    taken = path and not calls.reasons(problem, chip)
    out = empty_as(problem.q, problem.v.shape[-1])
    buffers = {"out": room_for(out), "lse": rows_like(call)}
    if taken:
        ready = iter(launch_forward.launches_of(call, buffers, chip))
    else:
        plan = plan_of(call)
        if plan.parts > 1:
            for name, x in list(buffers.items()):
                buffers[f"part_{name}"] = x.new_empty((plan.parts, *x.shape), dtype=torch.float32)
        ready = forward_launches(call, plan, buffers)
    launches = [(launch, launch.run()) for launch in ready]
    if buffers["out"] is out and call.takes(problem) and not calls.capturing():
        replay.keep(replay.key_of(problem, (precision, path)), buffers, launches)
    return Result(settle(out, buffers["out"]), buffers["lse"])


def forward_launches(
    call: Call, plan: Plan, buffers: Mapping[str, torch.Tensor]
) -> Iterator[Launch]:
    """List the launches of a forward pass into its buffers."""
    (Hq, _), (Sq, _), (_, DV) = call.heads, call.tokens, call.sizes
    out, lse = buffers["out"], buffers["lse"]
    whole = plan.parts == 1
    to, to_lse = (out, lse) if whole else (buffers["part_out"][0], buffers["part_lse"][0])
    heads = Hq // plan.pack
    tiles = tiles_to_cover(call, Sq * plan.pack, plan.tiles.m)
    arguments = {
        **common(call, plan.tiles),
        **tokens(call, {"q": call.q, "k": call.k, "v": call.v, "out": to}, {"lse": to_lse}),
        "sinks": call.sinks if whole else None,
        "heads": heads,
        "tiles": tiles,
        "parts": plan.parts,
        "part_rows": lse.numel(),
        "PACK": plan.pack,
    }
    grid = (tiles * heads * call.batch * plan.parts,)
    roles = {} if whole else {"out": "part_out", "lse": "part_lse"}
    yield Launch(forward_kernel, grid, arguments, plan.tiles.warps, plan.tiles.stages, roles)
    if whole:
        return
    rows, lines = lse.numel(), 16
    arguments = {
        "part_out": to,
        "part_lse": to_lse,
        "out": out,
        "lse": lse,
        "sinks": call.sinks,
        "strides": in_eights(call.strides(out)),
        "q_side": call.sides[0],
        "n": call.entries,
        "heads": Hq,
        "Sq": Sq,
        "rows": rows,
        "parts": plan.parts,
        "DV": DV // EIGHT,
        "BLOCK_R": lines,
        "BLOCK_DV": block(call),
    }
    yield Launch(merge_parts_kernel, (triton.cdiv(rows, lines),), arguments)


def gradients_key(
    problem: AttentionProblem | VarlenProblem, given: replay.Tensors, precision: str
) -> tuple[Any, ...]:
    """Return everything that a pass back on the Hopper path depends on."""
    forms = tuple(map(replay.form, given.values()))
    return (*forms, *replay.key_of(problem, (precision, True)))


def back_again(
    problem: AttentionProblem | VarlenProblem, given: replay.Tensors, precision: str
) -> AttentionGradients | None:
    """Pass gradients back through a call whose like took the Hopper path before, if one did."""
    if torch.are_deterministic_algorithms_enabled():
        return None
    recipe = replay.find(gradients_key(problem, given, precision), problem.q.device)
    if recipe is None:
        return None
    room = recipe.room(problem.q.device)
    read = {name: getattr(problem, name, None) for name in replay.READ}
    recipe.run({**read, **given, **room})
    return AttentionGradients(room["dq"], room["dk"], room["dv"], None, room.get("dsinks"))


def backward(
    problem: AttentionProblem | VarlenProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    precision: str,
    *,
    path: bool = True,
) -> AttentionGradients:
    """Pass gradients back; with the kernel for Hopper, if the call may and can take that path."""
    given = {"out": result.out, "lse": result.lse, "dout": dout, "dlse": dlse}
    ready = back_again(problem, given, precision) if path else None
    if ready is not None:
        return ready
    call = call_of(problem, precision)
    lse, bias, sinks = result.lse, call.bias, call.sinks
    assert lse is not None  # the core asks for it where gradients follow
    dbias = None if bias is None else empty_as(bias)
    dsinks = None if sinks is None else torch.empty_like(sinks)
    due = [empty_as(x) for x in (problem.q, problem.k, problem.v)]
    out, dout = columns_in_eights(result.out), columns_in_eights(dout)
    dq, dk, dv = map(room_for, due)
    made = Made(dq, dk, dv, dbias, dsinks, rows_like(call))
    if path and not calls.reasons_backward(problem, chip_of(problem.q.device)):
        dout = dout.contiguous() if 0 in dout.stride() else dout
        launches = _along_path(call, out, lse, dout, dlse, made)
        as_given = call.takes(problem) and out is given["out"] and dout is given["dout"]
        as_given = as_given and all(x is y for x, y in zip(due, (dq, dk, dv), strict=True))
        if as_given and dbias is None:
            rooms = {"dq": dq, "dk": dk, "dv": dv, "dsinks": dsinks}
            rooms |= {name: launches[0][0].arguments[name] for name in launch_backward.ROOMS}
            buffers = {name: x for name, x in rooms.items() if x is not None}
            replay.keep(gradients_key(problem, given, precision), buffers, launches)
    else:
        _along_no_path(call, out, lse, dout, dlse, made)
    dq, dk, dv = map(settle, due, (dq, dk, dv))
    if dbias is not None:
        dbias = dbias.reshape(problem.bias.shape)  # type: ignore[union-attr]
    return AttentionGradients(dq, dk, dv, dbias, dsinks)


def _along_path(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    made: Made,
) -> list[tuple[Launch, Any]]:
    """Fill in gradients by the kernels for Hopper, and return what was launched.

    The gradient of a bias comes from the same pass, if that has it, and else from a kernel that
    computes scores anew and sums up what entries and heads share.
    """
    dscores = launch_backward.scores_like(call, made.dbias)
    summed = made.dbias is not None and dscores is None
    rest = (made[:3], made.dsinks, dscores, made.delta if summed else None)
    steps = launch_backward.launches_of(call, out, lse, dout, dlse, *rest)
    launches = [(launch, launch.run()) for launch in steps]
    if made.dbias is not None and dscores is not None:
        launch_backward.sum_scores(dscores, made.dbias)
    elif made.dbias is not None:
        _bias_gradient(call, lse, dout, made.delta, made.dbias)
    return launches


def _along_no_path(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    made: Made,
) -> None:
    """Fill in gradients by the portable kernels."""
    dbias = made.dbias
    if call.has_dense_bias and dbias is not None and not call.is_full:
        dbias.zero_()  # no tile is visited where nobody sees anybody
    for launch in backward_launches(call, out, lse, dout, dlse, made):
        launch.run()
    if not call.has_dense_bias and dbias is not None:
        _bias_gradient(call, lse, dout, made.delta, dbias)


def backward_launches(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    made: Made,
) -> Iterator[Launch]:
    """List the launches of a backward pass, but for a broadcast bias's sum."""
    dq, dk, dv, dbias, dsinks, delta = made
    (Hq, Hkv), (Sq, Sk) = call.heads, call.tokens
    read = {"q": call.q, "k": call.k, "v": call.v}
    cut = tiles_of("queries", call)
    tiles = tiles_to_cover(call, Sq, cut.m)
    rows = {"lse": lse, "delta": delta, "dlse": dlse}
    arguments = {
        **common(call, cut),
        **tokens(call, {**read, "out": out, "dout": dout, "dq": dq}, rows),
        **table("dbias", dbias if call.has_dense_bias else None),
        "heads": Hq,
        "tiles": tiles,
    }
    yield Launch(queries_kernel, (tiles * Hq * call.batch,), arguments, cut.warps, cut.stages)
    cut = tiles_of("keys", call)
    tiles = tiles_to_cover(call, Sk, cut.n)
    arguments = {
        **common(call, cut),
        **tokens(call, {**read, "dout": dout, "dk": dk, "dv": dv}, {"lse": lse, "delta": delta}),
        "heads": Hkv,
        "tiles": tiles,
        "GROUPED": call.group > 1,
    }
    yield Launch(keys_kernel, (tiles * Hkv * call.batch,), arguments, cut.warps, cut.stages)
    if dsinks is not None:
        yield Launch(sinks_kernel, (Hq,), of_sinks(call, lse, delta, dsinks))


def _bias_gradient(
    call: Call, lse: torch.Tensor, dout: torch.Tensor, delta: torch.Tensor, dbias: torch.Tensor
) -> None:
    """Sum the gradient of a broadcast bias in float32, in parts where it is small."""
    cut = tiles_of("bias", call)
    lengths = (1, 1, cut.m, cut.n)
    own = [triton.cdiv(n, length) for n, length in zip(dbias.shape, lengths, strict=True)]
    sharing = [
        1 if n == m else triton.cdiv(m, length)
        for n, m, length in zip(dbias.shape, call.scores, lengths, strict=True)
    ]
    programs, total = prod(own), prod(sharing)
    wanted = triton.cdiv(2 * chip_of(call.q.device).processors, max(programs, 1))
    chunk = triton.cdiv(total, max(1, min(wanted, BUFFER // max(dbias.numel(), 1))))
    parts = max(1, triton.cdiv(total, max(chunk, 1)))
    sums = dbias.new_empty((parts, *dbias.shape), dtype=torch.float32)
    read = {"q": call.q, "k": call.k, "v": call.v, "dout": dout}
    arguments = {
        **common(call, cut),
        **tokens(call, read, {"lse": lse, "delta": delta}),
        "dbias": sums,
        "dbias_strides": broadcast(sums[0]),
        "owned": tuple(own[1:]),
        "summed": (*sharing, chunk),
        "part_size": dbias.numel(),
        "ROWS": dbias.shape[2] == call.tokens[0],
        "COLUMNS": dbias.shape[3] == call.tokens[1],
    }
    for name in ("n", "WHOLE"):
        del arguments[name]  # only a padded batch has a bias, and every tile is guarded
    Launch(bias_kernel, (programs, parts), arguments, cut.warps, cut.stages).run()
    dbias.copy_(sums.sum(0))
