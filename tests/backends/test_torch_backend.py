"""What is particular to the torch backend; its meaning is the conformance suite's."""

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attnref_conformance.case import cast
from attnref_torch import backend, fused
from attnref_torch.backend import UNDERSTOOD
from attnref_torch.call import BLOCK, ROWS

import attnref
from attnref import normalize

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the calls of torch's fused attention."""
    counted: list[str] = []
    real = fused.scaled_dot_product_attention

    def counting(*args: Any, **options: Any) -> Any:
        counted.append("fused")
        return real(*args, **options)

    monkeypatch.setattr(fused, "scaled_dot_product_attention", counting)
    return counted


def inputs(Sq: int = 5, Sk: int = 7, Dv: int = 8) -> tuple[Any, Any, Any]:
    """Return q, k and v with grouped heads."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, Sq, 8), torch.randn(2, 2, Sk, 8)
    return q, k, torch.randn(2, 2, Sk, Dv)


FUSED = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal-start": {"causal": True, "q_offset": "start"},
    "no-op-offset": {"q_offset": 3},
}
TILED = {
    "causal-end": {"causal": True, "q_offset": "end"},
    "left": {"window": (2, None), "q_offset": 0},
    "softcap": {"softcap": 5.0},
    "sinks": {"sinks": torch.zeros(4)},
    "bias": {"bias": torch.zeros(7)},
    "mask": {"mask": torch.ones(7, dtype=torch.bool)},
    "kv_lens": {"kv_lens": torch.tensor([7, 7])},
    "q_lens": {"q_lens": torch.tensor([5, 5])},
    "scale-zero": {"scale": 0.0},
    "scale-negative": {"scale": -1.0},
}


@pytest.mark.parametrize("options", FUSED.values(), ids=FUSED)
def test_fused_where_it_says_the_same(calls: list[str], options: dict[str, Any]) -> None:
    """A call that torch's kernel can express goes through it."""
    q, k, v = inputs()
    out = attnref.attention(q, k, v, **options, backend="torch")
    exact = attnref.attention(q, k, v, **options, backend="reference")
    assert calls == ["fused"]
    torch.testing.assert_close(out, exact)


@pytest.mark.parametrize("options", TILED.values(), ids=TILED)
def test_tiled_where_it_does_not(calls: list[str], options: dict[str, Any]) -> None:
    """A call that torch's kernel cannot express does not go through it."""
    attnref.attention(*inputs(), **options, backend="torch")
    assert calls == []


def test_fused_gives_no_lse(calls: list[str]) -> None:
    """A caller who reads the log-sum-exp, or wants gradients, gets it from tiles."""
    q, k, v = inputs()
    attnref.attention_with_lse(q, k, v, backend="torch")
    attnref.attention(q.requires_grad_(), k, v, backend="torch").sum().backward()
    assert calls == []


def test_fused_needs_equal_head_sizes_on_the_host(calls: list[str]) -> None:
    """The CPU kernel has no word for values of another size."""
    attnref.attention(*inputs(Dv=3), backend="torch")
    assert calls == []


@pytest.mark.parametrize("hole", [NAN, INF, 1e30])
@pytest.mark.parametrize("where", [0, 1, 2], ids=["q", "k", "v"])
def test_fused_never_loses_a_hole(calls: list[str], where: int, hole: float) -> None:
    """Where a score might not be finite, the CPU kernel is not asked (C6)."""
    given = inputs()
    given[where][0, 0, 1, 2] = hole
    out = attnref.attention(*given, backend="torch")
    exact = attnref.attention(*given, backend="reference")
    assert calls == ([] if where < 2 or hole != 1e30 else ["fused"])
    assert torch.equal(out.isfinite(), exact.isfinite())


@pytest.mark.parametrize("Sk", [3, 5, 9])
def test_fused_restores_holes_without_looking(Sk: int) -> None:
    """A causal row notices a hole in v if it sees it, as a GPU must tell blindly."""
    q, k, v = inputs(Sk=Sk)
    v[0, 1, 2, 3] = NAN
    filled, first = fused._filled(v)
    seen = first <= torch.arange(5)[:, None]
    assert torch.equal(filled, torch.where(v.isnan(), 0.0, v))
    exact = attnref.attention(q, k, v, causal=True, q_offset="start", backend="reference")
    assert torch.equal(seen.repeat_interleave(2, dim=1), exact.isnan())


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and look at what it returns."""
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            own = made.untyped_storage().nbytes() // made.element_size()
            self.elements = max(self.elements, own)
        return made


@pytest.mark.parametrize("window", [(None, None), (100, 0)], ids=["full", "window"])
def test_memory_is_linear(window: tuple[int | None, int | None]) -> None:
    """No tensor is larger than a block, forward or backward, whatever the length."""
    S = 8192
    x = torch.randn(1, 1, S, 2)
    row = torch.zeros(S)
    options: Any = {"window": window, "bias": row, "backend": "torch"}
    with Largest() as largest:
        out, lse = attnref.attention_with_lse(x, x, x, **options)
        attnref.attention_backward(out, x, x, x, out, lse, **options)
    assert largest.elements <= max(BLOCK, ROWS * S) < S * S


def test_inputs_stay_as_they_are() -> None:
    """A batch of one, where views come closest to the inputs, changes none of them."""
    x, sinks = torch.randn(1, 2, 1, 4), torch.randn(2)
    before = x.clone(), sinks.clone()
    attnref.attention_with_lse(x, x, x, sinks=sinks, backend="torch")
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], sinks)


def test_autocast_stays_outside() -> None:
    """A caller's autocast does not lower the precision inside."""
    q, k, v = inputs()
    plain = attnref.attention_with_lse(q, k, v, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attnref.attention_with_lse(q, k, v, backend="torch")
    torch.testing.assert_close(plain, inside, rtol=0, atol=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Newer(attnref.problem.SoftmaxProblem):
    operation: ClassVar[str] = "softmax"

    def _features(self) -> set[str]:
        return {"temperature"}


def test_unknown_features_are_refused() -> None:
    """A feature that is newer than the backend is a reason, and not ignored (H2)."""
    problem = _Newer(x=torch.zeros(3), axis=0)
    assert [str(r) for r in backend.unsupported(problem)] == ["temperature is not implemented"]
    with pytest.raises(attnref.UnsupportedError, match="temperature"):
        backend.forward(problem)


def test_unknown_devices_are_refused() -> None:
    """A device that is neither cpu nor cuda is a reason."""
    problem = normalize.softmax(torch.zeros(3, device="meta"))
    assert [r.code for r in backend.unsupported(problem)] == ["device"]


def test_every_feature_is_understood() -> None:
    """What the core knows of windows by axes is understood for one to three."""
    x = torch.zeros(1, 4, 4, 4, 2, 8)
    problem = replace(normalize.window_attention(x, x, x, window=2), with_gradients=True)
    assert problem.features <= UNDERSTOOD["window_attention"]
    assert not backend.unsupported(problem)


def test_imports_without_torch() -> None:
    """Without torch the package imports and says what is missing."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from attnref_torch import backend\n"
        "print(*backend.available())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "torch is not installed: pip install attnref[torch]"


def test_import_does_not_load_torch() -> None:
    """Importing the package leaves torch alone."""
    program = "import sys, attnref_torch; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_arrays_come_and_go(dtype: str) -> None:
    """The judge's arrays arrive with their values and strides, and come back."""
    x = cast(np.arange(6.0).reshape(2, 3), dtype).T
    there = backend.from_numpy(x)
    assert there.stride() == (1, 3)
    assert np.array_equal(backend.to_numpy(there), x)
    assert np.array_equal(backend.to_numpy(backend.from_numpy(x[::-1])), x[::-1])


def test_a_wrap_bias_is_exact_in_float64() -> None:
    """A number that float32 cannot hold is not rounded to it (A6, G3)."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 6, 2, 4, dtype=torch.float64)
    out, exact = (
        attnref.window_attention(x, x, x, window=3, shift=1, wrap_bias=0.1, backend=name)
        for name in ("torch", "reference")
    )
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-14)
