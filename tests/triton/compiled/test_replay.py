"""Calls of a shape seen before launch what a first call would, with their own tensors.

The driver is replaced by one that launches nothing and writes down what it was told.
"""

import sys
import threading
from typing import Any

import pytest
import torch
from attnref_triton import attention, launch, replay, windows
from attnref_triton.backend import TritonBackend
from attnref_triton.tables import Chip
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import attnref

HOPPER = Chip(capability=9, processors=132, shared=232448)

Told = list[tuple[Any, ...]]

TOLD: Told = []
"""What was launched; compiled kernels keep their launcher from test to test."""


class _Utilities:
    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 80, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": HOPPER.shared, "multiprocessor_count": HOPPER.processors,
                "max_num_regs": 65536, "warpSize": 32}  # fmt: skip


class _Launcher:
    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, *words: Any) -> None:
        grid, arguments = words[:3], words[9:]
        TOLD.append((grid, *arguments))


class _Driver:
    """A driver of a GPU that is not there."""

    utils = _Utilities()
    launcher_cls = _Launcher

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Launch nothing; return what would have been launched."""
    TOLD.clear()
    monkeypatch.setattr(driver, "_active", _Driver())
    for module in (attention, windows):
        monkeypatch.setattr(module, "chip_of", lambda _: HOPPER)
    monkeypatch.setattr("attnref_triton.plan.chip_of", lambda _: HOPPER)
    monkeypatch.setattr(TritonBackend, "available", lambda _: [])
    monkeypatch.setattr(sys.modules[TritonBackend.__module__], "_about_device", lambda _: [])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(replay, "_recipes", {})
    return TOLD


def window_call(seed: int, *, packed: bool, scaled: bool, gradients: bool) -> list[torch.Tensor]:
    """Make a call, and its gradients if they are wanted; return every tensor given to it."""
    torch.manual_seed(seed)
    qkv = torch.randn(2, 14, 14, 3, 4, 32, dtype=torch.bfloat16)
    more = {"bias": torch.randn(4, 49, 49, dtype=torch.bfloat16)}
    if scaled:
        more["scale"] = torch.rand(4, dtype=torch.float32)
    given = [qkv] if packed else [qkv[..., n, :, :].contiguous() for n in range(3)]
    function = "window_attention_qkv" if packed else "window_attention"
    options = {"window": 7, "shift": 3, "backend": TritonBackend(), **more}
    out, lse = getattr(attnref, f"{function}_with_lse")(*given, **options)
    if gradients:
        out, lse = torch.zeros_like(out), torch.zeros_like(lse)
        dout = torch.randn_like(out)
        getattr(attnref, f"{function}_backward")(dout, *given, out, lse, **options)
        given += [out, lse, dout]
    return [*given, *more.values()]


def alike(x: Any, y: Any, given: dict[int, int]) -> bool:
    """Tell whether two arguments are the same number, tensor, or room for the same result."""
    if not isinstance(x, torch.Tensor):
        return bool(x == y)
    at = given.get(x.data_ptr()), given.get(y.data_ptr())
    lies = (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)
    return at[0] == at[1] and lies


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("packed", [False, True], ids=["parts", "packed"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_windows_are_launched_again(
    told: Told, packed: bool, scaled: bool, gradients: bool
) -> None:
    kind = {"packed": packed, "scaled": scaled, "gradients": gradients}
    window_call(0, **kind)
    told.clear()
    given = window_call(1, **kind)
    short = list(told)
    recipes = dict(replay._recipes)
    assert len(recipes) == 1 + gradients

    replay._recipes.clear()
    told.clear()
    anew = window_call(1, **kind)
    places = {x.data_ptr(): at for given_ in (given, anew) for at, x in enumerate(given_)}
    assert len(short) == len(told) == 1 + gradients
    for ours, theirs in zip(short, told, strict=True):
        assert len(ours) == len(theirs)
        assert all(alike(x, y, places) for x, y in zip(ours, theirs, strict=True))
    assert recipes.keys() == replay._recipes.keys()


def test_what_is_copied_first_is_not_kept(told: Told) -> None:
    """Rows that do not begin at multiples of sixteen bytes go through a copy."""
    q = torch.randn(1, 7, 7, 2, 20, dtype=torch.float16)
    attnref.window_attention(q, q, q, window=7, backend=TritonBackend())
    assert (1, 0) == (len(told), len(replay._recipes))


def attention_call(seed: int, D: int, *, hopper: bool, kind: str = "") -> list[torch.Tensor]:
    """Make a call of attention; return its tensors."""
    torch.manual_seed(seed)
    q, k, v = (torch.randn(1, 2, 256, D, dtype=torch.bfloat16) for _ in range(3))
    backend = TritonBackend(hopper=hopper)
    if kind == "packed":
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
        cu = torch.tensor([0, 100, 256])
        attnref.attention_varlen_with_lse(q, k, v, cu, cu, causal=True, backend=backend)
        return [q, k, v, cu]
    more: dict[str, torch.Tensor] = {}
    if kind == "lengths":
        more = {"q_lens": torch.tensor([200]), "kv_lens": torch.tensor([100])}
    elif kind == "bias":
        more = {"bias": torch.randn(1, 2, 256, 256).bfloat16(), "sinks": torch.randn(2)}
    elif kind == "mask":
        more = {"mask": torch.randn(1, 1, 256, 256) > 0}
    attnref.attention_with_lse(q, k, v, causal=True, q_offset="end", **more, backend=backend)
    return [q, k, v, *more.values()]


def fields_of(x: Any) -> tuple[Any, ...]:
    """Take a tuple or tensor descriptor apart, or what a compiled kernel's launch reads of one.

    Of the tensor that is described, where it begins.
    """
    if hasattr(x, "base"):
        begin = x.base.as_strided((1,), (1,)).view(torch.uint8)
        return begin, list(x.shape), list(x.strides), x.padding
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.parametrize("hopper", [False, True], ids=["portable", "hopper"])
@pytest.mark.parametrize("kind", ["", "lengths", "packed", "bias", "mask"])
def test_attention_is_launched_again(told: Told, hopper: bool, kind: str) -> None:
    attention_call(0, 64, hopper=hopper, kind=kind)
    told.clear()
    given = attention_call(1, 64, hopper=hopper, kind=kind)
    short = list(told)
    (recipe,) = replay._recipes.values()
    assert hopper == bool(recipe.steps[-1].described)

    replay._recipes.clear()
    told.clear()
    anew = attention_call(1, 64, hopper=hopper, kind=kind)
    places = {x.data_ptr(): at for given_ in (given, anew) for at, x in enumerate(given_)}
    assert len(short) == len(told) == 1 + (hopper and kind in ("lengths", "packed"))
    for launched, again in zip(short, told, strict=True):
        for ours, theirs in zip(launched, again, strict=True):
            parts = zip(fields_of(ours), fields_of(theirs), strict=True)
            assert all(alike(x, y, places) for x, y in parts)


LENGTHS = torch.tensor([100, 256])

BACK: dict[str, dict[str, Any]] = {
    "plain": {"causal": True},
    "sinks": {"sinks": torch.ones(2)},
    "lengths": {"q_lens": LENGTHS, "kv_lens": LENGTHS, "causal": True, "q_offset": 0},
    "offsets": {"causal": True, "q_offset": LENGTHS},
}


def gradients_call(seed: int, option: str, *, broadcast: bool = False) -> list[torch.Tensor]:
    """Make a call backward; return every tensor that is given or comes back."""
    torch.manual_seed(seed)
    options = {n: x.clone() if hasattr(x, "clone") else x for n, x in BACK.get(option, {}).items()}
    D = 128 if option == "packed" else 64  # shorter sequences than with 64 columns
    q, k, v, out = (torch.randn(2, 2, 256, D, dtype=torch.bfloat16) for _ in range(4))
    lse, arrays = torch.randn(2, 2, 256), []
    if option == "packed":
        q, k, v, out = (x[0].transpose(0, 1).contiguous() for x in (q, k, v, out))
        lse, arrays = lse[0].contiguous(), [torch.tensor([0, 100, 256])] * 2
    dout = out[..., :1].expand(out.shape) if broadcast else torch.randn_like(out)
    function = attnref.attention_varlen_backward if arrays else attnref.attention_backward
    given = [dout, q, k, v, out, lse, *arrays]
    made = function(*given, backend=TritonBackend(), **options)
    tensors = [x for x in (*options.values(), *made) if isinstance(x, torch.Tensor)]
    return [*given, *tensors]


@pytest.mark.parametrize("option", [*BACK, "packed"])
def test_the_path_backward_is_launched_again(told: Told, option: str) -> None:
    """Rooms for what is worked out on the way lie as those of a first call."""
    gradients_call(0, option)
    told.clear()
    given = gradients_call(1, option)
    short = list(told)
    assert 1 == len(replay._recipes)

    replay._recipes.clear()
    told.clear()
    anew = gradients_call(1, option)
    places = {x.data_ptr(): at for given_ in (given, anew) for at, x in enumerate(given_)}
    assert len(short) == len(told) == 3 + (option == "sinks")
    for ours, theirs in zip(short, told, strict=True):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            parts = zip(fields_of(x), fields_of(y), strict=True)
            assert all(alike(a, b, places) for a, b in parts)


def test_a_copied_gradient_is_not_taken_for_a_given_one(told: Told) -> None:
    """TMA does not read what is broadcast."""
    gradients_call(0, "plain", broadcast=True)
    assert (3, 0) == (len(told), len(replay._recipes))


def test_where_bits_must_repeat_no_recipe_is_followed(told: Told) -> None:
    gradients_call(0, "plain")
    told.clear()
    torch.use_deterministic_algorithms(True)
    try:
        gradients_call(0, "plain")
    finally:
        torch.use_deterministic_algorithms(False)
    assert 2 == len(told)


def test_recipes_do_not_fill_a_device(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules that no longer fit are worked out for each call again."""
    monkeypatch.setattr(replay, "ROOM", 1)
    attention_call(0, 64, hopper=True)
    assert (1, 0) == (len(told), len(replay._recipes))
    attention_call(0, 64, hopper=False)
    assert (2, 1) == (len(told), len(replay._recipes))


def test_the_oldest_recipe_goes_that_holds_nothing(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a captured graph may still read from stays."""
    monkeypatch.setattr(replay, "MOST", 2)
    attention_call(0, 64, hopper=True)
    attention_call(0, 64, hopper=False)
    held, old = replay._recipes
    attention_call(0, 32, hopper=False)
    assert (3, 2) == (len(told), len(replay._recipes))
    assert held in replay._recipes
    assert old not in replay._recipes
    attention_call(0, 128, hopper=True)
    attention_call(0, 128, hopper=False)
    assert 2 == len(replay._recipes)
    assert all(recipe.held for recipe in replay._recipes.values())


def test_the_two_kernels_do_not_share_a_recipe(told: Told) -> None:
    """What a call comes to depends on whether it may take the path."""
    attention_call(0, 64, hopper=True)
    attention_call(0, 64, hopper=False)
    assert (2, 2) == (len(told), len(replay._recipes))


def test_each_thread_enters_the_context_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor is made where nothing else may have asked for CUDA's context before."""
    asked: list[int] = []
    monkeypatch.setattr(launch, "_thread", threading.local())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: asked.append(threading.get_ident()))
    device = torch.device("cuda", 0)

    def twice() -> None:
        launch.enter(device)
        launch.enter(device)

    twice()
    other = threading.Thread(target=twice)
    other.start()
    other.join()
    launch.enter(torch.device("cpu"))
    assert [threading.get_ident(), other.ident] == asked


@pytest.mark.parametrize("hopper", [False, True], ids=["portable", "hopper"])
def test_descriptors_are_made_inside_the_context(
    told: Told, monkeypatch: pytest.MonkeyPatch, hopper: bool
) -> None:
    entered: list[torch.device] = []
    monkeypatch.setattr(replay, "enter", entered.append)
    for seed in range(2):
        attention_call(seed, 64, hopper=hopper)
    assert (2, hopper) == (len(told), len(entered))
