"""What the host decides without a GPU: why a machine cannot, and how a call is cut."""

from collections.abc import Iterator

import cupy
import numpy as np
import pytest
from attnref_cupy import CupyBackend, machine, plan
from attnref_cupy.backend import about_shared, about_sizes, about_window
from attnref_cupy.call import Call
from attnref_cupy.machine import Chip

AMPERE, ADA, HOPPER = (
    Chip((8, 0), 108, 166912),
    Chip((8, 9), 128, 101376),
    Chip((9, 0), 132, 232448),
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    """Forget what this machine said."""
    machine.reasons.cache_clear()
    yield
    machine.reasons.cache_clear()


def call_of(D: int, dtype: str = "float16", **options: object) -> Call:
    """Describe a call of 130 tokens."""
    x = np.zeros((2, 4, 130, D), dtype)
    told: dict[str, object] = {
        "entries": 2, "heads": (4, 4), "tokens": (130, 130), "sizes": (D, D),
        "scale": 1.0, "window": (None, None), "offset": 0, "softcap": None,
    }  # fmt: skip
    return Call(q=x, k=x, v=x, **{**told, **options})  # type: ignore[arg-type]


def test_no_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver is told to install it."""

    def none() -> int:
        raise RuntimeError("no driver here")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", none)
    (reason,) = CupyBackend().available()
    assert reason.code == "no-driver"
    assert "no driver here" in str(reason)


def test_no_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without a device is told where to look."""
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert [r.code for r in CupyBackend().available()] == ["no-device"]


def test_old_and_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays elsewhere, and GPUs before Ampere, each have their reason."""
    monkeypatch.setattr(machine, "chip_of", lambda _: Chip((7, 5), 40, 65536))
    assert [r.code for r in machine.about_device("cuda:0")] == ["capability"]
    assert [r.code for r in machine.about_device("cpu")] == ["device"]


def test_sizes_have_limits() -> None:
    """The limit itself is accepted, and one more is not."""
    assert not about_sizes({"D": 256}, {"q": 2**30})
    codes = [r.code for r in about_sizes({"D": 257}, {"q": 2**30 + 1})]
    assert codes == ["head-size", "length"]
    assert not about_window((128, 128))
    assert [r.code for r in about_window((128, 129))] == ["window"]


@pytest.mark.parametrize("chip", [AMPERE, ADA, HOPPER])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("D", [1, 40, 64, 96, 128, 129, 256])
def test_what_is_not_refused_fits(D: int, dtype: str, chip: Chip) -> None:
    """Every block's shared memory is there, or the call is refused beforehand."""
    call = call_of(D, dtype)
    cuts = (plan.forward(call), *plan.backward(call))
    fits = all(cut.shared <= chip.shared for cut in cuts)
    assert fits == (not about_shared(dtype, D, chip))


def test_tiles_cover_all_tokens() -> None:
    """The last tile may be partly empty."""
    assert plan.tiles_to_cover(call_of(64), 130, 128) == 2
    starts = (np.array([0, 1, 130]), np.array([0, 1, 130]))
    packed = call_of(64, starts=starts)
    assert plan.tiles_to_cover(packed, 130, 128) == 1 + 2 + 1


def test_float64_leaves_tensor_cores() -> None:
    """A bias in float64 sends a call in half precision to the kernels in float64."""
    bias = np.zeros((1, 1, 130, 130))
    assert plan.runs_on_tensor_cores(call_of(64))
    assert not plan.runs_on_tensor_cores(call_of(64, bias=bias))
    assert plan.precision(call_of(64, bias=bias)) == "double"


def test_a_backward_pass_on_tensor_cores_is_for_halves() -> None:
    """Heads above 128, a bias in float64 and float32 take the wide kernels."""
    single, double = (np.zeros((1, 1, 130, 130), name) for name in ("float32", "float64"))
    kept = [*(call_of(D) for D in (1, 40, 96, 128)), call_of(64, bias=single)]
    wide = [call_of(129), call_of(64, "float32"), call_of(64, bias=double)]
    assert {cut.kernel.file for call in kept for cut in plan.backward(call)} == {"backward.cu"}
    assert {cut.kernel.file for call in wide for cut in plan.backward(call)} == {"wide_backward.cu"}


OPTIONS: tuple[dict[str, object], ...] = ({}, {"softcap": 1.0})


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("D", [32, 64, 96, 128])
def test_blocks_share_what_a_tiling_says(D: int, options: dict[str, object], groups: bool) -> None:
    """As many blocks as registers are meant for have shared memory, too, on Hopper."""
    call, kilobyte = call_of(D, groups=groups, **options), 1024
    cuts = (plan.forward(call), *plan.backward(call))
    for walk, cut in zip(("forward", "queries", "keys"), cuts, strict=True):
        tiling = plan.tiling_of(walk, call)
        assert cut.length == tiling.rows
        assert cut.threads == 32 * tiling.warps
        assert tiling.blocks * (cut.shared + kilobyte) <= 228 * kilobyte
        assert cut.kernel.chip == ("sm_90a" if groups and D > 32 else None)


@pytest.mark.parametrize(
    "tables", [plan.TILINGS, plan.OPTIONED, plan.GROUPED, plan.GROUPED_OPTIONED]
)
@pytest.mark.parametrize("walk", plan.TILINGS)
def test_tilings_divide(walk: str, tables: dict[str, dict[int, plan.Tiling]]) -> None:
    """Strips divide tiles, in sixteens, and a block reads the numbers of a tile at once."""
    for tiling in tables[walk].values():
        assert tiling.tile % tiling.strip == tiling.strip % 16 == 0
        assert walk != "keys" or 2 * tiling.tile <= 32 * tiling.warps
        if tiling.groups:
            assert (tiling.own, tiling.warps % 4, tiling.held) == (1, 0, False)
            assert tiling.strip == tiling.tile
