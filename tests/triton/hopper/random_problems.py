"""Random problems that take the Hopper path, forward and back, each judged as a case is.

On a machine with a Hopper GPU, in a minute or two:

    python tests/triton/hopper/random_problems.py --n 1000

Which options a call has decides which kernel is compiled for it, and that takes longer than to
judge it. So a few dozen kinds of calls are drawn, each a set of options, and for each of them
as many problems as it takes, of random sizes, strides and numbers. A kind has a process and a
time limit of its own: a kernel that hangs fails its kind, and the others go on.

The judge computes in float64, surrounds arrays with NaN, and calls twice. What is printed last
says for each option how many problems took the path with it, in which direction.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from attnref_conformance.case import Call, Case, Part, View, cast, cut, permute
from attnref_conformance.status import Status
from attnref_conformance.trial import Judgement, Trial

KINDS = 36
"""Sets of options that are drawn."""

LIMIT = 180
"""Seconds that a kind may take, its compilation included."""

COLUMNS = ((64, 64), (128, 128), (96, 96), (40, 56), (64, 128), (256, 256), (192, 128), (160, 160))
"""Of queries and keys, and of values."""

HEADS = ((1, 1), (2, 2), (4, 2), (3, 1))
"""Of queries, and of keys and values."""

TABLES = ("bias", "bias of keys", "mask", "mask of keys")
"""What is added to scores or hides them; of keys, if it is the same for all queries."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """What of a call its kernels are compiled for.

    Attributes:
        columns: Of queries and keys, and of values.
        dtype: Of the main arrays.
        options: By the names that are counted.
    """

    columns: tuple[int, int]
    dtype: str
    options: frozenset[str]

    @property
    def counted(self) -> list[str]:
        """Everything that problems of this kind are counted for."""
        D, DV = self.columns
        return [*sorted(self.options), f"D {D}" + (f", Dv {DV}" if D != DV else ""), self.dtype]


def kind_of(number: int) -> Kind:
    """Draw a kind; the same for the same number."""
    rng = np.random.default_rng((number, 9))
    chosen = {
        name
        for name, share in {
            "causal": 0.5, "left bound": 0.3, "soft cap": 0.3, "sinks": 0.3, "groups": 0.4,
            "packed": 0.15, "q_lens": 0.25, "kv_lens": 0.3, "offsets": 0.2,
        }.items()
        if rng.random() < share
    }  # fmt: skip
    if rng.random() < 0.6:
        chosen.add(str(rng.choice(TABLES)))
    if "packed" in chosen:
        chosen -= {"q_lens", "kv_lens", "offsets", *TABLES}
    if not chosen & {"causal", "left bound"}:
        chosen.discard("offsets")
    columns = COLUMNS[number % len(COLUMNS)]
    dtype = "float16" if rng.random() < 0.5 else "bfloat16"
    return Kind(columns, dtype, frozenset(chosen))


def build(kind: Kind, seed: int) -> Call:
    """Draw a problem of a kind."""
    rng = np.random.default_rng(seed)
    heads = HEADS[rng.integers(2, 4)] if "groups" in kind.options else HEADS[rng.integers(0, 2)]
    packed = "packed" in kind.options
    inputs, options = (_packed if packed else _batch)(kind, rng, heads)
    if "soft cap" in kind.options:
        options["softcap"] = float(rng.choice([0.7, 5.0, 30.0, 50.0, 200.0]))
    if "sinks" in kind.options:
        inputs["sinks"] = rng.normal(size=heads[0]).astype(np.float32)
    _place(kind, rng, options, inputs, n=len(inputs["cu_q"]) - 1 if packed else len(inputs["q"]))
    views = {}
    if (name := next(iter(kind.options & set(TABLES)), None)) is not None:
        views = _add_table(name, kind, rng, inputs)
    views |= {name: view for name in "qkv" if (view := _lay(inputs, name, rng))}
    poison = packed or "q_lens" in inputs
    return Call("attention_varlen" if packed else "attention", inputs, options, views, poison)


def _batch(kind: Kind, rng: Rng, heads: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    (D, DV), (Hq, Hkv), B = kind.columns, heads, int(rng.integers(1, 3))
    Sq, Sk = _tokens(rng), _tokens(rng)
    shapes = {"q": (B, Hq, Sq, D), "k": (B, Hkv, Sk, D), "v": (B, Hkv, Sk, DV)}
    inputs: dict[str, Any] = {n: _numbers(rng, s, kind.dtype) for n, s in shapes.items()}
    for name, most, spoiled in (("q_lens", Sq, "q"), ("kv_lens", Sk, "kv")):
        if name in kind.options:
            lens = rng.integers(0, most + 1, B).astype(np.int32)
            lens[0] = most
            inputs[name] = lens
            for x in spoiled:
                for b, n in enumerate(lens):
                    inputs[x][b, :, n:] = np.nan
    return inputs, {}


def _packed(kind: Kind, rng: Rng, heads: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    (D, DV), (Hq, Hkv), n = kind.columns, heads, int(rng.integers(1, 5))
    least = 640 if max(kind.columns) <= 64 else 192
    inputs: dict[str, Any] = {}
    for name in ("cu_q", "cu_k"):
        lens = rng.integers(0, 2 * least, n)
        lens[0] += max(0, least * n - lens.sum())
        inputs[name] = np.concatenate([[0], np.cumsum(lens)]).astype(np.int32)
    Tq, Tk = (int(inputs[name][-1]) for name in ("cu_q", "cu_k"))
    shapes = {"q": (Tq + 5, Hq, D), "k": (Tk + 5, Hkv, D), "v": (Tk + 5, Hkv, DV)}
    inputs = {n: _numbers(rng, s, kind.dtype) for n, s in shapes.items()} | inputs
    for name, last in (("q", Tq), ("k", Tk), ("v", Tk)):
        inputs[name][last:] = np.nan
    return inputs, {}


def _tokens(rng: Rng) -> int:
    """Draw a length: around a tile's end, or any."""
    near = int(rng.choice([128, 192, 256])) + int(rng.integers(-1, 2))
    return near if rng.random() < 0.3 else int(rng.integers(66, 450))


def _numbers(rng: Rng, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    scale = rng.choice([0.3, 1.0, 1.0, 4.0])
    return cast(scale * rng.normal(size=shape), dtype)


def _place(kind: Kind, rng: Rng, options: dict[str, Any], inputs: dict[str, Any], n: int) -> None:
    """Draw bounds, and where the first query stands."""
    left = int(rng.choice([0, 1, 40, 200])) if "left bound" in kind.options else None
    if "causal" in kind.options:
        options["causal"] = True
    if left is not None:
        options["window"] = (left, None if "causal" in kind.options else int(rng.integers(0, 300)))
    if not kind.options & {"causal", "left bound"}:
        return
    if "offsets" in kind.options:
        inputs["q_offset"] = rng.integers(-100, 200, n).astype(np.int32)
    else:
        options["q_offset"] = ["start", "end"][int(rng.integers(2))]


def _lay(inputs: dict[str, Any], name: str, rng: Rng) -> View | None:
    """Draw how an array lies in memory: dense, tokens before heads, or part of a wider one."""
    x, way = inputs[name], rng.integers(4)
    if x.ndim == 4 and way == 1:
        inputs[name] = np.ascontiguousarray(x.transpose(0, 2, 1, 3))
        return permute(0, 2, 1, 3)
    if way == 2:
        wide = np.full((*x.shape[:-1], x.shape[-1] + 8), np.nan).astype(x.dtype)
        wide[..., : x.shape[-1]] = x
        inputs[name] = wide
        return cut(..., slice(None, x.shape[-1]))
    return None


def _add_table(name: str, kind: Kind, rng: Rng, inputs: dict[str, Any]) -> dict[str, View]:
    """Draw a bias or a mask, the same for some entries or heads, in rows of sixteen bytes."""
    (B, Hq, Sq, _), Sk = inputs["q"].shape, inputs["k"].shape[2]
    b, h = (n if rng.random() < 0.6 else 1 for n in (B, Hq))
    shape = (b, h, 1 if name.endswith("of keys") else Sq, -(-Sk // 16) * 16)
    name = name.partition(" ")[0]
    if name == "mask":
        inputs[name] = rng.random(shape) < rng.choice([0.9, 0.3])
    else:
        inputs[name] = cast(rng.normal(size=shape), kind.dtype)
    return {name: cut(..., slice(None, Sk))}


def judge(number: int, n: int, seed: int) -> dict[str, Any]:
    """Judge `n` problems of a kind, and say how many of them took the path."""
    import attnref_triton
    from attnref_triton.chips import chip_of
    from attnref_triton.hopper import calls

    kind, backend = kind_of(number), attnref_triton.backend
    found: dict[str, Any] = {"kind": kind.counted, "forward": 0, "backward": 0, "worst": 0.0}
    found["bad"] = []
    for i in range(n):
        call = build(kind, (seed << 32) + (number << 16) + i)
        case = Case(f"drawn-{number}-{i}", lambda _rng, _dtype, call=call: call, (kind.dtype,))
        for part, way, against in (
            (Part.LSE, "forward", calls.reasons),
            (Part.GRADIENTS, "backward", calls.reasons_backward),
        ):
            trial = Trial(case, part, kind.dtype)
            outcome, problem = trial.run(backend), posed(trial, backend)
            found[way] += not against(problem, chip_of(problem.q.device))
            found["worst"] = max(found["worst"], outcome.utilisation)
            if outcome.status not in (Status.PASS, Status.QUALITY):
                found["bad"].append(f"{case.name} {way}: {outcome.status} {outcome.message}")
    return found


def posed(trial: Trial, backend: Any) -> Any:
    """Return the problem of a trial, in arrays that lie in memory as those it is judged in."""
    judgement = Judgement(trial, backend)
    problem, native = judgement.problem, judgement.native()
    return problem.with_arrays({name: native[name] for name in problem.arrays})


def started(number: int, n: int, seed: int) -> dict[str, Any]:
    """Judge a kind in a process of its own, which a hang ends with."""
    command = [sys.executable, __file__, "--kind", str(number), "--n", str(n), "--seed", str(seed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        said = str(error) if isinstance(error, subprocess.TimeoutExpired) else done.stderr[-400:]
        bad = [f"kind {number} {kind_of(number).counted}: {said}"]
        return {"kind": [], "forward": 0, "backward": 0, "worst": 0.0, "bad": bad}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all kinds, and print for each option how many problems took the path."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=1000, help="problems in all, or of one kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--kind", type=int, help="judge this kind alone, in this process")
    told = parser.parse_args(arguments)
    if told.kind is not None:
        print(json.dumps(judge(told.kind, told.n, told.seed)))
        return 0
    each = -(-told.n // KINDS)
    found, bad = [], []
    with ThreadPoolExecutor(told.processes) as pool:
        for one in pool.map(partial(started, n=each, seed=told.seed), range(KINDS)):
            found.append(one)
            bad += one["bad"]
            print(*one["kind"], sep=", ", flush=True)
            print(*one["bad"], sep="\n", end="\n" * bool(one["bad"]), flush=True)
    print(f"{'':16} {'forward':>8} {'backward':>8}")
    ways = ("forward", "backward")
    counts = {way: Counter[str]() for way in ways}
    for one in found:
        for way in ways:
            counts[way].update(dict.fromkeys(["all", *one["kind"]], one[way]))
    for name in sorted(counts["forward"], key=lambda x: (x != "all", x)):
        print(f"{name:16} " + " ".join(f"{counts[way][name]:8}" for way in ways))
    worst = max(one["worst"] for one in found)
    print(f"{len(bad)} wrong; the largest error is {worst:.2f} of its limit")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
