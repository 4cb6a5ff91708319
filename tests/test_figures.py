"""The figures of the documentation are what their scripts draw."""

import json
import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_picture_of_windows_is_current() -> None:
    """It is drawn from the specification's functions, and follows them."""
    figure = runpy.run_path(str(DOCS / "figures" / "windows.py"))["figure"]
    assert (DOCS / "images" / "windows.svg").read_text(encoding="utf-8") == figure()


def test_the_timeline_is_what_was_measured() -> None:
    """It is drawn from the committed times."""
    figure = runpy.run_path(str(DOCS / "figures" / "hopper_timeline.py"))["figure"]
    times = json.loads((DOCS / "benchmarks" / "hopper-timeline-h200.json").read_text("utf-8"))
    assert (DOCS / "images" / "hopper-timeline.svg").read_text(encoding="utf-8") == figure(times)
