"""What a backend declares as supported and no case exercised.

A backend is asked about plain calls of convenient sizes: every operation, every feature of
it alone, every two together, with and without gradients, in every dtype. What it accepts
there some executed case must have used. A backend that computes softcaps for multiples of
128 only, and so declines every case that has one, claims what nobody has seen.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from attnref import normalize
from attnref.backend import Backend
from attnref.problem import Problem
from attnref_conformance.case import POSITIONAL, cast
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Finding, declined, level_of

SIZES = ((128, 64), (64, 32), (256, 128), (16, 16))
"""Tokens and head sizes that kernels like; a backend declares what it accepts in any."""

_ATTENTION = ("bias", "grouped heads", "kv_lens", "mask", "q_lens", "q_offset", "sinks", "softcap")
_MAPS = ("bias", "key_mask", "qkv", "scale per head", "shift", "wrap_bias")

ASKED: Mapping[str, Sequence[str]] = {
    "attention": (*_ATTENTION, "window"),
    "attention_varlen": ("grouped heads", "q_offset", "sinks", "softcap", "window"),
    "window_attention": _MAPS,
    "softmax": (),
    "merge": (),
    "relative_position_bias": (),
}
"""Operation to the features that a backend is asked about; gradients go with each."""


@dataclass(frozen=True)
class Declared:
    """Something that a backend says it can run.

    Attributes:
        operation: The operation.
        features: The features of the call that it accepted.
        dtype: The dtype.
        call: The call in words.
    """

    operation: str
    features: frozenset[str]
    dtype: str
    call: str


def declared(backend: Backend, dtypes: Sequence[str]) -> list[Declared]:
    """Ask a backend about every plain call, and return those that it accepts."""
    found = (_accepted(backend, wanted, dtype) for dtype in dtypes for wanted in _wanted())
    return [accepted for accepted in found if accepted]


def vacuous(claims: Sequence[Declared], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return an outcome for every claim that no executed case has borne out.

    Only the plainest claims are told: one about two features says nothing new where one
    of the two was never exercised at all.
    """
    told: list[Declared] = []
    found = []
    for claim in sorted(claims, key=lambda c: len(c.features)):
        cases = [o for o in outcomes if _uses(o, claim)]
        known = any(_implies(claim, other) for other in told)
        if known or not cases or any(o.status is not Status.UNSUPPORTED for o in cases):
            continue
        told.append(claim)
        found.append(_outcome(claim, cases))
    return found


def _uses(o: Outcome, claim: Declared) -> bool:
    return (
        o.operation.removesuffix("_qkv") == claim.operation
        and o.dtype == claim.dtype
        and claim.features <= {*o.features}
    )


def _implies(claim: Declared, other: Declared) -> bool:
    same = (claim.operation, claim.dtype) == (other.operation, other.dtype)
    return same and other.features <= claim.features


def _outcome(claim: Declared, cases: Sequence[Outcome]) -> Outcome:
    features = sorted(claim.features)
    named = "-".join(f.replace(" ", "-") for f in ("exercised", claim.operation, *features))
    what = " with ".join([claim.operation, *([" and ".join(features)] if features else [])])
    reason, n = Counter(r for o in cases for r in {*o.reasons}).most_common(1)[0]
    return Outcome(
        id=f"H2-{named}[{claim.dtype}]",
        clause="H2",
        level=level_of(claim.operation, gradients="gradients" in claim.features),
        operation=claim.operation,
        dtype=claim.dtype,
        features=tuple(features),
        status=Status.VACUOUS,
        message=(
            f"declared support for {claim.call}, and declined every case of {what} in "
            f"{claim.dtype}: {len(cases)}, {n} of them because {reason}. Accept them, for "
            f"example by padding inside, or decline {what} whatever its sizes"
        ),
    )


# ---- the calls that are asked about ------------------------------------------------

_Wanted = tuple[str, frozenset[str]]


def _wanted() -> Iterator[_Wanted]:
    """List operations with no feature, with each, with every two; gradients are one more."""
    for operation, names in ASKED.items():
        features = (*names, "gradients")
        for n in (0, 1, 2):
            for chosen in combinations(features, n):
                yield operation, frozenset(chosen)


def _accepted(backend: Backend, wanted: _Wanted, dtype: str) -> Declared | None:
    operation, features = wanted
    for S, D in SIZES:
        problem = _problem(backend, operation, features, dtype, S, D)
        try:
            if not declined(backend, problem):
                return Declared(operation, problem.features, dtype, str(problem))
        except Finding:  # the trials say so, with all that belongs to it
            continue
    return None


def _problem(
    backend: Backend, operation: str, features: frozenset[str], dtype: str, S: int, D: int
) -> Problem:
    """Describe a plain call that uses these features."""
    make = {
        "attention": _attention,
        "attention_varlen": _packed,
        "window_attention": _map,
    }.get(operation, _plain)
    function, inputs, options = make(operation, features, S, D)
    given = {n: backend.from_numpy(_stored(n, x, dtype)) for n, x in inputs.items()}
    first = POSITIONAL[function]
    rest = {n: x for n, x in given.items() if n not in first}
    problem: Problem = getattr(normalize, function)(*(given[n] for n in first), **rest, **options)
    return replace(problem, with_gradients="gradients" in features)


_Inputs = dict[str, np.ndarray]
_Parts = tuple[str, _Inputs, dict[str, Any]]


def _stored(name: str, x: np.ndarray, dtype: str) -> np.ndarray:
    """Give an array the dtype of its role."""
    if x.dtype != np.float64:
        return x
    single = name in ("lse_a", "lse_b") and dtype != "float64"
    return cast(x, "float32" if single else dtype)


def _attention(operation: str, features: frozenset[str], S: int, D: int) -> _Parts:
    H = 4
    kv = np.zeros((1, 2 if "grouped heads" in features else H, S, D))
    inputs: _Inputs = {"q": np.zeros((1, H, S, D)), "k": kv, "v": kv.copy()}
    arrays = {
        "mask": np.ones((S, S), bool),
        "bias": np.zeros((H, S, S)),
        "sinks": np.zeros(H),
        "q_lens": np.full(1, S, np.int32),
        "kv_lens": np.full(1, S, np.int32),
        "q_offset": np.zeros(1, np.int32),
    }
    inputs |= {n: x for n, x in arrays.items() if n in features}
    return operation, inputs, _scores(features, S)


def _scores(features: frozenset[str], S: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "softcap" in features:
        options["softcap"] = 30.0
    if features & {"window", "q_offset"}:
        options["window"] = (S // 4, S // 4)
    return options


def _packed(operation: str, features: frozenset[str], S: int, D: int) -> _Parts:
    H = 4
    kv = np.zeros((2 * S, 2 if "grouped heads" in features else H, D))
    cu = np.array([0, S, 2 * S], np.int32)
    inputs: _Inputs = {"q": np.zeros((2 * S, H, D)), "k": kv, "v": kv.copy()}
    inputs |= {"cu_q": cu, "cu_k": cu.copy()}
    if "sinks" in features:
        inputs["sinks"] = np.zeros(H)
    if "q_offset" in features:
        inputs["q_offset"] = np.zeros(2, np.int32)
    return operation, inputs, _scores(features, S)


def _map(operation: str, features: frozenset[str], _: int, D: int) -> _Parts:
    H, w, G = 4, 8, 16
    inputs: _Inputs
    if "qkv" in features:
        operation, inputs = "window_attention_qkv", {"qkv": np.zeros((1, G, G, 3, H, D))}
    else:
        inputs = {n: np.zeros((1, G, G, H, D)) for n in ("q", "k", "v")}
    options: dict[str, Any] = {"window": w}
    if features & {"shift", "wrap_bias"}:
        options["shift"] = w // 2
    if "wrap_bias" in features:
        options["wrap_bias"] = -100.0
    arrays = {
        "bias": np.zeros((H, w * w, w * w)),
        "key_mask": np.ones((1, G, G), bool),
        "scale per head": np.ones(H),
    }
    inputs |= {n.partition(" ")[0]: x for n, x in arrays.items() if n in features}
    return operation, inputs, options


def _plain(operation: str, _: frozenset[str], S: int, D: int) -> _Parts:
    if operation == "softmax":
        return operation, {"x": np.zeros((S, S))}, {"axis": -1}
    if operation == "merge":
        x, e = np.zeros((1, 4, S, D)), np.zeros((1, 4, S))
        return operation, {"out_a": x, "lse_a": e, "out_b": x.copy(), "lse_b": e.copy()}, {}
    return operation, {"table": np.zeros((15 * 15, 4))}, {"window": (8, 8)}
