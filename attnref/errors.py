"""One class per way to be wrong, and the two formats in which errors speak.

`InvalidProblem` and its relatives say that a call has no meaning. `UnsupportedError`
says that it has one, but no backend can run it here. Both put the fact first, then the
arrays with their letters or the backends with their reasons, then what to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

ELSEWHERE = {
    "attn_bias": ("bias",),
    "attn_mask": ("mask",),
    "cu_seqlens_k": ("cu_k",),
    "cu_seqlens_q": ("cu_q",),
    "dim": ("axis",),
    "is_causal": ("causal",),
    "key": ("k",),
    "key_padding_mask": ("mask", "kv_lens", "key_mask"),
    "logit_cap": ("softcap",),
    "logits_soft_cap": ("softcap",),
    "max_seqlen_k": ("max_k",),
    "max_seqlen_q": ("max_q",),
    "query": ("q",),
    "sliding_window": ("window",),
    "sm_scale": ("scale",),
    "softmax_scale": ("scale",),
    "value": ("v",),
    "window_size": ("window",),
}
"""What other libraries call an argument, to what it may be called here."""

NOT_HERE = {
    "dropout_p": ("q", "There is no dropout yet."),
    "enable_gqa": ("causal", "Grouped heads are recognised by their number."),
    "layout": ("q", "A layout is a view: transpose the array."),
}
"""What other libraries ask for and no argument is for: where that can be said, and what."""


class AttnrefError(Exception):
    """Base of every error that attnref raises."""

    __module__ = "attnref"


class InvalidProblem(AttnrefError, ValueError):  # noqa: N818  # reads as a sentence
    """The arguments contradict each other or the specification.

    Args:
        fact: What is wrong, in one sentence.
        arrays: Lines that describe the arrays concerned.
        see: Where the rule is written.
        hint: What to do instead.
    """

    __module__ = "attnref"

    def __init__(
        self, fact: str, arrays: Iterable[str] = (), see: str = "", hint: str = ""
    ) -> None:
        lines = [fact, *(f"  {line}" for line in arrays)]
        lines += [f"  see {see}"] if see else []
        lines += [f"  hint {hint}"] if hint else []
        super().__init__("\n".join(lines))


class UnknownArgument(AttnrefError, TypeError):  # noqa: N818
    """A keyword that the function does not have."""

    __module__ = "attnref"

    def __init__(self, function: str, unknown: str, known: Sequence[str]) -> None:
        super().__init__(
            f"{function}() has no argument {unknown!r}.{_advice(unknown, known)}\n"
            f"  arguments  {', '.join(known)}"
        )


class UnknownBackend(AttnrefError, LookupError):  # noqa: N818
    """A backend name that no installed package registers."""

    __module__ = "attnref"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"no backend is called {name!r}.{did_you_mean(name, known)}\n"
            f"  installed  {', '.join(known)}\n"
            "  hint       a backend registers itself in the entry-point group "
            '"attnref.backends"'
        )


class BackendLoadError(AttnrefError, ImportError):
    """A registered backend whose package cannot be imported."""

    __module__ = "attnref"

    def __init__(self, name: str, cause: str) -> None:
        self.cause = cause
        super().__init__(f"backend {name!r} cannot be loaded: {cause}")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a backend cannot run a call.

    Attributes:
        code: Stable identifier, e.g. `"head-size"`; reports group by it.
        sentence: The reason for a person: what is the case and, where there is
            one, the remedy.
        field: The argument concerned, if one is.
        limit: The largest, or the only, value that would have been taken.
    """

    code: str
    sentence: str
    field: str | None = None
    limit: object = None

    def __str__(self) -> str:
        """Return the sentence."""
        return self.sentence


class UnsupportedError(AttnrefError, NotImplementedError):
    """A meaningful call that no eligible backend can run here.

    Attributes:
        reasons: Backend name to the reasons against it.
    """

    __module__ = "attnref"

    def __init__(
        self,
        call: str,
        reasons: Mapping[str, Sequence[Reason]],
        *,
        requested: str | None = None,
        hint: str = "",
    ) -> None:
        self.reasons = {name: tuple(against) for name, against in reasons.items()}
        who = (
            f"backend {requested!r} cannot run this call."
            if requested
            else "no backend in the preference order can run this call."
        )
        width = max([len(name) for name in self.reasons] + [len("hint")])
        lines = [who, f"  {call}"]
        for name, against in self.reasons.items():
            for first, reason in enumerate(against):
                label = "" if first else name
                lines.append(f"  {label:<{width}}  {reason}")
        if hint:
            lines.append(f"  {'hint':<{width}}  {hint}")
        super().__init__("\n".join(lines))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Suggest the known words that `word` may have meant."""
    close = get_close_matches(word, known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _advice(word: str, known: Sequence[str]) -> str:
    """Say what another library's argument is called here, or suggest a near word."""
    where, instead = NOT_HERE.get(word, ("", ""))
    if where in known:
        return f" {instead}"
    names = [name for name in ELSEWHERE.get(word, ()) if name in known]
    if names:
        return f" Here it is {' or '.join(map(repr, names))}."
    return did_you_mean(word, known)
