"""Calls of a known form: what is remembered, and what never is."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch

import attnref
from attnref import dispatch, known, normalize, registry
from attnref.backend import Reason
from attnref.errors import InvalidProblem, UnsupportedError
from attnref.problem import Problem, Result


class Recording:
    """A backend that computes nothing, and notes what it is asked."""

    name, library, deterministic = "recording", "any", True

    def __init__(self) -> None:
        self.asked, self.ran = 0, []  # type: ignore[var-annotated]

    def available(self) -> list[Reason]:
        return []

    def unsupported(self, problem: Problem) -> list[Reason]:
        self.asked += 1
        softcap = getattr(problem, "softcap", None)
        return [Reason("softcap", "no soft cap")] if softcap == 7.0 else []

    def forward(self, problem: Any) -> Result:
        self.ran.append(problem)
        return Result(problem.q, problem.q[..., 0])

    def backward(self, problem: Any, result: Result, dout: Any, dlse: Any = None) -> Any:
        raise NotImplementedError

    def from_numpy(self, x: np.ndarray) -> Any:
        return x

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)


@pytest.fixture
def backend() -> Recording:
    return Recording()


def qkv(*shape: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape or (1, 2, 5, 8)) for _ in range(3)]


def test_a_form_is_described_once_and_runs_with_its_own_arrays(backend: Recording) -> None:
    """The backend is not asked again, and sees the arrays of each call."""
    for seed in range(3):
        q, k, v = qkv(seed=seed)
        mask = np.ones((5, 5), bool)
        out = attnref.attention(q, k, v, mask=mask, softcap=2.0, backend=backend)
        problem = backend.ran[-1]
        assert out is problem.q is q
        assert (problem.k is k, problem.v is v, problem.mask is mask) == (True, True, True)
        assert (problem.softcap, problem.sizes.Sk) == (2.0, 5)
    assert backend.asked == 1


@pytest.mark.parametrize(
    "other",
    [
        {"shape": (1, 2, 6, 8)},
        {"dtype": "float32"},
        {"order": "F"},
        {"options": {"causal": True}},
        {"options": {"softcap": 1.0}},
        {"options": {"mask": np.ones((5, 5), bool)}},
        {"options": {"window": (1, None)}},
    ],
    ids=str,
)
def test_another_form_is_described_anew(backend: Recording, other: dict[str, Any]) -> None:
    """Whatever part of the form differs."""
    attnref.attention(*qkv(), backend=backend)
    arrays = [
        np.asarray(x, dtype=other.get("dtype", "float64"), order=other.get("order", "C"))
        for x in qkv(*other.get("shape", ()))
    ]
    attnref.attention(*arrays, **other.get("options", {}), backend=backend)
    assert backend.asked == 2


def test_wanting_gradients_is_part_of_a_form() -> None:
    """A tensor that asks for its gradient after one that did not gets it."""
    q = torch.ones(1, 1, 3, 4)
    attnref.attention(q, q, q, backend="torch")
    wanting = q.clone().requires_grad_()
    attnref.attention(wanting, q, q, backend="torch").sum().backward()
    assert wanting.grad is not None
    with torch.no_grad():
        assert not attnref.attention(wanting, q, q, backend="torch").requires_grad


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_lengths_on_the_host_are_checked_every_time(make: Any) -> None:
    """They are values, and no form tells them."""
    q, k, v = (make(x) for x in qkv())
    attnref.attention(q, k, v, kv_lens=make(np.array([3])), backend="reference")
    with pytest.raises(InvalidProblem, match="kv_lens"):
        attnref.attention(q, k, v, kv_lens=make(np.array([6])), backend="reference")


def test_a_bad_call_is_bad_every_time(backend: Recording) -> None:
    """Neither errors nor refusals are remembered as something else."""
    q, k, v = qkv()
    attnref.attention(q, k, v, causal=True, backend=backend)
    for _ in range(2):
        with pytest.raises(InvalidProblem, match="causal"):
            attnref.attention(q, k, v, causal=1, backend=backend)  # type: ignore[arg-type]
        with pytest.raises(UnsupportedError, match="no soft cap"):
            attnref.attention(q, k, v, softcap=7.0, backend=backend)


def test_no_array_is_kept(backend: Recording) -> None:
    """A form outlives its arrays."""
    q, k, v = qkv()
    alive = weakref.ref(k)
    attnref.attention(q, k, v, backend=backend)
    backend.ran.clear()
    del k
    assert alive() is None


def test_what_cannot_be_looked_up_is_described_every_time(backend: Recording) -> None:
    """Lists, arrays of other libraries, and backends without a hash."""

    class Unhashable(Recording):
        __hash__ = None  # type: ignore[assignment]

    q, k, v = qkv()
    unhashable = Unhashable()
    for _ in range(2):
        attnref.attention(q, k, v, window=[1, 1], backend=backend)  # type: ignore[arg-type]
        attnref.attention(q, k, v, backend=unhashable)
    assert (backend.asked, unhashable.asked) == (2, 2)


def test_a_number_that_can_change_is_read_every_time(backend: Recording) -> None:
    """Inside a tuple, too."""
    q, k, v = qkv()
    width = np.array(2)
    attnref.attention(q, k, v, window=(width, width), backend=backend)  # type: ignore[arg-type]
    width[...] = 1
    attnref.attention(q, k, v, window=(width, width), backend=backend)  # type: ignore[arg-type]
    assert [p.window for p in backend.ran] == [(2, 2), (1, 1)]


def test_an_object_runs_only_where_it_is_passed(backend: Recording) -> None:
    """Neither for another that equals it, nor for what the order's tuple would stand for."""

    class Alike(Recording):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Alike)

        def __hash__(self) -> int:
            return 1

    one, other = Alike(), Alike()
    q, k, v = qkv()
    attnref.attention(q, k, v, backend=one)
    attnref.attention(q, k, v, backend=other)
    assert (len(one.ran), len(other.ran)) == (1, 1)
    attnref.attention(q, k, v)
    with pytest.raises(InvalidProblem, match="tuple"):
        attnref.attention(q, k, v, backend=dispatch.order())  # type: ignore[arg-type]


def test_one_array_of_offsets_is_told_from_two() -> None:
    """Only the former needs no alignment; on the host the values say so, elsewhere the array."""
    q, k, v = (torch.empty(4, 1, 8, device="meta") for _ in range(3))
    cu, other = (torch.empty(3, dtype=torch.int32, device="meta") for _ in range(2))
    backend = Recording()
    attnref.attention_varlen(q, k, v, cu, cu, causal=True, backend=backend)
    with pytest.raises(InvalidProblem, match="cu_k is not cu_q"):
        attnref.attention_varlen(q, k, k, cu, other, causal=True, backend=backend)


def test_a_packed_projection_is_split_anew(backend: Recording) -> None:
    """The kept call has no views of its own: they are the projection's of the call at hand."""
    for n in range(2):
        qkv = np.full((1, 4, 4, 3, 1, 8), n) + np.arange(3.0)[:, None, None]
        attnref.window_attention_qkv(qkv, window=2, backend=backend)
        problem = backend.ran[-1]
        assert problem.qkv is qkv
        for at, x in enumerate((problem.q, problem.k, problem.v)):
            assert x.base is qkv
            assert (x == n + at).all()
    assert backend.asked == 1


def test_a_problem_with_other_arrays_than_its_arguments_is_not_kept(backend: Recording) -> None:
    """What was made for one call is not there for the next."""

    def doubled(x: np.ndarray) -> Problem:
        return normalize.softmax(x * 2)

    for n in range(2):
        problem, _ = known.resolve(doubled, backend, (np.full((2, 3), float(n)),), {})
        assert (problem.x == 2 * n).all()
    assert backend.asked == 2


def test_the_order_and_the_registered_backends_are_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another preference, or another installation, chooses anew."""
    q, k, v = qkv()
    with attnref.trace() as ran:
        attnref.attention(q, k, v)
        with attnref.prefer("reference"):
            attnref.attention(q, k, v)
        attnref.attention(q, k, v)
    assert [r.backend for r in ran] == ["numpy", "reference", "numpy"]
    only = {"reference": registry.registered()["reference"]}
    monkeypatch.setattr(registry, "_registered", lambda: only)
    with pytest.raises(UnsupportedError, match="not installed"):
        attnref.attention(q, k, v)


def test_calls_are_traced_also_when_they_are_known() -> None:
    """Inside a trace and never after it."""
    q, k, v = qkv()
    attnref.attention(q, k, v, backend="numpy")
    with attnref.trace() as ran:
        attnref.attention(q, k, v, backend="numpy")
    attnref.attention(q, k, v, backend="numpy")
    assert [str(r) for r in ran] == ["attention forward on numpy"]
    assert dispatch.log() is None


def test_forms_that_never_come_again_do_not_fill_the_memory(
    backend: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are forgotten together once there are too many."""
    monkeypatch.setattr(known, "_known", {})
    monkeypatch.setattr(known, "MOST", 3)
    for S in range(1, 6):
        attnref.attention(*qkv(1, 1, S, 4), backend=backend)
    assert len(known._known) == 2


def test_gradients_of_a_known_form_are_those_of_their_own_call() -> None:
    """The backward call names the arrays of the forward one, and more."""
    for seed in range(2):
        q, k, v = qkv(seed=seed)
        out, lse = attnref.attention_with_lse(q, k, v, backend="reference")
        got = attnref.attention_backward(out, q, k, v, out, lse, backend="reference")
        want = attnref.attention_backward(out.copy(order="F"), q, k, v, out, lse, backend="numpy")
        np.testing.assert_allclose(got.dk, want.dk, atol=1e-12)
