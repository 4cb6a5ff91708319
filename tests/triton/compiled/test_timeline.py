"""The copy of the Hopper forward that reads the clock is still a copy, and no worse compiled."""

import runpy
from pathlib import Path

import pytest
import torch

from . import compiling
from .test_hopper import CHIP

TOOL = runpy.run_path(
    str(Path(__file__).parents[3] / "docs" / "figures" / "hopper_timeline.py"), run_name="timeline"
)


@pytest.mark.parametrize("D", [64, 128])
def test_reading_the_clock_costs_no_registers(D: int) -> None:
    """Nothing is spilled for it, and products do not wait for each other."""
    plain = TOOL["launch_of"](D, "cpu", CHIP)
    times = torch.zeros(plain.grid[0], 3, TOOL["ROOM"], 4, dtype=torch.int64)
    timed = TOOL["with_times"](plain, TOOL["marked_kernel"](), times)
    assert compiling.resources(timed, 90).spilled <= compiling.resources(plain, 90).spilled
    assert compiling.warnings_of(compiling.compiled_for(timed, 90)) == []


def test_a_changed_schedule_is_refused() -> None:
    """A line that ends a stage must be there exactly once."""
    path = Path(TOOL["find_spec"]("attnref_triton.hopper.forward").origin)
    source = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="in_turn has changed"):
        TOOL["marked"](source.replace("s = warpgroup_mma_wait(0, deps=(s,))", "s = s"))
