"""The bounds: honest computations stay inside, what is above them is caught."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attnref_conformance import bounds, faulty, oracle, utilisation
from attnref_conformance.case import DTYPES, Call, Case, Part, cast
from attnref_conformance.compare import compare
from attnref_conformance.drawn import Found
from attnref_conformance.oracle import Expected
from attnref_conformance.profiles import arithmetic
from attnref_conformance.trial import Trial
from attnref_conformance.utilisation import BEGIN, END, Survey

from attnref import normalize
from attnref.problem import AnyProblem

Rng = np.random.Generator


def attention(seed: int, dtype: str) -> Call:
    """Draw a call of attention: sizes, magnitudes and constraints."""
    rng = np.random.default_rng(seed)
    B, Hkv, group = (int(n) for n in rng.integers(1, 3, 3))
    Sq, Sk = (int(n) for n in rng.integers(1, 50, 2))
    D, Dv = (int(n) for n in rng.integers(1, 24, 2))
    size = 10.0 ** rng.uniform(-3, 1, 3)
    Hq = group * Hkv
    inputs = {
        "q": cast(size[0] * rng.normal(size=(B, Hq, Sq, D)), dtype),
        "k": cast(size[1] * rng.normal(size=(B, Hkv, Sk, D)), dtype),
        "v": cast(size[2] * (rng.normal(size=(B, Hkv, Sk, Dv)) + rng.choice([0, 3])), dtype),
    }
    options: dict[str, Any] = {}
    wanted = set(rng.choice(_OPTIONS, rng.integers(0, 4), replace=False))
    if "mask" in wanted:
        inputs["mask"] = rng.random((B, 1, Sq, Sk)) < rng.uniform(0, 1)
    if "bias" in wanted:
        inputs["bias"] = cast(3 * rng.normal(size=(Hq, 1, Sk)), dtype)
    if "sinks" in wanted:
        inputs["sinks"] = cast(rng.normal(size=Hq) + rng.choice([0, 5]), dtype)
    if "lengths" in wanted:
        inputs["kv_lens"] = rng.integers(0, Sk + 1, B)
        inputs["q_lens"] = rng.integers(0, Sq + 1, B)
    if "softcap" in wanted:
        options["softcap"] = float(rng.uniform(0.5, 5))
    if "scale" in wanted:
        options["scale"] = float(rng.normal())
    if "window" in wanted:
        options["window"] = (int(rng.integers(0, 20)), int(rng.integers(0, 9)))
        options["q_offset"] = str(rng.choice(["start", "end"]))
    return Call("attention", inputs, options)


_OPTIONS = ("mask", "bias", "sinks", "lengths", "softcap", "scale", "window")


def packed(seed: int, dtype: str) -> Call:
    """Draw a call of attention_varlen; short sequences and sinks are frequent."""
    rng = np.random.default_rng(seed)
    lens = rng.integers(0, rng.choice([2, 20]), (2, rng.integers(1, 9)))
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(x)]) for x in lens)
    Tq, Tk = int(cu_q[-1]), int(cu_k[-1])
    inputs = {
        "q": cast(rng.normal(size=(Tq, 4, 9)), dtype),
        "k": cast(rng.normal(size=(Tk, 2, 9)), dtype),
        "v": cast(rng.normal(size=(Tk, 2, 7)), dtype),
        "cu_q": cu_q,
        "cu_k": cu_k,
        "sinks": cast(rng.normal(size=4), dtype),
    }
    return Call("attention_varlen", inputs, {"causal": True, "q_offset": "end"})


def windows(seed: int, dtype: str) -> Call:
    """Draw a call of window_attention whose two biases may cancel."""
    rng = np.random.default_rng(seed)
    G = tuple(int(n) for n in rng.integers(2, 10, 2))
    far = float(rng.choice([-np.inf, -100.0, 30.0]))
    inputs = {n: cast(rng.normal(size=(1, *G, 2, 6)), dtype) for n in "qkv"}
    inputs["bias"] = cast(rng.normal(size=(2, 12, 12)) - max(far, 0.0), dtype)
    inputs["scale"] = cast(rng.uniform(0.1, 3, 2), "float32")
    return Call("window_attention", inputs, {"window": (3, 4), "shift": 1, "wrap_bias": far})


def merge(seed: int, dtype: str) -> Call:
    """Draw a call of merge; some parts are empty, some far apart."""
    rng = np.random.default_rng(seed)
    wide = "float64" if dtype == "float64" else "float32"
    inputs = {}
    for part in "ab":
        lse = 10.0 ** rng.uniform(-1, 3) * rng.normal(size=(3, 5))
        lse[rng.random((3, 5)) < 0.2] = -np.inf
        out = np.where(np.isinf(lse)[..., None], 0.0, rng.normal(size=(3, 5, 6)))
        inputs |= {f"out_{part}": cast(out, dtype), f"lse_{part}": cast(lse, wide)}
    return Call("merge", inputs)


def softmax(seed: int, dtype: str) -> Call:
    """Draw a call of softmax along any axis."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 40, 2))
    x = 10.0 ** rng.uniform(-2, 3) * rng.normal(size=shape)
    return Call("softmax", {"x": cast(x, dtype)}, {"axis": int(rng.integers(-2, 2))})


FAMILIES: dict[str, Callable[[int, str], Call]] = {
    "attention": attention,
    "packed": packed,
    "windows": windows,
    "merge": merge,
    "softmax": softmax,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_honest_computations_stay_below_the_hard_limit(dtype: str) -> None:
    """A thousand drawn problems, any tiles, any order, any profile, forward and backward."""
    survey = Survey()
    survey.draw(250, dtypes=(dtype,))
    assert (250, "") == (survey.problems, survey.failure)
    assert {*faulty.HONEST} == {use.variant for use in survey.found}
    assert {"out", "lse", "dq", "dk", "dv", "dbias"} <= {use.result for use in survey.found}
    assert max(use.share for use in survey.found) <= 1


def test_a_bound_that_is_too_tight_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What exceeds a bound ends the survey, with a program to copy."""
    wide = bounds.forward_bounds
    monkeypatch.setattr(bounds, "forward_bounds", lambda *a: [x / 1e6 for x in wide(*a)])
    survey = Survey()
    with pytest.raises(Found):
        survey.draw(200, dtypes=("float32",))
    assert "past their limit" in survey.failure
    assert "import honest_" in survey.failure


def test_what_was_measured_is_written_into_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block is replaced, and nothing around it."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["utilisation", "--draw", "40", "--page", str(page)])
    assert 0 == utilisation.main()
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{BEGIN}\n16 honest variants on 40 drawn problems")
    assert text.endswith(f"{END}\nafter\n")
    assert "| out |" in text
    assert "old" not in text


def test_weights_that_are_flushed_are_allowed_for() -> None:
    """A weight near the end of float64 has an exact value and a computed one of zero."""
    lse = np.array([0.0, 0.0]), np.array([-741.0, -741.0])
    inputs = {}
    for part, x in zip("ab", lse, strict=True):
        inputs |= {f"out_{part}": np.array([[0.0], [1.0]]) if part == "a" else np.ones((2, 1))}
        inputs |= {f"lse_{part}": x}
    call = Call("merge", {n: cast(x, "float32") for n, x in inputs.items()})
    for expected in (limits(call, "float32")["out"], gradients(call, "float32")["dout_b"]):
        assert (np.abs(expected.value) <= expected.bound)[0].all()


def test_products_that_are_flushed_are_allowed_for() -> None:
    """Each product of a sum may vanish near the end of float32, and with them the sum."""
    sizes = {"q": (1e-38, 64), "k": (1.0, 2), "v": (1.0, 2)}
    inputs = {n: cast(np.full((1, 1, S, 1), x), "float32") for n, (x, S) in sizes.items()}
    dk = gradients(Call("attention", inputs, {"scale": 1.0}), "float32")["dk"]
    one_rounding = 2.0**-126
    assert (np.abs(dk.value) > one_rounding).all()
    assert (np.abs(dk.value) <= dk.bound).all()


def problem_of(call: Call) -> AnyProblem:
    """Describe a call with everything that it may return."""
    positional, options = call.split(call.values)
    lse = {"with_lse": True} if "attention" in call.function else {}
    return getattr(normalize, call.function)(*positional, **options, **lse)


def limits(call: Call, dtype: str, profile: str = "ieee") -> dict[str, Expected]:
    """Return what a forward must return, and how exactly."""
    return oracle.forward(problem_of(call), arithmetic(profile, dtype))[1]


def gradients(call: Call, dtype: str, profile: str = "ieee") -> dict[str, Expected]:
    """Return what a backward must return, and how exactly."""
    problem, u = problem_of(call), arithmetic(profile, dtype)
    exact, _ = oracle.forward(problem, u)
    rng = np.random.default_rng(0)
    dout = rng.normal(size=exact.out.shape)
    dlse = None if exact.lse is None else rng.normal(size=exact.lse.shape)
    return oracle.backward(problem, exact, dout, dlse, u)


def everything(call: Call, dtype: str) -> dict[str, Expected]:
    """Return what both directions must return."""
    return {**limits(call, dtype), **gradients(call, dtype)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_just_above_the_limit_is_caught(family: str, dtype: str) -> None:
    """Off by a little less than the limit everywhere passes; by a little more fails."""
    step = 0.5 if dtype == "float64" else 0.001  # float64 rounds what is added to it
    for name, want in everything(FAMILIES[family](7, dtype), dtype).items():
        exact = replace(want, dtype="float64")
        order = tuple(range(want.value.ndim))
        off = np.where(np.isfinite(want.value), want.bound, 0.0)
        for times, fails in ((1 - step, False), (1 + step, True)):
            got = want.value + times * off
            found = compare(name, got, got, exact, order)
            assert fails == bool(found.problem), (name, found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_limit_is_a_finite_number(family: str, dtype: str) -> None:
    """A limit of infinity or NaN would permit anything."""
    for seed in range(20):
        for want in everything(FAMILIES[family](seed, dtype), dtype).values():
            finite = np.isfinite(want.value)
            assert np.isfinite(want.bound[finite]).all()
            assert (want.bound[finite] >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_are_zero_exactly_where_rows_see_nothing(dtype: str) -> None:
    """Zeros and minus infinity are values, and have no error."""
    call = attention(3, dtype)
    Sq, Sk = call.inputs["q"].shape[2], call.inputs["k"].shape[2]
    nothing = np.arange(Sq) % 3 == 1
    mask = np.broadcast_to(~nothing[:, None], (Sq, Sk))
    seen = Call("attention", {**{n: call.inputs[n] for n in "qkv"}, "mask": mask})
    expected = everything(seen, dtype)
    for name in ("out", "lse", "dq"):
        bound = np.moveaxis(expected[name].bound, 2, 0)
        zero = (bound == 0).reshape(Sq, -1)
        assert (nothing.tolist(), nothing.tolist()) == (
            zero.all(axis=1).tolist(),
            zero.any(axis=1).tolist(),
        )


def test_keys_that_nobody_sees_have_no_gradient_and_no_error() -> None:
    """The gradient of what is past a length is zero, exactly."""
    call = attention(3, "float32")
    B, _, Sk, _ = call.inputs["k"].shape
    lens = np.full(B, Sk // 2)
    cut = Call("attention", {**{n: call.inputs[n] for n in "qkv"}, "kv_lens": lens})
    for name in ("dk", "dv"):
        bound = gradients(cut, "float32")[name].bound
        assert (True, False) == (
            bool((bound[:, :, Sk // 2 :] == 0).all()),
            bool((bound[:, :, : Sk // 2] == 0).any()),
        )


def plain(q: float = 1.0, v: float = 0.0, Sk: int = 64, dtype: str = "float32") -> Call:
    """Make a call with queries of size `q`, and values about plus or minus `v`."""
    rng = np.random.default_rng(1)
    sign = np.where(np.arange(Sk) % 2, 1.0, -1.0)[:, None]
    inputs = {
        "q": cast(q * rng.normal(size=(1, 1, 4, 8)), dtype),
        "k": cast(rng.normal(size=(1, 1, Sk, 8)), dtype),
        "v": cast(v * sign + rng.normal(size=(1, 1, Sk, 3)), dtype),
    }
    return Call("attention", inputs)


def ratio(a: Call, b: Call, name: str) -> float:
    """Divide the median limits of two calls."""
    one, other = (float(np.median(everything(c, "float32")[name].bound)) for c in (a, b))
    return one / other


def test_limits_grow_with_cancellation() -> None:
    """Values that cancel are summed with their magnitudes."""
    assert 50 < ratio(plain(v=100.0), plain(v=0.0), "out")


def test_limits_grow_with_the_scores() -> None:
    """A large score has a large rounding error, and its exponential feels it."""
    for name in ("out", "lse"):
        assert 5 < ratio(plain(q=1000.0), plain(q=1.0), name)


def test_limits_grow_with_the_number_of_terms_like_a_random_walk() -> None:
    """A sum of many terms may err by the root of their number."""
    assert [1e-3, 35e-3, 36e-3, 60e-3, 600e-3] == pytest.approx(
        bounds.sum_error(np.array([1, 35, 36, 100, 10000]), 1e-3).tolist()
    )


def test_limits_of_half_precision_are_those_of_one_rounding() -> None:
    """Under ieee, float16 is allowed little more than the rounding of its result."""
    want = limits(plain(dtype="float16"), "float16")["out"]
    rounding = 2.0**-11 * np.abs(want.value) + 2.0**-25
    assert bool((want.bound >= rounding).all())
    assert float((want.bound - rounding).max()) < 2.0**-13


def test_a_coarser_profile_has_a_wider_limit() -> None:
    """What a profile rounds, its limit allows, and no other does."""
    half, single = plain(dtype="float16"), plain()
    for expected in (limits, gradients):
        for name, strict in expected(half, "float16").items():
            loose = expected(half, "float16", "half-weights")[name]
            assert name == "lse" or bool((loose.bound > 1.05 * strict.bound).any())
        for name, strict in expected(single, "float32").items():
            loose = expected(single, "float32", "tf32")[name]
            assert bool((loose.bound > 10 * strict.bound).all())


def test_float64_is_given_twice_the_limit() -> None:
    """The oracle has no more digits than what it judges: both may be off."""
    call = plain(dtype="float64")
    problem, u = problem_of(call), arithmetic("ieee", "float64")
    exact, expected = oracle.forward(problem, u)
    piece = next(iter(oracle.pieces(problem)))
    out, lse = bounds.forward_bounds(piece.dense, exact.out, exact.lse, u)
    assert np.array_equal(2 * out, expected["out"].bound)
    assert np.array_equal(2 * lse, expected["lse"].bound)


def test_looking_up_a_table_is_exact() -> None:
    """A bias that is copied has no error."""
    table = cast(np.random.default_rng(0).normal(size=(9, 2)), "float16")
    want = limits(Call("relative_position_bias", {"table": table}, {"window": (2, 2)}), "float16")
    assert 0.0 == float(want["out"].bound.max())


def test_a_perturbation_is_capped_where_no_digit_can_be_promised() -> None:
    """Beyond that the limit is stricter than theory."""
    assert np.expm1(2.0) == bounds.relative(np.array(1e9))
    assert np.expm1(1.5) == bounds.relative(np.array(1.5))


def test_rounding_a_given_result_near_zero_is_allowed_for() -> None:
    """In float16 a tiny `out` loses digits before a backward ever sees it."""

    def tiny(rng: Rng, dtype: str) -> Call:
        q, k = rng.normal(size=(1, 1, 30, 4)), rng.normal(size=(1, 1, 9, 4))
        v = 2.0**-20 * rng.normal(size=(1, 1, 9, 64))
        inputs = {"q": cast(q, dtype), "k": cast(k, dtype), "v": cast(v, dtype)}
        return Call("attention", inputs, {"scale": 8.0})

    for n in range(20):
        trial = Trial(Case(f"A6-x{n}", tiny), Part.GRADIENTS, "float16")
        outcome = trial.run(faulty.HONEST["honest_16"])
        assert not outcome.status.failure, outcome.message
