"""The examples around Swin blocks run, and show what they say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]


def example(name: str) -> ModuleType:
    """Load a script, which is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_command_shows_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a GPU: both models err alike, and the blocks ran on attnref."""
    file = tmp_path / "found.json"
    words = ["--size", "56", "--backend", "torch", "--device", "cpu", "--dtype", "float32"]
    example("accelerate_swin").main([*words, "--batch", "2", "--json", str(file)])
    found = json.loads(file.read_text("utf-8"))
    said = capsys.readouterr().out

    assert "12 of 12 modules of window attention run on attnref, by torch." in said
    assert "window_attention backward on torch" in said
    assert all(e < 1e-5 for who in ("unpatched", "patched") for e in found["errors"][who])


def test_times_are_of_six_models_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would be asked, with a clock that tells the order, and nothing compiled."""
    script = example("accelerate_swin")
    order: list[str] = []
    clock = iter(range(1000))

    class Event:
        def __init__(self, **_: Any) -> None:
            self.at = 0

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, end: "Event") -> float:
            return float(end.at - self.at)

    class Compiled(torch.nn.Module):
        def __init__(
            self, model: torch.nn.Module, *, fullgraph: bool, mode: str | None = None
        ) -> None:
            assert fullgraph
            assert mode in (None, "reduce-overhead")
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append("compiled")
            return self.model(x)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "compile", Compiled)
    model, changed = script.both("swin_tiny_patch4_window7_224", 56, "torch", "cpu")
    tables = script.throughput(model, changed, torch.randn(1, 3, 56, 56), repeats=2)

    assert ["forward", "forward + backward"] == list(tables)
    # Four of six are compiled, and each runs three times unmarked and two times marked.
    assert 2 * 4 * (3 + 2) == len(order)
    for table in tables.values():
        assert {"milliseconds": [1.0] * 3, "images per second": 1000.0} == table["patched eager"]
        assert {1.0} == set(script.ratios(table).values())
        script.show("forward", table)


def test_weights_of_a_token_are_weights() -> None:
    """They add up to one, stay in the window, and pass the shifted border."""
    script = example("draw_attention")
    x = script.tokens(script.photograph())
    one = script.at(x, 9, 10)
    plain, shifted = script.weights(x, one), script.weights(x, one, shift=script.SHIFT)
    through = script.weights(x, shifted)

    assert all(abs(w.sum() - 1.0) < 1e-12 for w in (plain, shifted, through))
    rows, columns = np.nonzero(plain[0, ..., 0, 0])
    assert (8, 15, 8, 15) == (rows.min(), rows.max(), columns.min(), columns.max())
    rows, columns = np.nonzero(shifted[0, ..., 0, 0])
    assert (4, 11, 4, 11) == (rows.min(), rows.max(), columns.min(), columns.max())
    assert np.count_nonzero(through) == 16**2


def test_the_picture_is_the_scripts() -> None:
    """What the documentation shows is what the example draws."""
    shown = Image.open(ROOT / "docs" / "images" / "attention-of-a-token.png").convert("RGB")
    drawn = example("draw_attention").drawn().quantize(160).convert("RGB")

    assert shown.size == drawn.size
    # Fonts and quantisation may differ by versions of Pillow; where weights are, may not.
    apart = np.abs(np.asarray(shown, int) - np.asarray(drawn, int)).max(-1)
    assert (apart > 40).mean() < 0.01
