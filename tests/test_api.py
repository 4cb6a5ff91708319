"""The public functions: signatures, help, unknown arguments, explanations (H2, H4)."""

import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import attnref
from attnref.options import AttentionOptions, VarlenOptions, WindowOptions

Q = np.zeros((1, 1, 3, 2))
FUNCTIONS = [name for name in attnref.__all__ if hasattr(getattr(attnref, name), "describe")]
ROWS = "(q, k, v, *, {})"
BACK = "(dout, q, k, v, out, lse, *, dlse=None, {})"
ATTENTION = (
    "backend=None, scale=None, causal=False, window=None, q_offset=None, mask=None, "
    "bias=None, softcap=None, sinks=None, q_lens=None, kv_lens=None"
)
VARLEN = (
    "backend=None, scale=None, causal=False, window=None, q_offset=None, softcap=None, "
    "sinks=None, max_q=None, max_k=None"
)
WINDOW = "backend=None, window, shift=0, bias=None, key_mask=None, scale=None, wrap_bias=-inf"
SIGNATURES = {
    "attention": ROWS.format(ATTENTION),
    "attention_with_lse": ROWS.format(ATTENTION),
    "attention_backward": BACK.format(ATTENTION),
    "attention_varlen": f"(q, k, v, cu_q, cu_k, *, {VARLEN})",
    "attention_varlen_with_lse": f"(q, k, v, cu_q, cu_k, *, {VARLEN})",
    "attention_varlen_backward": BACK.replace("*", "cu_q, cu_k, *").format(VARLEN),
    "window_attention": ROWS.format(WINDOW),
    "window_attention_with_lse": ROWS.format(WINDOW),
    "window_attention_backward": BACK.format(WINDOW),
    "window_attention_qkv": f"(qkv, *, {WINDOW})",
    "window_attention_qkv_with_lse": f"(qkv, *, {WINDOW})",
    "window_attention_qkv_backward": f"(dout, qkv, out, lse, *, dlse=None, {WINDOW})",
    "relative_position_bias": "(table, *, window, backend=None)",
    "relative_position_bias_backward": "(dbias, table, *, window, backend=None)",
    "softmax": "(x, *, axis=-1, tile=None, backend=None)",
    "softmax_backward": "(dy, y, *, axis=-1, backend=None)",
    "merge": "(out_a, lse_a, out_b, lse_b, *, backend=None)",
    "merge_backward": ("(dout, dlse, out_a, lse_a, out_b, lse_b, out, lse, *, backend=None)"),
}


def test_every_public_function_has_a_stated_signature() -> None:
    """Nothing becomes public, or stops being public, unnoticed."""
    assert sorted(SIGNATURES) == sorted(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_written_out(name: str) -> None:
    """Every option stands there with its default; only arrays are positional."""
    shown = inspect.signature(getattr(attnref, name))
    plain = shown.replace(
        parameters=[p.replace(annotation=p.empty) for p in shown.parameters.values()],
        return_annotation=shown.empty,
    )
    assert SIGNATURES[name] == str(plain)


@pytest.mark.parametrize("name", attnref.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each name in `__all__` exists, and its help says what it is."""
    assert inspect.getdoc(getattr(attnref, name)).strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_names_arguments_returns_raises_and_an_example(name: str) -> None:
    """Help keeps the function's own name, and every array and option is explained."""
    function = getattr(attnref, name)
    text = inspect.getdoc(function)
    assert name == function.__name__
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text
    shared = "**options: " in text
    options = {
        *AttentionOptions.__annotations__,
        *VarlenOptions.__annotations__,
        *WindowOptions.__annotations__,
    }
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}: " in text or (shared and parameter in options)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_unknown_option_is_refused(name: str) -> None:
    """No option is ever ignored, whatever the function (H2)."""
    with pytest.raises(attnref.UnknownArgument, match=rf"{name}\(\) has no argument 'layout'"):
        getattr(attnref, name)(layout="bshd")


def test_a_misspelt_option_is_suggested() -> None:
    """The nearest option is named, and all are listed (H2)."""
    with pytest.raises(attnref.UnknownArgument) as caught:
        attnref.attention(Q, Q, Q, is_causal=True)
    assert (
        "attention() has no argument 'is_causal'. Here it is 'causal'.\n"
        "  arguments  q, k, v, backend, scale, causal, window, q_offset, mask, bias, "
        "softcap, sinks, q_lens, kv_lens"
    ) == str(caught.value)


@pytest.mark.parametrize("private", ["with_lse", "qkv"])
def test_what_only_the_core_says_is_no_option(private: str) -> None:
    """Arguments of the normalisation that are not the user's stay out of reach (H2)."""
    with pytest.raises(attnref.UnknownArgument):
        attnref.window_attention(Q, Q, Q, window=1, **{private: True})


def test_a_required_option_is_missed() -> None:
    """Windows have no default extent, and Python says so in the function's name."""
    with pytest.raises(TypeError, match=r"window_attention\(\) missing .* 'window'"):
        attnref.window_attention(Q, Q, Q)


def test_arrays_may_be_passed_by_name() -> None:
    """q, k and v are positional or by name, and never both."""
    by_place = attnref.attention(Q, Q, Q, backend="reference")
    by_name = attnref.attention(q=Q, v=Q, k=Q, backend="reference")
    assert np.array_equal(by_place, by_name)
    with pytest.raises(TypeError, match="multiple values for argument 'q'"):
        attnref.attention(Q, Q, Q, q=Q)
    with pytest.raises(TypeError, match="missing a required argument: 'k'"):
        attnref.attention(Q, v=Q)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"causal": False}, {}),
        ({"scale": None, "window": None, "mask": None, "softcap": None}, {}),
        ({"window": (None, 0)}, {"causal": True}),
    ],
    ids=str,
)
def test_defaults_mean_what_they_show(options: dict[str, Any], same: dict[str, Any]) -> None:
    """Writing a default out changes nothing."""
    x = np.random.default_rng(0).normal(size=(1, 1, 3, 2))
    expected = attnref.attention(x, x, x, **same, backend="reference")
    assert np.array_equal(expected, attnref.attention(x, x, x, **options, backend="reference"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_can_be_explained(name: str) -> None:
    """Each knows how to describe its call, and explaining runs nothing (H4)."""
    m, n, lse = np.zeros((1, 4, 2, 3)), np.zeros((4, 2, 3)), np.zeros((1, 1, 3))
    cu, row = np.array([0, 4]), np.zeros((1, 4, 2))
    qkv, table, out = (
        np.zeros((1, 4, 3, 2, 3)),
        np.zeros((3, 2)),
        np.zeros((1, 1, 3, 2)),
    )
    arrays: dict[str, tuple[Any, ...]] = {
        "attention": (Q, Q, Q),
        "attention_backward": (out, Q, Q, Q, out, lse),
        "attention_varlen": (n, n, n, cu, cu),
        "attention_varlen_backward": (n, n, n, n, n, np.zeros((2, 4)), cu, cu),
        "window_attention": (m, m, m),
        "window_attention_backward": (m, m, m, m, m, row),
        "window_attention_qkv": (qkv,),
        "window_attention_qkv_backward": (m, qkv, m, row),
        "relative_position_bias": (table,),
        "relative_position_bias_backward": (np.zeros((2, 2, 2)), table),
        "softmax": (Q,),
        "softmax_backward": (Q, Q),
        "merge": (Q, lse, Q, lse),
        "merge_backward": (Q, lse, Q, lse, Q, lse, Q, lse),
    }
    options = {"window": (2,)} if "window" in SIGNATURES[name].split("window=None")[0] else {}
    with attnref.trace() as ran:
        told = attnref.explain(
            getattr(attnref, name),
            *arrays[name.removesuffix("_with_lse")],
            **options,
            backend="reference",
        )
    assert "reference" == told.runs
    assert [] == ran
    assert ("gradients" in told.call) == name.endswith("_backward")


def test_an_explanation_needs_a_public_function() -> None:
    """Anything else is a TypeError that names it."""
    with pytest.raises(TypeError, match="is not a public function of attnref"):
        attnref.explain(print, Q)


def test_an_explanation_refuses_unknown_options_too() -> None:
    """The same words as the call itself (H2)."""
    with pytest.raises(attnref.UnknownArgument, match=r"softmax\(\) has no argument 'axes'"):
        attnref.explain(attnref.softmax, Q, axes=1)


def test_a_call_that_is_being_compiled_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under torch.compile the compiled path gets name, arrays in place, and options."""
    compiling = SimpleNamespace(is_compiling=lambda: True)
    compiled = ModuleType("attnref.compiled")
    compiled.call = lambda *given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(compiler=compiling))
    monkeypatch.setitem(sys.modules, "attnref.compiled", compiled)
    monkeypatch.setattr(attnref, "compiled", compiled, raising=False)
    assert ("softmax", (Q,), {"axis": 1}) == attnref.softmax(x=Q, axis=1)


def test_without_torch_nothing_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never imported torch is not made to."""
    monkeypatch.delitem(sys.modules, "torch")
    attnref.softmax(Q, backend="reference")
    assert "torch" not in sys.modules
