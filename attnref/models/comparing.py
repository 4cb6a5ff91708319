"""Where two backends part inside a model: at which layer, in which head, and whose fault it is.

Two runs of a model differ a little everywhere, because every layer reads what the layers
before it have rounded. So each call of attention is judged by itself: both backends get the
very inputs that it had in the first run, and their difference is held to the judge's limits
(`docs/error-bounds.md`), one for each of them. Beside it stands how far the two runs have
drifted apart by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float

from attnref import arrays, dispatch, registry
from attnref.arrays import Array
from attnref.backend import Backend, Reason
from attnref.errors import InvalidProblem
from attnref.models.configurations import Config
from attnref.models.forward import forward
from attnref.models.parameters import Parameters
from attnref.problem import Problem, Result, WindowProblem

BAR = 24
"""Characters of the longest bar; each stands for half a power of ten."""


@dataclass(frozen=True)
class Call:
    """One call inside a model, on two backends.

    Attributes:
        layer: Counts calls of attention from zero.
        operation: What was called, e.g. `"window_attention"`.
        apart: Per head, the largest difference of the two on the same inputs.
        excess: Per head, the largest difference divided by its limit; above one they part.
        off: For each backend, its largest error divided by its own limit.
        drift: Per head, the largest difference of the two runs.
    """

    layer: int
    operation: str
    apart: Float[np.ndarray, " H"]
    excess: Float[np.ndarray, " H"]
    off: tuple[float, float]
    drift: Float[np.ndarray, " H"]

    @property
    def head(self) -> int:
        """The first head that is past its limit; else the one that is nearest to it."""
        past = np.flatnonzero(self.excess > 1)
        return int(past[0] if past.size else self.excess.argmax())

    @property
    def parts(self) -> bool:
        """Tell whether some head is past its limit."""
        return bool((self.excess > 1).any())


@dataclass(frozen=True)
class Comparison:
    """A model on two backends.

    Attributes:
        model: What ran, in one line.
        backends: Their names.
        calls: Every call, in order.
        output: The largest difference of what the model returned.
    """

    model: str
    backends: tuple[str, str]
    calls: tuple[Call, ...]
    output: float

    @property
    def first(self) -> Call | None:
        """The first call at which the backends part by more than the judge's limit."""
        return next((call for call in self.calls if call.parts), None)

    def __str__(self) -> str:
        """Return a page: the verdict, a line for every call, and a plot of the drift."""
        a, b = self.backends
        lines = [f"{self.model} on {a} and {b}: {self._verdict()}", ""]
        lines.append("layer  call                    head  apart    of limit  drift")
        for call in self.calls:
            drift = float(call.drift.max(initial=0.0))
            lines.append(
                f"{call.layer:>5}  {call.operation:<22}  {call.head:>4}  "
                f"{call.apart[call.head]:<7.1e}  {call.excess[call.head]:>8.2g}  "
                f"{drift:<7.1e}  {_bar(drift)}{' <- parts' if call.parts else ''}".rstrip()
            )
        lines.append(f"output{'':<40} {self.output:.1e}  {_bar(self.output)}".rstrip())
        return "\n".join(lines)

    def _verdict(self) -> str:
        if not self.calls:
            return "it calls no attention."
        if self.first is None:
            worst = max(float(call.excess.max(initial=0.0)) for call in self.calls)
            return f"no call is past its limit, the nearest at {worst:.2g} of it."
        blame = [
            f"{name} is at {off:.2g} of its own"
            for name, off in zip(self.backends, self.first.off, strict=True)
        ]
        return (
            f"they part at layer {self.first.layer}, head {self.first.head}, in "
            f"{self.first.operation}: {' and '.join(blame)}."
        )


def compare(
    config: Config,
    parameters: Parameters,
    inputs: Array,
    a: str | Backend,
    b: str | Backend,
) -> Comparison:
    """Run a model on two backends, and find where they part.

    Args:
        config: The model.
        parameters: As `shapes(config)` lists them.
        inputs: As `forward` takes them.
        a: The first backend, by name or as an object; every call is judged on its inputs.
        b: The second.

    Returns:
        A `Comparison`; printed, it is a page with a plot, and `first` is the call.

    Raises:
        UnsupportedError: One of the backends cannot run the model's calls.
        InvalidProblem: What stands for a backend is none, or as in `forward`.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ViTConfig, compare, initialise
        >>> config = ViTConfig(image=(8, 8), patch=4, width=8, layers=2, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> image = np.ones((1, 8, 8, 3), np.float32)
        >>> print(compare(config, parameters, image, "numpy", "reference"))
        ViT on numpy and reference: no call is past its limit, the nearest at ... of it.
        ...
    """
    recorders = (_Recorder(a), _Recorder(b))
    outputs = [
        arrays.to_numpy(forward(config, parameters, inputs, backend=recorder))
        for recorder in recorders
    ]
    first, second = (recorder.taken() for recorder in recorders)
    calls = tuple(
        _judged(layer, problem, out, other, (a, b))
        for layer, ((problem, out), (_, other)) in enumerate(zip(first, second, strict=True))
    )
    name = type(config).__name__.removesuffix("Config")
    names = (recorders[0].name, recorders[1].name)
    return Comparison(name, names, calls, _largest(outputs[0], outputs[1]))


class _Recorder:
    """A backend that has another one run every problem, and keeps both problem and answer."""

    library = "any"

    def __init__(self, backend: str | Backend) -> None:
        found = dispatch.asked_for(backend)
        if found is None:
            raise InvalidProblem("a backend is None; two are compared.", hint='"numpy", "torch"')
        self._backend = found
        self.name = self._backend.name
        self._calls: list[tuple[Problem, Array]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def available(self) -> Sequence[Reason]:
        return ()

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        return dispatch.against(self._backend, problem, named=True)

    def forward(self, problem: Problem) -> Result:
        result = dispatch.choose(problem, requested=self._backend).forward_only(problem)
        self._calls.append((problem, result.out))
        return result

    def taken(self) -> list[tuple[Problem, Array]]:
        """Return what was recorded and forget it: whoever caches this object caches no array."""
        calls, self._calls = self._calls, []
        return calls


def _judged(
    layer: int,
    problem: Problem,
    out: Array,
    other: Array,
    backends: tuple[str | Backend, str | Backend],
) -> Call:
    """Hold both backends' answers to one problem to the exact one."""
    again = dispatch.choose(problem, requested=backends[1]).forward_only(problem).out
    found = [arrays.to_numpy(x).astype(np.float64) for x in (out, again)]
    exact, limits = _limits(problem, backends)
    apart = np.abs(found[0] - found[1])
    drift = np.abs(found[0] - arrays.to_numpy(other))
    per_head = [_by_head(problem, x) for x in (apart, _share(apart, limits[0] + limits[1]), drift)]
    off = [
        float(_share(np.abs(x - exact), limit).max(initial=0.0))
        for x, limit in zip(found, limits, strict=True)
    ]
    return Call(layer, problem.operation, per_head[0], per_head[1], (off[0], off[1]), per_head[2])


def _limits(
    problem: Problem, backends: tuple[str | Backend, str | Backend]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ask the judge what is exact, and how far each backend may be from it."""
    oracle = import_module("attnref_conformance.oracle")
    profiles = import_module("attnref_conformance.profiles")
    limits = []
    for backend in backends:
        loaded = registry.load(backend) if isinstance(backend, str) else backend
        profile = getattr(loaded, "profile", profiles.DEFAULT)
        _, expected = oracle.forward(problem, profiles.arithmetic(profile, problem.dtype))
        limits.append(expected["out"].bound)
    return expected["out"].value, limits


def _share(difference: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Divide by the limit; no limit is no permission, and NaN is past any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(difference == 0, 0.0, difference / limit)
    return np.where(np.isnan(share), np.inf, share)


def _by_head(problem: Problem, x: np.ndarray) -> Float[np.ndarray, " H"]:
    """Return the largest number of every head; heads come last but one on maps, else second."""
    axis = x.ndim - 2 if isinstance(problem, WindowProblem) else 1
    return np.moveaxis(x, axis, -1).max(axis=tuple(range(x.ndim - 1)), initial=0.0)


def _largest(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x.astype(np.float64) - y).max(initial=0.0))


def _bar(x: float) -> str:
    """Draw a difference: nothing below 1e-12, full from 1 on."""
    length = 0 if x == 0 else 2 * (12 + np.log10(x))
    return "#" * int(np.clip(np.nan_to_num(length, nan=BAR), 0, BAR))
