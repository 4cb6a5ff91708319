"""One frozen description of one call.

Raw arguments end in `attnref.normalize`. What comes out is a problem: every default is
resolved, every array checked, every derived fact a property, so that no backend works
out a default again. What comes back is in `attnref.results`, and found here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, Self

from attnref import arrays
from attnref.arrays import Array
from attnref.results import (
    AttentionGradients,
    Gradients,
    MergeGradients,
    Result,
    SoftmaxGradients,
    TableGradients,
    WindowGradients,
)

__all__ = [
    "AnyProblem",
    "AttentionGradients",
    "AttentionProblem",
    "Gradients",
    "MergeGradients",
    "MergeProblem",
    "Problem",
    "Result",
    "Sizes",
    "SoftmaxGradients",
    "SoftmaxProblem",
    "TableGradients",
    "TableProblem",
    "VarlenProblem",
    "Window",
    "WindowGradients",
    "WindowProblem",
    "split_qkv",
]

Window = tuple[int | None, int | None]
"""How many keys to the left and to the right a query sees; `None` is unbounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What all problems share.

    Attributes:
        with_lse: The caller will read the log-sum-exp.
        with_gradients: The caller will ask for gradients, so a backend without
            `backward` must refuse.
    """

    operation: ClassVar[str]
    main: ClassVar[str]
    """The array that dtype, device and memory order are taken from."""
    differentiable: ClassVar[tuple[str, ...]]

    with_lse: bool = True
    with_gradients: bool = False

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays of the call by name, without the absent ones."""
        named = {name: getattr(self, name) for name in self._names()}
        return {n: x for n, x in named.items() if arrays.library(x) is not None}

    @property
    def library(self) -> str:
        """The array library, e.g. `"numpy"`."""
        return arrays.library(getattr(self, self.main)) or ""

    @property
    def dtype(self) -> str:
        """The dtype of the main array, e.g. `"float16"`."""
        return arrays.dtype_name(getattr(self, self.main))

    @property
    def device(self) -> str:
        """The device of all arrays, e.g. `"cuda:0"`."""
        return arrays.device(getattr(self, self.main))

    @property
    def lse_dtype(self) -> str:
        """The dtype of the log-sum-exp (A3)."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def features(self) -> frozenset[str]:
        """The optional parts of the specification that this call uses.

        A backend compares them with what it understands and refuses the rest, so that
        an option it has never heard of is not ignored (H2).
        """
        gradients = {"gradients"} if self.with_gradients else set()
        return frozenset(self._features() | gradients)

    def _features(self) -> set[str]:
        return set()

    @classmethod
    @cache
    def _names(cls) -> dict[str, None]:
        return dict.fromkeys(f.name for f in fields(cls))

    def with_arrays(self, named: Mapping[str, Array]) -> Self:
        """Return the same problem about other arrays."""
        return self.but(named)

    def but(self, changed: Mapping[str, Any]) -> Self:
        """Return a copy with some fields changed, in less time than `dataclasses.replace` takes."""
        names = self._names()
        if not changed.keys() <= names.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(changed.keys() - names)}")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changed)
        return copy

    def __str__(self) -> str:
        """Describe the call in one line: arrays first, then what it asks for."""
        x = getattr(self, self.main)
        shape = tuple(x.shape)
        # To look back and never ahead is a window like any other, and has a name.
        causal = getattr(self, "window", None) == (None, 0)
        named = {"causal" if causal and n == "window" else n for n in self.features}
        asks = "".join(f", {name}" for name in sorted(named))
        return f"{self.operation}: {self.main} {self.dtype} {shape} {self.device}{asks}"


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionProblem(Problem):
    """A call of `attention`.

    Attributes:
        q: `(B, Hq, Sq, D)`.
        k: `(B, Hkv, Sk, D)`.
        v: `(B, Hkv, Sk, Dv)`.
        scale: Multiplies the accumulated score.
        window: Inclusive bounds; causality is already in the right one.
        q_offset: The position of the first query on the key axis; `"end"` only where
            lengths make it differ by batch entry, and see `offset`.
        mask: Bool, broadcasts to `(B, Hq, Sq, Sk)`; `True` is visible.
        bias: Broadcasts to `(B, Hq, Sq, Sk)`.
        softcap: Bound of the scores.
        sinks: `(Hq,)`.
        q_lens: `(B,)`.
        kv_lens: `(B,)`.
    """

    operation: ClassVar[str] = "attention"
    main: ClassVar[str] = "q"
    differentiable: ClassVar[tuple[str, ...]] = ("q", "k", "v", "bias", "sinks")

    q: Array
    k: Array
    v: Array
    scale: float
    window: Window = (None, None)
    q_offset: int | Array | Literal["end"] = 0
    mask: Array | None = None
    bias: Array | None = None
    softcap: float | None = None
    sinks: Array | None = None
    q_lens: Array | None = None
    kv_lens: Array | None = None

    @property
    def sizes(self) -> "Sizes":
        """The letters of the notation."""
        B, Hq, Sq, D = self.q.shape
        _, Hkv, Sk, Dv = self.v.shape
        return Sizes(B, Hq, Hkv, Sq, Sk, D, Dv)

    @property
    def offset(self) -> int | Array:
        """The position of the first query: a number, or a `(B,)` array."""
        if isinstance(self.q_offset, str):
            s = self.sizes
            keys = s.Sk if self.kv_lens is None else self.kv_lens
            queries = s.Sq if self.q_lens is None else self.q_lens
            return keys - queries
        return self.q_offset

    def _features(self) -> set[str]:
        s = self.sizes
        given = {
            "mask": self.mask is not None,
            "bias": self.bias is not None,
            "softcap": self.softcap is not None,
            "sinks": self.sinks is not None,
            "q_lens": self.q_lens is not None,
            "kv_lens": self.kv_lens is not None,
            "window": self.window != (None, None),
            "q_offset": not isinstance(self.q_offset, int),
            "grouped heads": s.Hq != s.Hkv,
        }
        return {name for name, used in given.items() if used}


class Sizes(NamedTuple):
    """The letters of one attention problem."""

    B: int
    Hq: int
    Hkv: int
    Sq: int
    Sk: int
    D: int
    Dv: int


@dataclass(frozen=True, kw_only=True, eq=False)
class VarlenProblem(Problem):
    """A call of `attention_varlen`: sequences packed end to end.

    Attributes:
        q: `(Tq, Hq, D)`.
        k: `(Tk, Hkv, D)`.
        v: `(Tk, Hkv, Dv)`.
        cu_q: `(n + 1,)` prefix sums of the query lengths.
        cu_k: `(n + 1,)` prefix sums of the key lengths.
        scale: Multiplies the accumulated score.
        window: Inclusive bounds within a sequence.
        q_offset: As in `attention`; an array holds one per sequence.
        softcap: Bound of the scores.
        sinks: `(Hq,)`.
        max_q: No sequence has more queries; a hint, `None` if not given.
        max_k: No sequence has more keys; a hint, `None` if not given.
    """

    operation: ClassVar[str] = "attention_varlen"
    main: ClassVar[str] = "q"
    differentiable: ClassVar[tuple[str, ...]] = ("q", "k", "v", "sinks")

    q: Array
    k: Array
    v: Array
    cu_q: Array
    cu_k: Array
    scale: float
    window: Window = (None, None)
    q_offset: int | Array | Literal["end"] = 0
    softcap: float | None = None
    sinks: Array | None = None
    max_q: int | None = None
    max_k: int | None = None

    @property
    def offset(self) -> int | Array:
        """The position of each sequence's first query: a number, or an `(n,)` array."""
        if isinstance(self.q_offset, str):
            lens_q = self.cu_q[1:] - self.cu_q[:-1]
            return self.cu_k[1:] - self.cu_k[:-1] - lens_q
        return self.q_offset

    def _features(self) -> set[str]:
        given = {
            "softcap": self.softcap is not None,
            "sinks": self.sinks is not None,
            "window": self.window != (None, None),
            "q_offset": not isinstance(self.q_offset, int),
            "grouped heads": self.q.shape[1] != self.k.shape[1],
        }
        return {name for name, used in given.items() if used}


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowProblem(Problem):
    """A call of `window_attention` or `window_attention_qkv`.

    Attributes:
        q: `(B, *G, H, D)`.
        k: `(B, *G, H, D)`.
        v: `(B, *G, H, Dv)`.
        window: Extent per axis, `len(G)` numbers.
        shift: Effective shift per axis: zero where one window covers the axis.
        scale: A number, or one per head `(H,)`, which then has a gradient.
        bias: `(H, N, N)`.
        key_mask: Bool `(B, *G)`; `True` may be seen.
        wrap_bias: Added to wrapped pairs; minus infinity hides them.
        qkv: `(B, *G, 3, H, D)` if q, k and v are its views; the gradient is then one
            array of this shape.
    """

    operation: ClassVar[str] = "window_attention"
    main: ClassVar[str] = "q"

    q: Array
    k: Array
    v: Array
    window: tuple[int, ...]
    shift: tuple[int, ...]
    scale: float | Array
    bias: Array | None = None
    key_mask: Array | None = None
    wrap_bias: float = float("-inf")
    qkv: Array | None = None

    @property
    def differentiable(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inputs that have a gradient: the packed projection, or its parts."""
        parts = ("q", "k", "v") if self.qkv is None else ("qkv",)
        return (*parts, "bias", "scale")

    @property
    def scale_per_head(self) -> bool:
        """Whether the scale is an array `(H,)`."""
        return arrays.library(self.scale) is not None

    @property
    def extents(self) -> tuple[int, ...]:
        """The spatial extents of the map."""
        return tuple(self.q.shape[1:-2])

    def with_arrays(self, named: Mapping[str, Array]) -> Self:
        """Return the same problem about other arrays; views follow their projection."""
        qkv = named.get("qkv")
        views = {} if qkv is None else split_qkv(qkv)
        return self.but({**named, **views})

    def _features(self) -> set[str]:
        given = {
            "bias": self.bias is not None,
            "key_mask": self.key_mask is not None,
            "shift": any(self.shift),
            "wrap_bias": any(self.shift) and self.wrap_bias != float("-inf"),
            "scale per head": self.scale_per_head,
            "qkv": self.qkv is not None,
            f"{len(self.window)}-D": True,
        }
        return {name for name, used in given.items() if used}


def split_qkv(qkv: Array) -> dict[str, Array]:
    """Take the three views of a packed projection `(B, *G, 3, H, D)`."""
    return {name: qkv[..., at, :, :] for at, name in enumerate(("q", "k", "v"))}


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftmaxProblem(Problem):
    """A call of `softmax`: `x` of any shape, along `axis`, counted from the front."""

    operation: ClassVar[str] = "softmax"
    main: ClassVar[str] = "x"
    differentiable: ClassVar[tuple[str, ...]] = ("x",)

    x: Array
    axis: int
    tile: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class MergeProblem(Problem):
    """A call of `merge`: two finished parts, `(..., Dv)` with `(...)`."""

    operation: ClassVar[str] = "merge"
    main: ClassVar[str] = "out_a"
    differentiable: ClassVar[tuple[str, ...]] = ("out_a", "lse_a", "out_b", "lse_b")

    out_a: Array
    lse_a: Array
    out_b: Array
    lse_b: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class TableProblem(Problem):
    """A call of `relative_position_bias`: `table (prod(2 w - 1), H)`."""

    operation: ClassVar[str] = "relative_position_bias"
    main: ClassVar[str] = "table"
    differentiable: ClassVar[tuple[str, ...]] = ("table",)

    table: Array
    window: tuple[int, ...]


AnyProblem = Any
"""Any of the problems above, where a function takes them all."""
