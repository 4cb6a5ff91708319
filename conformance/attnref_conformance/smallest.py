"""The smallest call that still fails in the same way.

Sizes are cut one letter at a time, options and optional arrays are left out, and numbers
are rounded, as long as the backend is wrong about the same result. A reader then has two
keys and not two hundred in front of him.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from attnref.backend import Backend
from attnref_conformance.case import Call
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Trial

_LETTERS: Mapping[str, Mapping[str, str]] = {
    "attention": {
        "q": "B H Sq D",
        "k": "B K Sk D",
        "v": "B K Sk Dv",
        "mask": "B H Sq Sk",
        "bias": "B H Sq Sk",
        "sinks": "H",
        "q_lens": "B",
        "kv_lens": "B",
        "q_offset": "B",
    },
    "attention_varlen": {"q": "Tq H D", "k": "Tk K D", "v": "Tk K Dv", "sinks": "H"},
    "merge": {"out_a": "B H S Dv", "lse_a": "B H S", "out_b": "B H S Dv", "lse_b": "B H S"},
    "softmax": {"x": "a b c d"},
}
"""The letters of every axis; arrays of lower rank have the last of them."""

_MAPS = ("B", "x", "y", "z")

_KEPT = {"Tq", "Tk", "N", "3"}
"""What other arguments count on: offsets of sequences, tokens of a window."""

_LENGTHS = {"q_lens": "Sq", "kv_lens": "Sk"}


@dataclass(frozen=True)
class Smallest:
    """A trial of a smaller call, and how it ended."""

    trial: Trial
    outcome: Outcome


def can_shrink(o: Outcome) -> bool:
    """Tell whether a failure is a wrong number or an exception, which a smaller call may show.

    What ended the process of a worker is neither, and is not tried again.
    """
    wrong = o.status is Status.FAIL and o.element is not None
    return wrong or (o.status is Status.CRASH and re.match(r"[A-Z]\w+: ", o.message) is not None)


def smallest(trial: Trial, backend: Backend, outcome: Outcome, seconds: float = 2.0) -> Smallest:
    """Make a failing trial smaller for as long as it fails in the same way.

    Args:
        trial: The trial that failed.
        backend: The backend that failed it.
        outcome: How it failed.
        seconds: When to stop looking.
    """
    best = Smallest(trial, outcome)
    if not can_shrink(outcome):
        return best
    end = time.monotonic() + seconds
    plain = trial.case.call(trial.dtype)
    plain = replace(plain, inputs={n: np.array(x) for n, x in plain.values.items()}, views={})
    best = _tried(best, plain, backend) or best
    found = True
    while found and time.monotonic() < end:
        found = False
        for call in _smaller(best.trial.case.call(trial.dtype)):
            if time.monotonic() > end:
                break
            if better := _tried(best, call, backend):
                best, found = better, True
                break
    return best


def _tried(best: Smallest, call: Call, backend: Backend) -> Smallest | None:
    """Judge a smaller call; `None` unless it fails in the same way."""
    case = replace(best.trial.case, build=lambda _rng, _dtype: call)
    trial = replace(best.trial, case=case)
    outcome = trial.run(backend)
    return Smallest(trial, outcome) if way(outcome) == way(best.outcome) else None


def way(outcome: Outcome) -> tuple[object, ...]:
    """Reduce a failure to what does not depend on sizes and numbers."""
    e = outcome.element
    raised = outcome.message.partition(":")[0] if e is None else ""
    return outcome.status, raised, e and e.array, e and e.error == "not a number"


def _smaller(call: Call) -> Iterator[Call]:
    """Propose calls that are smaller by one step.

    What a call asks for is left out last: a case that fails for its bias and for its heads
    is to show the bias, because other cases show the heads.
    """
    yield from _fewer_sequences(call)
    sizes = _sizes(call)
    for letters in _order(sizes):
        for keep in _parts(sizes[letters[0]]):
            yield _cut(call, letters, keep)
    yield from _without(call)
    yield from _rounded(call)


def _order(sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Order the letters: heads, queries and keys together where they must agree, the rest."""
    yield from ((a,) for a in ("group", "K", "H") if a in sizes)
    if sizes.get("Sq", 0) == sizes.get("Sk", 1):
        yield ("Sq", "Sk")
    yield from (
        (a,) for a in sorted(sizes, key=lambda a: -sizes[a]) if a not in ("group", "K", "H")
    )


def _fewer_sequences(call: Call) -> Iterator[Call]:
    """Leave out sequences of a packed batch, or cut them short."""
    if "cu_q" not in call.inputs:
        return
    q, k = (np.diff(call.inputs[name]) for name in ("cu_q", "cu_k"))
    for keep in _parts(len(q)):
        yield _packed(call, keep, q, k)
    for most in (1, 2, 3, 5, 9):
        if max(q.max(initial=0), k.max(initial=0)) > most:
            yield _packed(call, np.arange(len(q)), np.minimum(q, most), np.minimum(k, most))


def _packed(call: Call, keep: np.ndarray, q: np.ndarray, k: np.ndarray) -> Call:
    """Keep some sequences of a packed batch, and the first tokens of each."""
    inputs = dict(call.inputs)
    for offsets, lengths, names in (("cu_q", q, ("q",)), ("cu_k", k, ("k", "v"))):
        starts = call.inputs[offsets][keep]
        rows = [np.arange(n) + at for at, n in zip(starts, lengths[keep], strict=True)]
        for name in names:
            inputs[name] = call.inputs[name][np.concatenate(rows).astype(int)]
        ends = np.concatenate([[0], np.cumsum(lengths[keep])])
        inputs[offsets] = ends.astype(call.inputs[offsets].dtype)
    if "q_offset" in inputs:
        inputs["q_offset"] = inputs["q_offset"][keep]
    return replace(call, inputs=inputs)


def _parts(n: int) -> Iterator[np.ndarray]:
    """Propose which entries of an axis to keep."""
    if n > 1:
        at = np.arange(n)
        yield from (at[:1], at[-1:], at[n // 2 :][:1]) if n > 2 else (at[:1], at[1:])
        if n > 3:
            yield from (at[: n // 2], at[n // 2 :])
        if n > 2:
            yield from (at[:-1], at[1:])


def _without(call: Call) -> Iterator[Call]:
    """Leave out what is optional."""
    for name in ("mask", "bias", "sinks", "key_mask", "scale", "kv_lens", "q_lens"):
        if name in call.inputs:
            yield replace(call, inputs={n: x for n, x in call.inputs.items() if n != name})
    needed = "window" if call.function.startswith("window_attention") else ""
    for name in ("softcap", "causal", "shift", "window", "q_offset", "wrap_bias", "scale", "tile"):
        if name in call.options and name != needed:
            yield replace(call, options={n: x for n, x in call.options.items() if n != name})


def _rounded(call: Call) -> Iterator[Call]:
    """Write shorter numbers."""
    for digits in (0, 1):
        changed = {
            n: (np.round(x.astype(np.float64), digits) + 0.0).astype(x.dtype)  # no -0.0
            for n, x in call.inputs.items()
            if x.dtype.kind in "fV"
        }
        if any(not np.array_equal(x, call.inputs[n], equal_nan=True) for n, x in changed.items()):
            yield replace(call, inputs={**call.inputs, **changed})


def _letters(call: Call) -> dict[str, tuple[str, ...]]:
    """Name the axes of every input."""
    named = {n: tuple(said.split()) for n, said in _LETTERS.get(call.function, {}).items()}
    if call.function.startswith("window_attention"):
        packed = call.function.endswith("qkv")
        axes = call.inputs["qkv" if packed else "q"].ndim - 2 - packed
        named = _of_maps(_MAPS[:axes])
    return {n: named[n][-x.ndim :] if x.ndim else () for n, x in call.inputs.items() if n in named}


def _of_maps(space: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {
        "q": (*space, "H", "D"),
        "k": (*space, "H", "D"),
        "v": (*space, "H", "Dv"),
        "qkv": (*space, "3", "H", "D"),
        "key_mask": space,
        "bias": ("H", "N", "N"),
        "scale": ("H",),
    }


def _sizes(call: Call) -> dict[str, int]:
    """Measure every letter that can be cut; heads go with their group."""
    sizes: dict[str, int] = {}
    for name, letters in _letters(call).items():
        for letter, n in zip(letters, call.inputs[name].shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 0))
    if "K" in sizes and sizes["H"] != sizes["K"]:
        sizes["group"] = sizes["H"] // sizes["K"]
    kept = {*_KEPT, "H"} if "K" in sizes else _KEPT
    return {a: n for a, n in sizes.items() if a not in kept}


def _cut(call: Call, letters: tuple[str, ...], keep: np.ndarray) -> Call:
    """Keep some entries of every axis of these letters."""
    sizes = _sizes(call)
    along = dict.fromkeys(letters, keep)
    group = sizes.get("group", 1)
    if "K" in along:
        along["H"] = (keep[:, None] * group + np.arange(group)).ravel()
    if "group" in along:
        along = {"H": (np.arange(sizes["K"])[:, None] * group + keep).ravel()}
    axes, inputs = _letters(call), {}
    for name, x in call.inputs.items():
        for axis, a in enumerate(axes.get(name, ())):
            if a in along and x.shape[axis] > 1:
                x = np.take(x, along[a], axis=axis)  # noqa: PLW2901
        if _LENGTHS.get(name) in letters:
            x = np.minimum(x, len(keep)).astype(x.dtype)  # noqa: PLW2901
        inputs[name] = x
    return replace(call, inputs=inputs)
