"""The prints are those of the installed libraries, and a change of meaning changes them."""

import doctest
import importlib
import linecache
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from attnref import integrations
from attnref.integrations import replacing, sources

MODULES = [m.name for m in pkgutil.walk_packages(integrations.__path__, "attnref.integrations.")]


def function(source: str) -> Callable[..., Any]:
    """Define a function whose source can be found."""
    name = f"<made {abs(hash(source))}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space)
    return space["f"]


PLAIN = function("def f(x, y=1):\n    return x + y\n")


def installed(places: tuple[str, ...]) -> Any:
    """Return the class of replaced modules whose library's names are installed."""
    for place in places:
        module, _, name = place.partition(".")
        with suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(f"attnref.integrations.{module}"), name)
    raise AssertionError(places)


def kinds() -> list[Any]:
    """Return the classes of replaced modules."""
    return [installed(places) for places in sorted(replacing.REPLACEABLE.values())]


@pytest.mark.parametrize("places", sorted(replacing.REPLACEABLE.values()), ids=" or ".join)
def test_the_installed_versions_are_known(places: tuple[str, ...]) -> None:
    """If this fails, a library changed: compare it, hold it to parity, then add its print."""
    kind = installed(places)
    actual = {f.__qualname__: sources.fingerprint(f) for f in kind.sources}
    known = {f.__qualname__: prints for f, prints in kind.sources.items()}

    assert {} == {n: print_ for n, print_ in actual.items() if print_ not in known[n]}


def path(replaced: Callable[..., Any]) -> str:
    """Return where a library has a function."""
    return f"{replaced.__module__}.{replaced.__qualname__}"


TIMM, SWIN2 = "timm.models.swin_transformer", "transformers.models.swinv2.modeling_swinv2"
SWIN = "transformers.models.swin.modeling_swin"
PARTITION = {"4.40": "2946bf9ae99f", "5.9": "ad458c13f938"}

WORDINGS = {
    f"{TIMM}.SwinTransformerBlock.get_attn_mask": {
        "1.0.8": "16b51a8a353e",
        "1.0.21": "338270c0e8ce",
        "1.0.31": "ded0a17b976e",
    },
    f"{TIMM}_v2.SwinTransformerV2Block.get_attn_mask": {
        "1.0.8": "f41ac6bf4be1",
        "1.0.21": "1d36a08db3b9",
        "1.0.31": "f94db34fc30a",
    },
    f"{TIMM}_v2_cr.SwinTransformerV2CrBlock.get_attn_mask": {
        "1.0.8": "cd7bf1234f98",
        "1.0.21": "6fcdb5f674e3",
        "1.0.31": "95172cd6832e",
    },
    f"{SWIN}.SwinLayer.get_attn_mask": {"5.9": "dfc0247f586d", "5.13": "ab01d82feec2"},
    f"{SWIN}.window_partition": PARTITION,
    f"{SWIN2}.Swinv2Layer.forward": {
        "4.40": "c52f64a5ac7b",
        "5.0": "9a013477bdec",
        "5.18": "5bbf8026ceda",
    },
    f"{SWIN2}.Swinv2Layer.get_attn_mask": {
        "4.40": "7851d4b5c6d2",
        "4.53": "61865045a00e",
        "5.13": "b0caadc889c7",
        "5.18": "069b3902dd11",
    },
    f"{SWIN2}.Swinv2SelfAttention.forward": {
        "4.40": "b1ec81e4781c",
        "4.54": "ea64dfb98a1d",
        "5.0": "e6d194d5aea3",
    },
    f"{SWIN2}.Swinv2Attention.forward": {"4.40": "1645f4c1bd28", "5.0": "d711851ee635"},
    f"{SWIN2}.window_partition": PARTITION,
}
"""Functions that were written anew, with the release that each wording came with.

Those of transformers' Swin before 5.9 are in `test_swin_before.py`.
"""


def test_every_wording_is_of_a_release() -> None:
    """A print that no release has would let code in that nobody read."""
    known = {path(f): prints for kind in kinds() for f, prints in kind.sources.items()}
    actual = {name: prints for name, prints in known.items() if len(prints) > 1}

    assert {name: set(since.values()) for name, since in WORDINGS.items()} == actual


@pytest.mark.parametrize(
    ("name", "release"), [(n, r) for n, since in WORDINGS.items() for r in since]
)
def test_every_wording_is_known(name: str, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever of its wordings a function is installed, no class misses it."""
    print_ = sources.fingerprint
    monkeypatch.setattr(
        sources, "fingerprint", lambda f: WORDINGS[name][release] if path(f) == name else print_(f)
    )
    met = [kind for kind in kinds() if name in map(path, kind.sources)]

    assert 1 == len(met)
    assert [[]] == [sources.unknown(kind.sources) for kind in met]


@pytest.mark.parametrize(
    "source",
    [
        'def f(x: int, y: int = 1) -> int:\n    """Add."""\n    return x + y  # a sum\n',
        "def f(x,\n      y=1):\n    return (x +\n            y)\n",
    ],
    ids=["annotations and comments", "layout"],
)
def test_what_means_nothing_changes_no_print(source: str) -> None:
    """A library may be reformatted."""
    assert sources.fingerprint(PLAIN) == sources.fingerprint(function(source))


@pytest.mark.parametrize(
    "source",
    ["def f(x, y=2):\n    return x + y\n", "def f(x, y=1):\n    return y + x\n"],
    ids=["a default", "an order"],
)
def test_what_means_something_changes_the_print(source: str) -> None:
    """However little it is."""
    assert sources.fingerprint(PLAIN) != sources.fingerprint(function(source))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (r"{x['a']} of \"all\"", "e3bc77b34dfa"),
        ("{x['a']!r:>{x['w']}}", "26693f9430b3"),
        ("{x['a']:>{x['w']}}", "be5fd50d2096"),
    ],
    ids=["quotes inside quotes", "a conversion and a width", "a width"],
)
def test_every_python_prints_an_f_string_alike(said: str, expected: str) -> None:
    """Python 3.12 quotes some otherwise than 3.11; these digits are those of 3.11 to 3.13."""
    assert expected == sources.fingerprint(function(f'def f(x):\n    return f"{said}"\n'))


def test_a_docstring_alone_is_a_body() -> None:
    """A function that only says something does nothing."""
    said = function('def f():\n    """Nothing."""\n')
    assert sources.fingerprint(function("def f():\n    pass\n")) == sources.fingerprint(said)


def test_without_source_there_is_no_print() -> None:
    """What cannot be read was not compared."""
    assert ["len"] == sources.unknown({len: frozenset({"0"})})


def absent() -> set[str]:
    """Return the modules for a class that is installed as another was cut."""
    places = {place for places in replacing.REPLACEABLE.values() for place in places}
    wanted = {f"attnref.integrations.{place.partition('.')[0]}" for place in places}
    return wanted - {kind.__module__ for kind in kinds()}


@pytest.mark.parametrize("name", sorted({*MODULES} - absent()))
def test_examples_run(name: str) -> None:
    """What follows `>>>` prints what stands under it."""
    with np.printoptions(legacy=False):
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert 0 == failed
