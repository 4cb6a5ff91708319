"""Dispatch: the order, names, reasons, crossing, explanation and trace (H1 to H4)."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

import attnref
from attnref import arrays, dispatch, normalize, registry
from attnref.problem import Result, SoftmaxGradients

Q = np.zeros((1, 1, 3, 2), np.float32)
BUSY = attnref.Reason("machine", "needs another machine")
LARGE = attnref.Reason("head-size", "D = 2 exceeds 1", "q", 1)


class Fake:
    """A backend that adds one to its main array, and remembers what it got."""

    def __init__(
        self,
        name: str,
        library: str = "numpy",
        absent: list[attnref.Reason] | None = None,
        against: list[attnref.Reason] | None = None,
    ) -> None:
        self.name, self.library = name, library
        self.absent, self.against = absent or [], against or []
        self.given: list[Any] = []

    def available(self) -> list[attnref.Reason]:
        """Answer for the machine."""
        return self.absent

    def unsupported(self, problem: Any) -> list[attnref.Reason]:
        """Answer for the call."""
        return self.against

    def forward(self, problem: Any) -> Result:
        """Return the main array plus one."""
        x = getattr(problem, problem.main)
        self.given.append(x)
        return Result(x + 1)

    def backward(self, problem: Any, result: Any, dout: Any, dlse: Any = None) -> Any:
        """Return the seed plus two."""
        self.given += [problem.x, result.out, result.lse, dout, dlse]
        return SoftmaxGradients(dout + 2)

    def from_numpy(self, x: np.ndarray) -> Any:
        """Return the array."""
        return x

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return the array."""
        return x


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Register these backends, and no others, for one test."""
    backends: dict[str, Any] = {}
    monkeypatch.setattr(registry, "_registered", lambda: backends)
    monkeypatch.setattr(registry, "_loaded", lambda name: backends[name])
    yield backends
    attnref.prefer()


def put(installed: dict[str, Any], *backends: Fake) -> None:
    """Register backends under their names."""
    installed.update({b.name: b for b in backends})


def runs(**options: Any) -> str:
    """Return which backend runs a softmax of a NumPy array."""
    with attnref.trace() as ran:
        attnref.softmax(Q, **options)
    return ran[0].backend


def test_the_first_of_the_order_without_a_reason_runs(
    installed: dict[str, Any],
) -> None:
    """The in-tree order is walked; reasons and other libraries are passed over (H1)."""
    put(
        installed,
        Fake("triton", against=[LARGE]),
        Fake("cupy", absent=[BUSY]),
        Fake("torch", "torch"),
        Fake("numpy"),
    )
    assert ("triton", "cupy", "torch", "numpy") == dispatch.IN_TREE
    assert "numpy" == runs()
    installed["cupy"].absent = []
    assert "cupy" == runs()
    installed["triton"].against = []
    assert "triton" == runs()


def test_a_third_party_never_runs_unasked(installed: dict[str, Any]) -> None:
    """Installing one changes no result: it runs when named or preferred (H1)."""
    put(installed, Fake("aaa", "any"), Fake("numpy"))
    assert "numpy" == runs()
    assert "aaa" == runs(backend="aaa")
    with attnref.prefer("aaa"):
        assert "aaa" == runs()
    assert "numpy" == runs()


def test_nothing_runs_if_only_third_parties_are_installed(
    installed: dict[str, Any],
) -> None:
    """The reference and plugins are no fallback; the wording says what to do (H1)."""
    put(
        installed,
        Fake("aaa"),
        Fake("torch", "torch"),
        Fake("numpy", against=[LARGE, BUSY]),
    )
    installed["cupy"] = attnref.BackendLoadError("cupy", "ImportError: no libcuda")
    with pytest.raises(attnref.UnsupportedError) as caught:
        runs()
    assert (
        "no backend in the preference order can run this call.\n"
        "  softmax: x float32 (1, 1, 3, 2) cpu\n"
        "  triton  not installed\n"
        "  cupy    backend 'cupy' cannot be loaded: ImportError: no libcuda\n"
        '  torch   takes torch arrays, and these are numpy arrays; backend="torch" reads '
        "them as views\n"
        "  numpy   D = 2 exceeds 1\n"
        "          needs another machine\n"
        '  hint    softmax(..., backend="reference")'
    ) == str(caught.value)
    assert [LARGE, BUSY] == list(caught.value.reasons["numpy"])


def test_a_named_backend_never_falls_back(installed: dict[str, Any]) -> None:
    """Named, it runs or the call fails with its reasons, whoever else could (H1)."""
    put(
        installed,
        Fake("numpy"),
        Fake("picky", against=[LARGE]),
        Fake("away", absent=[BUSY]),
    )
    with pytest.raises(attnref.UnsupportedError) as caught:
        runs(backend="picky")
    assert (
        "backend 'picky' cannot run this call.\n"
        "  softmax: x float32 (1, 1, 3, 2) cpu\n"
        "  picky  D = 2 exceeds 1"
    ) == str(caught.value)
    with pytest.raises(attnref.UnsupportedError, match="needs another machine"):
        runs(backend="away")
    with pytest.raises(attnref.UnknownBackend, match="Did you mean 'picky'"):
        runs(backend="pick")


def test_a_backend_object_serves_as_well_as_a_name(installed: dict[str, Any]) -> None:
    """An object need not be registered, and is held to its reasons (H1)."""
    put(installed, Fake("numpy"))
    assert "mine" == runs(backend=Fake("mine"))
    with pytest.raises(attnref.UnsupportedError, match="backend 'mine' cannot run"):
        runs(backend=Fake("mine", against=[LARGE]))


def test_preferences_nest_and_are_undone(installed: dict[str, Any]) -> None:
    """As a context manager the previous order returns, after an error too (H1)."""
    put(installed, Fake("a"), Fake("b"), Fake("numpy"))
    with attnref.prefer("a"):
        with attnref.prefer("b", "a"):
            assert "b" == runs()
        assert "a" == runs()
        with pytest.raises(ZeroDivisionError), attnref.prefer("b"):
            _ = 1 / 0
        assert "a" == runs()
    assert "numpy" == runs()


def test_a_preference_stays_when_it_is_called(installed: dict[str, Any]) -> None:
    """A call holds until the next; without names the in-tree order returns (H1)."""
    put(installed, Fake("a"), Fake("numpy"))
    attnref.prefer("a", "triton")
    assert "a" == runs()
    attnref.prefer()
    assert "numpy" == runs()


def test_a_preference_names_what_exists(installed: dict[str, Any]) -> None:
    """An unknown name changes nothing; in-tree names need not be installed."""
    put(installed, Fake("numpy"))
    with pytest.raises(attnref.UnknownBackend):
        attnref.prefer("numpyy")
    assert "numpy" == runs()
    with (
        attnref.prefer("cupy"),
        pytest.raises(attnref.UnsupportedError, match="not installed"),
    ):
        runs()


def test_threads_and_tasks_have_their_own_preference(installed: dict[str, Any]) -> None:
    """An order set here is not seen in a thread, nor a task's outside of it."""
    put(installed, Fake("a"), Fake("numpy"))
    seen: list[str] = []
    with attnref.prefer("a"):
        thread = threading.Thread(target=lambda: seen.append(runs()))
        thread.start()
        thread.join()
    assert ["numpy"] == seen

    async def task() -> str:
        attnref.prefer("a")
        return runs()

    async def both() -> tuple[str, str]:
        inside = await asyncio.create_task(task())
        return inside, runs()

    assert ("a", "numpy") == asyncio.run(both())


def test_arrays_cross_to_a_named_backend_and_back(installed: dict[str, Any]) -> None:
    """Named, a backend gets views of its library; results come back (H3)."""
    put(installed, Fake("torch", "torch"), Fake("numpy"), Fake("aaa", "any"))
    x = np.arange(3.0)
    y = attnref.softmax(x, backend="torch")
    (given,) = installed["torch"].given
    assert isinstance(given, torch.Tensor)
    assert x.ctypes.data == given.data_ptr()
    assert [1.0, 2.0, 3.0] == y.tolist()
    assert isinstance(y, np.ndarray)
    strict = attnref.softmax(array_api_strict.asarray(x), backend="numpy")
    assert "array_api_strict" == arrays.library(strict)
    assert [1.0, 2.0, 3.0] == np.from_dlpack(strict).tolist()
    assert "torch" == arrays.library(attnref.softmax(torch.zeros(2), backend="aaa"))


def test_gradients_cross_too(installed: dict[str, Any]) -> None:
    """Everything that a backward is given crosses, and its gradients come back (H3)."""
    put(installed, Fake("torch", "torch"))
    dx = attnref.softmax_backward(np.zeros(2), np.ones(2), backend="torch")
    assert [2.0, 2.0] == dx.tolist()
    assert isinstance(dx, np.ndarray)
    kinds = [arrays.library(x) for x in installed["torch"].given]
    assert ["torch", "torch", None, "torch", None] == kinds


def test_nothing_moves_between_devices(installed: dict[str, Any]) -> None:
    """A named backend of a library that cannot be on the device has a reason (H3)."""
    put(installed, Fake("numpy"))
    with pytest.raises(attnref.UnsupportedError) as caught:
        attnref.softmax(torch.zeros(2, device="meta"), backend="numpy")
    assert (
        "backend 'numpy' cannot run this call.\n"
        "  softmax: x float32 (2,) meta\n"
        "  numpy  takes numpy arrays, and these are torch arrays on meta; nothing is moved "
        "or converted unasked"
    ) == str(caught.value)


def test_another_library_is_a_reason_with_a_remedy(installed: dict[str, Any]) -> None:
    """Unnamed, no backend gets foreign arrays; where they can cross, naming it helps (H3)."""
    put(installed, Fake("numpy"), Fake("triton", "mlx"), Fake("cupy", "cupy"))
    with pytest.raises(attnref.UnsupportedError) as caught:
        attnref.softmax(torch.zeros(2))
    said = {name: str(r[0]) for name, r in caught.value.reasons.items()}
    assert {
        "triton": "takes mlx arrays, and these are torch arrays on cpu; nothing is moved or "
        "converted unasked",
        "cupy": "takes cupy arrays, and these are torch arrays on cpu; nothing is moved or "
        "converted unasked",
        "torch": "not installed",
        "numpy": 'takes numpy arrays, and these are torch arrays; backend="numpy" reads them '
        "as views",
    } == said


def test_an_explanation_lists_every_answer(installed: dict[str, Any]) -> None:
    """In the order first, then everyone else; nothing runs (H4)."""
    put(
        installed,
        Fake("numpy"),
        Fake("torch", "any"),
        Fake("zeta", against=[LARGE, BUSY]),
        Fake("reference", "any"),
    )
    told = attnref.explain(attnref.softmax, Q)
    assert "torch" == told.runs
    assert (
        "softmax: x float32 (1, 1, 3, 2) cpu\n"
        "  triton     not installed\n"
        "  cupy       not installed\n"
        "  torch      runs\n"
        "  numpy      could run\n"
        "  reference  could run\n"
        "  zeta       D = 2 exceeds 1\n"
        "             needs another machine"
    ) == str(told)
    assert not any(b.given for b in installed.values())


def test_an_explanation_of_a_named_backend(installed: dict[str, Any]) -> None:
    """The name decides who would run, or that nobody would (H4)."""
    put(installed, Fake("numpy"), Fake("torch", "torch"), Fake("zeta", against=[LARGE]))
    assert "torch" == attnref.explain(attnref.softmax, Q, backend="torch").runs
    assert attnref.explain(attnref.softmax, Q, backend="zeta").runs is None
    with pytest.raises(attnref.UnknownBackend):
        attnref.explain(attnref.softmax, Q, backend="zetta")
    mine = attnref.explain(attnref.softmax, Q, backend=Fake("mine"))
    assert "mine" == mine.runs
    assert () == mine.reasons["mine"]
    refused = attnref.explain(attnref.softmax, Q, backend=Fake("mine", against=[LARGE]))
    assert refused.runs is None
    assert (LARGE,) == refused.reasons["mine"]


def test_an_explanation_may_find_nobody(installed: dict[str, Any]) -> None:
    """Then `runs` is None (H4)."""
    put(installed, Fake("numpy", against=[LARGE]))
    assert attnref.explain(attnref.softmax, Q).runs is None


def test_an_explanation_has_remarks_of_who_could_run(installed: dict[str, Any]) -> None:
    """A backend may say how it would run a call; one that refuses it is not asked (H4)."""
    remark = attnref.Reason("slow", "x is strided; the slower kernel runs")
    asked: list[Any] = []

    def remarks(problem: Any) -> list[attnref.Reason]:
        asked.append(problem.x)
        return [remark]

    for fake in (Fake("triton", against=[LARGE]), Fake("torch", "torch"), Fake("numpy")):
        fake.remarks = remarks  # type: ignore[attr-defined]
        put(installed, fake)
    put(installed, Fake("zeta"))
    told = attnref.explain(attnref.softmax, Q)
    assert {"numpy": (remark,)} == told.remarks
    assert asked[0] is Q
    assert str(told).splitlines()[-3:] == [
        "  numpy   runs",
        "          x is strided; the slower kernel runs",
        "  zeta    could run",
    ]
    named = attnref.explain(attnref.softmax, Q, backend="torch")
    assert {"torch", "numpy"} == named.remarks.keys()
    assert any(isinstance(x, torch.Tensor) for x in asked)


def test_an_object_is_asked_for_its_own_remarks(installed: dict[str, Any]) -> None:
    """And not whoever is registered under its name (H4)."""
    put(installed, Fake("numpy"))
    mine = Fake("numpy")
    mine.remarks = lambda _: [BUSY]  # type: ignore[attr-defined]
    assert {"numpy": (BUSY,)} == attnref.explain(attnref.softmax, Q, backend=mine).remarks
    assert {} == attnref.explain(attnref.softmax, Q).remarks


def test_an_empty_explanation_is_its_call() -> None:
    """Without a backend there is nothing to align (H4)."""
    assert "softmax" == str(dispatch.Explanation("softmax", None, {}))


def test_a_trace_records_both_directions() -> None:
    """Forward and backward are recorded, in the innermost trace and no other (H4)."""
    y = np.full(2, 0.5)
    with attnref.trace() as outer:
        attnref.softmax(Q, backend="reference")
        with attnref.trace() as inner:
            attnref.softmax_backward(y, y, backend="reference")
        attnref.softmax(Q, backend="reference")
    attnref.softmax(Q, backend="reference")
    assert ["softmax forward on reference"] * 2 == [str(ran) for ran in outer]
    assert ["softmax backward on reference"] == [str(ran) for ran in inner]


def test_a_trace_ends_with_its_block() -> None:
    """An error inside does not leave it on (H4)."""
    with pytest.raises(ZeroDivisionError), attnref.trace() as ran:
        _ = 1 / 0
    attnref.softmax(Q, backend="reference")
    assert [] == ran


def test_a_problem_crosses_with_all_of_its_arrays() -> None:
    """Masks and lengths go where q goes (H3)."""
    problem = normalize.attention(
        Q,
        Q,
        Q,
        mask=np.ones((3, 3), bool),
        kv_lens=np.array([2]),
        bias=np.zeros((3, 3)),
    )
    moved = dispatch.crossed(problem, "torch")
    assert {"torch"} == {arrays.library(x) for x in moved.arrays.values()}
    assert problem.arrays.keys() == moved.arrays.keys()


@pytest.mark.parametrize("wrong", [3, ["numpy"], type(attnref.registry.load("reference"))])
@pytest.mark.parametrize("explained", [False, True], ids=["called", "explained"])
def test_a_backend_is_a_name_or_an_object(wrong: Any, explained: bool) -> None:
    """Anything else is told what it is; so is a class in the place of its object (H1)."""
    x = np.zeros((2, 3))
    with pytest.raises(attnref.InvalidProblem) as caught:
        attnref.explain(attnref.softmax, x, backend=wrong) if explained else attnref.softmax(
            x, backend=wrong
        )
    assert (
        f"backend is a {type(wrong).__name__}; it must be a name or a backend object.\n"
        "  see attnref.dispatch (H1)\n"
        '  hint backend="numpy", or an object as in attnref.backend'
    ) == str(caught.value)


def test_an_order_is_made_of_names() -> None:
    """A list of names is one argument, and no name (H1)."""
    with pytest.raises(attnref.InvalidProblem) as caught:
        attnref.prefer(["numpy"])  # type: ignore[arg-type]
    assert (
        "prefer() was given a list; it takes names.\n"
        "  see attnref.dispatch (H1)\n"
        '  hint prefer("numpy", "torch")'
    ) == str(caught.value)
