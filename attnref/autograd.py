"""Makes every backend differentiable for torch tensors.

A backend has a forward and a backward; torch has a tape. This module writes the one on
the other. It is loaded when the first tensor that requires grad arrives, and not before.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

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
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, dout: Any, dlse: Any = None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        problem = ctx.problem.with_arrays(dict(zip(ctx.kept, saved, strict=False)))
        result = Result(*saved[len(ctx.kept) :])
        if dout is None and dlse is None:
            return (None,) * (3 + len(ctx.names))
        if dout is None:
            dout = torch.zeros_like(result.out)
        gradients = ctx.chosen.backward(problem, result, dout, dlse)._asdict()
        return (None, None, None, *(gradients[f"d{name}"] for name in ctx.names))
