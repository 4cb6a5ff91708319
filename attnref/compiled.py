"""Lets `torch.compile` pass through attnref without looking inside.

While torch traces a program, every public function becomes one operator, which takes
the call as plain data: the tensors, the numbers, and a text that says where they go. The
numbers stay apart from the text because a shape may be symbolic, and so may an integer
that a caller computes from it; a fraction computed so is fixed, and another value of it
compiles again. When the compiled program runs, the operator makes the call anew and takes
the ordinary way: normalise and choose, or remember both, and run. Eager calls never come here.
"""

from ast import literal_eval
from collections.abc import Sequence
from functools import lru_cache
from inspect import Parameter
from math import prod
from typing import Any, NamedTuple

import torch

import attnref
from attnref import arrays, dispatch, known
from attnref.problem import Problem, Result, split_qkv

DIFFERENTIABLE = frozenset(
    {
        "q",
        "k",
        "v",
        "qkv",
        "bias",
        "sinks",
        "scale",
        "x",
        "table",
        "out_a",
        "lse_a",
        "out_b",
        "lse_b",
    }
)
"""Every input that has a gradient in some function."""

_PAIR = ("merge", "with_lse")
"""How the names of the functions end that return `(out, lse)`."""


def call(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make a public function's call one node of the program being traced.

    Raises:
        TypeError: The function or an argument cannot be written down as plain data.
    """
    if name.endswith("_backward"):
        raise TypeError(
            f"attnref.{name} cannot be compiled; compile the forward call and let torch "
            "differentiate it"
        )
    tensors: list[torch.Tensor] = []
    whole: list[int] = []
    real: list[float] = []
    given = [_written(x, tensors, whole, real) for x in args]
    named = {n: _written(x, tensors, whole, real) for n, x in options.items()}
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    text = repr((name, gradients, tuple(given), tuple(named.items())))
    results = torch.ops.attnref.forward(text, tensors, whole, real)
    if name.endswith(_PAIR):
        return Result(results[0], results[1])
    return results[0]


_Written = tuple[str, Any]
"""What kind of argument, and which one of the list of its kind, or the constant itself."""


def _written(x: Any, tensors: list[torch.Tensor], whole: list[int], real: list[float]) -> _Written:
    """Write an argument as plain data, and put what is no constant into the lists.

    A tensor that is given twice is listed once, because `cu_k is cu_q` means something.
    """
    if isinstance(x, torch.Tensor):
        for at, known in enumerate(tensors):
            if known is x:
                return "tensor", at
        tensors.append(x)
        return "tensor", len(tensors) - 1
    if x is None or isinstance(x, bool | str):
        return "constant", x
    if isinstance(x, int):
        whole.append(x)
        return "whole", len(whole) - 1
    if isinstance(x, float):
        real.append(x)
        return "real", len(real) - 1
    if isinstance(x, tuple | list):
        return "tuple", tuple([_written(each, tensors, whole, real) for each in x])
    raise TypeError(
        f"{type(x).__name__} cannot be an argument under torch.compile; tensors, numbers, "
        "names of backends and tuples of them can"
    )


class _Text(NamedTuple):
    """What the text of a call says.

    Attributes:
        name: Of the public function.
        gradients: Whether they are wanted.
        given: What the function takes by position, as it was written.
        named: What it takes by name, likewise.
        everything: Both, by name.
        places: Which of the tensors the differentiable ones are.
    """

    name: str
    gradients: bool
    given: tuple[_Written, ...]
    named: dict[str, _Written]
    everything: dict[str, _Written]
    places: dict[str, int]


@lru_cache(maxsize=4096)
def _read(text: str) -> _Text:
    """Read a text, once."""
    name, gradients, given, named = literal_eval(text)
    parameters = getattr(attnref, name).__signature__.parameters.values()
    positional = [p.name for p in parameters if p.kind is not Parameter.KEYWORD_ONLY]
    everything = {**dict(zip(positional, given, strict=True)), **dict(named)}
    places = {
        n: at for n, (kind, at) in everything.items() if kind == "tensor" and n in DIFFERENTIABLE
    }
    return _Text(name, gradients, given, dict(named), everything, places)


class _Made:
    """A call made anew from what an operator was given."""

    def __init__(
        self,
        text: str,
        tensors: Sequence[Any],
        whole: Sequence[int],
        real: Sequence[float],
    ) -> None:
        self._listed = {"tensor": tensors, "whole": whole, "real": real}
        self._said = said = _read(text)
        self.name, self.gradients, self.places = said.name, said.gradients, said.places

    @property
    def values(self) -> dict[str, Any]:
        """Every argument by name."""
        return {n: self._read(x) for n, x in self._said.everything.items()}

    def _read(self, written: _Written) -> Any:
        kind, x = written
        if kind == "tuple":
            return tuple(self._read(each) for each in x)
        return x if kind == "constant" else self._listed[kind][x]

    @property
    def results(self) -> int:
        """How many tensors the forward pass returns: gradients need the log-sum-exp."""
        plain = self.name in ("softmax", "relative_position_bias")
        return 1 + (self.name.endswith(_PAIR) or (self.gradients and not plain))

    def chosen(self) -> tuple[dispatch.Chosen, Problem]:
        """Normalise and choose, or remember both, as the public function would."""
        named = {n: self._read(x) for n, x in self._said.named.items()}
        backend = named.pop("backend", None)
        given = tuple([self._read(x) for x in self._said.given])
        describe = getattr(attnref, self.name).describe
        problem, chosen = known.resolve(describe, backend, given, named)
        with_lse = self.results > 1
        return chosen, problem.but({"with_lse": with_lse, "with_gradients": self.gradients})


_CALL = "str call, Tensor[] tensors, SymInt[] whole, float[] real"

_operators = torch.library.Library("attnref", "DEF")
_RESULTS = "Tensor[] results, Tensor dout, Tensor? dlse"
for _said in (f"forward({_CALL})", f"backward({_CALL}, {_RESULTS})"):
    _operators.define(f"{_said} -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,))


@torch.library.impl(_operators, "forward", "CompositeExplicitAutograd")
def forward(
    call: str, tensors: list[torch.Tensor], whole: list[int], real: list[float]
) -> list[torch.Tensor]:
    """Run a call."""
    made = _Made(call, tensors, whole, real)
    chosen, problem = made.chosen()
    with torch.no_grad():
        out, lse = chosen.forward_only(problem)
    return [out, lse][: made.results]


@torch.library.impl(_operators, "backward", "CompositeExplicitAutograd")
def backward(
    call: str,
    tensors: list[torch.Tensor],
    whole: list[int],
    real: list[float],
    results: list[torch.Tensor],
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Pass gradients back through a call, to each of its differentiable tensors."""
    made = _Made(call, tensors, whole, real)
    chosen, problem = made.chosen()
    with torch.no_grad():
        gradients = chosen.backward(problem, Result(*results), dout, dlse)
    return [getattr(gradients, f"d{name}") for name in made.places]


@torch.library.register_fake("attnref::forward")
def _forward_shapes(
    call: str, tensors: list[torch.Tensor], whole: list[int], real: list[float]
) -> list[torch.Tensor]:
    made = _Made(call, tensors, whole, real)
    given = made.values
    main = next(iter(given.values()))
    if made.name == "relative_position_bias":
        N = prod(given["window"])
        return [main.new_empty((main.shape[1], N, N))]
    if "qkv" in given:
        given = split_qkv(main)
        main = given["q"]
    last = given.get("v", main).shape[-1]
    out = _empty((*main.shape[:-1], last), main)
    if made.results == 1:
        return [out]
    rows = tuple(main.shape[:-1])
    rows = rows[::-1] if "cu_q" in given else rows
    wide = torch.float64 if main.dtype is torch.float64 else torch.float32
    return [out, main.new_empty(rows, dtype=wide)]


@torch.library.register_fake("attnref::backward")
def _backward_shapes(
    call: str,
    tensors: list[torch.Tensor],
    whole: list[int],
    real: list[float],
    results: list[torch.Tensor],  # noqa: ARG001
    dout: torch.Tensor,  # noqa: ARG001
    dlse: torch.Tensor | None,  # noqa: ARG001
) -> list[torch.Tensor]:
    made = _Made(call, tensors, whole, real)
    inputs = (tensors[at] for at in made.places.values())
    return [_empty(tuple(x.shape), x) for x in inputs]


def _empty(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Make an empty tensor in the memory order of another (A1)."""
    order = arrays.memory_order(like)
    back = sorted(range(len(order)), key=order.__getitem__)
    return like.new_empty([shape[a] for a in order]).permute(back)


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    ctx.text, tensors, ctx.whole, ctx.real = inputs
    ctx.count = len(tensors)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, cotangents: list[torch.Tensor | None]) -> tuple[Any, ...]:
    """Call the backward operator; a tensor in several places gets what all say."""
    tensors = list(ctx.saved_tensors[: ctx.count])
    results = list(ctx.saved_tensors[ctx.count :])
    made = _Made(ctx.text, tensors, ctx.whole, ctx.real)
    dout, dlse = (*cotangents, None)[:2]
    if dout is None:
        dout = torch.zeros_like(results[0])
    said = torch.ops.attnref.backward(ctx.text, tensors, ctx.whole, ctx.real, results, dout, dlse)
    totals: list[torch.Tensor | None] = [None] * ctx.count
    for at, gradient in zip(made.places.values(), said, strict=True):
        known = totals[at]
        totals[at] = gradient if known is None else known + gradient
    # Torch takes an empty list for a list of tensors, and wants one back.
    return None, totals, None if ctx.whole else [], None if ctx.real else []


def _refuse(*_: Any) -> Any:
    raise RuntimeError("attnref defines no second derivatives")


torch.library.register_autograd("attnref::forward", _differentiate, setup_context=_save)
torch.library.register_autograd("attnref::backward", _refuse)
