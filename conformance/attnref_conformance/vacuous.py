"""What a backend declares as supported and no case exercised.

For every combination of features that the suite has cases of, a backend is asked about a
plain call with the same features, in convenient sizes. What it accepts there some executed
case must have used. A backend that computes softcaps for multiples of 128 only, and so
declines every case that has one, claims what nobody has seen.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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

OPERATIONS = tuple(name for name in POSITIONAL if not name.endswith("_qkv"))
"""What a problem can be about."""


@dataclass(frozen=True)
class Wanted:
    """A combination of features that the suite has cases of."""

    operation: str
    features: frozenset[str]
    dtype: str


@dataclass(frozen=True)
class Declared:
    """A plain call that a backend says it can run.

    Attributes:
        wanted: What it uses.
        call: The call in words.
    """

    wanted: Wanted
    call: str


def wanted(outcomes: Iterable[Outcome]) -> list[Wanted]:
    """Return every combination that occurs, the plainest first."""
    found = dict.fromkeys(map(_wanted, filter(lambda o: o.operation, outcomes)))
    return sorted(found, key=lambda w: len(w.features))


def _wanted(o: Outcome) -> Wanted:
    return Wanted(o.operation.removesuffix("_qkv"), frozenset(o.features), o.dtype)


def declared(backend: Backend, asked: Iterable[Wanted]) -> list[Declared]:
    """Ask a backend about plain calls, and return those that it accepts."""
    found = (_accepted(backend, wanted) for wanted in asked)
    return [accepted for accepted in found if accepted]


def vacuous(claims: Sequence[Declared], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return an outcome for every claim that no executed case has borne out.

    Only the plainest claims are told: one about two features says nothing new where one
    of the two was never exercised at all.
    """
    told: list[Wanted] = []
    found = []
    for claim in claims:
        cases = [o for o in outcomes if _implies(_wanted(o), claim.wanted)]
        if any(_implies(claim.wanted, other) for other in told):
            continue
        if all(o.status is Status.UNSUPPORTED for o in cases):
            told.append(claim.wanted)
            found.append(_outcome(claim, cases))
    return found


def _implies(one: Wanted, other: Wanted) -> bool:
    """Tell whether whoever uses the one uses the other."""
    same = (one.operation, one.dtype) == (other.operation, other.dtype)
    return same and other.features <= one.features


def _outcome(claim: Declared, cases: Sequence[Outcome]) -> Outcome:
    about, features = claim.wanted, sorted(claim.wanted.features)
    named = "-".join(
        f.replace(" ", "-").replace("_", "-") for f in ("exercised", about.operation, *features)
    )
    what = " with ".join([about.operation, *([" and ".join(features)] if features else [])])
    reason, n = Counter(r for o in cases for r in {*o.reasons}).most_common(1)[0]
    return Outcome(
        id=f"H2-{named}[{about.dtype}]",
        clause="H2",
        level=level_of(about.operation, gradients="gradients" in about.features),
        operation=about.operation,
        dtype=about.dtype,
        features=tuple(features),
        status=Status.VACUOUS,
        message=(
            f"declared support for {claim.call}, and declined every case of {what} in "
            f"{about.dtype}: {len(cases)}, {n} of them because {reason}. Accept them, for "
            f"example by padding inside, or decline {what} whatever its sizes"
        ),
    )


# ---- the calls that are asked about ------------------------------------------------


def _accepted(backend: Backend, asked: Wanted) -> Declared | None:
    for S, D in SIZES:
        problem = plain_problem(backend, asked, S, D)
        try:
            if not declined(backend, problem):
                return Declared(asked, str(problem))
        except Finding:  # the trials say so, with all that belongs to it
            continue
    return None


def plain_problem(backend: Backend, asked: Wanted, S: int, D: int) -> Problem:
    """Describe a plain call that uses these features."""
    operation, features, dtype = asked.operation, asked.features, asked.dtype
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
        if "q_offset" not in features:
            options["q_offset"] = "start"
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
    H, rank = 4, next((int(f[0]) for f in features if f.endswith("-D")), 2)
    w, G = (8, (16,) * rank) if rank < 3 else (4, (8,) * rank)
    inputs: _Inputs
    if "qkv" in features:
        operation, inputs = "window_attention_qkv", {"qkv": np.zeros((1, *G, 3, H, D))}
    else:
        inputs = {n: np.zeros((1, *G, H, D)) for n in ("q", "k", "v")}
    options: dict[str, Any] = {"window": (w,) * rank}
    if features & {"shift", "wrap_bias"}:
        options["shift"] = (w // 2,) * rank
    if "wrap_bias" in features:
        options["wrap_bias"] = -100.0
    arrays = {
        "bias": np.zeros((H, w**rank, w**rank)),
        "key_mask": np.ones((1, *G), bool),
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
