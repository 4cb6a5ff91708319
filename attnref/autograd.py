"""Makes every backend differentiable for torch tensors.

A backend has a forward and a backward; torch has a tape. This module writes the one on
the other. It is loaded when the first tensor that requires grad arrives, and not before.
"""

from typing import Any

import torch

from attnref.dispatch import Chosen
from attnref.problem import Problem, Result


def forward(chosen: Chosen, problem: Problem) -> Result:
    """Run a problem so that torch can differentiate its result.

    Gradients reach every differentiable input, through `out` and through `lse`. Second
    derivatives are not defined and raise.
    """
    tensors = problem.arrays
    names = tuple(name for name in problem.differentiable if name in tensors)
    results = _Call.apply(chosen, problem, names, *(tensors[n] for n in names))
    return Result(*results)


class _Call(torch.autograd.Function):
    """One execution on the tape.

    The problem goes into the context without its tensors, which torch saves itself: it
    frees them in time and notices when one was changed in place.
    """

    @staticmethod
    def forward(
        ctx: Any, chosen: Chosen, problem: Problem, names: tuple[str, ...], *_: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        result = chosen.forward_only(problem)
        kept = problem.arrays
        ctx.chosen, ctx.names = chosen, names
        ctx.problem = problem.with_arrays(dict.fromkeys(kept))
        ctx.kept = tuple(kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept.values(), *result)
        return tuple(result)

    @staticmethod
    def backward(ctx: Any, dout: Any, dlse: Any = None) -> tuple[Any, ...]:
        if dout is None and dlse is None:
            return (None,) * (3 + len(ctx.names))
        call = (ctx.chosen, ctx.problem, ctx.names, ctx.kept, dout, dlse, *ctx.saved_tensors)
        taped = torch.is_grad_enabled()  # by `create_graph=True`
        return (None, None, None, *(_Gradients.apply(*call) if taped else gradients(*call)))


def gradients(
    chosen: Chosen,
    problem: Problem,
    names: tuple[str, ...],
    kept: tuple[str, ...],
    dout: torch.Tensor | None,
    dlse: torch.Tensor | None,
    *saved: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Pass gradients back to the named inputs, from what the tape saved."""
    problem = problem.with_arrays(dict(zip(kept, saved, strict=False)))
    result = Result(*saved[len(kept) :])
    dout = torch.zeros_like(result.out) if dout is None else dout
    made = chosen.backward(problem, result, dout, dlse)
    return tuple([getattr(made, f"d{name}") for name in names])


class _Gradients(torch.autograd.Function):
    """One backward pass, itself on the tape, where it refuses to be differentiated.

    Without it a gradient taken with `create_graph=True` would count as a constant, and a
    penalty on it would train nothing, in silence.
    """

    @staticmethod
    def forward(ctx: Any, *call: Any) -> tuple[torch.Tensor, ...]:  # noqa: ARG004  # torch's
        return gradients(*call)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:  # noqa: ARG004
        raise RuntimeError("attnref defines no second derivatives")
