"""Attention, dense and packed: allocates, launches, and hands results over."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import cupy

from attnref.problem import AttentionGradients, AttentionProblem, Result, VarlenProblem
from attnref_cupy import compiling, plan, replay
from attnref_cupy.call import Call, call_of
from attnref_cupy.launching import Launch
from attnref_cupy.layout import columns_in_eights, empty_as, lined_up, room_for, settle


class Made(NamedTuple):
    """What a backward pass fills in; `delta` is of use to itself only."""

    dq: Any
    dk: Any
    dv: Any
    dbias: Any
    dsinks: Any
    delta: Any


def forward(problem: AttentionProblem | VarlenProblem) -> Result:
    """Attend."""
    call = _fed(call_of(problem))
    out = empty_as(problem.q, problem.v.shape[-1])
    lse = cupy.empty(call.rows, problem.lse_dtype)
    made = room_for(out) if plan.runs_on_tensor_cores(call) else out
    launch = forward_launch(call, made, lse)
    launch.run()
    replay.keep(key_of(problem), arrays_of(problem), {"out": out, "lse": lse}, [launch])
    return Result(settle(out, made), lse)


def again(problem: AttentionProblem | VarlenProblem) -> Result | None:
    """Answer a call whose like ran before; `None` if none did."""
    recipe = replay.find(key_of(problem), problem.q)
    if recipe is None:
        return None
    made = recipe.follow(arrays_of(problem))
    return Result(made["out"], made["lse"])


def arrays_of(problem: AttentionProblem | VarlenProblem) -> replay.Arrays:
    """Name the arrays of a call as its kernels do, and what else may be one."""
    p = problem
    named = {"q": p.q, "k": p.k, "v": p.v, "sinks": p.sinks, "offset": p.q_offset}
    if isinstance(p, VarlenProblem):
        return {**named, "q_starts": p.cu_q, "k_starts": p.cu_k}
    return {**named, "mask": p.mask, "bias": p.bias, "q_lens": p.q_lens, "k_lens": p.kv_lens}


def key_of(problem: AttentionProblem | VarlenProblem) -> tuple[Any, ...]:
    """Return everything that a call depends on, but where its arrays are and what is in them."""
    p = problem
    forms = map(replay.form, arrays_of(p).values())
    return (type(p), *forms, p.scale, p.window, p.softcap, p.with_lse, p.with_gradients)


def forward_launch(call: Call, out: Any, lse: Any) -> Launch:
    """Prepare the launch of a forward pass into its results."""
    cut = plan.forward(call)
    tiles = plan.tiles_to_cover(call, call.tokens[0], cut.length)
    given = call.arguments(out=out, lse=lse, tiles=tiles)
    grid = tiles * call.heads[0] * call.batch
    return Launch(cut.kernel, grid, cut.threads, (given,), cut.shared)


def backward(
    problem: AttentionProblem | VarlenProblem, result: Result, dout: Any, dlse: Any
) -> AttentionGradients:
    """Pass gradients back."""
    given = {"out": result.out, "lse": result.lse, "dout": dout, "dlse": dlse}
    key = gradients_key(problem, result, dout, dlse)
    call = call_of(problem)
    out, due = result.out, (empty_as(problem.q), empty_as(problem.k), empty_as(problem.v))
    places = due
    if plan.backward_runs_on_tensor_cores(call):
        call, out, dout = _fed(call), columns_in_eights(out), columns_in_eights(dout)
        places = tuple(map(room_for, due))
    wide = cupy.dtype("float64" if plan.precision(call) == "double" else "float32")
    bias, sinks = call.bias, call.sinks
    made = Made(
        *places,
        None if bias is None else cupy.zeros(bias.shape, wide),
        None if sinks is None else cupy.empty(sinks.shape, sinks.dtype),
        cupy.empty(call.rows, wide),
    )
    dlse = None if dlse is None else lined_up(dlse)
    launches = [*backward_launches(call, out, lined_up(result.lse), dout, dlse, made)]
    for launch in launches:
        launch.run()
    dq, dk, dv = (settle(x, place) for x, place in zip(due, places, strict=True))
    made = made._replace(dq=dq, dk=dk, dv=dv)
    given.update(arrays_of(problem))
    replay.keep(key, given, made._asdict(), launches, zeroed=("dbias",))
    return _gradients(problem, made)


def gradients_key(
    problem: AttentionProblem | VarlenProblem, result: Result, dout: Any, dlse: Any
) -> tuple[Any, ...]:
    """Return everything that a backward pass depends on, as `key_of` does of a call."""
    return (*map(replay.form, (result.out, result.lse, dout, dlse)), *key_of(problem))


def back_again(
    problem: AttentionProblem | VarlenProblem, result: Result, dout: Any, dlse: Any
) -> AttentionGradients | None:
    """Pass gradients back through a call whose like ran before; `None` if none did."""
    recipe = replay.find(gradients_key(problem, result, dout, dlse), problem.q)
    if recipe is None:
        return None
    rows = {"out": result.out, "lse": result.lse, "dout": dout, "dlse": dlse}
    made = recipe.follow({**arrays_of(problem), **rows})
    return _gradients(problem, Made(*map(made.get, Made._fields)))


def _gradients(problem: AttentionProblem | VarlenProblem, made: Made) -> AttentionGradients:
    """Hand gradients over, that of the bias as the bias lies."""
    dbias = None
    if problem_bias(problem) is not None:
        dbias = empty_as(problem_bias(problem))
        dbias[...] = made.dbias.reshape(dbias.shape)
    return AttentionGradients(made.dq, made.dk, made.dv, dbias, made.dsinks)


def problem_bias(problem: AttentionProblem | VarlenProblem) -> Any:
    """Return the bias, which packed sequences have none of."""
    return problem.bias if isinstance(problem, AttentionProblem) else None


def backward_launches(
    call: Call, out: Any, lse: Any, dout: Any, dlse: Any, made: Made
) -> Iterator[Launch]:
    """List the launches of a backward pass."""
    (Hq, Hkv), (Sq, Sk) = call.heads, call.tokens
    rows = {"lse": lse, "delta": made.delta, "dlse": dlse}
    given = call.arguments(out=out, dout=dout, **rows, tiles=Sq)
    kernel = compiling.kernel("rows.cu", "delta", *plan.types(call))
    yield Launch(kernel, -(-Sq * Hq * call.batch // 4), 128, (given,))
    queries, keys = plan.backward(call)
    tiles = plan.tiles_to_cover(call, Sq, queries.length)
    given = call.arguments(dout=dout, dq=made.dq, dbias=made.dbias, **rows, tiles=tiles)
    yield Launch(queries.kernel, tiles * Hq * call.batch, queries.threads, (given,), queries.shared)
    tiles = plan.tiles_to_cover(call, Sk, keys.length)
    given = call.arguments(dout=dout, dk=made.dk, dv=made.dv, **rows, tiles=tiles)
    yield Launch(keys.kernel, tiles * Hkv * call.batch, keys.threads, (given,), keys.shared)
    if made.dsinks is not None:
        given = call.arguments(**rows, dsinks=made.dsinks, tiles=1)
        kernel = compiling.kernel("rows.cu", "sink_gradient", *plan.types(call)[1:])
        yield Launch(kernel, Hq, 256, (given,), 256 * 8)


def _fed(call: Call) -> Call:
    """Give tensor cores rows that can be copied sixteen bytes at a time."""
    if not plan.runs_on_tensor_cores(call):
        return call
    q, k, v = (columns_in_eights(x) for x in (call.q, call.k, call.v))
    return replace(call, q=q, k=k, v=v, sizes=(q.shape[-1], v.shape[-1]))
