"""Cases of clause family H: whoever is named computes, with every option, and answers in kind."""

from collections.abc import Mapping

from attnref_conformance.cases.build import Option, attention, lens

_GIVEN: Mapping[str, Option] = {
    "bias": lambda d: d.normal("Hq Sq Sk"),
    "sinks": lambda d: d.normal("Hq"),
}

CASES = (
    # H1: the trace of a call shows the named backend, and no other; nothing is printed.
    attention("H1-no-option", {"Sq": 19}),
    attention(
        "H1-many-options",
        given={**_GIVEN, "mask": lambda d: d.mask("B 1 Sq Sk", 0.8), "kv_lens": lens(30, 37)},
        options={"softcap": 2.0},
    ),
    # H2: what is taken is computed, and what is declined is refused, forward and backward.
    attention("H2-no-option-is-dropped", given=_GIVEN, options={"softcap": 2.0}),
    # H3: results are arrays of the caller's kind.
    attention("H3-results-are-of-the-callers-kind", {"Sq": 19}),
)
