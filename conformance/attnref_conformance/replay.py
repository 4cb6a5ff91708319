"""A failing case as a program: copy it, run it, see it fail.

Small arrays are written out. Larger ones are drawn again from the case's seed, with
`given`; the numbers are the same on every machine. What no single call shows, such as a
promise about calls in turn, is judged again with `judge`.
"""

import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.backend import Backend
from attnref_conformance.case import Call, Part, View, permute, stretch
from attnref_conformance.status import Element, Outcome, Status
from attnref_conformance.suite import AnyTrial, Selection
from attnref_conformance.trial import Judgement, Trial, backward_arguments

LITERAL = 160
"""How many numbers a program writes out at most."""

_NUMPY_TYPES = {
    "bool": "bool",
    **{n: f"np.{n}" for n in ("float16", "float32", "float64", "int32", "int64")},
    "bfloat16": "ml_dtypes.bfloat16",
}


def find(case: str) -> AnyTrial | None:
    """Return the trial with this id, if the suite has it."""
    return _by_id().get(case)


def trials() -> list[AnyTrial]:
    """Return every trial of the suite."""
    return list(_by_id().values())


@cache
def _by_id() -> dict[str, AnyTrial]:
    return {trial.id: trial for trial in Selection().trials()}


def judge(case: str, backend: Backend) -> str:
    """Judge a backend by one case, and say how it ended."""
    outcome = _by_id()[case].run(backend)
    return f"{outcome.status}: {outcome.message}" if outcome.message else str(outcome.status)


def given(case: str, backend: Backend) -> dict[str, Array]:
    """Draw the arrays of a case from its seed, as arrays of the backend and under its views."""
    trial = _by_id()[case]
    assert isinstance(trial, Trial)
    judgement = Judgement(trial, backend)
    drawn = judgement.native()
    if trial.part is Part.GRADIENTS:
        _, stored = judgement.stored()
        drawn |= {n: judgement.theirs(n, x) for n, x in stored.items()}
    return drawn


class _Name(str):
    """A name in a program: it prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def program(
    trial: AnyTrial, backend: Backend, named: str, outcome: Outcome, *, drawn: bool = False
) -> str:
    """Write the program that shows a failure.

    Args:
        trial: What failed: a trial of the suite, or one of a smaller call.
        backend: The backend that failed.
        named: How the command names it, `"small"` or `"small:backend"`.
        outcome: How the trial ended.
        drawn: The trial is none of the suite's: its arrays are written out, however many.
    """
    said = " ".join(f"{outcome.id}: {outcome.status}: {outcome.message}".split())
    head = "".join(f"# {line}\n" for line in textwrap.wrap(said, 96))
    lines = []
    if isinstance(trial, Trial):
        judgement = Judgement(trial, backend)
        inputs = _inputs(judgement)
        if drawn:
            lines += _viewed(judgement, inputs)
        elif is_written_out(trial, backend):
            lines += _literals(inputs, backend)
        else:
            lines += _drawn(outcome.id, inputs)
        lines += ["", f"result = attnref.{_call(judgement, inputs)}"]
        lines += _check(outcome.element, alone=_alone(judgement))
    if drawn and outcome.element is None:
        lines += ["print(result)"]
    elif outcome.element is None and outcome.status is not Status.CRASH:
        lines += [
            "",
            f"verdict = judge({outcome.id!r}, backend)",
            'assert verdict == "PASS", verdict',
        ]
    body = "\n".join(lines).strip() + "\n"
    return f"{head}{_imports(body, named)}\n\n{body}"


def is_written_out(trial: Trial, backend: Backend) -> bool:
    """Tell whether a program holds the arrays of a trial, number by number."""
    judgement = Judgement(trial, backend)
    small = sum(x.size for x in _inputs(judgement).values()) <= LITERAL
    return small and not judgement.call.views


def _inputs(judgement: Judgement) -> dict[str, np.ndarray]:
    """Return every array of a call by name, also those that a backward is given."""
    inputs = dict(judgement.call.values)
    if judgement.trial.part is Part.GRADIENTS:
        inputs |= judgement.stored()[1]
    return inputs


def _import(named: str) -> str:
    module, colon, attribute = named.partition(":")
    if not colon:
        return f"from attnref.registry import load\n\nbackend = load({named!r})"
    as_backend = "" if attribute == "backend" else " as backend"
    return f"from {module} import {attribute}{as_backend}"


def _imports(body: str, named: str) -> str:
    lines = ["import numpy as np"] if "np." in body or "array(" in body else []
    lines += ["import ml_dtypes"] if "ml_dtypes" in body else []
    lines += ["import attnref"] if "attnref." in body else []
    views = [name for name in ("cut", "permute", "stretch") if f"{name}(" in body]
    lines += [f"from attnref_conformance.case import {', '.join(views)}"] if views else []
    used = [name for name in ("given", "judge") if f"{name}(" in body]
    lines += [f"from attnref_conformance.replay import {', '.join(used)}"] if used else []
    return "\n".join([*lines, _import(named)])


def _literals(inputs: Mapping[str, np.ndarray], backend: Backend) -> list[str]:
    """Write arrays out, number by number."""
    return [f"{name} = {_literal(x, backend)}" for name, x in inputs.items()]


def _literal(x: np.ndarray, backend: Backend) -> str:
    written = f"np.array({_numbers(x)}, {_NUMPY_TYPES[arrays.dtype_name(x)]})"
    if 0 in x.shape:
        written = f"np.zeros({x.shape}, {_NUMPY_TYPES[arrays.dtype_name(x)]})"
    return written if backend.library in ("numpy", "any") else f"backend.from_numpy({written})"


def _viewed(judgement: Judgement, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Write arrays out as they lie in memory, under the views that are taken of them."""
    lines = []
    for name, x in inputs.items():
        base, view = judgement.call.inputs.get(name, x), judgement.call.views.get(name)
        if name not in judgement.call.inputs:
            base, view = _unviewed(x)
        try:
            if view is not None:
                view.take(judgement.backend.from_numpy(base.copy()))
        except (ValueError, TypeError, IndexError, AttributeError):
            base, view = x, None  # the library has no such view
        literal = _literal(base, judgement.backend)
        lines.append(f"{name} = {literal if view is None else f'{view.written}.take({literal})'}")
    return lines


def _unviewed(x: np.ndarray) -> tuple[np.ndarray, View | None]:
    """Find a dense array, and the view of it that an array is."""
    if x.size > 1 and not any(x.strides):
        return x[(slice(1),) * x.ndim], stretch(*x.shape)
    axes = arrays.memory_order(x)
    return (
        (x, None)
        if axes == tuple(range(x.ndim))
        else (x.transpose(axes), permute(*np.argsort(axes).tolist()))
    )


def _numbers(x: np.ndarray) -> str:
    if x.ndim == 0:
        return _number(x[()])
    if x.ndim == 1:
        return "[" + ", ".join(map(_number, x)) + "]"
    return "[" + ", ".join(map(_numbers, x)) + "]"


def _number(x: Any) -> str:
    """Write a number; NumPy's scalars print the shortest digits that mean them."""
    if np.isfinite(x):
        return str(x)
    return "np.nan" if np.isnan(x) else "np.inf" if x > 0 else "-np.inf"


def _drawn(case: str, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Draw arrays from the case's seed, and say what they are."""
    lines = [f"case = given({case!r}, backend)"]
    for name, x in inputs.items():
        taken = f'{name} = case["{name}"]'
        lines.append(f"{taken:<24}  # {arrays.dtype_name(x)} {x.shape}")
    return lines


def _call(judgement: Judgement, inputs: Mapping[str, np.ndarray]) -> str:
    """Write the call with its arguments by name."""
    call: Call = judgement.call
    positional, options = call.split({n: _Name(n) for n in call.values})
    function = call.function
    if judgement.trial.part is Part.GRADIENTS:
        stored = {n: _Name(n) for n in inputs if n not in call.values}
        positional, options = backward_arguments(function, positional, options, stored)
        function += "_backward"
    elif judgement.wants_lse:
        function += "_with_lse"
    said = [f"{n}={_option(x)}" for n, x in options.items()]
    return f"{function}({', '.join([*map(str, positional), *said, 'backend=backend'])})"


def _option(x: Any) -> str:
    return _number(x) if isinstance(x, float) else repr(x)


def _alone(judgement: Judgement) -> bool:
    """Tell whether the call returns one array and no named results."""
    if judgement.trial.part is Part.GRADIENTS:
        return judgement.call.function in ("softmax", "relative_position_bias")
    return not judgement.wants_lse and judgement.call.function != "merge"


def _check(element: Element | None, *, alone: bool) -> list[str]:
    """Compare the element that is furthest off."""
    if element is None:
        return []
    at = ", ".join(map(str, element.at)) or "()"
    array = "result" if alone else f"result.{element.array}"
    said = f"must be {element.expected}"
    if element.error == "not a number":
        check = {
            "nan": "not np.isfinite(got)",
            "inf": "not np.isfinite(got)",
            "-inf": "got == -np.inf",
        }.get(element.expected, "np.isfinite(got)")
    else:
        said += f" within {element.limit}"
        check = f"abs(got - {element.expected}) <= {element.limit}".replace("- -", "+ ")
    return [
        f"got = float(backend.to_numpy({array})[{at}])",
        f'print("{element.array}[{at}] is", got, "and {said}")',
        f"assert {check}",
    ]
