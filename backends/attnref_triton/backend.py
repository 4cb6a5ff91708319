"""What attnref asks of a backend, answered; the work is in `operations`."""

from collections.abc import Sequence
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from attnref.backend import Reason, not_understood, refuse
from attnref.problem import (
    AttentionProblem,
    Gradients,
    Problem,
    Result,
    TableProblem,
    VarlenProblem,
    WindowProblem,
)

if TYPE_CHECKING:
    import torch

_SCORES = frozenset({"softcap", "sinks", "window", "q_offset", "grouped heads"})
_GRADIENTS = frozenset({"gradients"})

UNDERSTOOD = {
    "attention": _GRADIENTS | _SCORES | {"mask", "bias", "q_lens", "kv_lens"},
    "attention_varlen": _GRADIENTS | _SCORES,
    "window_attention": _GRADIENTS
    | {"bias", "key_mask", "shift", "wrap_bias", "scale per head", "qkv", "1-D", "2-D", "3-D"},
    "relative_position_bias": _GRADIENTS,
    "softmax": _GRADIENTS,
    "merge": _GRADIENTS,
}
"""Operation to the features of it that are implemented; the rest is refused (H2)."""

WIDEST = 256
"""Columns of a head: beyond it the tiles of a program do not fit into shared memory."""

MOST = 2**30
"""Tokens of an axis, so that positions fit into 32 bits inside a tile."""

WINDOW = 2**14
"""Tokens of a window, so that its pairs are counted in 32 bits."""

OLDEST = (8, 0)
"""The first capability with the matrix products and asynchronous copies that kernels use."""

DTYPES = ("float16", "bfloat16", "float32")


class TritonBackend:
    """Fused kernels on CUDA tensors, or on CPU tensors in Triton's interpreter.

    Weights and dS are rounded to a half input dtype before their product. Results are
    the same bits every time, but for `dq` on the Hopper path (`deterministic`).

    Args:
        precision: Of products of float32: `"ieee"`, or `"tf32"` to have their factors
            rounded to ten bits and the products run on tensor cores.
        hopper: Whether calls that can take the Hopper path do (`attnref_triton.hopper`).
    """

    name = "triton"
    library = "torch"

    def __init__(self, precision: str = "ieee", *, hopper: bool = True) -> None:
        if precision not in ("ieee", "tf32"):
            raise ValueError(f"precision is 'ieee' or 'tf32', not {precision!r}")
        self.precision = precision
        self.hopper = hopper
        self.profile = "half-weights" if precision == "ieee" else "tf32"

    @property
    def deterministic(self) -> bool:
        """Whether the same call gives the same bits: not where `dq` is added up as it comes.

        That is the Hopper path's way, which `torch.use_deterministic_algorithms` closes.
        """
        if not self.hopper or self.available() or interpreted():
            return True
        import torch

        devices = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
        on_path = any(major == 9 for major, _ in devices)
        return torch.are_deterministic_algorithms_enabled() or not on_path

    def available(self) -> Sequence[Reason]:
        """Look for Triton, torch, and a GPU that is new enough."""
        for package in ("torch", "triton"):
            if find_spec(package) is None:
                missing = f"{package} is not installed: pip install attnref[triton]"
                return [Reason("not-installed", missing)]
        import torch

        if interpreted():
            return []
        if not torch.cuda.is_available():
            absent = (
                "torch sees no CUDA device; with TRITON_INTERPRET=1 in the environment, Triton's "
                "interpreter runs small calls on the CPU"
            )
            return [Reason("no-device", absent)]
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse unknown features, other devices, and what tiles do not hold."""
        reasons = not_understood(problem, UNDERSTOOD)
        if reasons:
            return reasons
        dtypes = self._dtypes()
        if problem.dtype not in dtypes:
            reasons.append(Reason("dtype", _about_dtype(problem.dtype), problem.main, dtypes))
        reasons += _about_device(problem.device)
        match problem:
            case AttentionProblem():
                tokens = {"q": problem.sizes.Sq, "k": problem.sizes.Sk}
                columns = {"D": problem.sizes.D, "Dv": problem.sizes.Dv}
            case VarlenProblem():
                tokens = {"q": problem.q.shape[0], "k": problem.k.shape[0]}
                columns = {"D": problem.q.shape[2], "Dv": problem.v.shape[2]}
            case WindowProblem():
                tokens = {f"axis {a} of the map": n for a, n in enumerate(problem.extents)}
                columns = {"D": problem.q.shape[-1], "Dv": problem.v.shape[-1]}
                reasons += _about_window(problem.window)
            case TableProblem():
                return reasons + _about_window(problem.window)
            case _:
                return reasons
        reasons += [
            Reason(
                "head-size", f"{name} = {n} exceeds {WIDEST}", "v" if name == "Dv" else "q", WIDEST
            )
            for name, n in columns.items()
            if n > WIDEST
        ]
        reasons += [
            Reason("length", f"{name} has {n} tokens, more than {MOST}", name, MOST)
            for name, n in tokens.items()
            if n > MOST
        ]
        return reasons

    def remarks(self, problem: Problem) -> Sequence[Reason]:
        """Say whether a call takes the Hopper path, and if not, why; nothing on other chips."""
        if not isinstance(problem, AttentionProblem | VarlenProblem) or interpreted():
            return []
        from attnref_triton.chips import chip_of
        from attnref_triton.hopper.calls import remarks  # loads Triton

        chip = chip_of(problem.q.device)
        return remarks(problem, chip) if self.hopper and chip.capability == 9 else []

    def _dtypes(self) -> tuple[str, ...]:
        return tuple(d for d in DTYPES if d != "bfloat16" or not interpreted())

    def forward(self, problem: Problem) -> Result:
        """Run the problem; one of a shape that ran before takes the short way."""
        if (result := self._again(problem)) is not None:
            return result
        refuse(self, problem)
        from attnref_triton import operations  # loads Triton

        return operations.forward(problem, self.precision, path=self.hopper)

    def _again(self, problem: Problem) -> Result | None:
        """Take the short way, if a call like this one ran before."""
        if problem.library != "torch":
            return None
        if isinstance(problem, WindowProblem):
            from attnref_triton import windows  # loads Triton

            return windows.again(problem, self.precision)
        if isinstance(problem, AttentionProblem | VarlenProblem):
            from attnref_triton import replay  # loads Triton

            key = replay.key_of(problem, (self.precision, self.hopper))
            recipe = replay.find(key, problem.q.device)
            return None if recipe is None else recipe.follow(problem)
        return None

    def backward(
        self,
        problem: Problem,
        result: Result,
        dout: "torch.Tensor",
        dlse: "torch.Tensor | None" = None,
    ) -> Gradients:
        """Pass gradients back; windows of a shape that ran before take the short way."""
        if isinstance(problem, WindowProblem) and problem.library == "torch":
            from attnref_triton import windows  # loads Triton

            gradients = windows.back_again(problem, result, dout, dlse, self.precision)
            if gradients is not None:
                return gradients
        refuse(self, problem)
        from attnref_triton import operations  # loads Triton

        return operations.backward(problem, result, dout, dlse, self.precision, path=self.hopper)

    def from_numpy(self, x: np.ndarray) -> "torch.Tensor":
        """Make a tensor, with x's strides where torch has such strides."""
        import torch

        device = "cpu" if interpreted() else "cuda"
        if min(x.strides, default=0) < 0 or not x.flags.writeable:
            x = x.copy()
        if x.dtype.name == "bfloat16":
            return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(x).to(device)

    def to_numpy(self, x: "torch.Tensor") -> np.ndarray:
        """Read a tensor, bfloat16 as that of ml_dtypes."""
        import torch

        x = x.detach().cpu()
        if x.dtype is torch.bfloat16:
            from ml_dtypes import bfloat16

            return x.view(torch.int16).numpy().view(bfloat16)
        return x.numpy()


def interpreted() -> bool:
    """Tell whether Triton was asked to interpret kernels instead of compiling them."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def _about_window(window: tuple[int, ...]) -> list[Reason]:
    N = prod(window)
    if N <= WINDOW:
        return []
    return [Reason("window", f"a window of {N} tokens exceeds {WINDOW}", limit=WINDOW)]


def _about_dtype(dtype: str) -> str:
    if dtype == "bfloat16":
        return (
            "Triton's interpreter multiplies bfloat16 wrongly (seen in 3.6 and 3.8); "
            "it runs on a GPU, or in float16"
        )
    return f"{dtype} has no kernels; convert to float32, or name backend='torch'"


def _about_device(device: str) -> list[Reason]:
    kind = device.partition(":")[0]
    wanted = "cpu" if interpreted() else "cuda"
    if kind != wanted:
        why = ", because Triton's interpreter is on" if wanted == "cpu" else ""
        said = f"runs on {wanted}{why}, and these tensors are on {device}"
        return [Reason("device", said, limit=wanted)]
    if kind == "cuda":
        capability = _capability(device)
        if capability < OLDEST:
            said = "capability {}.{} is below {}.{}".format(*capability, *OLDEST)
            return [Reason("capability", said, limit=OLDEST)]
    return []


def _capability(device: str) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device)
