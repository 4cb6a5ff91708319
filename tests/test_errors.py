"""Errors: one class per way to be wrong, two formats, and their exact wording."""

import pytest

import attnref
from attnref.errors import did_you_mean


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (attnref.InvalidProblem, ValueError),
        (attnref.UnknownArgument, TypeError),
        (attnref.UnknownBackend, LookupError),
        (attnref.BackendLoadError, ImportError),
        (attnref.UnsupportedError, NotImplementedError),
    ],
    ids=lambda kind: kind.__name__,
)
def test_an_error_is_attnrefs_and_pythons(kind: type, also: type) -> None:
    """Every error can be caught as attnref's or as what Python calls it."""
    assert issubclass(kind, attnref.AttnrefError)
    assert issubclass(kind, also)
    assert "attnref" == kind.__module__


def test_an_invalid_problem_puts_the_fact_first() -> None:
    """Fact, arrays, where the rule is written, what to do."""
    error = attnref.InvalidProblem("q is odd.", ["q  float32"], see="there", hint="be even")
    assert "q is odd.\n  q  float32\n  see there\n  hint be even" == str(error)


def test_an_invalid_problem_may_be_the_fact_alone() -> None:
    """Whatever is missing takes no line."""
    assert "q is odd." == str(attnref.InvalidProblem("q is odd."))


def test_an_unsupported_call_lists_every_reason_of_every_backend() -> None:
    """Names are aligned, further reasons stand under the first, the hint comes last."""
    reasons = {
        "triton": [attnref.Reason("head-size", "D = 300 exceeds 256", "q", 256)],
        "a": [attnref.Reason("one", "first"), attnref.Reason("two", "second")],
    }
    error = attnref.UnsupportedError("attention: q float16", reasons, hint="do this")
    assert (
        "no backend in the preference order can run this call.\n"
        "  attention: q float16\n"
        "  triton  D = 300 exceeds 256\n"
        "  a       first\n"
        "          second\n"
        "  hint    do this"
    ) == str(error)
    assert {n: tuple(r) for n, r in reasons.items()} == error.reasons


def test_a_named_backend_that_cannot_run_a_call_is_named() -> None:
    """With a requested backend the first line says whose fault it is."""
    reasons = {"x": [attnref.Reason("one", "first")]}
    error = attnref.UnsupportedError("softmax", reasons, requested="x")
    assert "backend 'x' cannot run this call.\n  softmax\n  x     first" == str(error)


def test_an_unknown_argument_suggests_and_lists() -> None:
    """The nearest words come first, all of them after."""
    error = attnref.UnknownArgument("attention", "casual", ["scale", "causal"])
    assert (
        "attention() has no argument 'casual'. Did you mean 'causal'?\n  arguments  scale, causal"
    ) == str(error)


def test_an_unknown_backend_suggests_and_lists() -> None:
    """The nearest name, what is installed, and how a backend registers itself."""
    error = attnref.UnknownBackend("tritn", ["numpy", "triton"])
    assert (
        "no backend is called 'tritn'. Did you mean 'triton'?\n"
        "  installed  numpy, triton\n"
        "  hint       a backend registers itself in the entry-point group "
        '"attnref.backends"'
    ) == str(error)


def test_a_backend_that_cannot_be_loaded_says_why() -> None:
    """The cause is part of the message."""
    error = attnref.BackendLoadError("x", "ImportError: no y")
    assert "backend 'x' cannot be loaded: ImportError: no y" == str(error)


def test_a_reason_reads_as_its_sentence() -> None:
    """Code, field and limit are for programs."""
    reason = attnref.Reason("head-size", "D = 300 exceeds 256", "q", 256)
    assert "D = 300 exceeds 256" == str(reason)
    assert ("head-size", "q", 256) == (reason.code, reason.field, reason.limit)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("casual", " Did you mean 'causal'?"),
        ("lens", " Did you mean 'q_lens' or 'kv_lens'?"),
        ("xyz", ""),
    ],
)
def test_near_words_are_suggested(word: str, expected: str) -> None:
    """At most two suggestions, and none for a word that is like nothing."""
    assert expected == did_you_mean(word, ["causal", "q_lens", "kv_lens", "scale"])


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("is_causal", ["q", "causal"], " Here it is 'causal'."),
        ("key_padding_mask", ["q", "mask", "kv_lens"], " Here it is 'mask' or 'kv_lens'."),
        ("key_padding_mask", ["q", "key_mask"], " Here it is 'key_mask'."),
        ("dim", ["x", "axis"], " Here it is 'axis'."),
        ("dropout_p", ["q", "scale"], " There is no dropout yet."),
        ("enable_gqa", ["causal"], " Grouped heads are recognised by their number."),
        ("layout", ["q"], " A layout is a view: transpose the array."),
        ("dim", ["q", "scale"], ""),
        ("layout", ["x", "axis"], ""),
    ],
)
def test_other_libraries_words_are_known(word: str, known: list[str], expected: str) -> None:
    """What an argument is called here, if the function has it."""
    error = attnref.UnknownArgument("f", word, known)
    assert f"f() has no argument {word!r}.{expected}\n  arguments  {', '.join(known)}" == str(error)
