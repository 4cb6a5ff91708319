"""The command line: what it prints, and the status that it returns."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from attnref import arrays, cli, registry
from attnref.errors import BackendLoadError, Reason
from attnref.reference import Reference

BUSY = Reason("machine", "needs another machine")
SMALL = Reason("dtype", "float16 is not implemented", "q")


class Fake(Reference):
    """A backend with other answers."""

    def __init__(
        self,
        name: str,
        absent: Sequence[Reason] = (),
        against: Sequence[Reason] = (),
    ) -> None:
        self.name, self.absent, self.against = name, absent, against

    def available(self) -> Sequence[Reason]:
        """Answer for the machine."""
        return self.absent

    def unsupported(self, problem: Any) -> Sequence[Reason]:
        """Decline half precisions, or everything but float64."""
        return self.against if problem.dtype != "float64" else ()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registered backends, which a test may choose."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(registry, "names", lambda: tuple(found))
    monkeypatch.setattr(registry, "find", found.__getitem__)
    return found


def said(words: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    """Run a command and return what it printed, and what it complained of."""
    assert status == cli.main(words.split())
    return capsys.readouterr()


def misused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of what the parser says of a command it rejects."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(words.split())
    assert 2 == exit_.value.code
    return capsys.readouterr().err.splitlines()[-1]


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """And is a misuse: nothing was done."""
    nothing, out = said("", capsys, 2)
    assert "" == nothing
    assert out.startswith("usage: attnref [-h] COMMAND ...")
    for command in ("backends", "explain", "conform", "bench"):
        assert re.search(rf"^    {command} +\w", out, re.MULTILINE)


def test_backends_lists_what_each_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Every operation, and the dtypes of it."""
    out, _ = said("backends", capsys)
    every = "float16, bfloat16, float32, float64"
    assert (
        f"""\
reference   usable; takes arrays of any library
              attention               {every}
              attention_varlen        {every}
              window_attention        {every}
              softmax                 {every}
              merge                   {every}
              relative_position_bias  {every}
"""
        in out
    )
    assert "numpy       usable; takes numpy arrays\n" in out


def test_backends_says_why_one_cannot_be_loaded(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of the import, once."""
    installed["mine"] = BackendLoadError("mine", "ImportError: no module named 'cuda'")
    out, _ = said("backends", capsys)
    assert "mine        cannot be loaded: ImportError: no module named 'cuda'\n" == out


def test_backends_says_why_one_is_not_usable(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reason, and no operations."""
    installed["mine"] = Fake("mine", absent=[BUSY, SMALL])
    out, _ = said("backends", capsys)
    assert (
        "mine        not usable: needs another machine; float16 is not implemented; "
        "takes arrays of any library\n"
    ) == out


def test_backends_says_what_one_declines(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The dtypes that are taken, or the reason where none is."""
    installed["some"] = Fake("some", against=[SMALL])
    out, _ = said("backends", capsys)
    assert "              attention               float64\n" in out
    installed["some"].unsupported = lambda problem: [SMALL]
    out, _ = said("backends", capsys)
    assert "              attention               float16 is not implemented\n" in out


def test_backends_says_what_bfloat16_needs(
    installed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where ml_dtypes is missing, the other dtypes are still asked about."""

    def numpy_dtype(name: str) -> np.dtype[Any]:
        if name == "bfloat16":
            raise ImportError(name)
        return np.dtype(name)

    monkeypatch.setattr(arrays, "numpy_dtype", numpy_dtype)
    installed["mine"] = Fake("mine")
    out, _ = said("backends", capsys)
    assert "  attention               float16, float32, float64\n" in out
    installed["mine"].unsupported = lambda problem: [BUSY]
    monkeypatch.setattr(cli, "_DTYPES", ("bfloat16",))
    out, _ = said("backends", capsys)
    assert "  attention               bfloat16 needs ml_dtypes\n" in out


def test_explain_says_who_runs_a_call_and_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The call, then every backend in the order of preference."""
    out, _ = said("explain attention --q 1,2,8,16 --causal", capsys)
    first, *rest = out.splitlines()
    assert "attention: q float32 (1, 2, 8, 16) cpu, causal" == first
    answers = dict(line.split(maxsplit=1) for line in rest)
    assert "runs" == answers["numpy"]
    assert "could run" == answers["reference"]
    assert answers["torch"].startswith("takes torch arrays, and these are numpy arrays")


def test_explain_describes_torch_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    """Without their memory, in any dtype."""
    out, _ = said("explain attention --q 64,32,65536,128 --dtype bfloat16 --library torch", capsys)
    assert out.startswith("attention: q bfloat16 (64, 32, 65536, 128) cpu\n")
    assert re.search(r"^  torch +runs$", out, re.MULTILINE)


def test_explain_takes_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """What is described is what a call would say."""
    out, _ = said(
        "explain attention --q 2,4,8,16 --k 2,2,9,16 --v 2,2,9,12 --mask 8,9 "
        "--bias 4,8,9 "
        "--softcap 30 --window none 3 --q-offset -2 --backend reference",
        capsys,
    )
    asked = "bias, grouped heads, mask, softcap, window"
    assert out.startswith(f"attention: q float32 (2, 4, 8, 16) cpu, {asked}\n")
    assert "  reference  runs\n" in out


def test_explain_takes_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    """Their values are checked, so they are in arrays of the same library."""
    words = "explain attention --q 2,4,8,16 --kv-lens 3,8 --q-lens 8,0 --library"
    for library in ("numpy", "torch"):
        out, _ = said(f"{words} {library}", capsys)
        assert out.startswith("attention: q float32 (2, 4, 8, 16) cpu, kv_lens, q_lens\n")
        assert re.search(rf"^  {library} +runs$", out, re.MULTILINE)


def test_explain_describes_maps(capsys: pytest.CaptureFixture[str]) -> None:
    """One number is for every axis, several are one per axis."""
    one = "explain window_attention --q 1,8,8,2,16 --window 4 --shift 2 --bias 2,16,16"
    each = "explain window_attention --q 1,8,8,2,16 --window 4 2 --shift 2 1"
    assert said(one, capsys)[0].startswith(
        "window_attention: q float32 (1, 8, 8, 2, 16) cpu, 2-D, bias, shift\n"
    )
    assert said(each, capsys)[0].startswith(
        "window_attention: q float32 (1, 8, 8, 2, 16) cpu, 2-D, shift\n"
    )


def test_a_call_that_nobody_can_run_returns_one(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The reasons are printed, and a way out."""
    installed["mine"] = Fake("mine", against=[SMALL, BUSY])
    out, err = said("explain attention --q 1,2,8,16 --dtype float16", capsys, 1)
    assert "  mine    float16 is not implemented\n          needs another machine\n" in out
    assert (
        "no backend in the preference order can run this call; try --backend reference\n"
    ) == err


def test_a_named_backend_that_cannot_run_a_call_returns_one(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing falls back to another."""
    installed |= {"mine": Fake("mine", against=[SMALL]), "other": Fake("other")}
    out, err = said("explain attention --q 1,2,8,16 --backend mine", capsys, 1)
    assert "  other   could run\n" in out
    assert "backend 'mine' cannot run this call\n" == err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("attention --q 1,2,8,16 --k 1,2,8,17",
         "InvalidProblem: q has a head size of 16 and k has 17."),
        ("attention --q 1,2,8,16 --k 1,2,9,16 --causal",
         "InvalidProblem: causal or a window needs q_offset, because"),
        ("attention --q 1,2,8,16 --shift 2",
         "UnknownArgument: attention() has no argument 'shift'."),
        ("window_attention --q 1,8,8,2,16 --window 4 --causal",
         "UnknownArgument: window_attention() has no argument 'causal'."),
        ("window_attention --q 1,8,8,2,16",
         "AttnrefError: window_attention needs --window, e.g. --window 7"),
        ("attention --q 1,2,8,16 --backend refrence",
         "UnknownBackend: no backend is called 'refrence'. Did you mean 'reference'?"),
        ("attention --q 1,2,8,16 --library torch --device nowhere",
         "AttnrefError: no torch array on nowhere: "),
    ],
    ids=["sizes", "alignment", "no-shift", "no-causal", "no-window", "no-backend",
         "no-device"],
)  # fmt: skip
def test_a_call_without_a_meaning_returns_two(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error that the call would raise, on standard error, and nothing else."""
    out, err = said(f"explain {words}", capsys, 2)
    assert ("", error) == (out, err[: len(error)])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("attention --q 1,2,x", "argument --q: '1,2,x' is no shape; write 2,8,128,64"),
        ("attention --q 2,8,-1,64", "argument --q: '2,8,-1,64' is no shape; write 2,8,128,64"),
        ("attention --q 1 --window a 3",
         "argument --window: 'a' is neither an integer nor none"),
        ("attention --q 1 --q-offset x",
         "argument --q-offset: 'x' is neither start nor end nor an integer"),
        ("attention --q 1 --dtype float8",
         "argument --dtype: invalid choice: 'float8'"),
        ("attention", "the following arguments are required: --q"),
        ("softmax --q 1", "argument function: invalid choice: 'softmax'"),
    ],
    ids=["shape", "negative", "window", "offset", "dtype", "no-shape", "function"],
)  # fmt: skip
def test_words_that_cannot_be_read_are_misuse(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says what it was given and what it wants."""
    assert misused(f"explain {words}", capsys).startswith(f"attnref explain: error: {error}")


def test_offsets_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """By either end."""
    for name in ("start", "end"):
        words = f"explain attention --q 1,2,8,16 --k 1,2,9,16 --causal --q-offset {name}"
        assert "  numpy      runs\n" in said(words, capsys)[0]


@pytest.mark.parametrize("words", ["conform numpy", "conform numpy --quick --clause C5"])
def test_the_judge_says_what_it_needs(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra, whatever was asked."""
    monkeypatch.setattr(cli.util, "find_spec", lambda name: None)
    out, err = said(words, capsys, 2)
    assert (
        "",
        'the judge needs more packages: pip install "attnref[conformance]"\n',
    ) == (
        out,
        err,
    )


def test_the_judge_judges(capsys: pytest.CaptureFixture[str]) -> None:
    """With the extra, its own command is called."""
    out, _ = said("conform reference --clause D2 --dtype float64", capsys)
    assert "reference conforms in this part of the suite" in out


def test_benchmarks_say_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra."""
    monkeypatch.setattr(cli.util, "find_spec", lambda name: None)
    _, err = said("bench numpy", capsys, 2)
    assert 'benchmarks need more packages: pip install "attnref[bench]"\n' == err


def test_benchmarks_are_the_judges(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is installed, its command takes the words."""
    out, _ = said("bench reference --table decode --list", capsys)
    assert "decode: B 1, H 32 on 8, S 1 on 16384, D 128, full, float32\n" == out


def test_benchmarks_know_which_backends_there_are(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is not registered takes one line."""
    installed["mine"] = Fake("mine")
    assert ("", "no backend is called 'nope'; installed: mine\n") == said("bench nope", capsys, 2)


def test_the_words_are_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless others are given."""
    monkeypatch.setattr("sys.argv", ["attnref", "explain", "attention", "--q", "1,2,8,16"])
    assert 0 == cli.main()
    assert capsys.readouterr().out.startswith("attention: q float32")


def test_a_reader_who_has_read_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is closed, the status is that of SIGPIPE, and nothing is left to write."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert 141 == cli.CUT == cli.main(["models"])


def test_a_pipe_that_breaks_in_the_judge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be that of a worker that died."""

    def broken(_: object) -> int:
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr("attnref_conformance.command.main", broken)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        cli.main(["conform", "numpy"])


@pytest.mark.parametrize("command", ["models", "cost swin-tiny", "cost --list"])
def test_a_process_ends_without_a_word_where_nobody_reads(command: str) -> None:
    """As in `attnref models | head`."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-c", "import sys, attnref.cli as c; sys.exit(c.main(sys.argv[1:]))"]

    ended = subprocess.run(
        [*words, *command.split()], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)

    assert (141, b"") == (ended.returncode, ended.stderr)
