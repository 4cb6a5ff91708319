"""Tracing finds the first layer and head at which two backends part, and says whose fault it is."""

from dataclasses import replace

import numpy as np
import pytest

from attnref import registry
from attnref.errors import InvalidProblem, Reason, UnsupportedError
from attnref.models import Call, Comparison, compare
from attnref.problem import Result

from .drawn import SMALL, parameters, question


class Wrong:
    """The NumPy backend with a fault at one call of one operation."""

    def __init__(self, operation: str, at: int, head: int) -> None:
        self.inner, self.name, self.library = registry.load("numpy"), "wrong", "numpy"
        self.operation, self.at, self.head, self.seen = operation, at, head, {}

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def forward(self, problem) -> Result:
        """Answer rightly, but for one head of some problems, however often it is asked."""
        result = self.inner.forward(problem)
        key = next(iter(problem.arrays.values())).tobytes()
        number = self.seen.setdefault(key, len(self.seen))
        if problem.operation == self.operation and number >= self.at:
            out = result.out.copy()
            heads = {"attention": 1, "window_attention": 3}
            np.moveaxis(out, heads[self.operation], 0)[self.head] += 0.01
            return Result(out, result.lse)
        return result


def run(name: str, a, b) -> Comparison:
    """Compare two backends on a small model."""
    config = SMALL[name]
    x = question(config)
    x = x if x.dtype.kind == "i" else x.astype(np.float32)
    return compare(config, parameters(config), x, a, b)


@pytest.mark.parametrize("name", [n for n in SMALL if "conv" not in n])
@pytest.mark.parametrize("b", ["reference", "torch"])
def test_honest_backends_do_not_part(name, b):
    """Every call is within the judge's limits, though the runs drift apart."""
    found = run(name, "numpy", b)

    assert found.first is None
    assert ("numpy", b) == found.backends
    assert not any(call.parts for call in found.calls)
    assert 0 < max(call.excess.max() for call in found.calls) <= 1
    assert found.output < 1e-3


@pytest.mark.parametrize(("at", "head"), [(0, 0), (1, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "hybrid"])
def test_the_first_wrong_layer_and_head_are_found(name, at, head):
    """What is wrong later, and what only reads wrong inputs, is not the first."""
    found = run(name, "numpy", Wrong("attention", at, head))

    assert (at, head) == (found.first.layer, found.first.head)
    assert found.first.off[0] <= 1 < found.first.off[1]
    assert [False] * at == [call.parts for call in found.calls[:at]]


def test_heads_of_windows_are_found():
    """On a map heads come last but one; here it is the third call's second."""
    found = run("swin", Wrong("window_attention", 2, 1), "reference")

    assert (2, 1, "window_attention") == (
        found.first.layer,
        found.first.head,
        found.first.operation,
    )
    assert found.first.off[1] <= 1 < found.first.off[0]


def test_a_page_says_the_verdict_and_draws_the_drift():
    """The bars grow with the error, and the guilty line is marked."""
    page = str(run("gpt2", "numpy", Wrong("attention", 1, 1))).splitlines()

    assert page[0].startswith(
        "GPT2 on numpy and wrong: they part at layer 1, head 1, in attention:"
    )
    assert "wrong is at" in page[0]
    assert [False, True, False] == [line.endswith("<- parts") for line in page[3:]]
    assert page[3].count("#") < page[4].count("#")
    assert page[5].startswith("output")


def test_a_backend_does_not_part_from_itself():
    """A page has a line for every layer, and one for what comes out; no bar is drawn."""
    page = str(run("swin", "numpy", "numpy")).splitlines()

    assert 3 + 3 + 1 == len(page)
    assert page[0].endswith("no call is past its limit, the nearest at 0 of it.")
    assert "#" not in page[-1]


def test_a_model_without_attention_has_nothing_to_compare():
    """Convolutions call no backend."""
    found = run("conv", "numpy", "reference")

    assert () == found.calls
    assert str(found).startswith("Conv on numpy and reference: it calls no attention.")


def test_not_a_number_is_past_every_limit():
    """A head that is NaN parts, though no difference is larger than another."""

    class Spoilt(Wrong):
        def forward(self, problem) -> Result:
            result = self.inner.forward(problem)
            out = result.out.copy()
            out[:, 1] = np.nan
            return Result(out, result.lse)

    found = run("vit", "numpy", Spoilt("attention", 0, 1))

    assert (0, 1) == (found.first.layer, found.first.head)
    assert str(found).splitlines()[-1].count("#") == 24


def test_a_backend_that_cannot_run_the_model_says_why():
    """The error is the backend's own."""

    class Limited(Wrong):
        def unsupported(self, problem):
            return [Reason("heads", "two heads are too many")]

    with pytest.raises(UnsupportedError, match="two heads are too many"):
        run("vit", "numpy", Limited("attention", 0, 0))


def test_the_head_nearest_to_its_limit_stands_where_none_is_past_it():
    """The first past its limit comes before a later one that is farther past."""
    call = Call(0, "attention", np.zeros(3), np.array([0.1, 0.3, 0.2]), (0, 0), np.zeros(3))

    assert 1 == call.head
    assert 1 == replace(call, excess=np.array([0.1, 2.0, 9.0])).head


@pytest.mark.parametrize("odd", [None, 3, type(registry.load("numpy"))], ids=str)
def test_what_is_no_backend_is_refused(odd):
    """Two backends are named or given, and the error says what was."""
    with pytest.raises(InvalidProblem, match="backend is "):
        run("vit", "numpy", odd)


def test_no_texts_have_nothing_to_part_at():
    """A batch of none is compared as any other."""
    config = SMALL["gpt2"]

    found = compare(config, parameters(config), np.zeros((0, 3), int), "numpy", "reference")

    assert (None, 0.0) == (found.first, found.output)


def test_a_question_that_the_model_cannot_take_is_refused():
    """Before anything is compared."""
    config = SMALL["gpt2"]

    with pytest.raises(InvalidProblem, match=r"ids\[0, 0\] is 13"):
        compare(config, parameters(config), np.array([[13]]), "numpy", "reference")
