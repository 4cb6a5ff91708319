"""`attnref cost`: tables, errors, and the picture."""

import doctest
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from attnref import cli
from attnref.cost import growth, page, tables
from attnref.models import PRESETS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cost.md"


def said(words: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    """Run a command and return what it printed, and what it complained of."""
    assert status == cli.main(["cost", *words.split()])
    return capsys.readouterr()


def misused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of what the parser says of a command it rejects."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["cost", *words.split()])
    assert 2 == exit_.value.code
    return capsys.readouterr().err.splitlines()[-1]


def test_nothing_named_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """And is a misuse."""
    out, err = said("", capsys, 2)
    assert "" == out
    assert err.startswith("usage: attnref cost [-h] [--list] WHAT ...")


def test_the_list_has_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    """With parameters and multiply-adds, and what else there is a cost of."""
    out, _ = said("--list", capsys)
    first, *rest = out.splitlines()
    assert ["model", "parameters", "multiply-adds"] == first.split()
    assert list(PRESETS) == [line.split()[0] for line in rest[: len(PRESETS)]]
    assert "swin-tiny               28.3 M         4.49 G" in rest
    assert "Calls: attention, window_attention. By the size of an image: growth." == rest[-1]


def test_swin_is_printed_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    """The sum of the parts comes last."""
    out, _ = said("swin-tiny --image 224", capsys)
    assert out.startswith("swin-tiny, batch 1, image 224, float32\npart ")
    cells = {line.split("  ")[0]: line.split()[-7:] for line in out.splitlines()[2:-1]}
    assert list(cells) == [
        "embeddings", "norms", "qkv projection", "attention", "output projection",
        "residuals", "mlp", "merging", "head", "all",
    ]  # fmt: skip
    assert "all                28,288,354             8.98 G" in out
    assert out.endswith(
        "8.98 G operations are 4.49 G multiply-adds, which papers call FLOPs\n"
    )  # fmt: skip


def test_gradients_keep_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Their table has no column for it, and twice the operations."""
    out, _ = said("swin-tiny --image 224x448 --batch 2 --backward --dtype bfloat16", capsys)
    first, head, *_ = out.splitlines()
    assert "swin-tiny, batch 2, image (224, 448), bfloat16" == first
    assert "kept" not in head
    # Two images of twice the size, and twice the work of a forward pass: 8 * 4.49 G.
    assert "71.8 G operations are 35.9 G multiply-adds" in out


def test_a_cached_token_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens and what is cached stand in the first line; the ceilings make a bound."""
    out, _ = said("gpt2 --tokens 1 --cached 1023 --peak 989 --bandwidth 3350", capsys)
    assert out.startswith("gpt2, batch 1, tokens 1, cached 1023, float32\n")
    assert "at least, where 295 operations per byte are the ridge:\n  tiled    0.1" in out
    assert out.endswith("ms, bound by bytes\n")


def test_a_call_is_printed_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    """Side by side; bfloat16 needs no package."""
    out, _ = said("attention --q 1,12,1024,64 --causal --dtype bfloat16", capsys)
    expected = """\
attention: q bfloat16 (1, 12, 1024, 64), causal
forward                  tiled     untiled
pairs                6,297,600  12,582,912
operations              1.61 G      3.22 G
exponentials            6.30 M      12.6 M
bytes moved           8.19 MiB     150 MiB
kept for backward     6.05 MiB    28.5 MiB
operations per byte      187.7        20.5
"""
    assert expected == out


def test_a_window_that_is_not_causal_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Causality is the window that ends at the query and has no other end."""
    for words, asked in (("--window none 0", "causal"), ("--window 5 0", "window")):
        out, _ = said(f"attention --q 1,2,8,16 {words}", capsys)
        assert f"attention: q float32 (1, 2, 8, 16), {asked}" == out.splitlines()[0]


def test_a_call_takes_lengths_and_another_chip(capsys: pytest.CaptureFixture[str]) -> None:
    """Decoding from caches of two lengths, on a chip that holds everything."""
    words = "attention --q 2,8,1,64 --k 2,2,512,64 --kv-lens 100,300 --q-offset end --causal"
    out, _ = said(f"{words} --on-chip none", capsys)
    assert re.search(r"^pairs +3,200 +8,192$", out, re.MULTILINE)
    out, _ = said(f"{words} --backward --on-chip 20000 --q-lens 1,0", capsys)
    assert re.search(r"^pairs +800 +8,192$", out, re.MULTILINE)
    assert re.search(r"^kept for backward +0 B +0 B$", out, re.MULTILINE)


def test_a_map_is_printed_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    """With a shift, pairs that were wrapped are not computed by tiles."""
    out, _ = said("window_attention --q 1,56,56,3,32 --window 7 --shift 3 --bias 3,49,49", capsys)
    assert out.startswith("window_attention: q float32 (1, 56, 56, 3, 32), 2-D, bias, shift\n")
    assert re.search(r"^pairs +406,272 +460,992$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("swin-tiny --image 230", "InvalidProblem: image 230x230 has 57.5 tokens along an axis"),
        ("gpt2 --tokens 2000", "InvalidProblem: tokens is 2000, and GPT2Config has 1024 positi"),
        ("attention --q 1,2,8,16 --k 1,2,9,17", "InvalidProblem: q has a head size of 16"),
        ("attention --q 1,2,8,16 --on-chip 10", "InvalidProblem: on_chip is 10 bytes, and a qu"),
        ("attention --q 1,2,8,16 --shift 2", "UnknownArgument: attention() has no argument"),
        ("window_attention --q 1,8,8,2,16", "AttnrefError: window_attention needs --window"),
        ("vit-b16 --peak 989", "InvalidProblem: --peak is 989.0 and --bandwidth is None."),
        ("vit-b16 --peak 0 --bandwidth 1", "InvalidProblem: operations is 0.0 in a second;"),
    ],
    ids=["image", "tokens", "sizes", "chip", "shift", "window", "one ceiling", "no ceiling"],
)
def test_what_has_no_cost_returns_two(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the error on standard error."""
    _, err = said(words, capsys, 2)
    assert error == err[: len(error)]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("swin-tiny --image 224,224",
         "attnref cost swin-tiny: error: argument --image: '224,224' is no size of an image; "
         "write 224 or 224x448"),
        ("swin-tiny --image 1x2x3",
         "attnref cost swin-tiny: error: argument --image: '1x2x3' is no size of an image; "
         "write 224 or 224x448"),
        ("swin-tiny --tokens 3", "attnref: error: unrecognized arguments: --tokens 3"),
        ("swin-tinny", "attnref cost: error: argument WHAT: invalid choice: 'swin-tinny'"),
        ("attention", "attnref cost attention: error: the following arguments are required: --q"),
    ],
    ids=["comma", "three sides", "no tokens", "no model", "no shape"],
)  # fmt: skip
def test_words_that_cannot_be_read_are_misuse(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says what it was given and what it wants."""
    assert misused(words, capsys).startswith(error)


def test_growth_is_a_table_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that cannot be drawn is said to be missing, after the table."""
    out, err = said("growth", capsys)
    assert "" == err
    assert [str(side) for side in growth.SIDES] == [
        line.split()[0] for line in out.splitlines()[1:]
    ]
    monkeypatch.setattr(growth.util, "find_spec", lambda name: None)
    again, err = said(f"growth --plot {tmp_path / 'cost.svg'}", capsys, 2)
    assert out == again
    assert 'drawing needs one more package: pip install "attnref[plot]"\n' == err
    assert [] == list(tmp_path.iterdir())


class Drawn:
    """Stands for everything that matplotlib has, and notes what is called."""

    def __init__(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            self.calls.append((name, words, options))
            return (self, self) if name == "subplots" else self

        return call

    def __enter__(self) -> None:
        """Stand for settings that last for a while."""

    def __exit__(self, *_: object) -> None:
        """End them."""


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_growth_is_drawn_where_it_can_be(
    ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three models and two attentions by the side of the image, into the file that is named."""
    drawn = Drawn([])
    modules: dict[str, Any] = {
        "matplotlib": SimpleNamespace(rc_context=drawn.rc_context),
        "matplotlib.figure": SimpleNamespace(Figure=lambda **_: drawn),
    }
    for name, fake in modules.items():
        module = ModuleType(name)
        vars(module).update(vars(fake))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(growth.util, "find_spec", lambda name: name)
    said(f"growth --plot there/cost.{ending}", capsys)
    lines = [(words, options["label"]) for name, words, options in drawn.calls if name == "plot"]
    assert ["conv", "vit-s16", "vit-s16", "swin-tiny", "swin-tiny"] == [name for _, name in lines]
    assert all(growth.SIDES == sides for (sides, _), _ in lines)
    (vit, whole) = (lines[2][0][1], lines[1][0][1])
    assert vit[0] == growth.point("vit-s16", 224).attention < whole[0]
    ((path,), options) = next(call[1:] for call in drawn.calls if call[0] == "savefig")
    assert Path(f"there/cost.{ending}") == path
    assert ({"Date": None} if ending == "svg" else None) == options.get("metadata")


def test_the_page_has_the_figures_of_the_code() -> None:
    """Nobody typed them: `python -m attnref.cost.page docs/cost.md` writes them."""
    text = PAGE.read_text("utf-8")
    assert all(f"<!-- {name}: begin -->" in text for name in page.SECTIONS)
    assert page.written(text) == text


def test_the_page_is_written_where_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its marks and nowhere else."""
    text = PAGE.read_text("utf-8")
    stale = tmp_path / "cost.md"
    stale.write_text(text.replace("124,439,808", "117,000,000"), "utf-8")
    monkeypatch.setattr(sys, "argv", ["page", str(stale)])
    runpy.run_path(page.__file__, run_name="__main__")
    assert text == stale.read_text("utf-8")


def test_the_examples_of_the_page_run() -> None:
    """What a reader types prints what the page shows."""
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)
    assert (0, True) == (failed, attempted > 0)


def test_the_pictures_and_records_of_the_page_are_there() -> None:
    """Every relative link leads somewhere."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE.read_text("utf-8"))
    assert links
    assert [] == [link for link in links if not (PAGE.parent / link).exists()]


@pytest.mark.parametrize(
    ("n", "number", "memory"),
    [
        (999, "999", "999 B"),
        (999_499, "999 k", "976 KiB"),
        (999_500, "1.00 M", "976 KiB"),
        (10**12, "1.00 T", "931 GiB"),
        (2**60, "1.15 E", "1024 PiB"),
    ],
)
def test_numbers_have_three_digits(n: int, number: str, memory: str) -> None:
    """Rounding to the next unit included; the last unit takes what is left."""
    assert (number, memory) == (tables.count(n), tables.size(n))
