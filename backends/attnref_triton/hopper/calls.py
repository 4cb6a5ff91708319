"""Which calls take the Hopper path, and why others do not."""

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module

import torch
import triton

from attnref.backend import Reason
from attnref.problem import AttentionProblem, VarlenProblem
from attnref_triton.backend import WIDEST, interpreted
from attnref_triton.call import MILD, TINY
from attnref_triton.hopper.launch_backward import WIDE
from attnref_triton.hopper.schedule import ROWS
from attnref_triton.hopper.tma import same_for_queries
from attnref_triton.tables import (
    DENSE_BACKWARD,
    FEW,
    Chip,
)

SHORT = {64: 512, WIDEST: 128}
"""Columns to the tokens that packed sequences have on average at least, to go this way back."""

HALF = (torch.float16, torch.bfloat16)
"""Types of a bias whose tiles fit."""

MOST = 2**20
"""Tiles of queries whose turns are still written down."""

FLAT = 1e-3
"""The smallest soft cap beneath which the power of a hidden score is sure to vanish, backward."""

KNOWN = ("3.6",)
"""Releases of Triton that the path ran with; to others Gluon, an experiment, may mean less."""


@lru_cache
def missing() -> str | None:
    """Say what of Gluon this Triton lacks; `None` if nothing."""
    installed = triton.__version__
    if ".".join(installed.split(".")[:2]) not in KNOWN:
        return f"Triton is {installed}, and the path is known to run with {' and '.join(KNOWN)}"
    try:
        import_module("attnref_triton.hopper.forward")
        import_module("attnref_triton.hopper.backward")
        import_module("attnref_triton.hopper.wide")
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
    tables = _about_tables(problem) if isinstance(problem, AttentionProblem) else ()
    scores, sizes, strides = _about_scores, _about_sizes, _about_strides
    return [*tables, *scores(problem), *sizes(problem), *strides(problem)]


def reasons_backward(problem: AttentionProblem | VarlenProblem, chip: Chip) -> list[Reason]:
    """Say why a call does not take the path backward.

    There is no schedule backward that could not be copied into a graph, but bits that must
    repeat do not.
    """
    if against := _about_machine(chip):
        return against
    against = [*_about_scores(problem), *_about_sizes_backward(problem)]
    if problem.softcap is not None and problem.softcap < FLAT:
        said = f"a softcap of {problem.softcap} is below {FLAT}"
        against.append(Reason("softcap", said, "softcap"))
    if isinstance(problem, AttentionProblem):
        against += [*_about_tables(problem), *_about_tables_backward(problem)]
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


def _about_machine(chip: Chip) -> list[Reason]:
    if chip.capability != 9:
        return [Reason("capability", f"the chip has capability {chip.capability}, not 9.0")]
    if interpreted():
        return [Reason("interpreter", "Triton's interpreter does not run Gluon")]
    lacking = missing()
    return [] if lacking is None else [Reason("gluon", lacking)]


def _about_scores(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
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
        if x.shape[-1:] != (p.sizes.Sk,) or x.stride(-1) != 1:
            yield Reason("strides", f"columns of the {name} are not adjacent", name)
        if same_for_queries(x):
            continue
        if x.dtype not in dtypes:
            yield Reason("dtype", f"the {name} is {x.dtype}, which is no half precision", name)
        sixteen = 16 // x.element_size()
        rows = [s for s, n in zip(x.stride()[:-1], x.shape, strict=False) if n > 1]
        if any(s % sixteen for s in rows) or x.data_ptr() % 16:
            yield Reason("strides", f"rows of the {name} do not begin at sixteen bytes", name)


def _about_tables_backward(p: AttentionProblem) -> Iterator[Reason]:
    tables = {name: x for name in ("bias", "mask") if (x := getattr(p, name)) is not None}
    columns = max(p.sizes.D, p.sizes.Dv)
    if columns > WIDE:
        for name in tables:
            yield Reason("head-size", f"there is a {name} beside {columns} columns", name, WIDE)
    if p.bias is None:
        return
    if p.softcap is not None:
        yield Reason("softcap", "there is a softcap beside a bias", "softcap")
    if p.bias.ndim > 1 and p.bias.shape[-2] > 1 and same_for_queries(p.bias):
        yield Reason("strides", "the bias has one row in memory, and its gradient many", "bias")


def _about_sizes(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    D, Dv = p.q.shape[-1], p.v.shape[-1]
    if not 0 < min(D, Dv) <= max(D, Dv) <= WIDEST:
        yield Reason("head-size", f"D = {D} and Dv = {Dv} are not from 1 to {WIDEST}", "q")
    yield from _about_packed(p) if isinstance(p, VarlenProblem) else _about_tokens(p)


def _about_sizes_backward(p: AttentionProblem | VarlenProblem) -> Iterator[Reason]:
    D, Dv = p.q.shape[-1], p.v.shape[-1]
    low, high = min(DENSE_BACKWARD) // 2, max(DENSE_BACKWARD)
    if not low < max(D, Dv) <= high:
        said = f"the larger of D = {D} and Dv = {Dv} is not from {low + 1} to {high}"
        yield Reason("head-size", said, "q", high)
    yield from _about_packed_backward(p) if isinstance(p, VarlenProblem) else _about_tokens(p)


def _about_packed(p: VarlenProblem) -> Iterator[Reason]:
    n, (Tq, Hq, _) = p.cu_q.shape[0] - 1, p.q.shape
    if 0 in (n, Hq, Tq, p.k.shape[0]):
        yield Reason("empty", "an axis is empty")
    elif Tq <= FEW * n:
        yield Reason("queries", f"sequences have {FEW} queries or fewer on average", "q")
    if Hq * (Tq // ROWS + n + 1) > MOST:
        yield Reason("tiles", f"there are more than {MOST} tiles of queries", "q", MOST)


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
